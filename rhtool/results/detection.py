"""How well scores tell anomalous policies from others: AUROC and average precision, their tables and pictures.

Scores are 1-D float arrays, higher is more anomalous; labels boolean arrays, true is anomalous; groups, where there are
any, say of which policy a score is: what one policy does is drawn together, or not at all. NaN scores are left out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import AsinhLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from rhtool.results.markdown import markdown_table
from rhtool.results.plots import INK, REFERENCE, blank, save
from rhtool.results.statistics import FEWEST, LEVEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)

ROLLOUTS = "rollout_"
"""how detectors are called that need a policy's rollouts alone"""
KINDS = {
    "action_": "action distributions (white box)",
    "occupancy_": "occupancy (white box)",
    ROLLOUTS: "rollouts alone (black box)",
}
"""{beginning of a detector's name: what it looks at}"""
ANOMALOUS, OTHER, CONTROL = "#D55E00", "#0072B2", "#F0C419"
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8C6D00", "#444444", "#882255", "#44AA99")


@dataclass(frozen=True)
class Quality:
    """How well a detector does; NaN where that is not defined."""

    auroc: float
    low: float
    high: float
    average_precision: float


def quality(
    scores: ArrayLike, labels: ArrayLike, groups: ArrayLike | None = None, resamples: int = 2000, seed: int = 0
) -> Quality:
    """AUROC with the limits of its 95 % percentile bootstrap interval over groups (each score its own unless given), and
    the average precision.

    All are NaN if the labels are of one class; the limits also if fewer than three groups hold a class, as too few to
    say anything of others. Resamples in which a class is missing are left out.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    groups = np.arange(len(scores)) if groups is None else np.asarray(groups)
    there = ~np.isnan(scores)
    scores, labels, groups = scores[there], labels[there], groups[there]
    if labels.all() or not labels.any():
        return Quality(*[math.nan] * 4)
    wins, positive, negative = _wins(scores, labels, groups)
    value = float(wins.sum() / (positive.sum() * negative.sum()))
    low = high = math.nan
    if min((positive > 0).sum(), (negative > 0).sum()) >= FEWEST:
        k, rng = len(wins), np.random.default_rng(seed)
        counts = rng.multinomial(k, np.full(k, 1 / k), size=resamples).astype(float)
        pairs = (counts @ positive) * (counts @ negative)
        drawn = np.einsum("rk,rk->r", counts @ wins, counts)[pairs > 0] / pairs[pairs > 0]
        low, high = (float(x) for x in np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Quality(value, low, high, average_precision(scores, labels))


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """P(score of an anomalous one > score of another) + P(equal) / 2, by ranks (Mann and Whitney's U divided by the number
    of pairs). NaN if the labels are of one class."""
    from scipy.stats import rankdata

    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    n, m = int(labels.sum()), int((~labels).sum())
    if not (n and m):
        return math.nan
    return float((rankdata(scores)[labels].sum() - n * (n + 1) / 2) / (n * m))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Sum over thresholds of precision times the gain in recall; of equal scores all or none are above a threshold. By
    chance it is the share of anomalous ones. NaN if the labels are of one class."""
    labels = np.asarray(labels, bool)
    if labels.all() or not labels.any():
        return math.nan
    false, true = _counts(np.asarray(scores, float), labels)
    precision = true[1:] / (true[1:] + false[1:])
    return float((precision * np.diff(true)).sum() / true[-1])


def roc(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False-alarm rates and recalls (k,) at every threshold, from (0, 0) to (1, 1). Both classes must be there."""
    false, true = _counts(np.asarray(scores, float), np.asarray(labels, bool))
    return false / false[-1], true / true[-1]


def _counts(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many others, and how many anomalous ones, have at least each distinct score, the highest first; 0 before it."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    true = labels[order].cumsum()[last]
    return np.append(0.0, last + 1 - true), np.append(0.0, true)


def _wins(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K, K): how often an anomalous score of group i is above another of group j, ties half; and how many anomalous (K,)
    and other (K,) scores each group has. Of a resample the AUROC follows from these by multiplication."""
    _, of = np.unique(groups, return_inverse=True)
    size = int(of.max()) + 1
    positive, wins = scores[labels], np.zeros((size, size))
    for j in range(size):
        others = np.sort(scores[(of == j) & ~labels])
        credit = (np.searchsorted(others, positive) + np.searchsorted(others, positive, "right")) / 2
        wins[:, j] = np.bincount(of[labels], credit, size)
    return wins, np.bincount(of[labels], minlength=size), np.bincount(of[~labels], minlength=size)


# Tables


def number(value: float) -> str:
    """Three digits; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.3g}"


def share(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """`0.93 [0.81, 1.00]`, without the interval if it is NaN; a dash for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" + ("" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]")


def assess(policies: pd.DataFrame, episodes: pd.DataFrame) -> tuple[dict[str, float], str]:
    """The metrics of `result.json` (`detect/…`, `trusted/…`) and the text of `table.md`, from the frames of
    `rhtool.tasks.detect.Detect.tables`: a row per policy, a row per episode."""
    unknown, controls = policies[~policies.control], policies[policies.control]
    n, bad = len(unknown), int(unknown.anomalous.sum())
    # Controls are no unknown policies: they would make every detector look better than it is.
    parts = episodes[~episodes.control]
    metrics: dict[str, float] = {
        "detect/policies": n,
        "detect/anomalous": bad,
        "detect/episodes": len(parts),
        "detect/anomalous_episodes": int(parts.anomalous.sum()),
        "trusted/true/return": float(controls.true.mean()),
        "trusted/proxy/return": float(controls.proxy.mean()),
    }
    rows = []
    for name in detectors(policies):
        by_policy, floor = quality(unknown[name], unknown.anomalous), float(controls[name].max())
        above = unknown[name] > floor
        found = {
            "auroc": by_policy.auroc,
            "auroc_low": by_policy.low,
            "auroc_high": by_policy.high,
            "average_precision": by_policy.average_precision,
            "noise": floor,
            "recall": float(above[unknown.anomalous].mean()) if bad else math.nan,
            "false_alarms": float(above[~unknown.anomalous].mean()) if bad < n else math.nan,
        }
        text = share(by_policy.auroc, by_policy.low, by_policy.high)
        of_episodes = "-"
        if name in parts:
            by_episode = quality(parts[name], parts.anomalous, parts.policy)
            found |= {
                "episode_auroc": by_episode.auroc,
                "episode_auroc_low": by_episode.low,
                "episode_auroc_high": by_episode.high,
                "episode_average_precision": by_episode.average_precision,
            }
            of_episodes = share(by_episode.auroc, by_episode.low, by_episode.high)
        metrics |= {f"detect/{name}/{key}": value for key, value in found.items()}
        needs = "rollouts" if name.startswith(ROLLOUTS) else "probabilities"
        shares = [share(found[key]) for key in ("average_precision", "recall", "false_alarms")]
        rows.append([name, needs, text, *shares, number(floor), of_episodes])
    header = ["detector", "needs", "AUROC", "AP", "recall", "false alarms", "noise", "AUROC of episodes"]
    said = [f"{bad} of {n} policies are anomalous, {metrics['detect/anomalous_episodes']} of {len(parts)} episodes."]
    for what, column in (("policies", unknown.anomalous), ("episodes", parts.anomalous)):
        if column.nunique() < 2:
            said.append(
                f"AUROC and AP of {what} are not defined: all {len(column)} {what} are "
                f"{'' if column.all() else 'not '}anomalous. Give policies of both kinds, or move the label "
                "(task.margin, task.label_below; task.episode_quantile)."
            )
            log.warning(said[-1])
    own = [
        ["trusted again" if row.control else "anomalous" if row.anomalous else "-", *map(number, (row.true, row.proxy))]
        + [number(getattr(row, name)) for name in SHOWN if name in policies]
        + [row.path]
        for row in policies.sort_values(["control", "true"]).itertuples()
    ]
    titles = ["label", "true", "proxy", *(name for name in SHOWN if name in policies), "policy"]
    return metrics, "\n".join(
        ["\n".join(said), "", markdown_table(header, rows, header[:2]), markdown_table(titles, own, titles[:1])]
    )


SHOWN = ("action_kl", "action_hellinger", "occupancy_kl", "occupancy_sqrt_chi2", "rollout_kl", "rollout_sqrt_chi2")
"""the scores in the table of policies; all are in scores.csv"""


def detectors(policies: pd.DataFrame) -> list[str]:
    """The detectors that gave a score, those that need the policy's probabilities first."""
    return [name for kind in KINDS for name in policies if name.startswith(kind)]


# Pictures


def draw(policies: pd.DataFrame, directory: Path) -> None:
    """Write `roc.png`, where it is defined, and `scores.png`."""
    names = detectors(policies)
    panels = {title: [name for name in names if name.startswith(kind)] for kind, title in KINDS.items()}
    directory.mkdir(exist_ok=True)
    if figure := draw_roc(policies, {title: found for title, found in panels.items() if found}):
        save(figure, directory / "roc.png")
    save(draw_scores(policies, [n for n in names if not n.endswith(("_max", "_range"))]), directory / "scores.png")


def draw_roc(policies: pd.DataFrame, panels: dict[str, Sequence[str]]) -> Figure | None:
    """ROC curves over the unknown policies, a panel for each kind of detector; None where they are not defined.

    `policies` has a row per policy, the columns `anomalous`, `control` and a score for each detector.
    """
    unknown = policies[~policies.control]
    if unknown.anomalous.nunique() < 2:
        return None
    # Inches: the legends lie below, three names to a line.
    below = 0.95 + 0.17 * math.ceil(max(map(len, panels.values())) / 3)
    width, height = 3.7 * len(panels) + 0.5, 3.35 + below
    figure = blank(width, height)
    figure.subplots_adjust(0.6 / width, below / height, 1 - 0.15 / width, 1 - 0.35 / height, wspace=0.15)
    for i, (title, detectors) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), i + 1)
        axes.plot([0, 1], [0, 1], color=REFERENCE, linewidth=0.9, linestyle=(0, (5, 4)))
        for k, name in enumerate(detectors):
            known = unknown[unknown[name].notna()]
            x, y = roc(known[name], known.anomalous)
            value = auroc(known[name], known.anomalous)
            # Curves lie upon each other; each is drawn thinner than the one below.
            width = 3.4 - 2.4 * k / max(len(detectors) - 1, 1)
            axes.plot(x, y, color=LINES[k % len(LINES)], linewidth=width, label=f"{_short(name)}  {value:.2f}")
        axes.legend(
            fontsize=7.5,
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
            ncols=3,
            columnspacing=1.0,
            handlelength=1.4,
            title="AUROC",
            title_fontsize=7.5,
        )
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        _finish(axes, title, "false-alarm rate", "recall" if i == 0 else "")
    return figure


def draw_scores(policies: pd.DataFrame, detectors: Sequence[str], columns: int = 4) -> Figure:
    """Score against true return, a panel per detector and a point per policy; the controls are the noise floor."""
    rows = math.ceil(len(detectors) / columns)
    figure = blank(3.0 * columns, 2.6 * rows + 0.5)
    kinds = (
        ("anomalous", policies.anomalous & ~policies.control, {"color": ANOMALOUS, "marker": "X", "s": 34}),
        ("not anomalous", ~policies.anomalous & ~policies.control, {"color": OTHER, "marker": "o", "s": 26}),
        (
            "the trusted policy again",
            policies.control,
            {"color": CONTROL, "marker": "*", "s": 80, "edgecolors": INK, "linewidths": 0.6},
        ),
    )
    for i, name in enumerate(detectors):
        axes = figure.add_subplot(rows, columns, i + 1)
        sizes = policies[name].abs()
        unit = float(sizes[sizes > 0].median()) if (sizes > 0).any() else 1.0
        if sizes.max() > 8 * unit:
            axes.set_yscale("asinh", linear_width=unit)
            axes.yaxis.set_major_locator(AsinhLocator(unit, numticks=5))
            axes.yaxis.set_minor_locator(NullLocator())
        floor = policies[name][policies.control].max()
        axes.axhline(floor, color=REFERENCE, linewidth=0.9, linestyle=(0, (5, 4)), zorder=1)
        for label, chosen, style in kinds:
            part = policies[chosen]
            axes.scatter(part.true, part[name], label=label, alpha=0.85, zorder=3, **style)
        note = " (asinh)" if sizes.max() > 8 * unit else ""
        last = i + columns >= len(detectors)
        _finish(axes, name + note, "true return" if last else "", "score" if i % columns == 0 else "")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=8.5)
    figure.tight_layout(rect=(0, 0.35 / figure.get_size_inches()[1], 1, 1))
    return figure


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold", color=INK)
    axes.set_xlabel(x, fontsize=8.5)
    axes.set_ylabel(y, fontsize=8.5)
    axes.tick_params(labelsize=7.5, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _short(name: str) -> str:
    return name.partition("_")[2].replace("_", " ")
