"""Whether the true reward goes where the proxy goes, in the course of training.

Kim and Seo 2024 (arXiv 2402.03469) call a reward engineered so that it does "reverse engineered", and measure it by Spearman's
correlation of the two rewards' means over the evaluations of a run. Here with intervals, and with what it alone does not say:
where the true reward peaks, and how much of it is lost from there to the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from rhtool.errors import RhtoolError
from rhtool.results import statistics
from rhtool.results.evaluations import Evaluations
from rhtool.results.statistics import FEWEST, LEVEL, Estimate

Array = NDArray[np.float64]
CHUNK = 2_000_000
"""pairs of evaluations, times resamples, that are compared at once"""


@dataclass(frozen=True)
class Course:
    """The rewards of a run's answers to P held-out prompts at T evaluations."""

    steps: NDArray[np.int64]
    """(T,), ascending"""
    proxy: Array
    """(T, P)"""
    true: Array
    """(T, P)"""


def pearson(x: Array, y: Array) -> Array:
    """Pearson's correlation over the last axis; NaN where one of the two is constant."""
    x, y = (np.where(np.ptp(v, -1, keepdims=True) > 0, v - v.mean(-1, keepdims=True), 0.0) for v in (x, y))
    norm = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(norm > 0, np.clip((x * y).sum(-1) / norm, -1, 1), np.nan)


def spearman(x: Array, y: Array) -> Array:
    """Pearson's correlation of the ranks, of equal values their mean."""
    return pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))


def kendall(x: Array, y: Array) -> Array:
    """Kendall's tau-b over the last axis: concordant less discordant pairs, over the root of the pairs untied in x times those
    untied in y (Kendall 1945, doi 10.2307/2332303)."""
    x, y = np.broadcast_arrays(x, y)
    shape, length = x.shape[:-1], x.shape[-1]
    one, other = np.triu_indices(length, 1)
    x, y = x.reshape(-1, length), y.reshape(-1, length)
    found, size = np.empty(len(x)), max(1, CHUNK // max(1, len(one)))
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        a, b = (np.sign(v[part, one] - v[part, other]) for v in (x, y))
        untied = np.sqrt(np.abs(a).sum(1) * np.abs(b).sum(1))
        with np.errstate(divide="ignore", invalid="ignore"):
            found[part] = np.where(untied > 0, (a * b).sum(1) / untied, np.nan)
    return found.reshape(shape)


COEFFICIENTS = {"spearman": spearman, "kendall": kendall, "pearson": pearson}
MEASURES = (*COEFFICIENTS, "peak_step", "lost", "proxy_gain", "true_gain", "true")
"""what `monotonicity` finds: the coefficients; the step at which the true reward is highest, the first of equal ones; how much
lower it is at the end; what proxy and true reward gain from the first evaluation to the last; the true reward at the last"""


def measures(steps: NDArray, proxy: Array, true: Array) -> dict[str, Array]:
    """`MEASURES` of means over prompts (..., T), each (...)."""
    found = {name: function(proxy, true) for name, function in COEFFICIENTS.items()}
    return found | {
        "peak_step": np.asarray(steps)[true.argmax(-1)].astype(float),
        "lost": true.max(-1) - true[..., -1],
        "proxy_gain": proxy[..., -1] - proxy[..., 0],
        "true_gain": true[..., -1] - true[..., 0],
        "true": true[..., -1],
    }


def monotonicity(runs: Sequence[Course], resamples: int = 2000, seed: int = 0) -> dict[str, Estimate]:
    """`MEASURES` of one run, or their means over runs that differ in their seeds, with bootstrap percentile intervals.

    Of `FEWEST` runs or more, runs are resampled: the interval is of another seed's training. Of fewer, prompts are, the same ones
    at all evaluations and, where they have equally many, in all runs: the interval is of these very policies on other prompts.
    `n` is the number of what is resampled. Resamples without a coefficient (a reward that is constant) are left out; limits are
    NaN if none has one, or with one prompt.

    Noise of few prompts shuffles evaluations that are close to each other: the coefficient of the means is nearer to 0 than that
    which all prompts would show, and those of resamples, which are shuffled twice, nearer still. Over prompts a coefficient's
    interval therefore reaches from the lower end of the percentile and of the reflected interval (2 x value - percentiles) to the
    higher: it covers where the percentile one alone need not at all, and is too wide elsewhere.

    Raises `RhtoolError` for rewards that are not finite.
    """
    for run in runs:
        if not (np.isfinite(run.proxy).all() and np.isfinite(run.true).all()):
            raise RhtoolError("a reward is not finite", "the evaluations", "mend what gives it")
    single = [measures(run.steps, run.proxy.mean(1), run.true.mean(1)) for run in runs]
    values = {name: np.array([float(found[name]) for found in single]) for name in MEASURES}
    if len(runs) >= FEWEST:
        return {
            name: Estimate(float(x.mean()), *statistics.interval([x], _mean, resamples, seed=seed), len(x))
            for name, x in values.items()
        }
    drawn = [_resampled(run, resamples, seed) for run in runs]
    found, prompts = {}, min(run.true.shape[1] for run in runs)
    for name, x in values.items():
        of_resamples = np.mean([part[name] for part in drawn], axis=0)
        of_resamples = of_resamples[np.isfinite(of_resamples)]
        limits = (np.nan, np.nan)
        if prompts > 1 and len(of_resamples) and np.isfinite(x).all():
            low, high = np.quantile(of_resamples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
            if name in COEFFICIENTS:
                twice = 2 * float(x.mean())
                low, high = max(-1.0, min(low, twice - high)), min(1.0, max(high, twice - low))
            limits = low, high
        found[name] = Estimate(float(x.mean()), *limits, prompts)
    return found


def _mean(values: Array) -> Array:
    return values.mean(-1)


def _resampled(run: Course, resamples: int, seed: int) -> dict[str, Array]:
    """`MEASURES` of resamples of the prompts, each (resamples,)."""
    count = run.true.shape[1]
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples) / count
    return measures(run.steps, weights @ run.proxy.T, weights @ run.true.T)


def band(scores: Sequence[Array], resamples: int = 2000, seed: int = 0) -> tuple[Array, Array, Array]:
    """Mean (T,) of scores (T, P), alike in shape, of each of some runs, and its 95 % limits (T,) over what `monotonicity`
    resamples: over prompts the normal ones, which are those of the bootstrap where there are many."""
    stacked = np.array(scores)
    means = stacked.mean(2)
    if len(scores) >= FEWEST:
        limits = [statistics.interval([column], _mean, resamples, seed=seed) for column in means.T]
        return means.mean(0), *np.array(limits).T
    errors = np.array([statistics.standard_error(row) for row in stacked.mean(0)])
    return means.mean(0), means.mean(0) - 1.96 * errors, means.mean(0) + 1.96 * errors


def table(courses: Mapping[str, Sequence[Course]], found: Mapping[str, Mapping[str, Estimate]]) -> pd.DataFrame:
    """A row per group: `group`, `runs`, `evaluations`, `over` (what was resampled) and every measure with `_low` and `_high`."""
    rows = []
    for name, runs in courses.items():
        row = {"group": name, "runs": len(runs), "evaluations": min(len(run.steps) for run in runs)}
        row["over"] = "runs" if len(runs) >= FEWEST else "prompts"
        for measure, estimate in found[name].items():
            row |= statistics.limits(measure, estimate)
        rows.append(row)
    return pd.DataFrame(rows)


def measured(to: Path, groups: Mapping[str, Sequence[Evaluations]]) -> dict[str, float]:
    """The metrics of groups of runs; and in the directory `to` evaluations.csv, a row per evaluation of a run, monotonicity.csv,
    and figures/monotonicity.png."""
    from rhtool.results import monotonicity_plot
    from rhtool.results.plots import save

    courses = {
        name: [Course(run.steps, run.scores("proxy"), run.scores("true")) for run in runs]
        for name, runs in groups.items()
    }
    found = {name: monotonicity(runs) for name, runs in courses.items()}
    means = [
        {"group": name, "run": run.path, "step": step, "proxy": proxy, "true": true}
        for name, runs in groups.items()
        for run, course in zip(runs, courses[name], strict=True)
        for step, proxy, true in zip(course.steps, course.proxy.mean(1), course.true.mean(1), strict=True)
    ]
    pd.DataFrame(means).to_csv(to / "evaluations.csv", index=False)
    table(courses, found).to_csv(to / "monotonicity.csv", index=False)
    (to / "figures").mkdir(exist_ok=True)
    spearmans = {name: estimates["spearman"] for name, estimates in found.items()}
    save(monotonicity_plot.picture(courses, spearmans), to / "figures" / "monotonicity.png")
    metrics: dict[str, float] = {}
    for name, estimates in found.items():
        for measure, estimate in estimates.items():
            metrics |= statistics.limits(f"rer/{name}/{measure}", estimate)
    return metrics
