"""A picture of an episode: the epidemic's curves over the days, and the stages under them."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, FAINT, GRID = "#333333", "#8a8a8a", "#e6e6e6"
ILL, CRITICAL, DEAD, STAGE = "#e08a1e", "#c0392b", "#222222", "#3b6ea5"


def picture(days: np.ndarray, stages: int, persons: int, delta_start: int) -> np.ndarray:
    """uint8 (540, 900, 3). `days` float32 (days, 8), NaN for days to come: persons infected, critical, dead, recovered,
    none, tested infected, tested critical, and the stage. `delta_start`: day after which the second strain spreads."""
    figure = Figure(figsize=(9, 5.4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    ill, severe, stage = figure.subplots(3, 1, sharex=True, height_ratios=(5, 3, 2))
    x = np.arange(1, len(days) + 1)
    gone = int(np.isfinite(days[:, 0]).sum())
    ill.fill_between(x, days[:, 0], color=ILL, alpha=0.18, linewidth=0)
    ill.plot(x, days[:, 0], color=ILL, label="infected")
    ill.plot(x, days[:, 5], color=ILL, linestyle=":", label="tested infected")
    severe.plot(x, days[:, 1], color=CRITICAL, label="critical")
    severe.plot(x, days[:, 6], color=CRITICAL, linestyle=":", label="tested critical")
    severe.plot(x, days[:, 2], color=DEAD, label="dead")
    stage.fill_between(x, days[:, 7], step="mid", color=STAGE, alpha=0.25, linewidth=0)
    stage.step(x, days[:, 7], where="mid", color=STAGE)
    for axes, least, label in ((ill, 10.0, "persons"), (severe, 5.0, "persons")):
        shown = days[:gone, [0, 5]] if axes is ill else days[:gone, [1, 2, 6]]
        axes.set_ylim(0, 1.25 * max(least, float(shown.max(initial=0.0))))
        axes.set_ylabel(label, color=INK)
        axes.legend(loc="upper left", frameon=False, ncols=3, fontsize=9, labelcolor=INK)
    stage.set_ylim(0, stages - 0.8)
    stage.set_yticks(range(stages))
    stage.set_ylabel("stage", color=INK)
    stage.set_xlabel("day", color=INK)
    stage.set_xlim(1, len(days))
    for axes in (ill, severe, stage):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=FAINT, labelcolor=INK)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        if delta_start + 1 <= len(days):
            axes.axvline(delta_start + 1, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    if delta_start + 1 <= len(days):
        note = {"xytext": (4, -2), "textcoords": "offset points", "va": "top", "fontsize": 9, "color": FAINT}
        ill.annotate("second strain", (delta_start + 1, ill.get_ylim()[1]), **note)
    ill.set_title(f"{persons} persons, day {gone}", loc="left", fontsize=11, color=INK)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
