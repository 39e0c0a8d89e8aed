"""What the proxy gained against what the truth lost, and the truth against the divergence spent.

Every function returns a matplotlib `Figure` or None if there is nothing to draw.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from rhtool.results.cells import ON_TRUE, Keys, Section, column
from rhtool.results.plots import HALO, INK, REFERENCE, SEED, blank, colour, narrow_ticks, note, scale, shortened
from rhtool.results.statistics import Estimate
from rhtool.results.tables import interval_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEADER = 12
"""points from its mark at which a label needs a leader"""
CROWDED = 24
"""with more points than this in a panel, only the first, the last and the best coeff of a method are labelled"""
OVERS = {"state_action": ("o", "-"), "state": ("s", "--"), "action": ("^", ":")}


Label = tuple[float, float, str, str, bool]
"""x, y, text, colour, bold"""


def frontier(found: list[Section], keys: Keys) -> Figure | None:
    """x: proxy return, y: true return; a panel per section, a curve per method through its coeffs, a star for base.

    Right of and below the base policy the proxy has gained and the truth has lost: reward hacking.
    """
    return _panels(found, keys, keys.proxy, "proxy", keys.proxy.replace("proxy/return", "proxy return"))


def divergence(found: list[Section], keys: Keys) -> Figure | None:
    """x: divergence from the base policy, y: true return; the base policy is where the divergence is zero."""
    name = keys.divergence.rpartition("/")[2]
    return _panels(found, keys, keys.divergence, "measured", f"{name} from the base policy")


def _panels(found: list[Section], keys: Keys, x_key: str, x: str, x_label: str) -> Figure | None:
    # A single point with nothing to compare it with is no picture.
    shown = [s for s in found if sum(_finite(getattr(c, x), c.true) for c in s.cells) + len(s.base) > 1]
    if not shown:
        return None
    columns = min(len(shown), 2)
    rows = math.ceil(len(shown) / columns)
    names = {cell.label for section in shown for cell in section.cells if cell.swept}
    lines_below = math.ceil((len(names) + 3) / (3 if columns == 1 else 5))
    width, panel, below = (
        (7.2, 4.7, 0.62 + 0.21 * lines_below) if columns == 1 else (12.4, 4.5, 0.62 + 0.21 * lines_below)
    )
    height = rows * panel + below
    figure = blank(width, height)
    grid = figure.add_gridspec(
        rows,
        columns,
        left=0.85 / width,
        right=1 - 0.2 / width,
        top=1 - 0.42 / height,
        bottom=below / height,
        wspace=0.85 / (width / columns),
        hspace=0.95 / panel,
    )
    handles: dict[str, Line2D] = {}
    for i, section in enumerate(shown):
        axes = figure.add_subplot(grid[i // columns, i % columns])
        base = (
            section.base.get("true", Estimate()),
            (section.base.get("proxy", Estimate()) if x == "proxy" else Estimate(0.0, n=1)),
        )
        _scatter(axes, section, keys, x_key, x, base[1], base[0], handles)
        axes.set_title(shortened(section.title, width / columns), loc="left", fontsize=11, fontweight="bold", color=INK)
        lengths = section.lengths
        sums = "; returns: sums over {:,.0f} to {:,.0f} steps".format(*lengths) if lengths else ""
        axes.set_xlabel(x_label + note(axes, "x") + sums, fontsize=9.5)
        narrow_ticks(axes)
        if i % columns == 0:
            axes.set_ylabel(keys.true.replace("true/return", "true return") + note(axes, "y"), fontsize=9.5)
        elif note(axes, "y"):
            axes.set_ylabel(note(axes, "y").strip(", "), fontsize=9.5)
    handles["seeds"] = Line2D([], [], color=REFERENCE, linestyle="none", **SEED)
    estimates = [estimate for section in shown for cell in section.cells for estimate in (cell.true, getattr(cell, x))]
    if any(math.isfinite(estimate.low) for estimate in estimates):
        handles[interval_name(estimates, keys.statistic)] = Line2D([], [], color=REFERENCE, linewidth=1)
    if any(cell.best for section in shown for cell in section.cells):
        handles["best coeff"] = Line2D(
            [], [], color=INK, marker="$\\mathbf{0.1}$", linestyle="none", markersize=14, markeredgewidth=0
        )
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="lower center",
        ncols=3 if columns == 1 else 5,
        frameon=False,
        fontsize=8.5,
        handlelength=2.6,
        bbox_to_anchor=(0.5, 0.005),
    )
    return figure


def _finite(*estimates: Estimate) -> bool:
    return all(math.isfinite(estimate.value) for estimate in estimates)


def _scatter(
    axes: Axes,
    section: Section,
    keys: Keys,
    x_key: str,
    x: str,
    base_x: Estimate,
    base_y: Estimate,
    handles: dict[str, Line2D],
) -> None:
    """One panel, its labels placed after everything else, where they hide least."""
    cells = [cell for cell in section.cells if _finite(getattr(cell, x), cell.true)]
    has_base = _finite(base_x, base_y)
    seeds = [np.column_stack([column(cell.runs, x_key), column(cell.runs, keys.true)]) for cell in cells]
    cloud = np.concatenate(seeds)
    cloud = cloud[np.isfinite(cloud).all(axis=1)]
    everything = np.concatenate([cloud, [[base_x.value, base_y.value]]]) if has_base else cloud
    for name, values in (("x", everything[:, 0]), ("y", everything[:, 1])):
        reference = {"x": base_x, "y": base_y}[name].value if has_base else float(np.median(values))
        scale(axes, name, values, reference)
    labels: list[Label] = []
    lines: list[np.ndarray] = []
    if has_base:
        _quadrants(axes, base_x.value, base_y.value, hacking=x == "proxy")
        lines.append(np.column_stack([axes.get_xlim(), [base_y.value] * 2]))
        if x == "proxy":
            lines.append(np.column_stack([[base_x.value] * 2, axes.get_ylim()]))
    for method in section.methods.values():
        points = [cell for cell in method if cell in cells]
        if not points:
            continue
        first = points[0]
        ink, (marker, dashes) = colour(first.divergence), OVERS.get(first.over, OVERS["state_action"])
        face = "white" if {*first.tuned} - first.unsaid else ink
        path = np.array([[getattr(cell, x).value, cell.true.value] for cell in points])
        if first.swept:
            axes.plot(*path.T, color=ink, linestyle=dashes, linewidth=1.4, alpha=0.75, zorder=3)
            lines.append(path)
        else:
            marker, face = ("D", "white") if ON_TRUE in first.tuned else ("X", ink)
        for cell in points:
            values = seeds[cells.index(cell)]
            axes.plot(*values.T, color=ink, linestyle="none", zorder=2, **SEED)
            lines += _bars(axes, getattr(cell, x), cell.true, ink)
            size = 7.5 if not cell.swept else 6.5
            axes.plot(
                getattr(cell, x).value,
                cell.true.value,
                marker,
                markersize=size,
                markerfacecolor=face,
                markeredgecolor="white" if face == ink else ink,
                markeredgewidth=0.7 if face == ink else 1.3,
                zorder=5,
            )
            text = (cell.strength if cell.swept else "") or cell.label
            if len(cells) <= CROWDED or cell.best or cell in (points[0], points[-1]):
                labels.append((getattr(cell, x).value, cell.true.value, text, ink, cell.best))
        if first.swept:
            handles[first.label] = Line2D(
                [], [], color=ink, linestyle=dashes, marker=marker, markersize=5.5, markerfacecolor=face
            )
    if has_base:
        axes.plot(
            base_x.value,
            base_y.value,
            "*",
            markersize=15,
            markerfacecolor="#F0C419",
            markeredgecolor=INK,
            markeredgewidth=0.8,
            zorder=6,
        )
        labels.append((base_x.value, base_y.value, "base policy", INK, False))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8.5, colors=INK)
    _place(axes, labels, cloud, lines)


def _quadrants(axes: Axes, x: float, y: float, hacking: bool) -> None:
    """Dashed lines through the base policy; right of it, above is improvement and below is reward hacking."""
    if hacking:
        style = {"transform": axes.transAxes, "ha": "right", "fontsize": 9, "fontstyle": "italic", "zorder": 1}
        names = [
            axes.text(0.985, 0.98, "improved", va="top", color="#3F6F96", gid="quadrant", **style),
            axes.text(0.985, 0.02, "reward hacking", va="bottom", color="#B0501B", gid="quadrant", **style),
        ]
        _make_room(axes, names, x, y)
    (_, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.axhline(y, color=REFERENCE, linewidth=0.9, linestyle=(0, (5, 4)), zorder=1)
    if not hacking:
        axes.axhspan(bottom, y, color="#D55E00", alpha=0.05, linewidth=0, zorder=0)
        return
    axes.axvline(x, color=REFERENCE, linewidth=0.9, linestyle=(0, (5, 4)), zorder=1)
    axes.fill_between([x, right], bottom, y, color="#D55E00", alpha=0.07, linewidth=0, zorder=0)
    axes.fill_between([x, right], y, top, color="#0072B2", alpha=0.05, linewidth=0, zorder=0)


def _make_room(axes: Axes, names: list[Text], x: float, y: float) -> None:
    """Move the right, upper and lower limits away from the base policy (x, y) where a quadrant is too small for its name."""
    renderer = axes.figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    boxes = [name.get_window_extent(renderer) for name in names]
    # Shares of the panel that the names take, with their distance to its edge and as much again to the dashed lines.
    width = max(box.width for box in boxes) / frame.width + 0.03
    height = max(box.height for box in boxes) / frame.height + 0.04
    for name, value, below, above in (("x", x, 0.0, width), ("y", y, height, height)):
        scale = getattr(axes, f"{name}axis").get_transform()
        low, high, at = scale.transform(np.array([*getattr(axes, f"get_{name}lim")(), value]))
        low = min(low, at - below / (1 - below) * (high - at))
        high = max(high, at + above / (1 - above) * (at - low))
        getattr(axes, f"set_{name}lim")(*scale.inverted().transform(np.array([low, high])))


def _bars(axes: Axes, x: Estimate, y: Estimate, ink: str) -> list[np.ndarray]:
    """Draw the intervals that there are, and return their ends, arrays of shape (2, 2)."""
    ends = []
    if math.isfinite(x.low):
        ends.append(np.array([[x.low, y.value], [x.high, y.value]]))
    if math.isfinite(y.low):
        ends.append(np.array([[x.value, y.low], [x.value, y.high]]))
    for line in ends:
        axes.plot(*line.T, color=ink, linewidth=1, alpha=0.6, zorder=4)
    return ends


def _place(axes: Axes, labels: list[Label], seeds: np.ndarray, lines: list[np.ndarray]) -> None:
    """Put each label beside its point, covering no other label and as little else as possible; far ones get a leader.

    Greedy, the longest label first, over 16 directions and growing distances, in pixels.
    """
    figure = axes.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    pixel, data = axes.transData.transform, axes.transData.inverted().transform
    unit = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    marks = pixel(np.array([label[:2] for label in labels]))
    dots = pixel(seeds)
    drawn = np.concatenate([_along(pixel(line), 4 * unit) for line in lines] + [marks])
    leaders = np.empty((0, 2))
    taken = [text.get_window_extent(renderer).extents for text in axes.texts if text.get_gid() == "quadrant"]
    turns = np.arange(16) * math.pi / 8 + math.pi / 4
    reach = np.repeat([5, 8, 12, 17, 24, 32, 42, 55], len(turns))[:, None]
    angle = np.tile(np.round(np.column_stack([np.cos(turns), np.sin(turns)]), 6), (8, 1))
    taste = 1.2 * reach[:, 0] + 15 * (reach[:, 0] > LEADER) + 0.1 * np.tile(np.arange(len(turns)), 8)
    for (x, y, text, ink, bold), mark in sorted(zip(labels, marks, strict=True), key=lambda item: -len(item[0][2])):
        style = {"fontsize": 8.4, "fontweight": "bold" if bold else "normal", "color": ink, "zorder": 7, "gid": "label"}
        artist = axes.text(x, y, text, ha="center", va="center", path_effects=HALO, **style)
        box = artist.get_window_extent(renderer)
        half = np.array([box.width, box.height]) / 2 + unit * np.array([1.0, -0.5])
        # All candidates, shape (128, 2), at once: the box just clears a disc of radius `reach` about the mark.
        centres = mark + angle * reach * unit + np.sign(angle) * half * np.abs(angle)
        low, high = centres - half, centres + half
        ways = mark + (np.clip(mark, low, high) - mark)[:, None] * np.linspace(0, 1, 12)[:, None]
        cost = taste + 1e6 * (np.any(low < frame.min, axis=1) | np.any(high > frame.max, axis=1))
        cost += 300 * _inside(leaders, low, high, unit) + 40 * _inside(marks, low, high, 4 * unit)
        cost += 8 * _inside(drawn, low, high) + _inside(dots, low, high)
        for other in taken:
            cost += 1e4 * np.all((low < other[2:]) & (other[:2] < high), axis=1)
            crossed = np.all((ways > other[:2] - unit) & (ways < other[2:] + unit), axis=2).sum(axis=1)
            cost += 300 * crossed * (reach[:, 0] > LEADER)
        best = int(np.argmin(cost))
        taken.append(np.concatenate([low[best], high[best]]))
        artist.set_position(data(centres[best]))
        if reach[best, 0] > LEADER:
            leaders = np.concatenate([leaders, ways[best]])
            axes.plot(*data(ways[best, [0, -1]]).T, color=ink, linewidth=0.6, alpha=0.7, zorder=2, gid="leader")


def _along(path: np.ndarray, step: float) -> np.ndarray:
    """Points on a polyline, `step` pixels apart. Shape (k, 2)."""
    pieces = [
        a + (b - a) * np.linspace(0, 1, 2 + int(np.hypot(*(b - a)) / step))[:, None]
        for a, b in itertools.pairwise(path)
    ]
    return np.concatenate([path, *pieces])


def _inside(points: np.ndarray, low: np.ndarray, high: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """How many of the points (k, 2) lie in each box, or within `margin` of it; `low`, `high`: corners (boxes, 2)."""
    return np.all((points > low[:, None] - margin) & (points < high[:, None] + margin), axis=2).sum(axis=1)
