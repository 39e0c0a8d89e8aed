"""Learning curves: how a policy came to be what it is."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rhtool.results.cells import Cell, Keys, Section
from rhtool.results.plots import INK, blank, colour, narrow_ticks, note, scale, shortened, thousands
from rhtool.results.rows import curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = 3.6
"""inches of a line of learning curves"""


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
            scale(
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
                axes.set_ylabel(f"{name} return" + note(axes, "y").replace(", ", "\n"), fontsize=9, color=INK)
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
