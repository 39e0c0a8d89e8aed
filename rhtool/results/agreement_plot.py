"""The picture of who agrees with whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from rhtool.results.plots import INK, blank


def picture(names: Sequence[str], agreement: np.ndarray, kappa: np.ndarray) -> Figure:
    """A cell for each two of `names`: the share of pairs on which both prefer the same, and below it Cohen's kappa, which is
    0 where that is chance. Both (K, K), symmetric; colours are of the share, 0.5 being white."""
    k = len(names)
    side, left, below = max(0.62 * k, 2.0), 1.5, 1.2
    width, height = left + side + 0.9, below + side + 0.5
    figure = blank(width, height)
    axes = figure.add_axes((left / width, below / height, side / width, side / height))
    shown = axes.imshow(agreement, cmap="RdBu", vmin=0, vmax=1)
    for i in range(k):
        for j in range(k):
            if np.isfinite(agreement[i, j]):
                text = f"{agreement[i, j]:.2f}" + (
                    f"\n{kappa[i, j]:.2f}" if np.isfinite(kappa[i, j]) and i != j else ""
                )
                ink = "white" if abs(agreement[i, j] - 0.5) > 0.35 else INK
                axes.text(j, i, text, ha="center", va="center", fontsize=7, color=ink)
    axes.set_xticks(range(k), names, rotation=45, ha="right", fontsize=8.5, color=INK)
    axes.set_yticks(range(k), names, fontsize=8.5, color=INK)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(
        shown, cax=figure.add_axes(((left + side + 0.15) / width, below / height, 0.13 / width, side / height))
    )
    bar.ax.tick_params(labelsize=7.5, colors=INK)
    axes.set_title("agreement, below it Cohen's kappa", loc="left", fontsize=9.5, color=INK)
    return figure
