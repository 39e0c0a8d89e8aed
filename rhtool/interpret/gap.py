"""`method=gap`: where the proxy and the true reward part, before anything is trained on either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rhtool.envs.base import RANDOM
from rhtool.errors import ConfigError
from rhtool.interpret.base import BASE, Method

if TYPE_CHECKING:
    import numpy as np

    from rhtool.interpret.report import Report
    from rhtool.interpret.transitions import Transitions
    from rhtool.run import Run

SHAPING = 0.01
"""a gap of rewards with a smaller STARC distance is said to be shaping"""


@dataclass
class Gap(Method):
    """What the first of `task.rewards` pays for that the second does not: features that explain their gap, cells, steps, words."""

    name: ClassVar[str] = "gap"

    kinds: ClassVar[tuple[str, ...]] = ("control",)
    extra: ClassVar[str] = "interpret"
    policies: ClassVar[tuple[str, ...]] = (BASE, RANDOM)
    """what the base policy never does, its steps do not tell of"""

    transitions: int = 20_000
    """of the policies' episodes that are looked at, at most"""
    features: int = 8
    """with which the gap is explained, at most"""
    depth: int = 3
    """of the tree that is fitted beside"""
    top: int = 12
    """steps with the widest gap, either way, that are listed"""
    columns: int = 600
    """an observation with more columns than this, such as an image, is left out of the features"""

    def check(self, run: Run) -> None:
        """Are there two rewards?"""
        if len(run.task.rewards) != 2:
            what = f"{len(run.task.rewards)} rewards have no gap between them"
            raise ConfigError(what, "task.rewards", "name two: task.rewards=[proxy,true]")
        for name in ("transitions", "features", "depth", "top"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is too small", f"method.{name}", "choose 1 or more")

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        """Align, explain, draw, say."""
        import numpy as np

        from rhtool.interpret import gaps, gaps_report
        from rhtool.interpret.rewards import checked
        from rhtool.interpret.transitions import Transitions, whole_episodes
        from rhtool.rl.policy import interface_of

        data = Transitions.concat(run.task.transitions(run))
        data = whole_episodes(data, self.transitions, np.random.default_rng([run.seed, 72]))
        (first, second), functions = run.task.rewards, run.task.functions(run)
        proxy, true = (checked(name, functions[name](data), data) for name in (first, second))
        interface = interface_of(run.env)
        aligned = gaps.align(proxy, true)
        features = gaps.describe(data, interface, self.columns)
        found = gaps.explain(aligned, features, data.episode, self.features, self.depth, run.seed)
        shaping = self._shaping(run, data, (first, second), proxy, true)
        gaps_report.write(report, (first, second), data, interface, aligned, features, found, self.top, shaping)
        return {
            "gap/mean": float(aligned.gap.mean()),
            "gap/std": float(aligned.gap.std()),
            "gap/agree": float(aligned.agree),
            "gap/correlation": aligned.correlation,
            "gap/r2_linear": found.r2_linear,
            "gap/r2_tree": found.r2_tree,
            "gap/features": float(len(found.effects)),
        }

    def _shaping(
        self, run: Run, data: Transitions, names: tuple[str, str], proxy: np.ndarray, true: np.ndarray
    ) -> list[str]:
        """A sentence, if the gap is shaping, which changes no policy: the distance STARC between the two (`method=distance`)."""
        import numpy as np

        from rhtool.interpret import canonical

        values = canonical.Values(data, run.env.training.gamma, run.seed)
        if values.kept.mean() < 0.5:
            return []
        given = np.stack([proxy, true])
        canon = np.stack([values.canonical(x[values.kept]) for x in given])
        sizes = np.sqrt((given**2).mean(axis=1))
        distance = float(canonical.matrix(canon, sizes, np.ones(canon.shape[1]), centred=False)[0, 1])
        if not distance < SHAPING < canonical.matrix(given, sizes, np.ones(len(proxy)), centred=True)[0, 1]:
            return []
        return [
            f"But the gap is shaping: what `{names[0]}` pays beyond `{names[1]}` it takes back on other steps, which changes no optimal "
            f"policy (STARC distance {distance:.3f}; see `method=distance`)."
        ]
