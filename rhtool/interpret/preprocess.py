"""`method=preprocess`: rewards made simple by shaping, to see what is left."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from rhtool.envs.base import RANDOM
from rhtool.errors import ConfigError, nearest
from rhtool.interpret.base import BASE, Method
from rhtool.schema import choice

if TYPE_CHECKING:
    import numpy as np

    from rhtool.envs.tabular import TabularMDP
    from rhtool.interpret.preprocessing import Problem, Solution
    from rhtool.interpret.report import Report
    from rhtool.interpret.rewards import RewardFunction
    from rhtool.interpret.transitions import Transitions
    from rhtool.run import Run


@dataclass
class Preprocess(Method):
    """`task.rewards`, shaped so that they are sparse or smooth: heat maps or curves before and after, and the rewards as files."""

    name: ClassVar[str] = "preprocess"

    kinds: ClassVar[tuple[str, ...]] = ("control",)
    policies: ClassVar[tuple[str, ...]] = (BASE, RANDOM)

    objectives: list[str] = field(default_factory=lambda: ["sparse_l1", "smooth_log"])
    """of sparse_l1, smooth_l1, sparse_log, smooth_log"""
    potential: str = choice("auto", "table", "linear", "mlp")
    """auto: a table where observations are few or the environment is tables, else mlp"""
    solver: str = choice("auto", "lp", "adam")
    """auto: linear programs for table and linear, as far as `program` goes, else Adam"""
    program: int = 8000
    """transitions, or pairs of a smooth objective, of a linear program at most: 20,000 take minutes"""
    gamma: float | None = None
    """discount; null: that of the environment's training"""
    transitions: int = 5000
    """of the policies' episodes, at most, where the environment is no table"""
    states: int = 12_000
    """a table with more states is treated as if it were none"""
    hidden: list[int] = field(default_factory=lambda: [64])
    """units of the mlp's layers"""
    steps: int = 1000
    """of Adam"""
    lr: float = 1e-2
    """of Adam at the start; it falls linearly to zero"""
    batch: int = 1000
    """transitions or pairs of one step of Adam; of a table all"""

    def check(self, run: Run) -> None:
        """Are there objectives that exist?"""
        known = ("sparse_l1", "smooth_l1", "sparse_log", "smooth_log")
        for name in self.objectives:
            if name not in known:
                raise ConfigError(f"there is no objective '{name}'", "method.objectives", nearest(name, known))
        if not self.objectives:
            raise ConfigError("no objective is named", "method.objectives", f"choose of {', '.join(known)}")
        for name in ("transitions", "steps", "batch"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{getattr(self, name)} is too small", f"method.{name}", "choose 2 or more")
        if self.gamma is not None and not 0 <= self.gamma < 1:
            raise ConfigError(f"{self.gamma} is not a discount", "method.gamma", "choose 0 or more, and below 1")
        if self.solver == "lp" and self.potential == "mlp":
            raise ConfigError(
                "a linear program has no mlp", "method.solver", "choose adam, or potential=table or linear"
            )

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        """Solve, save, draw, say."""
        import numpy as np

        from rhtool.interpret import preprocess_report
        from rhtool.interpret.functions import Scaled, Shaped, save
        from rhtool.interpret.preprocessing import Problem, apply, consecutive
        from rhtool.interpret.rewards import checked
        from rhtool.interpret.transitions import Transitions, whole_episodes
        from rhtool.rl.policy import interface_of

        functions, interface = run.task.functions(run), interface_of(run.env)
        gamma = run.env.training.gamma if self.gamma is None else self.gamma
        mdp, found = run.env.tabular(), None
        if mdp is not None and len(mdp.start) <= self.states:
            found = enumerated(mdp, functions, run.seed)
        if found is None:
            data = Transitions.concat(run.task.transitions(run))
            data = whole_episodes(data, self.transitions, np.random.default_rng([run.seed, 73]))
            rewards = {name: checked(name, function(data), data) for name, function in functions.items()}
            pairs = consecutive(data)
        else:
            data, rewards, pairs = found
        shown: dict[str, dict[str, tuple[Solution, np.ndarray]]] = {}
        problems = {name: Problem(data, values, pairs, gamma) for name, values in rewards.items()}
        for name, problem in problems.items():
            shown[name] = {}
            for objective in self.objectives:
                solution = self._solve(problem, objective, found is not None, run.seed)
                shown[name][objective] = (solution, apply(problem, solution.potential, solution.shift))
                made = Scaled(Shaped(functions[name], solution.potential, gamma), 1.0, solution.shift)
                place = run.path / "rewards" / f"{list(rewards).index(name)}_{objective}"
                save(made, place)
        preprocess_report.write(report, data, problems, shown, interface, found is not None)
        first = next(iter(rewards))
        metrics: dict[str, float] = {}
        for objective, (solution, values) in shown[first].items():
            metrics |= {
                f"preprocess/{objective}_before": solution.before,
                f"preprocess/{objective}": solution.after,
                f"preprocess/{objective}_nonzero": preprocess_report.nonzero(values, solution),
                f"preprocess/{objective}_seconds": solution.seconds,
            }
        return metrics

    def _solve(self, problem: Problem, objective: str, tabular: bool, seed: int) -> Solution:
        import numpy as np

        from rhtool.interpret import preprocessing

        kind, n = self.potential, len(problem.rewards)
        if kind == "auto":
            flat = problem.transitions.obs.reshape(n, -1)
            kind = "table" if tabular or len(np.unique(flat, axis=0)) <= n // 8 else "mlp"
        if self.solver == "lp" and kind == "mlp":
            what = f"{n} transitions have too many different observations for a table"
            raise ConfigError(what, "method.solver", "choose adam, or method.potential=linear")
        size = len(problem.pairs) if objective.startswith("smooth") else n
        if self.solver == "lp" or (self.solver == "auto" and kind != "mlp" and size <= self.program):
            return preprocessing.by_program(problem, objective, kind)
        batch = n + len(problem.pairs) if kind == "table" else self.batch
        return preprocessing.by_adam(problem, objective, kind, list(self.hidden), self.steps, self.lr, batch, seed)


def enumerated(
    mdp: TabularMDP, functions: dict[str, RewardFunction], seed: int = 0
) -> tuple[Transitions, dict[str, np.ndarray], np.ndarray] | None:
    """All transitions of a table that look different, the rewards of each (means over those that look alike), and its neighbours;
    None if some reward cannot be had for all of them."""
    import numpy as np

    from rhtool.interpret.canonical import additive, imagined
    from rhtool.interpret.preprocessing import adjoining

    tables = {name: additive(function, mdp, seed) for name, function in functions.items()}
    if any(table is None for table in tables.values()):
        return None
    actions = mdp.proxy.shape[1]
    steps = mdp.transitions.tocoo()
    row, after = steps.coords
    ends = np.flatnonzero(mdp.terminated.ravel() > 1e-9)
    row, after = np.concatenate([row, ends]), np.concatenate([after, np.full(len(ends), -1)])
    looks = mdp.seen_as
    now, action = looks[row // actions], row % actions
    then = np.where(after >= 0, looks[after], -1)
    keys, place, count = np.unique(np.stack([now, action, then]), axis=1, return_inverse=True, return_counts=True)
    place = place.ravel()
    first = np.full(len(count), len(place))
    np.minimum.at(first, place, np.arange(len(place)))
    data = imagined(mdp, row[first] // actions, action[first], np.maximum(after[first], 0))
    data.terminated = keys[2] < 0
    data.next_obs = np.where(data.terminated[:, None], data.obs, data.next_obs)
    rewards = {}
    for name, table in tables.items():
        values = table.u.ravel()[row] + np.where(after >= 0, table.w[np.maximum(after, 0)], 0.0)
        rewards[name] = np.bincount(place, values) / count
    return data, rewards, adjoining(keys[0], keys[2], seed)
