"""Where two rewards part: their gap per step, and the features of steps that explain it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Discrete

from rhtool.interpret.transitions import Transitions
from rhtool.rl.policy import Interface

AGREED = 1e-6
"""two aligned rewards agree if they are nearer than this share of the proxy's standard deviation"""
MANY = 0.2
"""share of the steps that must agree for their line to be the unit"""
REDUNDANT = 0.999
"""a feature with a higher correlation to an earlier one is left out"""
RARE = 5
"""steps in which a feature must differ from its usual value"""


@dataclass
class Aligned:
    """Two rewards of N steps in one unit."""

    proxy: np.ndarray
    """float64 (N,), in standard deviations of the proxy"""
    true: np.ndarray
    """float64 (N,): in the same unit where `fitted`, else in standard deviations of its own"""
    fitted: bool
    """a line proxy = slope true + offset holds in many steps, and the gap is what is left of it; else both are standardised"""
    slope: float
    agree: float
    """share of steps without a gap; 0 unless `fitted`"""
    correlation: float
    """of the two rewards"""

    @property
    def gap(self) -> np.ndarray:
        """(N,)"""
        return self.proxy - self.true


def align(proxy: np.ndarray, true: np.ndarray, seed: int = 0) -> Aligned:
    """Put two rewards (N,) into one unit.

    Where many steps agree up to a scale and a shift, in more than two values, their line is the unit: then the gap is zero but where
    one reward pays for something else. Otherwise both are made to have mean 0 and standard deviation 1.
    """
    spread = proxy.std() or 1.0
    both = proxy.std() > 0 and true.std() > 0
    r = float(np.corrcoef(proxy, true)[0, 1]) if both else float("nan")
    if (found := _line(true, proxy, np.random.default_rng(seed))) is not None:
        slope, offset, agree = found
        return Aligned((proxy - offset) / spread, slope * true / spread, True, slope, agree, r)
    scaled = [(x - x.mean()) / (x.std() or 1.0) for x in (proxy, true)]
    return Aligned(*scaled, False, float(proxy.std() / (true.std() or 1.0)), 0.0, r)


def _line(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, tries: int = 400
) -> tuple[float, float, float] | None:
    """Slope, offset and share of the steps on it of the rising line with most of them, of lines through two random steps (Fischler
    and Bolles 1981); None if it has less than `MANY` of them, or two values."""
    near, best = AGREED * (y.std() or 1.0), None
    for a, b in rng.integers(len(x), size=(tries, 2)):
        if x[a] == x[b] or not (slope := (y[b] - y[a]) / (x[b] - x[a])) > 0:
            continue
        offset = y[a] - slope * x[a]
        on = np.abs(y - slope * x - offset) < near
        if best is None or on.mean() > best[2]:
            best = float(slope), float(offset), float(on.mean())
    if best is None or best[2] < MANY:
        return None
    on = np.abs(y - best[0] * x - best[1]) < near
    return best if len(np.unique(x[on].round(9))) > 2 else None


@dataclass
class Features:
    """F features of N steps."""

    names: list[str]
    values: np.ndarray
    """float64 (N, F)"""
    left_out: str = ""
    """what of a step is not among them, for the reader"""


def describe(data: Transitions, interface: Interface, most: int = 600) -> Features:
    """The environment's metrics of a step, the action, the observation before it and after it: what varies, each once.

    Of an observation with a history only the newest part counts; one with more than `most` columns is left out.
    """
    names, columns, left_out = [], [], ""
    for name, column in data.metrics.items():
        names.append(f"`{name}`")
        columns.append(column)
    if isinstance(interface.action_space, Discrete):
        start = int(interface.action_space.start)
        for i, name in enumerate(interface.action_names):
            names.append(f"action is `{name}`")
            columns.append(data.actions == start + i)
    else:
        flat = data.actions.reshape(len(data), -1)
        names += [f"`{name}`" for name in interface.action_names]
        columns += list(flat.T)
        if flat.shape[1] > 1:
            names.append("mean size of the action")
            columns.append(np.abs(flat).mean(axis=1))
    if len(interface.latest) > most:
        left_out = f"observations of {len(interface.latest)} numbers"
    else:
        for when, obs in (("after", data.next_obs), ("before", data.obs)):
            flat = obs.reshape(len(data), -1)
            names += [f"`{interface.obs_names[c]}` {when}" for c in interface.latest]
            columns += [flat[:, c] for c in interface.latest]
    values = np.stack([np.asarray(c, np.float64) for c in columns], axis=1) if columns else np.empty((len(data), 0))
    kept = _varied(values)
    return Features([names[i] for i in kept], values[:, kept], left_out)


def _varied(values: np.ndarray) -> list[int]:
    """Columns that vary, and are not an earlier one again."""
    if not len(values):
        return []
    middle = np.median(values, axis=0)
    usable = np.flatnonzero(
        ((values != middle).sum(axis=0) >= min(RARE, max(len(values) // 2, 1))) & (values.std(axis=0) > 0)
    )
    z = values[:, usable] - values[:, usable].mean(axis=0)
    z /= np.linalg.norm(z, axis=0)
    same = np.abs(z.T @ z) > REDUNDANT
    return [int(usable[i]) for i in range(len(usable)) if not same[i, :i].any()]


@dataclass
class Effect:
    """What a feature does to the two rewards, in standard deviations of a reward."""

    name: str
    binary: bool
    low: float
    """values between which the effect is: of a binary feature the two, else the 10 % and the 90 % quantile"""
    high: float
    proxy: float
    """change of the proxy from low to high, the other features of the explanation held fixed"""
    true: float
    steps: float
    """share of steps in which a binary feature has its rarer value"""

    @property
    def gap(self) -> float:
        """Change of the gap from low to high."""
        return self.proxy - self.true


@dataclass
class Explanation:
    """How features explain the gap."""

    effects: list[Effect]
    """those with the largest effects on the gap first"""
    r2_linear: float
    """share of the gap's variance that the sparse linear model explains in held-out episodes; NaN if there is no gap"""
    r2_tree: float
    tree: str
    """as text"""


def explain(aligned: Aligned, features: Features, episode: np.ndarray, most: int, depth: int, seed: int) -> Explanation:
    """Regress the gap on the features: L1 with cross-validation over episodes, refitted on the `most` strongest without the
    penalty, for the gap and for both rewards; and a shallow tree."""
    gap = aligned.gap
    if not gap.std() > AGREED or not features.names:
        return Explanation([], float("nan"), float("nan"), "")
    z = (features.values - features.values.mean(axis=0)) / features.values.std(axis=0)
    parts = list(_folds(episode, seed))
    scores, predicted, by_tree = _selection(z, gap, most), np.full(len(gap), np.nan), np.full(len(gap), np.nan)
    for train, test in parts:
        chosen = _selection(z[train], gap[train], most)
        design = np.column_stack([np.ones(len(z)), z[:, chosen]])
        predicted[test] = design[test] @ np.linalg.lstsq(design[train], gap[train])[0]
        by_tree[test] = _tree(features.values[train], gap[train], depth).predict(features.values[test])
    variance = float(((gap - gap.mean()) ** 2).mean())
    r2 = [1 - float(((gap - p) ** 2).mean()) / variance for p in (predicted, by_tree)]
    from sklearn.tree import export_text

    tree = _tree(features.values, gap, depth)
    text = export_text(tree, feature_names=[n.replace("`", "") for n in features.names], decimals=3)
    return Explanation(_effects(aligned, features, scores), *r2, text)


def _effects(aligned: Aligned, features: Features, chosen: np.ndarray) -> list[Effect]:
    values = features.values[:, chosen]
    design = np.column_stack([np.ones(len(values)), values])
    slopes = np.linalg.lstsq(design, np.stack([aligned.proxy, aligned.true], axis=1))[0][1:]
    found = []
    for i, column in enumerate(chosen):
        distinct = np.unique(values[:, i])
        binary = len(distinct) == 2
        low, high = distinct if binary else np.quantile(values[:, i], [0.1, 0.9])
        if low == high:  # rarely anything but its usual value
            low, high = distinct[0], distinct[-1]
        steps = min((values[:, i] == low).mean(), (values[:, i] == high).mean()) if binary else 1.0
        proxy, true = slopes[i] * (high - low)
        found.append(
            Effect(features.names[column], binary, float(low), float(high), float(proxy), float(true), float(steps))
        )
    # What a feature does to the gap of all steps: a large effect that never happens explains nothing.
    weight = [abs(e.gap) / (e.high - e.low) * values[:, i].std() for i, e in enumerate(found)]
    return [found[i] for i in np.argsort(weight)[::-1] if weight[i] >= 0.02 * max(weight)]


def _selection(z: np.ndarray, gap: np.ndarray, most: int, sample: int = 5000) -> np.ndarray:
    """Columns of standardised features: those that the L1 path of least angles takes in first, as many as cross-validation
    wants, at most `most`."""
    from sklearn.linear_model import LassoLarsCV

    rows = np.linspace(0, len(z) - 1, min(sample, len(z))).astype(int)
    seen = np.flatnonzero(z[rows].std(axis=0) > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of columns that depend on each other, which are expected here
        model = LassoLarsCV(cv=5, max_iter=3 * most).fit(z[np.ix_(rows, seen)], gap[rows])
    coefficients = np.abs(model.coef_)
    order = np.argsort(coefficients)[::-1][:most]
    chosen = seen[order[coefficients[order] > 0.01 * gap.std()]]
    return chosen if len(chosen) else seen[order[:1]]


def _tree(values: np.ndarray, gap: np.ndarray, depth: int):
    from sklearn.tree import DecisionTreeRegressor

    return DecisionTreeRegressor(max_depth=depth, min_samples_leaf=max(len(gap) // 500, 2), random_state=0).fit(
        values, gap
    )


def _folds(episode: np.ndarray, seed: int, folds: int = 4):
    """(train, test) as masks, whole episodes; steps in blocks, if there are too few episodes."""
    numbers, place = np.unique(episode, return_inverse=True)
    if len(numbers) < folds:
        place = np.arange(len(episode)) * 20 // len(episode)
    group = np.random.default_rng(seed).permutation(place.max() + 1)[place] % folds
    for fold in range(folds):
        if 0 < (group == fold).sum() < len(group):
            yield group != fold, group == fold
