"""What all pictures have in common: colours, axes, numbers and titles that fit, and a file that depends on the figure alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from rhtool.results.cells import DIVERGENCES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which the colour-blind tell apart; Tol's muted ones for further divergences.
COLOURS = dict(
    zip(
        DIVERGENCES,
        ("#444444", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D00", "#882255", "#117733", "#AA4499"),
        strict=True,
    )
)
FURTHER = ("#332288", "#44AA99", "#999933")
REFERENCE = "#7A7A7A"
INK = "#222222"
LETTERS = 9
"""of a title, in an inch"""
SEED = {"marker": "o", "markersize": 3.2, "alpha": 0.6, "markeredgewidth": 0}
"""how a single seed is drawn"""
DPI = 160
HALO = [withStroke(linewidth=3, foreground="white")]


def save(figure: Figure, path: Path) -> None:
    """Write a PNG that depends on the figure alone."""
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def colour(divergence: str) -> str:
    """The colour of a divergence, the same in every picture."""
    return COLOURS.get(divergence) or FURTHER[sum(map(ord, divergence)) % len(FURTHER)]


def blank(width: float, height: float) -> Figure:
    """A figure of its own, `width` by `height` inches: no pyplot, no state, nothing to close."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def scale(axes: Axes, name: str, values: np.ndarray, centre: float, room: float = 0.12, ticks: int = 6) -> None:
    """Limits of the axis `name` ("x" or "y") with `room` (a share of the range) for labels, about `ticks` ticks, and an asinh
    scale about `centre` where the farthest of the `values` (n,) is 15 times as far from it as the median and would flatten the rest.

    Hacked returns can be ten times farther from the base policy than prevented ones (Traffic, in thousands: -57
    unregularised, -1.2 at best, -2.3 the base policy).
    """
    distances = np.abs(values - centre)
    unit = float(np.median(distances[distances > 0])) if (distances > 0).any() else 0.0
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - max(abs(low), 1) * 0.1, high + max(abs(high), 1) * 0.1
    if unit and distances.max() > 15 * unit:
        forward, inverse = (
            lambda v: np.arcsinh((np.asarray(v) - centre) / unit),
            lambda v: np.sinh(np.asarray(v)) * unit + centre,
        )
        getattr(axes, f"set_{name}scale")("function", functions=(forward, inverse))
        ends = forward(np.array([low, high]))
        ends += np.array([-room, room]) * (ends[1] - ends[0])
        at = _nice(inverse(np.linspace(*ends, ticks + 1)))
        axis = getattr(axes, f"{name}axis")
        axis.set_major_locator(FixedLocator(at))
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v + 0.0:,.6g}".replace("-", "\N{MINUS SIGN}")))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
        getattr(axes, f"set_{name}lim")(*inverse(ends))
        axes.set_label(axes.get_label() + f" asinh-{name}")
    else:
        around = room * (high - low)
        getattr(axes, f"set_{name}lim")(low - around, high + around)
        getattr(axes, f"{name}axis").set_major_locator(MaxNLocator(ticks))


def note(axes: Axes, name: str) -> str:
    """What an axis' name says about its scale."""
    return ", asinh scale" if f"asinh-{name}" in axes.get_label() else ""


def _nice(ticks: np.ndarray) -> list[float]:
    """Ticks rounded to the first digit of their distance to the nearest neighbour."""
    gaps = np.diff(ticks)
    near = np.minimum(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf))
    rounded = {round(float(t), -math.floor(math.log10(gap))) for t, gap in zip(ticks, near, strict=True)}
    return sorted(rounded)


def shortened(title: str, inches: float) -> str:
    """A title without its middle where it is wider than `inches`: what all methods share, or a path, can be long."""
    longest = int(LETTERS * inches)
    return title if len(title) <= longest else f"{title[: longest // 2]}…{title[-(longest // 2 - 1) :]}"


def narrow_ticks(axes: Axes) -> None:
    """Write -20,000 on the y axis as -20k: the digits of such numbers push the axis' name out of a picture."""
    if max(map(abs, axes.get_ylim())) >= 1e4:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: thousands(v).replace("-", "\N{MINUS SIGN}")))


def thousands(value: float) -> str:
    """1500000 -> "1.5M"."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
