"""Distances between rewards as pictures and words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from rhtool.interpret.report import Report
from rhtool.results.plots import INK, blank

TITLES = {"pearson": "Pearson", "epic": "EPIC", "dard": "DARD", "starc": "STARC"}
SAME = 1e-6
CLOSE = 0.05
NEARLY = 0.1
"""share of the Pearson distance"""


@dataclass
class Result:
    """One distance between k rewards."""

    value: np.ndarray
    """float64 (k, k); NaN if it cannot be had"""
    low: np.ndarray
    """of the 95 % interval; NaN of what is exact"""
    high: np.ndarray
    why: str = ""
    """why it cannot be had"""

    def __init__(self, value: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None, why: str = ""):
        nan = np.full(value.shape, np.nan)
        self.value, self.why = value, why
        self.low, self.high = (nan if end is None else end for end in (low, high))

    @classmethod
    def unknown(cls, count: int, why: str) -> Result:
        """One that cannot be had, of so many rewards."""
        return cls(np.full((count, count), np.nan), why=why)

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return not self.why

    @property
    def sampled(self) -> bool:
        """Whether there are intervals."""
        return bool(np.isfinite(self.low).any())

    @property
    def how(self) -> str:
        """For a table."""
        return f"not known: {self.why}" if self.why else "sampled" if self.sampled else "exact"


def describe(report: Report, names: list[str], found: dict[str, Result], gamma: float, coverage: str) -> None:
    """The section of the report: what was found, the picture, what is missing."""
    report.heading("Are they the same reward?")
    for sentence in findings(names, found):
        report.finding(sentence)
    where = "the transitions of the policies" if coverage == "policies" else "all states and actions, alike"
    report.text(
        f"0: the same; 1: opposite. Pearson compares rewards step by step. EPIC, DARD and STARC do not see what changes no policy: "
        f"shaping by a potential (with discount {gamma:g}), a positive scale, a shift. All are means over {where}."
    )
    report.figure("distances", picture(names, found), "Distances between the rewards, of each kind that can be had.")
    for kind, result in found.items():
        if result.why:
            report.text(f"{TITLES[kind]} is not known here: it {result.why}.")


def findings(names: list[str], found: dict[str, Result]) -> list[str]:
    """A sentence for each pair of rewards."""
    said = []
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            pearson = float(found["pearson"].value[i, j])
            kind = next((k for k in ("starc", "dard", "epic") if found[k].known), "pearson")
            result, pair = found[kind], f"`{names[i]}` and `{names[j]}`"
            value = float(result.value[i, j])
            limit = float(result.high[i, j]) if result.sampled else value
            between = f", between {result.low[i, j]:.3f} and {result.high[i, j]:.3f}" if result.sampled else ", exactly"
            shown = f"{TITLES[kind]} {value:.3f}{between}"
            if pearson < SAME:
                said.append(f"{pair} are the same up to scale and shift, step by step.")
            elif limit < SAME:
                said.append(
                    f"{pair} differ step by step (Pearson {pearson:.3f}), and only by shaping, scale and shift, which change no "
                    f"optimal policy ({shown})."
                )
            elif limit < CLOSE and limit < NEARLY * pearson:
                said.append(
                    f"{pair} differ step by step (Pearson {pearson:.3f}), and nearly all of it is shaping, scale and shift, which change "
                    f"no optimal policy ({shown})."
                )
            elif limit < CLOSE:
                said.append(
                    f"{pair} are nearly the same up to shaping, scale and shift, which change no optimal policy ({shown}; step by step "
                    f"Pearson {pearson:.3f}); what is left may change some."
                )
            else:
                said.append(
                    f"{pair} are different rewards: shaping, scale and shift do not make one of the other ({shown}; step by step "
                    f"Pearson {pearson:.3f})."
                )
    return said


def picture(names: list[str], found: dict[str, Result]) -> Figure:
    """Of two rewards a line per distance, with intervals; of more a matrix per distance."""
    known = {kind: result for kind, result in found.items() if result.known}
    labels = [name if len(name) < 24 else f"…{name[-22:]}" for name in names]
    if len(names) == 2:
        figure = blank(6.4, 0.8 + 0.42 * len(known))
        axes = figure.subplots()
        for y, (_, result) in enumerate(known.items()):
            value = result.value[0, 1]
            axes.plot([0, value], [y, y], color="#D0D0D0", linewidth=5, zorder=1, solid_capstyle="butt")
            if result.sampled:
                axes.plot([result.low[0, 1], result.high[0, 1]], [y, y], color=INK, linewidth=1.4, zorder=2)
            axes.plot(value, y, "o", color="#0072B2", zorder=3)
            axes.annotate(f"{value:.3f}", (value, y), (0, 7), textcoords="offset points", ha="center", fontsize=8.5)
        axes.set_yticks(range(len(known)), [TITLES[kind] for kind in known])
        axes.set_ylim(len(known) - 0.5, -0.7)
        axes.set_xlim(-0.07, 1.07)
        axes.set_xlabel(f"distance between {labels[0]} and {labels[1]}", fontsize=9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.set_layout_engine("constrained")
        return figure
    longest = max(map(len, labels))
    figure = blank(2.7 * len(known) + 0.07 * longest, 3.2 + 0.05 * longest)
    figure.set_layout_engine("constrained")
    for axes, (kind, result) in zip(figure.subplots(1, len(known), squeeze=False)[0], known.items(), strict=True):
        axes.imshow(result.value, vmin=0, vmax=1, cmap="cividis_r", aspect="auto")
        for (i, j), value in np.ndenumerate(result.value):
            axes.text(
                j, i, f"{value:.2f}", ha="center", va="center", fontsize=8.5, color="white" if value > 0.55 else INK
            )
        axes.set_title(TITLES[kind], fontsize=10.5, loc="left")
        axes.set_xticks(range(len(names)), labels, rotation=40, ha="right", fontsize=8)
        axes.set_yticks(range(len(names)), labels if axes.get_subplotspec().is_first_col() else [], fontsize=8)
    return figure
