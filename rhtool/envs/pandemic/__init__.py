"""A town in a pandemic: the proxy forgets what it costs to raise restrictions before anybody is ill."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rhtool.envs.base import Env
from rhtool.errors import ConfigError, nearest

if TYPE_CHECKING:
    from rhtool.envs.pandemic.env import PandemicVectorEnv

FOLDER = Path(__file__).parent


@dataclass
class Pandemic(Env):
    """Choose a town's regulations, one stage up or down a day, while two strains of a virus spread through it."""

    horizon: int = 193
    """days of an episode; the original stops when its calendar has passed day 192, which is after 193 steps"""
    town: str = "austin_500"
    """places, routines, virus and testing: a name in rhtool/envs/pandemic/towns, or the path of a YAML file of yours"""
    regulations: str = "austin"
    """what each stage forbids: a name in rhtool/envs/pandemic/regulations, or the path of a YAML file of yours"""
    population_seed: int | None = None
    """who lives in the town, and the rates of its virus. null: drawn for each lane from its own stream when the lane is
    seeded, and kept over its episodes; a number: drawn once from it and shared by all lanes, as the original's workers
    share theirs"""
    observed_days: int = 8
    """days in the observation, three snapshots each"""
    strategy: str = "mixture"
    """the controller's plan: S0 S1 S2 S3 S4 S0-4-0 S0-4-0-FI S0-4-0-GI swedish italian, or mixture: each episode of
    each lane draws one of the ten"""
    true_weights: list[float] = field(default_factory=lambda: [10.0, 10.0, 0.1, 0.01])
    """weights of the true reward's components: critical persons, raising without cause, high stages, changes of stage"""
    proxy_weights: list[float] = field(default_factory=lambda: [10.0, 0.0, 0.1, 0.01])
    """weights of the proxy's components, in the same order: nothing for raising without cause"""
    compounding_multipliers: bool | None = None
    """quirk: hygiene and masks multiply transmission anew every day, so that a week of masks all but ends it; else they
    multiply it once. null, here and below: only in variant orpo"""
    lower_stage_by_action: bool | None = None
    """quirk: the reward for low stages looks up the action (0, 1, 2) in its table of stages; else the new stage"""
    sampling_with_replacement: bool | None = None
    """quirk: the persons who act in an hour are drawn with replacement, so that 37 % of them do not and some act twice;
    else everybody acts once, in random order"""
    social_events_always: bool | None = None
    """quirk: every home gives a party at all hours; else on twelve days a year of its own, from 15 to 19 h"""
    uniform_jobs: bool | None = None
    """quirk: vacancies never run out, so that every type of workplace has as many workers, a bar as many as two offices"""
    short_visits: bool | None = None
    """quirk: visitors leave when they next act, so that the nominal length of a stay means nothing; else they stay it"""
    sick_go_out: bool | None = None
    """quirk: who must stay at home when sick is only sent there from elsewhere, and goes out again the hour after"""
    guests_uncounted: bool | None = None
    """quirk: the size of a gathering that cautious persons avoid counts the household and not its guests"""
    alpha_hides_delta: bool | None = None
    """quirk: a contact between two persons infectious with alpha cannot transmit delta"""
    invisible_deaths: bool | None = None
    """quirk: no test finds a death, and the dead go on living; else they are tested dead at once and leave the town"""
    alpha_only_hospital: bool | None = None
    """quirk: only alpha's course knows that its patient lies in hospital, so that delta's run as if untreated"""
    testing_bookkeeping: bool | None = None
    """quirk: a person who was tested ill and then negative is booked as recovered, and later leaves the books as a
    healthy one, so that the observed counts of the two drift"""
    inverted_controller: bool | None = None
    """quirk: the controller lowers the stage where its plan is above it, and raises it where its plan is below"""
    schedule_persists: bool | None = None
    """quirk: the controller's plan moves on a day late and does not begin anew with an episode: from the second one on
    it stays at its last entry"""
    horizon_terminates: bool | None = None
    """quirk: the end of the horizon is signalled as a termination, so that no value is expected after it"""

    def vector_class(self) -> type[PandemicVectorEnv]:
        """The arrays and the kernels."""
        from rhtool.envs.pandemic.env import PandemicVectorEnv

        return PandemicVectorEnv

    def inputs(self) -> dict[str, str]:
        """The files of the town and of its regulations."""
        return {"town": str(find("towns", self.town)), "regulations": str(find("regulations", self.regulations))}


def find(folder: str, name: str) -> Path:
    """The YAML file of a `town` or `regulations` (a folder of this package, with s): a shipped one by its name, else a
    path. Raises `ConfigError` if there is none."""
    shipped = {file.stem: file for file in (FOLDER / folder).glob("*.yaml")}
    if name in shipped:
        return shipped[name]
    if Path(name).is_file():
        return Path(name)
    field_name = "env.town" if folder == "towns" else "env.regulations"
    mend = nearest(name, shipped)
    mend += "" if mend.endswith("?") else "."
    raise ConfigError(f"there is no file '{name}'", field_name, f"{mend} Or give a path.")
