"""The picture of monotonicity: true and proxy reward against the rounds of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rhtool.results.monotonicity import Course, band
from rhtool.results.overoptimisation_plot import INKS, PANEL
from rhtool.results.plots import INK, REFERENCE, SEED, blank, thousands
from rhtool.results.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 4
"""groups beside each other"""
LONGEST = 44
"""letters of a name that is not cut"""
RUN = SEED | {"linewidth": 0.8, "linestyle": "-"}


def picture(found: Mapping[str, Sequence[Course]], spearman: Mapping[str, Estimate]) -> Figure:
    """A column per group of `{name: its runs}`, `COLUMNS` of them beside each other, its true above its proxy reward; `spearman` is in
    the titles.

    A thin line per run; of several, whose evaluations are at the same steps, the mean; its 95 % band; dashed what the first
    evaluation had; a star where the true reward's mean is highest. The axes of the true reward are the same, those of the proxies,
    which may be different rewards, are not.
    """
    columns = min(len(found), COLUMNS)
    bands = -(-len(found) // columns)
    left, right, top, below, gap, between = 0.8, 0.2, 0.5, 0.95, 0.6, 0.95
    band = 2 * PANEL[1] + 0.25
    width = left + right + columns * PANEL[0] + (columns - 1) * gap
    height = top + bands * band + (bands - 1) * between + below
    figure = blank(width, height)
    inside = {"left": left / width, "right": 1 - right / width, "top": 1 - top / height, "bottom": below / height}
    grids = [
        part.subgridspec(2, columns, wspace=gap / PANEL[0], hspace=0.25 / PANEL[1])
        for part in figure.add_gridspec(bands, 1, **inside, hspace=between / band)
    ]
    handles: dict[str, Line2D | Patch] = {}
    for row, of in enumerate(("true", "proxy")):
        first: Axes | None = None
        for number, (name, runs) in enumerate(found.items()):
            column = number % columns
            axes = figure.add_subplot(grids[number // columns][row, column], sharey=first if of == "true" else None)
            first = first or axes
            _draw(axes, runs, of, handles)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: thousands(v)))
            axes.tick_params(labelsize=8, colors=INK, labelbottom=row == 1)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            if column == 0:
                axes.set_ylabel(f"{of} reward", fontsize=9, color=INK)
            if row == 0:
                short = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
                title = f"{short}\nSpearman {said(spearman[name])}"
                axes.set_title(title, loc="left", fontsize=8.5, color=INK, pad=4)
            else:
                axes.set_xlabel("rounds of training", fontsize=9, color=INK)
    figure.legend(
        handles.values(), handles.keys(), loc="lower center", ncols=min(2 * len(found), 5), frameon=False, fontsize=8
    )
    return figure


def said(found: Estimate) -> str:
    """A coefficient and its interval."""
    if not math.isfinite(found.value):
        return "is not defined"
    text = f"{found.value:.2f}"
    return text if math.isnan(found.low) else f"{text} [{found.low:.2f}, {found.high:.2f}]"


def _draw(axes: Axes, runs: Sequence[Course], of: str, handles: dict) -> None:
    """One panel; what is drawn is added to the handles of the legend."""
    ink, scores = INKS[of], [getattr(run, of) for run in runs]
    for run, values in zip(runs, scores, strict=True):
        axes.plot(run.steps, values.mean(1), color=ink, gid="run", zorder=2, **RUN)
    start = sum(values[0].mean() for values in scores) / len(scores)
    handles["first evaluation"] = axes.axhline(start, color=REFERENCE, linewidth=0.9, linestyle=(0, (5, 4)), zorder=1)
    handles["a run"] = Line2D([], [], color=INK, **RUN)
    steps = runs[0].steps
    if any(x.shape != scores[0].shape or list(run.steps) != list(steps) for run, x in zip(runs, scores, strict=True)):
        return
    mean, low, high = band(scores)
    axes.fill_between(steps, low, high, color=ink, alpha=0.2, linewidth=0, zorder=1.5)
    handles["95 % band"] = Patch(color=REFERENCE, alpha=0.35, linewidth=0)
    if len(runs) > 1:
        (handles["mean of runs"],) = axes.plot(steps, mean, color=INK, linewidth=1.6, zorder=4, gid="mean")
    if of == "true":
        star = {"marker": "*", "markersize": 13, "color": "white", "markeredgecolor": INK, "linestyle": "none"}
        at = mean.argmax()
        (handles["most true reward"],) = axes.plot(steps[at], mean[at], zorder=7, gid="peak", **star)
