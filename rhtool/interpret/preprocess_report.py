"""Rewards before and after they were made simple, in pictures, tables and words."""

from __future__ import annotations

import numpy as np
import pandas as pd
from gymnasium.spaces import Discrete
from matplotlib.figure import Figure

from rhtool.interpret import heatmaps
from rhtool.interpret.preprocessing import Problem, Solution
from rhtool.interpret.report import Report
from rhtool.interpret.transitions import Transitions
from rhtool.results.plots import INK, blank
from rhtool.rl.policy import Interface

ZERO, NEARLY = 1e-6, 0.1
"""see `paying`"""
SPARSE = 0.2
"""a reward with a larger share of non-zero transitions is not called sparse"""
DRAWN = 400
"""steps of a curve"""

Shown = dict[str, dict[str, tuple[Solution, np.ndarray]]]
"""{reward: {objective: what was found, and the reward after it}}"""


def paying(values: np.ndarray, solution: Solution | None = None) -> np.ndarray:
    """bool (N,): the transitions whose reward is not the usual one, the median, by more than a share of the largest deviation:
    `ZERO`, or `NEARLY` of what Adam found, which is never quite zero."""
    apart = np.abs(values - np.median(values))
    return apart > (NEARLY if solution is not None and solution.solver == "adam" else ZERO) * apart.max(initial=1e-300)


def nonzero(values: np.ndarray, solution: Solution | None = None) -> float:
    """Share of those."""
    return float(paying(values, solution).mean())


def write(
    report: Report, data: Transitions, problems: dict[str, Problem], shown: Shown, interface: Interface, tabular: bool
) -> None:
    """The sections of the report."""
    report.heading("What is left of the rewards without shaping")
    for sentence in findings(data, problems, shown, interface):
        report.finding(sentence)
    what = "all transitions of the environment that look different" if tabular else "steps of the policies"
    gamma = next(iter(problems.values())).gamma
    report.text(
        f"Each reward plus gamma P(s') - P(s) - c, with gamma = {gamma:g} and P and c chosen to make it sparse or smooth on "
        f"{len(data):,} {what}. This changes no optimal policy. The rewards are files in `rewards/`, for `task.rewards`."
    )
    objectives = list(next(iter(shown.values())))
    if interface.grid is not None and interface.grid.moves and isinstance(interface.action_space, Discrete):
        count = int(interface.action_space.n)
        rows = [
            (
                name,
                [
                    heatmaps.by_cell(values, data, interface.grid, count)
                    for values in [
                        _centred(problems[name].rewards, data),
                        *(_level(found[o][1], o) for o in objectives),
                    ]
                ],
            )
            for name, found in shown.items()
        ]
        caption = (
            "Mean reward of the steps that begin in a cell; triangles are moves, circles staying. On the left as it is (less its mean), "
            "then made sparse or smooth (smooth: less its mean)."
        )
        report.figure("cells", heatmaps.draw(rows, ["unmodified", *objectives], interface.grid, "reward"), caption)
    else:
        report.figure(
            "curves", curves(data, problems, shown), "The rewards along the first steps of the sample, on common axes."
        )
    report.table(
        "objectives",
        table(problems, shown),
        "The objectives before and after, and the share of transitions that still pay.",
    )
    for name, found in shown.items():
        for objective, (solution, _) in found.items():
            if not solution.converged:
                report.text(
                    f"`{objective}` of `{name}` was still falling when Adam stopped: more `method.steps` may show more."
                )


def _centred(values: np.ndarray, data: Transitions) -> np.ndarray:
    return values - values.mean()


def _level(values: np.ndarray, objective: str) -> np.ndarray:
    """A smooth objective leaves the reward's level open."""
    return values - values.mean() if objective.startswith("smooth") else values


def findings(data: Transitions, problems: dict[str, Problem], shown: Shown, interface: Interface) -> list[str]:
    """In words: how sparse each reward can be, where it still pays, and whether the two are then the same."""
    said = []
    for name, found in shown.items():
        objective = next((o for o in found if o.startswith("sparse")), None)
        if objective is None:
            continue
        solution, values = found[objective]
        before, after = nonzero(problems[name].rewards), nonzero(values, solution)
        if solution.after > 0.9 * solution.before and before <= SPARSE:
            said.append(
                f"`{name}` is as simple as it can be: it pays in {_percent(before)} of the transitions"
                f"{_where(values, solution, data, interface)}."
            )
        elif after <= SPARSE:
            said.append(
                f"`{name}` is sparse but for shaping: it pays in {_percent(before)} of the transitions, and {objective} leaves "
                f"{_percent(after)}{_where(values, solution, data, interface)}. Its mean size falls from {solution.before:.3g} to "
                f"{solution.after:.3g}."
            )
        else:
            said.append(
                f"Shaping does not make `{name}` sparse: {_percent(after)} of the transitions still pay (of {_percent(before)}), and its "
                f"objective falls from {solution.before:.3g} to {solution.after:.3g}."
            )
    names = list(shown)
    for objective in [o for o in shown[names[0]] if o.startswith("sparse")][:1] if len(names) == 2 else []:
        a, b = (shown[name][objective][1] for name in names)
        apart = np.abs(a - b).max() / max(np.abs(a).max(), 1e-300)
        if apart < 1e-4:
            said.append(
                f"After it `{names[0]}` and `{names[1]}` are the same in every transition: they differed by shaping alone."
            )
        elif (there := _parted(a, b, data, interface)) is not None:
            said.append(f"After it `{names[0]}` still pays more than `{names[1]}` most of all {there}.")
    return said


def _parted(a: np.ndarray, b: np.ndarray, data: Transitions, interface: Interface) -> str | None:
    """Where the first of two rewards pays most beyond the second: the cell and action with the largest mean difference."""
    if interface.grid is None or not isinstance(interface.action_space, Discrete):
        return None
    count = int(interface.action_space.n)
    gap = heatmaps.by_cell(a - b, data, interface.grid, count)
    cell, action = divmod(int(np.nanargmax(gap)), count)
    return f"for the action `{interface.action_names[action]}` {interface.obs_names[cell]} ({gap[cell, action]:+.3g})"


def _where(values: np.ndarray, solution: Solution, data: Transitions, interface: Interface) -> str:
    """The cells in which the transitions that still pay begin."""
    if interface.grid is None:
        return ""
    rows = np.flatnonzero(paying(values, solution))
    if not len(rows):
        return ""
    cells = data.obs.reshape(len(data), -1)[rows, : len(interface.grid.cells)].argmax(axis=1)
    most, count = np.unique(cells, return_counts=True)
    order = np.argsort(-count)[:3]
    listed = ", ".join(f"`{interface.obs_names[most[i]]}`" for i in order)
    return f", {len(rows)} in number, which begin {listed}" + (
        f" and in {len(most) - 3} other cells" if len(most) > 3 else ""
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def table(problems: dict[str, Problem], shown: Shown) -> pd.DataFrame:
    """A row per reward and objective."""
    rows = [
        {
            "reward": name,
            "objective": objective,
            "before": solution.before,
            "after": solution.after,
            "still pay": nonzero(values, solution),
            "P": solution.potential.kind,
            "solver": solution.solver,
            "converged": "yes" if solution.converged else "no",
            "seconds": solution.seconds,
        }
        for name, found in shown.items()
        for objective, (solution, values) in found.items()
    ]
    return pd.DataFrame(rows)


def curves(data: Transitions, problems: dict[str, Problem], shown: Shown) -> Figure:
    """A row per reward, a column per objective: the reward per step; episodes are divided by lines."""
    objectives = list(next(iter(shown.values())))
    rows = slice(0, min(DRAWN, len(data)))
    ends = np.flatnonzero(np.diff(data.episode[rows])) + 0.5
    figure = blank(2.9 * (1 + len(objectives)) + 0.6, 1.7 * len(shown) + 0.5)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(shown), 1 + len(objectives), sharex=True, sharey="row", squeeze=False)
    for r, (line, (name, found)) in enumerate(zip(axes, shown.items(), strict=True)):
        columns = {"unmodified": problems[name].rewards} | {o: _level(found[o][1], o) for o in objectives}
        for on, (title, values) in zip(line, columns.items(), strict=True):
            on.plot(values[rows], color="#0072B2", linewidth=0.8)
            for end in ends:
                on.axvline(end, color="#BBBBBB", linewidth=0.6, zorder=0)
            on.axhline(0, color=INK, linewidth=0.5, zorder=0)
            if r == 0:
                on.set_title(title, fontsize=9.5, loc="left")
            if r == len(shown) - 1:
                on.set_xlabel("step", fontsize=9)
            for side in ("top", "right"):
                on.spines[side].set_visible(False)
            on.tick_params(labelsize=8)
        line[0].set_ylabel(name if len(name) < 22 else f"…{name[-20:]}", fontsize=9)
    return figure
