"""`override /hydra/sweeper: union`: an experiment whose runs are several sweeps, which one cross product cannot say.

Hydra takes plugins from this namespace alone, so that a launcher gets the same jobs that `rhtool` composes by itself.
"""

from dataclasses import dataclass, field

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from rhtool.errors import ConfigError

Job = list[str]
"""overrides without sweeps, `key=value`"""


@dataclass
class UnionConf(BasicSweeperConf):
    _target_: str = "hydra_plugins.rhtool_union.Union"
    union: list[str] = field(default_factory=list)


ConfigStore.instance().store(group="hydra/sweeper", name="union", node=UnionConf, provider="rhtool")


class Union(BasicSweeper):
    """The product of `params` and the command line with the jobs of all lines of `union`.

    A line is what one would type after -m: `divergence=kl coeff=0.1,0.2`. Of a key that some line sets, the command
    line *selects* values: `divergence=kl` keeps the jobs that set it to kl. Any other key it sets, as in `params`. So
    it can narrow an experiment, or give it more seeds, but never make a job of two methods.
    """

    def __init__(
        self, max_batch_size: int | None = None, params: dict[str, str] | None = None, union: list[str] | None = None
    ):
        super().__init__(max_batch_size, params)
        self.union = list(union or ())

    def split_arguments(self, overrides: list[Override], max_batch_size: int | None) -> list[list[Job]]:
        """The jobs, each once, in batches; `overrides` are those of `params`, then the command line's."""
        parser = OverridesParser.create()
        lines = [job for line in self.union for job in _product(parser.parse_overrides(line.split()))]
        swept = {key for job in lines for key in _values(job)}
        kept = lines
        for override in (o for o in overrides if o.get_key_element() in swept):
            key = override.get_key_element()
            wanted = {_values(job)[key] for job in _product([override])}
            found, kept = kept, [job for job in kept if _values(job).get(key) in wanted]
            unknown = wanted - {_values(job).get(key) for job in lines}  # one typo among several values
            if unknown or not kept:
                among = lines if unknown else found
                values = dict.fromkeys(str(_values(job)[key]) for job in among if key in _values(job))
                mend = f"choose of {', '.join(values)}" if values else "leave it out"
                raise ConfigError("the experiment has no such run", override.input_line, f"{mend}, or leave out -m")
        common = _product([o for o in overrides if o.get_key_element() not in swept])
        jobs = [list(job) for job in dict.fromkeys((*first, *job) for first in common for job in kept)]
        return list(self.split_overrides_to_chunks(jobs, max_batch_size))


def _product(overrides: list[Override]) -> list[Job]:
    return [list(job) for job in BasicSweeper.split_arguments(overrides, None)[0]]


def _values(job: Job) -> dict[str, float | str]:
    """`{key: value}`; numbers as floats, so that 1 is 1.0."""
    found: dict[str, float | str] = {}
    for word in job:
        key, _, text = word.partition("=")
        try:
            found[key] = float(text)
        except ValueError:
            found[key] = text
    return found
