"""Figures of images, heat maps over images, and bars: what the vision methods put into their reports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from rhtool.results.plots import INK

WIDTH = 9.6
"""inches of a full line"""


def rgb(image: np.ndarray) -> np.ndarray:
    """(C, H, W) in [0, 1] -> (H, W, 3): three channels are colours, any other number becomes grey."""
    shown = np.moveaxis(np.asarray(image, np.float64), 0, -1)
    if shown.shape[-1] != 3:
        shown = shown.mean(-1, keepdims=True).repeat(3, -1)
    return shown.clip(0, 1)


def frames(x: np.ndarray, sees: Sequence[str]) -> dict[str, np.ndarray]:
    """What a CNN sees (C, H, W), apart: `{"s": (C', H, W), "s'": …}`."""
    named = [name for part, name in (("obs", "s"), ("next_obs", "s'")) if part in sees]
    return dict(zip(named, np.split(np.asarray(x), len(named)), strict=True))


def grid(
    rows: dict[str, Sequence[np.ndarray]], titles: Sequence[str], notes: Sequence[str] = (), per_line: int = 6
) -> Figure:
    """Images (H, W, 3) in rows that have a name, columns that have a title and a note below; wide ones are broken."""
    columns = len(titles)
    lines = -(-columns // per_line)
    across = min(columns, per_line)
    side = min(1.55, (WIDTH - 0.6) / across)
    gap = 0.05
    block = len(rows) * (side + gap) + 0.26 + (0.24 if notes else 0.06)
    figure = Figure(figsize=(0.55 + across * (side + gap) + 0.05, lines * block + 0.05))
    width, height = figure.get_size_inches()
    for i in range(columns):
        line, place = divmod(i, across)
        left, top = 0.5 + place * (side + gap), height - line * block - 0.25
        for j, (name, images) in enumerate(rows.items()):
            bottom = top - (j + 1) * side - j * gap
            axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
            axes.imshow(images[i], interpolation="nearest", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color("#BBBBBB")
            if place == 0:
                axes.set_ylabel(name, fontsize=9, color=INK)
            if j == 0:
                axes.set_title(titles[i], fontsize=8.5, color=INK, pad=3)
            if notes and j == len(rows) - 1:
                axes.set_xlabel(notes[i], fontsize=8, color="#555555", labelpad=2)
    return figure


def overlay(image: np.ndarray, signed: np.ndarray, limit: float) -> np.ndarray:
    """A grey image (H, W, 3) under a map (H, W) from -limit (blue) to limit (orange): (H, W, 3)."""
    grey = 0.25 + 0.5 * image.mean(-1, keepdims=True)
    strength = np.clip(np.abs(signed) / (limit or 1), 0, 1)[..., None]
    ink = np.where(signed[..., None] > 0, np.array([0.90, 0.45, 0.0]), np.array([0.0, 0.45, 0.85]))
    return grey * (1 - strength) + ink * strength


def bars(values: dict[str, tuple[float, float, float]], label: str, colours: Sequence[str] | None = None) -> Figure:
    """Horizontal bars `{name: (value, low, high)}`, the first on top, with their intervals."""
    figure = Figure(figsize=(WIDTH * 0.75, 0.55 + 0.27 * len(values)), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(values))[::-1]
    middle, low, high = np.array(list(values.values()), float).reshape(-1, 3).T
    axes.barh(places, middle, color=colours or "#0072B2", height=0.7)
    axes.hlines(places, low, high, color=INK, linewidth=1.2)
    axes.set_yticks(places, list(values), fontsize=8.5)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel(label, fontsize=9)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure
