"""A picture of a patient's last days: glucose with the target range, insulin, meals."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

LOW, HIGH = 70.0, 180.0
"""the target range, mg/dL"""

_BG, _CGM, _INSULIN, _MEAL, _TARGET = "#1f3b73", "#7c93c4", "#2a7f62", "#c8651b", "#dcefdc"


def picture(trace: np.ndarray, elapsed: int, patient: str, bounds: tuple[float, float]) -> np.ndarray:
    """uint8 (450, 800, 3).

    Args:
        trace: float (4, T): BG and CGM (mg/dL), insulin (U/min), announced meals (g/min) of the last T steps, oldest
            first, NaN where unknown.
        elapsed: steps of the episode so far.
        patient: the name.
        bounds: BG at which an episode ends.
    """
    bg, cgm, insulin, cho = np.asarray(trace, float)
    hours = (elapsed - len(bg) + 1 + np.arange(len(bg))) / 12.0
    figure = Figure(figsize=(8.0, 4.5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.axhspan(LOW, HIGH, color=_TARGET, lw=0)
    for bound in bounds:
        upper.axhline(bound, color="#b02a2a", lw=1, ls=":")
    upper.plot(hours, cgm, color=_CGM, lw=1, label="CGM")
    upper.plot(hours, bg, color=_BG, lw=1.6, label="BG")
    seen = np.concatenate([bg, cgm])
    top = np.nanmax(seen, initial=250.0) * 1.12
    upper.set_ylim(0.0, top)
    upper.set_ylabel("glucose (mg/dL)")
    for start, grams in _meals(hours, cho):
        upper.plot([start, start], [0.0, 0.05 * top], color=_MEAL, lw=2)
        upper.text(start, 0.06 * top, f"{grams:.0f} g", color=_MEAL, fontsize=7, ha="center", va="bottom")
    upper.legend(loc="upper left", fontsize=8, frameon=False, ncols=2)
    now = "" if np.isnan(bg[-1]) else f"   BG {bg[-1]:.0f} mg/dL"
    minutes = 5 * elapsed
    clock = f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"
    upper.set_title(f"{patient}   day {minutes // 1440 + 1}, {clock}{now}", fontsize=10, loc="left")
    known = ~np.isnan(insulin)
    lower.fill_between(hours[known], insulin[known], step="pre", color=_INSULIN, alpha=0.5, lw=0)
    lower.set_ylim(0.0, max(np.nanmax(insulin, initial=0.0) * 1.15, 0.01))
    lower.set_ylabel("insulin\n(U/min)")
    first = hours[known][0]
    lower.set_xlim(min(first, elapsed / 12.0 - 12.0), elapsed / 12.0)
    ticks = np.arange(np.ceil(lower.get_xlim()[0] / 6.0), np.floor(lower.get_xlim()[1] / 6.0) + 1) * 6.0
    lower.set_xticks(ticks, [f"day {t // 24 + 1:.0f}" if t % 24 == 0 and t >= 0 else f"{t % 24:.0f} h" for t in ticks])
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        for t in ticks[ticks % 24 == 0]:
            axes.axvline(t, color="0.85", lw=0.8, zorder=0)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _meals(hours: np.ndarray, cho: np.ndarray) -> list[tuple[float, float]]:
    """(hour, grams) of each run of steps in which a meal was announced."""
    grams, found = np.nan_to_num(cho) * 5.0, []
    eating = False
    for hour, amount in zip(hours, grams, strict=True):
        if amount > 0.0:
            found = [*found[:-1], (found[-1][0], found[-1][1] + amount)] if eating else [*found, (hour, amount)]
        eating = amount > 0.0
    return found
