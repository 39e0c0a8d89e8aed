"""Rewards of a grid world as pictures: every cell has a circle for staying and a triangle for each move (as in Jenner and
Gleave, arXiv 2203.13553)."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon, Rectangle

from rhtool.interpret.transitions import Transitions
from rhtool.results.plots import HALO, INK, blank
from rhtool.rl.policy import Grid

COLOURS = "RdBu"
UNSEEN = "#EDEDED"


def by_cell(values: np.ndarray, data: Transitions, grid: Grid, actions: int) -> np.ndarray:
    """Means (C, actions) of values (N,) over the steps that begin in a cell with an action; NaN where there is none."""
    cell = data.obs.reshape(len(data), -1)[:, : len(grid.cells)].argmax(axis=1)
    place = cell * actions + data.actions
    count = np.bincount(place, minlength=len(grid.cells) * actions)
    total = np.bincount(place, values, minlength=len(grid.cells) * actions)
    with np.errstate(invalid="ignore"):
        return (total / count).reshape(len(grid.cells), actions)


def draw(
    rows: list[tuple[str, list[np.ndarray]]], columns: list[str], grid: Grid, label: str, limit: float = 0.0
) -> Figure:
    """A panel for each row and column, of values (C, actions) as `by_cell` has them, on one scale of colours around zero.

    Args:
        rows: titles, and the values of each column.
        columns: titles.
        grid: the cells.
        label: of the scale of colours.
        limit: its end; 0: the 99 % quantile of the sizes.
    """
    panels = len(grid.panels)
    every = np.abs(np.concatenate([v[np.isfinite(v)] for _, values in rows for v in values]))
    limit = limit or (float(np.quantile(every, 0.99)) if len(every) and every.max() > 0 else 1.0)
    norm = Normalize(-limit, limit)
    height, width = grid.cells[:, 1].max() + 1, grid.cells[:, 2].max() + 1
    side = min(3.2, max(1.6, 0.34 * max(height, width)))
    figure = blank(
        side * width / max(height, width) * len(columns) * panels + 1.9,
        side * height / max(height, width) * len(rows) + 0.9,
    )
    axes = figure.subplots(len(rows), len(columns) * panels, squeeze=False)
    for r, (line, (title, values)) in enumerate(zip(axes, rows, strict=True)):
        for c, (name, column) in enumerate(zip(columns, values, strict=True)):
            for p, panel in enumerate(grid.panels):
                on = line[c * panels + p]
                _panel(on, column, grid, p, norm)
                if r == 0:
                    on.set_title(", ".join(filter(None, (name, panel))), fontsize=9, color=INK)
                if c == p == 0:
                    on.set_ylabel(title, fontsize=9, color=INK)
    figure.set_layout_engine("constrained")
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, shrink=0.8, fraction=0.05, extend="both")
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def _panel(axes, values: np.ndarray, grid: Grid, panel: int, norm: Normalize) -> None:
    patches, numbers, squares = [], [], []
    for i in np.flatnonzero(grid.cells[:, 0] == panel):
        _, row, column = grid.cells[i]
        squares.append(Rectangle((column - 0.5, row - 0.5), 1, 1))
        circles = []
        for value, (dr, dc) in zip(values[i], grid.moves, strict=False):
            if not np.isfinite(value):
                continue
            if dr == dc == 0:
                circles.append((Circle((column, row), 0.19), value))
                continue
            along, across = np.array([dc, dr]) / 2, np.array([dr, dc]) / 2
            corners = np.array([column, row]) + np.array([[0, 0], along + across, along - across])
            patches.append(Polygon(corners))
            numbers.append(value)
        for circle, value in circles:  # over the triangles
            patches.append(circle)
            numbers.append(value)
    axes.add_collection(PatchCollection(squares, facecolor=UNSEEN, edgecolor="white", linewidth=1.0))
    drawn = PatchCollection(patches, cmap=COLOURS, norm=norm, edgecolor="white", linewidth=0.3)
    drawn.set_array(np.array(numbers))
    axes.add_collection(drawn)
    for cell, letter in grid.marks:
        if grid.cells[cell, 0] == panel:
            at = grid.cells[cell, [2, 1]] + [-0.36, -0.3]
            axes.text(
                *at, letter, fontsize=8, fontweight="bold", color=INK, ha="center", va="center", path_effects=HALO
            )
    axes.set_xlim(-0.6, grid.cells[:, 2].max() + 0.6)
    axes.set_ylim(grid.cells[:, 1].max() + 0.6, -0.6)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
