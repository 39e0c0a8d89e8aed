"""What the methods share that look into reward networks: which networks, and on which transitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rhtool.errors import ConfigError
from rhtool.interpret.base import Method

if TYPE_CHECKING:
    from rhtool.interpret.nets import RewardNet
    from rhtool.interpret.transitions import Transitions
    from rhtool.run import Run


@dataclass
class NetworkMethod(Method):
    """A method that looks into learned rewards."""

    name: ClassVar[str] = "network_method"

    kinds: ClassVar[tuple[str, ...]] = ("control",)

    images: ClassVar[bool] = False
    """whether it is of networks that look at images alone"""

    transitions: int = 2048
    """transitions at most, drawn among those of the policies"""

    def check(self, run: Run) -> None:
        """Is there a learned reward, and does it look at what the method is for?"""
        from rhtool.interpret.rewards import OWN

        if self.transitions < 2:
            raise ConfigError(f"{self.transitions} are too few", "method.transitions", "choose 2 or more")
        if all(name in OWN for name in run.task.rewards):
            what = f"{list(run.task.rewards)} are the environment's own rewards: there is no network to look into"
            mend = f"name a learned one: {run.env.reward_model_command().partition(',')[0]} task.labels=rewards"
            raise ConfigError(what, "task.rewards", mend)
        self.networks(run)

    def networks(self, run: Run) -> dict[str, RewardNet]:
        """The learned rewards' networks by name. Raises `ConfigError` for one that the method is not for."""
        from rhtool.interpret.nets import CnnReward, network_of
        from rhtool.interpret.rewards import OWN

        found = {n: network_of(n, f) for n, f in run.task.functions(run).items() if n not in OWN}
        for name, net in found.items():
            if self.images and not isinstance(net, CnnReward):
                mend = "take method=attribution, or learn it with task.labels=rewards task.network=cnn"
                raise ConfigError(f"the reward '{name}' does not look at images", "task.rewards", mend)
        return found

    def sample(self, run: Run) -> Transitions:
        """Transitions of all policies, in the order of time; not more than `transitions`."""
        import numpy as np

        from rhtool.interpret.transitions import Transitions

        found = Transitions.concat(run.task.transitions(run))
        if len(found) <= self.transitions:
            return found
        rng = np.random.default_rng([run.seed, 71])
        return found[np.sort(rng.choice(len(found), self.transitions, replace=False))]


def sections(networks: dict[str, RewardNet], write: Callable[[str, RewardNet], dict[str, float]]) -> dict[str, float]:
    """`write(name for pictures, network)` of each network, a section each; the metrics of the first."""
    found = [write(label, networks[name]) for name, label in short(list(networks)).items()]
    return found[0]


def short(names: list[str]) -> dict[str, str]:
    """Names for pictures: the shortest ends of paths, from the first part on in which they differ."""
    parts = {name: name.strip("/").split("/") for name in names}
    same = 0
    while len(names) > 1 and len({tuple(p[: same + 1]) for p in parts.values()}) == 1:
        same += 1
    return {name: "/".join(p[same:] if len(names) > 1 else p[-2:]) for name, p in parts.items()}
