"""The pictures of a report: what the proxy gained against what the truth lost, and how it came about.

Every function returns a matplotlib `Figure` or None if there is nothing to draw; `save` writes one without a clock
in it, so that the same runs give the same bytes.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from rhtool.results.cells import DIVERGENCES, ON_TRUE, Cell, Keys, Section, column
from rhtool.results.rows import curve
from rhtool.results.statistics import Estimate
from rhtool.results.tables import interval_name

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
LINE = 3.6
"""inches of a line of learning curves"""
LETTERS = 9
"""of a title, in an inch"""
LEADER = 12
"""points from its mark at which a label needs a leader"""
CROWDED = 24
"""with more points than this in a panel, only the first, the last and the best coeff of a method are labelled"""
OVERS = {"state_action": ("o", "-"), "state": ("s", "--"), "action": ("^", ":")}
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
        axes.set_xlabel(x_label + _note(axes, "x"), fontsize=9.5)
        if i % columns == 0:
            axes.set_ylabel(keys.true.replace("true/return", "true return") + _note(axes, "y"), fontsize=9.5)
        elif _note(axes, "y"):
            axes.set_ylabel(_note(axes, "y").strip(", "), fontsize=9.5)
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


def blank(width: float, height: float) -> Figure:
    """A figure of its own, inches by inches: no pyplot, no state, nothing to close."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
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
        _scale(axes, name, values, reference)
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


def _scale(axes: Axes, name: str, values: np.ndarray, centre: float, room: float = 0.12, ticks: int = 6) -> None:
    """Limits with room for labels, and an asinh scale about `centre` where the farthest value would flatten all others.

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


def _note(axes: Axes, name: str) -> str:
    return ", asinh scale" if f"asinh-{name}" in axes.get_label() else ""


def _nice(ticks: np.ndarray) -> list[float]:
    """Ticks rounded to the first digit of their distance to the nearest neighbour."""
    gaps = np.diff(ticks)
    near = np.minimum(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf))
    rounded = {round(float(t), -math.floor(math.log10(gap))) for t, gap in zip(ticks, near, strict=True)}
    return sorted(rounded)


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


def curves(found: list[Section], keys: Keys, outputs: str | Path) -> Figure | None:
    """Learning curves of true and proxy return against steps: the best coeff of each method, and the unregularised.

    A column per method with the true return above the proxy return; in grey behind it the unregularised run. The line
    is the median over the finished seeds (over the unfinished ones where none is finished), the band reaches from the
    lowest to the highest seed, as far as all of them go.
    """
    blocks = []
    for section in found:
        drawn = [(cell, learning(cell, keys, outputs)) for cell in section.chosen()]
        drawn = [(cell, data) for cell, data in drawn if data is not None]
        if drawn:
            blocks.append((section, drawn))
    if not blocks:
        return None
    per_line = min(6, max(len(drawn) for _, drawn in blocks))
    width = max(0.85 + 2.35 * per_line + 0.1, 5.5)
    block_lines = [math.ceil(len(drawn) / per_line) for _, drawn in blocks]
    line, head, foot = LINE, 0.3, 0.3
    height = sum(head + n * line for n in block_lines) + foot
    figure = blank(width, height)
    top = height
    for (section, drawn), n in zip(blocks, block_lines, strict=True):
        title = shortened(section.title, width)
        figure.text(0.14 / width, (top - 0.12) / height, title, va="top", fontsize=11, fontweight="bold", color=INK)
        top -= head
        _block(figure, section, drawn, keys, per_line, (width, height, top))
        top -= n * line
    figure.text(
        0.5,
        0.13 / height,
        "median and range over n seeds; grey: no regularisation; dashed: base policy",
        ha="center",
        va="center",
        fontsize=8.5,
        color="#555555",
    )
    return figure


Learning = tuple[np.ndarray, dict[str, np.ndarray], int]
"""steps (t,), {"true" | "proxy": values (seeds, t)}, and how many of the seeds are not finished"""


def learning(cell: Cell, keys: Keys, outputs: str | Path) -> Learning | None:
    """The learning curves of a cell's seeds on common steps, or None if no seed has two points of both returns."""
    for statuses in (("done",), ("running", "interrupted", "failed")):
        seeds = []
        for path in cell.runs.path[cell.runs.status.isin(statuses)]:
            data = curve(Path(outputs) / path, (keys.true, keys.proxy)).dropna()
            if len(data) > 1:
                seeds.append(data)
        if seeds:
            steps = np.unique(np.concatenate([data.steps for data in seeds]))
            low, high = max(data.steps.min() for data in seeds), min(data.steps.max() for data in seeds)
            steps = steps[(steps >= low) & (steps <= high)]
            if len(steps) < 2:
                continue
            names = {"true": keys.true, "proxy": keys.proxy}
            values = {n: np.array([np.interp(steps, d.steps, d[key]) for d in seeds]) for n, key in names.items()}
            return steps, values, 0 if "done" in statuses else len(seeds)
    return None


def _block(
    figure: Figure,
    section: Section,
    drawn: list[tuple[Cell, Learning]],
    keys: Keys,
    per_line: int,
    place: tuple[float, float, float],
) -> None:
    """The panels of one section: lines of `per_line` methods, each a true above a proxy panel, with common y axes."""
    width, height, top = place
    plain = next((data for cell, data in drawn if cell is section.unregularised), None)
    spans = {name: np.concatenate([data[1][name].ravel() for _, data in drawn]) for name in ("true", "proxy")}
    base = {name: section.base[name].value for name in spans if name in section.base}
    longest = max(data[0].max() for _, data in drawn)
    for i, (cell, data) in enumerate(drawn):
        line, place_in_line = divmod(i, per_line)
        steps, values, unfinished = data
        for row, name in enumerate(("true", "proxy")):
            left = 0.85 + 2.35 * place_in_line
            bottom = top - LINE * line - 0.4 - 1.22 - row * 1.36
            axes = figure.add_axes((left / width, bottom / height, 2.1 / width, 1.22 / height))
            _scale(
                axes, "y", np.append(spans[name], base.get(name, [])), base.get(name, np.median(spans[name])), 0.06, 4
            )
            narrow_ticks(axes)
            axes.set_xlim(0, 1.02 * longest)
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: thousands(v)))
            axes.tick_params(labelsize=7.8, colors=INK, labelleft=place_in_line == 0, labelbottom=row == 1)
            axes.grid(color="#E6E6E6", linewidth=0.7)
            axes.set_axisbelow(True)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            if name in base:
                axes.axhline(base[name], color=INK, linewidth=0.9, linestyle=(0, (5, 4)), zorder=2)
            if plain is not None and plain is not data:
                _band(axes, plain[0], plain[1][name], "#B5B5B5", behind=True)
            _band(axes, steps, values[name], colour(cell.divergence))
            if place_in_line == 0:
                axes.set_ylabel(f"{name} return" + _note(axes, "y").replace(", ", "\n"), fontsize=9, color=INK)
            if row == 0:
                coeff = f"coeff {cell.strength}, " if cell.swept and cell.strength else ""
                count = f"n = {len(values[name])}" + (", unfinished" if unfinished else "")
                title = textwrap.shorten(cell.label, 36, placeholder="…") + f"\n{coeff}{count}"
                axes.set_title(title, fontsize=8.5, color=colour(cell.divergence), loc="left", pad=4)
            else:
                axes.set_xlabel("steps" if section.data else "env steps", fontsize=8.5, color=INK, labelpad=2)


def _band(axes: Axes, steps: np.ndarray, values: np.ndarray, ink: str, behind: bool = False) -> None:
    if len(values) > 1:
        alpha = 0.25 if behind else 0.2
        axes.fill_between(
            steps, values.min(0), values.max(0), color=ink, alpha=alpha, linewidth=0, zorder=2.5 + 0.1 * (not behind)
        )
    axes.plot(steps, np.median(values, axis=0), color=ink, linewidth=1.1 if behind else 1.5, zorder=3 + (not behind))


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


def files(found: list[Section], keys: Keys, outputs: str | Path) -> Iterable[tuple[str, Figure]]:
    """`(file name, figure)` of every picture for which there is something to draw."""
    for name, figure in (
        ("frontier.png", frontier(found, keys)),
        ("curves.png", curves(found, keys, outputs)),
        ("divergence.png", divergence(found, keys)),
    ):
        if figure is not None:
            yield name, figure
