"""`method=distance`: how far rewards are apart, up to what changes no policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rhtool.errors import ConfigError
from rhtool.interpret.base import Method
from rhtool.schema import choice

if TYPE_CHECKING:
    import numpy as np

    from rhtool.interpret.report import Report
    from rhtool.interpret.rewards import RewardFunction
    from rhtool.run import Run


@dataclass
class Distance(Method):
    """Pearson, EPIC, DARD and STARC distances between all `task.rewards`: exact where the environment is tables, else sampled."""

    name: ClassVar[str] = "distance"

    kinds: ClassVar[tuple[str, ...]] = ("control",)

    gamma: float | None = None
    """discount: that of the shaping which should not count; null: that of the environment's training"""
    coverage: str = choice("policies", "uniform")
    """of what distances are means: the transitions of `task.policies`, or all states and actions alike (tables alone)"""
    exact: bool = True
    """compute with tables where the environment has them; false: from a sample, as where it has none"""
    transitions: int = 20_000
    """of the sample, at most, for pearson and starc"""
    evaluated: int = 512
    """transitions on which epic is evaluated"""
    pairs: int = 512
    """actions and next states over which its expectations are means"""
    resamples: int = 200
    """of the bootstrap over episodes, for intervals of what is sampled"""

    def check(self, run: Run) -> None:
        """Are there rewards to compare?"""
        if len(run.task.rewards) < 2:
            what = f"{len(run.task.rewards)} reward has no distance"
            raise ConfigError(what, "task.rewards", "name two or more: task.rewards=[proxy,true,outputs/rm_train/…]")
        if self.gamma is not None and not 0 <= self.gamma < 1:
            raise ConfigError(f"{self.gamma} is not a discount", "method.gamma", "choose 0 or more, and below 1")
        for name in ("transitions", "evaluated", "pairs", "resamples"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{getattr(self, name)} is too small", f"method.{name}", "choose 2 or more")

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        """Matrices and intervals of every distance that can be had, and why the others cannot."""
        import pandas as pd

        from rhtool.interpret import compared

        names, functions = list(run.task.rewards), run.task.functions(run)
        gamma = run.env.training.gamma if self.gamma is None else self.gamma
        found = self._exactly(run, functions, gamma)
        if found is None:
            if self.coverage == "uniform":
                what = "states and actions cannot be counted"
                raise ConfigError(what, "method.coverage", "choose policies, or an environment of tables")
            found = self._sampled(run, functions, gamma)
        rows = [
            {
                "distance": kind,
                "first": names[i],
                "second": names[j],
                "value": float(result.value[i, j]),
                "low": float(result.low[i, j]),
                "high": float(result.high[i, j]),
                "how": result.how,
            }
            for kind, result in found.items()
            for i in range(len(names))
            for j in range(i + 1, len(names))
        ]
        compared.describe(report, names, found, gamma, self.coverage)
        report.table("distances", pd.DataFrame(rows), "Distances, with 95 % intervals of what is sampled.")
        metrics: dict[str, float] = {}
        for kind, result in found.items():
            if result.known:
                metrics[f"distance/{kind}"] = float(result.value[0, 1])
                if result.sampled:
                    metrics[f"distance/{kind}_low"] = float(result.low[0, 1])
                    metrics[f"distance/{kind}_high"] = float(result.high[0, 1])
        return metrics

    def _exactly(self, run: Run, functions: dict[str, RewardFunction], gamma: float) -> dict | None:
        """Of tables; None if there are none."""
        import numpy as np

        from rhtool.interpret import canonical
        from rhtool.interpret.compared import Result

        if not self.exact or (mdp := run.env.tabular()) is None:
            return None
        rewards = [canonical.additive(function, mdp) for function in functions.values()]
        if any(reward is None for reward in rewards):
            return None
        if self.coverage == "uniform":
            coverage = np.full(mdp.proxy.shape, 1 / mdp.proxy.size)
        else:
            policies = [policy.probabilities for policy in run.task.loaded(run)]
            coverage = np.mean([mdp.occupancy(mdp.policy_table(p)) for p in policies], axis=0)
        work = canonical.Exact(mdp, coverage, gamma)
        return {kind: Result(work.distances(kind, rewards)) for kind in canonical.KINDS}

    def _sampled(self, run: Run, functions: dict[str, RewardFunction], gamma: float) -> dict:
        """Of the policies' transitions."""
        import numpy as np

        from rhtool.interpret import canonical
        from rhtool.interpret.compared import Result
        from rhtool.interpret.rewards import checked
        from rhtool.interpret.transitions import Transitions, whole_episodes

        rng = np.random.default_rng([run.seed, 71])
        data = Transitions.concat(run.task.transitions(run))
        data = whole_episodes(data, self.transitions, rng)
        given = np.stack([checked(name, function(data), data) for name, function in functions.items()])
        sizes = np.sqrt((given**2).mean(axis=1))
        found = {"pearson": self._resampled(given, sizes, data.episode, True, run.seed)}
        unknown = [name for name, function in functions.items() if not canonical.functional(function)]
        if unknown:
            why = f"needs rewards of transitions that did not happen, and of {' and '.join(unknown)} only those that did are known"
            found["epic"] = Result.unknown(len(given), why)
        else:
            rows = rng.choice(len(data), min(self.evaluated, len(data)), replace=False)
            rows.sort()
            actions = data.actions[rng.integers(len(data), size=self.pairs)]
            states = data.obs[rng.integers(len(data), size=self.pairs)]
            canon = np.stack(
                [canonical.epic_of_sample(f, data[rows], actions, states, gamma) for f in functions.values()]
            )
            found["epic"] = self._resampled(canon, sizes, data.episode[rows], True, run.seed)
        found["dard"] = Result.unknown(len(given), "needs to know where other actions would have led: tables")
        values = canonical.Values(data, gamma, run.seed)
        if values.kept.mean() < 0.5:
            why = "needs states that are visited more than once, or episodes that are longer"
            found["starc"] = Result.unknown(len(given), why)
        else:
            canon = np.stack([values.canonical(r[values.kept]) for r in given])
            found["starc"] = self._resampled(canon, sizes, data.episode[values.kept], False, run.seed)
        return {kind: found[kind] for kind in canonical.KINDS}

    def _resampled(self, canon: np.ndarray, sizes: np.ndarray, episode: np.ndarray, centred: bool, seed: int):
        import numpy as np

        from rhtool.interpret import canonical
        from rhtool.interpret.compared import Result

        value = canonical.matrix(canon, sizes, np.ones(canon.shape[1]), centred=centred)
        low, high = canonical.bootstrap(canon, sizes, episode, self.resamples, seed, centred=centred)
        return Result(value, low, high)
