"""Overoptimisation: how true and proxy return go with the distance from the base policy, where the true one peaks, and when
training should have stopped.

`points` makes the table that all else reads, from curves such as `rows.curve` gives; `analyse` sums it up; `fit_texts` and
`stop_texts` are its tables, `overoptimisation_plot` its picture. The fitted forms are Gao's, in `scaling_laws`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import linregress
from scipy.stats import t as student

from rhtool.errors import RhtoolError, nearest
from rhtool.hacking import averaged, course
from rhtool.results.cells import Keys, Section, Table
from rhtool.results.rows import curve
from rhtool.results.scaling_laws import ENDS, FORMS, Choice, Fit, best_of_n_kl, choose, fit
from rhtool.results.statistics import FEWEST, Estimate, estimate
from rhtool.results.tables import formatter, interval_name, with_interval


def _root(x: NDArray) -> NDArray:
    # Estimates of a divergence near zero are below it as often as above.
    return np.sqrt(np.maximum(x, 0.0))


@dataclass(frozen=True)
class Measure:
    """What the distance is measured by."""

    key: str
    """its column: a key of metrics.csv"""
    distance: Callable[[NDArray], NDArray]
    """column (N,) -> d (N,)"""
    label: str
    """of the axis"""
    forms: bool = True
    """whether Gao's forms are fitted; they say nothing of training steps"""


ROOT_KL = "sqrt(KL) to the base policy, nats^1/2"
MEASURES = {
    "kl": Measure("divergence/kl", _root, ROOT_KL),
    "chi2": Measure("divergence/chi2", _root, "sqrt_chi2 from the base policy"),
    "n": Measure("n", lambda n: np.sqrt(best_of_n_kl(n)), ROOT_KL),
    "steps": Measure("steps", lambda steps: steps, "training steps", forms=False),
}


# The table of points


def points(
    curves: Mapping[str, pd.DataFrame],
    measure: str = "kl",
    base: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
    keys: Keys | None = None,
    column: str | None = None,
) -> pd.DataFrame:
    """One row per point that has a finite distance, true and proxy return, by run, in the order of training.

    Args:
        curves: {run: its rows}, as of `rows.curve`, with the columns `keys.true`, `keys.proxy` and that of the measure;
            `<key>_se`, where there is one, is the standard error of a return. Runs are independent repetitions (seeds).
        measure: a key of `MEASURES`.
        base: true and proxy return of the base policy, of all runs or of each. If not given, each run's is the mean of
            its rows at distance 0 (its evaluation before the first step; n = 1), or the mean of the other runs'.
        column: the column of the measure, if it is not the one in `MEASURES`: `exact/divergence/kl`.

    Returns:
        `run`; `x`, as measured, and `d`, the distance; `true`, `proxy` above the base policy's; `true_se`, `proxy_se`
        (NaN if unknown); `steps` (NaN if unknown); `is_base`, whether the row served as a measurement of the base policy.
        `attrs["dropped"]` is the number of rows with something missing.

    Raises `RhtoolError` if columns, the base policy's returns, or all points are missing.
    """
    keys = keys or Keys()
    if measure not in MEASURES:
        raise RhtoolError(f"unknown measure '{measure}'", "measure", nearest(measure, MEASURES))
    column = column or MEASURES[measure].key
    frames, total = [], 0
    for run, rows in curves.items():
        if absent := [name for name in (column, keys.true, keys.proxy) if name not in rows]:
            raise RhtoolError(f"no column {', '.join(absent)}", f"run {run}", f"it has {', '.join(map(str, rows))}")
        names = {"x": column, "true": keys.true, "proxy": keys.proxy, "steps": "steps"}
        names |= {"true_se": f"{keys.true}_se", "proxy_se": f"{keys.proxy}_se"}
        wanted = {name: rows.get(key, math.nan) for name, key in names.items()}
        frame = pd.DataFrame(wanted, index=rows.index, dtype=float)
        frame.insert(0, "run", str(run))
        total += len(frame)
        frame = frame[np.isfinite(frame[["x", "true", "proxy"]]).all(axis=1)]
        frames.append(frame.sort_values("steps" if frame.steps.notna().all() else "x", kind="stable"))
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["x"])
    if table.empty:
        raise RhtoolError(
            "no point has a distance, a true and a proxy return",
            f"{len(curves)} runs with {total} rows",
            f"{column}, {keys.true} and {keys.proxy} must be known at the same time",
        )
    table["d"] = MEASURES[measure].distance(table.x.to_numpy(float))
    table["is_base"] = (table.d == 0) & (table.x >= 0)  # an estimate below zero is noise, not the base policy
    table = _above_base(table, base, keys)
    table.attrs = {"measure": measure, "dropped": total - len(table)}
    return table


def _above_base(table: pd.DataFrame, base: tuple | Mapping | None, keys: Keys) -> pd.DataFrame:
    """The table with the base policy's returns subtracted."""
    if base is None:
        measured = table[table.is_base].groupby("run")[["true", "proxy"]].mean()
        if measured.empty:
            raise RhtoolError(
                "the base policy's returns are not known",
                "no run has a point at distance 0",
                f"give base=(true, proxy): base/{keys.true} and base/{keys.proxy} of result.json",
            )
        of_run = {run: measured.loc[run] if run in measured.index else measured.mean() for run in table.run.unique()}
    else:
        table["is_base"] = False
        of_run = (
            {str(run): of for run, of in base.items()} if isinstance(base, Mapping) else dict.fromkeys(table.run, base)
        )
        if absent := sorted({*table.run} - {*of_run}):
            raise RhtoolError(f"no base policy's returns of run {', '.join(absent)}", "base", "give those of every run")
    bases = np.array([tuple(of_run[run]) for run in table.run], float)
    if not np.isfinite(bases).all():
        raise RhtoolError("the base policy's returns are no numbers", "base", "give (true, proxy), both finite")
    return table.assign(true=table.true - bases[:, 0], proxy=table.proxy - bases[:, 1])


# The peak, and when to stop


def inside(table: pd.DataFrame, found: Fit) -> str:
    """Whether the true return peaks inside the data: "yes", "no", "unclear".

    yes: the whole interval of the fit's peak is within the measured distances, and the points beyond it slope down, with
    the whole interval of their least-squares slope. no: the whole interval of the peak is beyond them; or the form bends
    where the data do not: the points beyond its peak slope up, or every run was best at its end. Else, and
    without intervals, unclear.
    """
    d, farthest = found.peak[0], float(table.d.max())
    courses = [averaged(run.true.to_numpy()) for _, run in table.groupby("run") if len(run) > 1]
    if d.low > farthest or (courses and all(true.argmax() == len(true) - 1 for true in courses)):
        return "no"
    beyond = table[table.d > d.value]
    if beyond.d.nunique() < FEWEST:
        return "unclear"
    line = linregress(beyond.d, beyond.true)
    reach = student.ppf(ENDS[1], len(beyond) - 2) * line.stderr
    if line.slope - reach > 0:
        return "no"
    return "yes" if d.high <= farthest and line.slope + reach < 0 else "unclear"


@dataclass(frozen=True)
class Stop:
    """The evaluation with the highest true return of a run, and what followed. Returns are averaged as in `hacking.course`."""

    step: float
    """NaN where the run's points have no steps"""
    x: float
    """where, as measured: KL, chi2, n, steps"""
    d: float
    """where, as a distance"""
    gain: float
    """true return there, above the base policy's"""
    lost: float
    """true return there minus that at the end: what going on to the end costs, >= 0"""
    proxy_after: float
    """proxy return at the end minus that there"""
    drop: float
    """`hacking.course`"""
    onset_d: float
    """distance of `hacking.course`'s onset, from where on to the end the run hacks; NaN if it does not end so"""
    onset_step: float


def stop(run: pd.DataFrame) -> Stop:
    """When training should have stopped, from the rows of one run of `points`, in order."""
    true, proxy = averaged(run.true.to_numpy()), averaged(run.proxy.to_numpy())
    steps, d = run.steps.to_numpy(float), run.d.to_numpy()
    drop, onset = course(np.arange(len(run)), run.true.to_numpy(), run.proxy.to_numpy(), 0.0, 0.0)
    best = int(true.argmax())
    onset_d, onset_step = (math.nan, math.nan) if math.isnan(onset) else (d[int(onset)], steps[int(onset)])
    gains = float(true[best]), float(true[best] - true[-1]), float(proxy[-1] - proxy[best])
    return Stop(
        float(steps[best]), float(run.x.iloc[best]), float(d[best]), *gains, drop, float(onset_d), float(onset_step)
    )


# All of it


@dataclass(frozen=True)
class Analysis:
    """What `analyse` finds."""

    points: pd.DataFrame
    stops: dict[str, Stop]
    """of each run"""
    fits: dict[str, dict[str, Fit]]
    """{"true" | "proxy": {form: fit}}; empty where there is none"""
    choice: Choice | None
    """between the forms, for the true return"""
    why: str = ""
    """why there is no fit"""
    statistic: str = "iqm"

    @property
    def measure(self) -> Measure:
        return MEASURES[self.points.attrs["measure"]]

    def over_runs(self, name: str) -> Estimate:
        """The statistic of a field of `Stop` over the runs that have one."""
        return estimate([getattr(found, name) for found in self.stops.values()], self.statistic)


def analyse(table: pd.DataFrame, statistic: str = "iqm", resamples: int = 2000) -> Analysis:
    """Fits of both forms, the choice between them, and when each run should have stopped, of `points`.

    Where the forms cannot be fitted `why` says so, and the rest is there all the same; so it is over training steps.
    """
    stops = {str(run): stop(rows) for run, rows in table.groupby("run", sort=False)}
    if not MEASURES[table.attrs["measure"]].forms:
        return Analysis(table, stops, {}, None, "Gao's forms are of a divergence, not of training steps", statistic)
    fits, why = {}, []
    for of in ("true", "proxy"):
        try:
            fits[of] = {name: fit(table, form, of, resamples) for name, form in FORMS.items()}
        except RhtoolError as error:
            why.append(error.what)
    choice = choose(table) if "true" in fits else None
    return Analysis(table, stops, fits, choice, "; ".join(dict.fromkeys(why)), statistic)


# Of runs on disk


def hacking_along(directory: Path, metrics: Mapping[str, float]) -> dict[str, float]:
    """`hacking/drop` and `hacking/onset_step` of a run's metrics.csv, next to the base policy's returns in `metrics`."""
    rows = curve(directory, ["true/return", "proxy/return"]).dropna()
    if "base/true/return" not in metrics or rows.empty:
        return {}
    drop, onset = course(
        *(rows[key].to_numpy() for key in ("steps", "true/return", "proxy/return")),
        base_true=metrics["base/true/return"],
        base_proxy=metrics["base/proxy/return"],
    )
    return {"hacking/drop": drop, "hacking/onset_step": onset}


def of_section(
    section: Section, keys: Keys, outputs: str | Path, measure: str
) -> tuple[dict[str, Analysis], dict[str, Analysis]]:
    """`{method: analysis}` of the finished runs of a section, by `measure` and over steps.

    Over steps: one coeff of each method, `Section.chosen`. By `measure`: of these the unregularised one and the best of
    each divergence, of those whose runs measured it while they trained, and set out from the base policy. Runs that do not
    know their base policy are left out.
    """
    over_steps, tables, best = {}, {}, {}
    column = MEASURES[measure].key
    for cell in section.chosen():
        done = cell.runs[cell.runs.status == "done"]
        curves, bases = {}, {}
        for _, run in done.iterrows():
            base = float(run.get(f"base/{keys.true}", math.nan)), float(run.get(f"base/{keys.proxy}", math.nan))
            rows = curve(Path(outputs) / run.path, (column, keys.true, keys.proxy))
            if np.isfinite(base).all() and rows[[keys.true, keys.proxy]].notna().all(axis=1).sum() > 1:
                curves[f"seed={run.seed:g}"], bases[f"seed={run.seed:g}"] = rows, base
        if not curves:
            continue
        method = cell.label + (f", coeff {cell.strength}" if cell.swept and cell.strength else "")
        over_steps[method] = analyse(points(curves, "steps", bases, keys), keys.statistic)
        if all(rows[column].notna().sum() > 1 for rows in curves.values()):
            table = points(curves, measure, bases, keys)
            kind = cell.divergence, cell.reward
            if _from_base(table) and (kind not in best or cell.true.value > best[kind].true.value):
                tables[kind], best[kind] = (method, table), cell
    return {method: analyse(table, keys.statistic) for method, table in tables.values()}, over_steps


def _from_base(table: pd.DataFrame) -> bool:
    """Whether its runs set out from near the base policy, as the forms assume: the first distance is among the smaller."""
    first = table.groupby("run").d.first()
    return bool((first <= 0.5 * table.groupby("run").d.max()).all())


# Tables

FAR = 2.0
"""a fit says nothing of what is beyond this multiple of the farthest measured distance: it is not printed"""


def fit_texts(found: Mapping[str, Analysis], of: str = "true") -> tuple[list[str], list[list[str]]]:
    """The header and the rows, as strings, of the fits to the "true" or the "proxy" return of `{method: analysis}`.

    Two rows per method, the form first that describes the true return better; both empty where nothing was fitted.
    """
    lines = []
    for method, analysis in found.items():
        fits = analysis.fits.get(of, {})
        order = (analysis.choice.better, analysis.choice.other) if analysis.choice else FORMS
        lines += [(method, analysis, fits[name]) for name in order if name in fits]
    if not lines:
        return [], []
    peaks = [_within(fitted.peak, FAR * float(analysis.points.d.max())) for _, analysis, fitted in lines]
    ci = "[95 % CI]"
    columns = {
        "method": [method for method, _, _ in lines],
        "form": [fitted.form.name for _, _, fitted in lines],
        "n": [str(fitted.alpha.n) for _, _, fitted in lines],
        f"alpha {ci}": _column(fitted.alpha for _, _, fitted in lines),
        f"beta {ci}": _column(fitted.beta for _, _, fitted in lines),
        "intervals over": [fitted.resampled or "-" for _, _, fitted in lines],
        "R^2": [f"{fitted.r2:.3f}" for _, _, fitted in lines],
        f"peak at d {ci}": _column(d for d, _ in peaks),
        f"gain there {ci}": _column(gain for _, gain in peaks),
    }
    if of == "true":
        columns["AIC"] = [_aic(analysis.choice, fitted.form.name) for _, analysis, fitted in lines]
        columns["peak inside?"] = [inside(analysis.points, fitted) for _, analysis, fitted in lines]
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def stop_texts(found: Mapping[str, Analysis]) -> tuple[list[str], list[list[str]]]:
    """The header and the rows, as strings, of when training should have stopped, of `{method: analysis}`: a row each.

    The statistic over runs of the fields of `Stop`; columns that would be empty are left out.
    """
    analyses = list(found.values())
    measures = {analysis.points.attrs["measure"] for analysis in analyses}
    kind = interval_name((a.over_runs("gain") for a in analyses), analyses[0].statistic if analyses else "iqm")
    names = {"stop at step": "step", "stop at n": "x", "stop at d": "d", f"true gain there [{kind}]": "gain"}
    names |= {"lost by the end": "lost", "proxy gained meanwhile": "proxy_after"}
    names |= {"drop": "drop", "onset at step": "onset_step", "onset at d": "onset_d"}
    absent = ["stop at n"] if measures != {"n"} else []
    absent += ["stop at d", "onset at d"] if "steps" in measures else []
    columns = {"method": list(found), "n": [str(len(analysis.stops)) for analysis in analyses]}
    for title, name in names.items():
        if title not in absent:
            column = [analysis.over_runs(name) for analysis in analyses]
            columns[title] = _column(column, "{:,.0f}".format if name in ("step", "x", "onset_step") else None)
            if name.startswith("onset"):  # in how many runs, where these are not all
                of = [(e.n, len(a.stops)) for e, a in zip(column, analyses, strict=True)]
                some = [f" ({n}/{runs})" if 0 < n < runs else "" for n, runs in of]
                columns[title] = [text + part for text, part in zip(columns[title], some, strict=True)]
    kept = {name: texts for name, texts in columns.items() if name in ("method", "n") or set(texts) - {"-"}}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


FIT_NOTE = (
    "d: distance from the base policy, sqrt(KL) or sqrt_chi2; gains are above the base policy's return. best-of-n: "
    "d (alpha - beta d); RL: d (alpha - beta log d) (arXiv 2210.10760). AIC: 0 for the form that describes the true return "
    f"better, how much more for the other; ? if the data cannot tell. peak at d: inf if farther than {FAR:g} times what was "
    "measured. peak inside?: yes if the fit's peak, with its whole interval, is within the measured distances and the "
    "points beyond it fall; no if it is beyond, or nothing falls; unclear otherwise."
)
STOP_NOTE = (
    "stop: the highest true return of each run, an oracle choice; from there to the end the true return lost and the "
    "proxy return gained. drop, onset: docs/metrics.md, hacking/drop and hacking/onset_step."
)


def tables(measured: Mapping[str, Analysis], over_steps: Mapping[str, Analysis]) -> list[Table]:
    """The tables of `of_section`, those that have rows, with how to read them."""
    fits = " ".join([FIT_NOTE, *absent(measured)])
    found = [("overoptimisation", fit_texts(measured), fits), ("when to stop", stop_texts(over_steps), STOP_NOTE)]
    return [table for table in found if table[1][1]]


def notes(found: Mapping[str, Analysis]) -> list[str]:
    """How to read both tables, and what could not be computed."""
    return [FIT_NOTE, STOP_NOTE, *absent(found)]


def absent(found: Mapping[str, Analysis]) -> list[str]:
    """What could not be computed, and why."""
    said = [f"{method}: no fit: {analysis.why}." for method, analysis in found.items() if analysis.why]
    dropped = {method: analysis.points.attrs["dropped"] for method, analysis in found.items()}
    return said + [f"{method}: {n} rows with a missing value left out." for method, n in dropped.items() if n]


def _aic(choice: Choice, form: str) -> str:
    more = "0" if form == choice.better else f"+{choice.aic.value:.1f}"
    return more + ("" if choice.clear else " ?")


def _within(peak: tuple[Estimate, Estimate], reach: float) -> tuple[Estimate, Estimate]:
    """The peak with inf for distances beyond `reach`, and for the gains there."""
    far = {name: getattr(peak[0], name) > reach for name in ("value", "low", "high")}
    return tuple(replace(e, **{name: math.inf for name, beyond in far.items() if beyond}) for e in peak)


def _column(estimates: Iterable[Estimate], write: Callable[[float], str] | None = None) -> list[str]:
    """Estimates as strings, in the decimals of `tables.formatter` if not told otherwise; a dash for NaN."""
    estimates = list(estimates)
    write = write or formatter(e.value for e in estimates)
    return [with_interval(e, lambda v: "inf" if v == math.inf else write(v)) if e.n else "-" for e in estimates]
