"""The picture of overoptimisation: true and proxy return against the distance from the base policy."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rhtool.errors import RhtoolError
from rhtool.results.overoptimisation import Analysis, inside
from rhtool.results.plots import COLOURS, INK, REFERENCE, SEED, blank, narrow_ticks, shortened, thousands
from rhtool.results.scaling_laws import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INKS = {"true": COLOURS["kl"], "proxy": COLOURS["sqrt_chi2"]}
MARKERS = "os^Dv<>p"
"""of the runs, in turn: colours need not be seen to tell them apart"""
PANEL = 3.3, 2.2
"""inches"""
MOST_HANDLES = 7
"""of the legend"""


def picture(found: Mapping[str, Analysis], title: str = "") -> Figure | None:
    """A column per method of `{method: analysis}`, its true above its proxy return, both above the base policy's; None
    of no method.

    A marker per run; the fitted form with its band, and dashed the other one if the data cannot tell which is better; the
    base policy's line; the fit's peak with its interval, and each run's best evaluation. Without a fit the points of a
    run are joined. The methods' axes are the same. Raises `RhtoolError` if their distances are not measured alike.
    """
    if not found:
        return None
    if len(labels := {analysis.measure.label for analysis in found.values()}) > 1:
        raise RhtoolError(f"axes of {' and of '.join(sorted(labels))}", "picture", "draw each measure by itself")
    columns = min(2 * len(found), 6)
    below = 0.5 + 0.2 * -(-MOST_HANDLES // columns)
    left, right, top, gap = 0.85, 0.2, 0.8 if title else 0.5, 0.25
    width, height = left + right + len(found) * PANEL[0] + (len(found) - 1) * gap, top + 2 * PANEL[1] + gap + below
    figure = blank(width, height)
    figure.suptitle(shortened(title, width), x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    grid = figure.add_gridspec(
        2,
        len(found),
        left=left / width,
        right=1 - right / width,
        top=1 - top / height,
        bottom=below / height,
        wspace=gap / PANEL[0],
        hspace=gap / PANEL[1],
    )
    handles: dict[str, Line2D | Patch] = {}
    farthest = 1.04 * max(float(analysis.points.d.max()) for analysis in found.values()) or 1.0
    for row, of in enumerate(("true", "proxy")):
        first: Axes | None = None
        for column, (method, analysis) in enumerate(found.items()):
            axes = figure.add_subplot(grid[row, column], sharey=first)
            first = first or axes
            _draw(axes, analysis, of, handles)
            axes.set_xlim(-0.02 * farthest, farthest)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            if not analysis.measure.forms:
                axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: thousands(v)))
            axes.tick_params(labelsize=8, colors=INK, labelleft=column == 0, labelbottom=row == 1)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            narrow_ticks(axes)
            if column == 0:
                axes.set_ylabel(f"{of} return,\nless the base policy's", fontsize=9, color=INK)
            if row == 0:
                axes.set_title(
                    f"{textwrap.shorten(method, 48, placeholder='…')}\n{_said(analysis)}",
                    loc="left",
                    fontsize=8.5,
                    color=INK,
                    pad=4,
                )
            else:
                axes.set_xlabel(analysis.measure.label, fontsize=9, color=INK)
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=columns, frameon=False, fontsize=8)
    return figure


def files(found: Mapping[str, Mapping[str, Analysis]]) -> Iterator[tuple[str, Figure]]:
    """`(file name, figure)` of the pictures of `{title of a section: {method: analysis}}`, of those that have any."""
    drawn = [figure for title, analyses in found.items() if (figure := picture(analyses, title))]
    for i, figure in enumerate(drawn):
        yield f"overoptimisation{f'_{i + 1}' if len(drawn) > 1 else ''}.png", figure


def _draw(axes: Axes, analysis: Analysis, of: str, handles: dict) -> None:
    """One panel; what is drawn is added to the handles of the legend."""
    ink, fits = INKS[of], analysis.fits.get(of, {})
    handles["base policy"] = axes.axhline(0, color=REFERENCE, linewidth=0.9, linestyle=(0, (5, 4)), zorder=1)
    for i, (name, run) in enumerate(analysis.points.groupby("run", sort=False)):
        style = SEED | {"marker": MARKERS[i % len(MARKERS)], "color": ink}
        axes.plot(run.d, run[of], linestyle="none" if fits else "-", linewidth=0.8, gid="run", zorder=2, **style)
        if of == "true":
            best = analysis.stops[name]
            ring = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "linestyle": "none", "color": INK}
            (handles["best evaluation of a run"],) = axes.plot(best.d, best.gain, zorder=5, gid="best", **ring)
    handles["runs, a marker each"] = Line2D([], [], color=INK, linestyle="none", **SEED)
    if not fits:
        return
    shown, choice = next(iter(fits.values())), analysis.choice
    d = np.linspace(0, float(analysis.points.d.max()), 200)
    if choice:
        shown = fits[choice.better]
        if not choice.clear:
            (handles["the other form"],) = axes.plot(d, fits[choice.other](d), color=INK, linewidth=1, linestyle=":")
    (handles["fitted form"],) = axes.plot(d, shown(d), color=INK, linewidth=1.6, zorder=4, gid="fit")
    if shown.resampled:
        axes.fill_between(d, *shown.band(d), color=ink, alpha=0.2, linewidth=0, zorder=1.5)
        handles["95 % band"] = Patch(color=REFERENCE, alpha=0.35, linewidth=0)
    if of == "true":
        _mark(axes, shown, d[-1], handles)


def _mark(axes: Axes, shown: Fit, farthest: float, handles: dict) -> None:
    """The peak of a fit, if it is among the data, and as much of its interval as is."""
    at, gain = shown.peak
    if at.value <= farthest:
        ends = [at.low, min(at.high, farthest)] if math.isfinite(at.low) else [at.value] * 2
        axes.plot(ends, [gain.value] * 2, color=INK, linewidth=1, marker="|", markersize=7, zorder=6)
        star = {"marker": "*", "markersize": 13, "color": "white", "markeredgecolor": INK, "linestyle": "none"}
        (handles["peak of the fit"],) = axes.plot(at.value, gain.value, zorder=7, gid="peak", **star)


def _said(analysis: Analysis) -> str:
    """The title's second line."""
    count = f"n = {len(analysis.stops)}"
    if not analysis.choice:
        return count
    shown = analysis.fits["true"][analysis.choice.better]
    form = shown.form.name + ("" if analysis.choice.clear else "?")
    return f"{count}, form {form}, peak inside: {inside(analysis.points, shown)}"
