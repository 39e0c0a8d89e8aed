"""The gap between two rewards in pictures, tables and words."""

from __future__ import annotations

import numpy as np
import pandas as pd
from gymnasium.spaces import Discrete
from matplotlib.figure import Figure

from rhtool.interpret import heatmaps
from rhtool.interpret.gaps import AGREED, Aligned, Effect, Explanation, Features
from rhtool.interpret.report import Report
from rhtool.interpret.transitions import Transitions
from rhtool.results.plots import INK, blank
from rhtool.rl.policy import Interface

FIRST, SECOND = "#D55E00", "#0072B2"
"""colours of the two rewards"""
NOTHING = 0.1
"""standard deviations: a smaller effect on a reward is none"""
WEAK = 0.1
"""share of the gap's variance: features that explain less explain little"""
SAID = 3
"""effects that are put into words as findings"""


def write(
    report: Report,
    names: tuple[str, str],
    data: Transitions,
    interface: Interface,
    aligned: Aligned,
    features: Features,
    found: Explanation,
    top: int,
    shaping: list[str],
) -> None:
    """The sections of the report."""
    first, second = names
    report.heading(f"What {first} pays for that {second} does not")
    for sentence in [*findings(names, aligned, found), *shaping]:
        report.finding(sentence)
    report.text(_unit(names, aligned, data))
    if features.left_out:
        report.text(f"Not among the features: {features.left_out}.")
    if found.effects:
        report.figure("effects", effects(names, found.effects), _of_effects(names))
        report.table("effects", table(names, found.effects), "The same in numbers, in standard deviations of a reward.")
    report.figure("scatter", scatter(names, aligned, features, found), f"Each step's {second} and {first} reward.")
    if interface.grid is not None and interface.grid.moves and isinstance(interface.action_space, Discrete):
        values = heatmaps.by_cell(aligned.gap, data, interface.grid, int(interface.action_space.n))
        caption = (
            f"Where they part: mean gap of the steps that begin in a cell. Triangles are moves, circles staying; blue where {first} "
            f"pays more than {second}, red where it pays less; grey was never seen."
        )
        report.figure("cells", heatmaps.draw([("", [values])], [""], interface.grid, f"{first} less {second}"), caption)
    report.heading("The widest gaps")
    report.table(
        "steps", steps(names, data, interface, aligned, features, found, top), "Steps with the widest gap, either way."
    )
    if found.tree:
        report.heading("As a tree")
        report.text(
            f"A tree of few questions explains {_share(found.r2_tree)} of the gap's variance in held-out episodes:"
        )
        import html

        report.html(f"<pre>{html.escape(found.tree)}</pre>")


def findings(names: tuple[str, str], aligned: Aligned, found: Explanation) -> list[str]:
    """What was found, in words: first how much they part, then for what."""
    first, second = names
    if not found.effects:
        return [f"`{first}` and `{second}` do not part in any of these steps: they are the same up to scale and shift."]
    if aligned.fitted:
        said = [
            f"`{first}` and `{second}` agree in {_share(aligned.agree)} of the steps, up to scale, and part in the others."
        ]
    else:
        said = [f"`{first}` and `{second}` are correlated with r = {aligned.correlation:.2f} step by step."]
    best = max(found.r2_linear, found.r2_tree)
    if best < WEAK:
        said.append(
            f"The features of a step explain {_share(max(best, 0))} of their gap in held-out episodes: what parts them is not among "
            "these features, or not in this form. What follows is weak."
        )
    main = abs(found.effects[0].gap)
    strong = [e for e in found.effects if max(abs(e.proxy), abs(e.true)) >= NOTHING and abs(e.gap) >= 0.1 * main]
    return said + [sentence(names, effect) for effect in strong[:SAID]]


def sentence(names: tuple[str, str], e: Effect) -> str:
    """An effect as a statement about both rewards, and its numbers."""
    what = _what(e)
    (main, size), (other, beside) = [(f"`{names[0]}`", e.proxy), (f"`{names[1]}`", e.true)][
        :: 1 if abs(e.proxy) >= abs(e.true) else -1
    ]
    verb, against = ("pays", "charges") if size > 0 else ("charges", "pays")
    if abs(beside) < max(NOTHING, 0.1 * abs(size)):
        rest = f"{other} does not"
    elif beside * size < 0:
        rest = f"{other} {against} for it"
    else:
        rest = f"{other} {verb} only {_share(beside / size)} of that"
    return f"{main} {verb} for {what}, {rest} ({e.proxy:+z.2f} and {e.true:+z.2f} standard deviations{_span(e)})."


def _what(e: Effect) -> str:
    if not e.binary:
        return f"more {e.name}"
    if e.name.startswith("action is"):
        return f"the action {e.name[10:]}"
    return e.name if (e.low, e.high) == (0.0, 1.0) else f"{e.name} = {e.high:g}"


def _span(e: Effect) -> str:
    if e.binary:
        return f"; in {_share(e.steps)} of the steps" if e.low == 0 else ""
    return f", from {e.low:.3g} to {e.high:.3g}"


def _share(value: float) -> str:
    percent = 100 * value
    if 0 < percent < 0.1:
        return "less than 0.1 %"
    if 99.9 < percent < 100:
        return "more than 99.9 %"
    return f"{percent:.0f} %" if 10 <= percent <= 90 or percent in (0, 100) else f"{percent:.1f} %"


def _unit(names: tuple[str, str], aligned: Aligned, data: Transitions) -> str:
    many = f"{len(data):,} steps of {len(np.unique(data.episode))} episodes. "
    if aligned.fitted:
        return many + (
            f"Where they agree `{names[0]}` is {aligned.slope:.4g} times `{names[1]}`, plus a constant; the gap is what is left, in "
            f"standard deviations of `{names[0]}`."
        )
    return many + "The gap is the difference of the two rewards, each made to have mean 0 and standard deviation 1."


def _of_effects(names: tuple[str, str]) -> str:
    return (
        f"What features do to `{names[0]}` and to `{names[1]}`, the others held fixed: of a feature that is there or not, by its being "
        "there; of a number, from its lowest tenth to its highest."
    )


def table(names: tuple[str, str], found: list[Effect]) -> pd.DataFrame:
    """A row per feature."""
    rows = [
        {
            "feature": e.name.replace("`", ""),
            "from": e.low,
            "to": e.high,
            names[0]: e.proxy,
            names[1]: e.true,
            "gap": e.gap,
        }
        for e in found
    ]
    return pd.DataFrame(rows)


def effects(names: tuple[str, str], found: list[Effect]) -> Figure:
    """Two bars per feature."""
    figure = blank(7.2, 0.9 + 0.46 * len(found))
    axes = figure.subplots()
    at = np.arange(len(found))
    for values, shift, ink, name in (
        ([e.proxy for e in found], -0.19, FIRST, names[0]),
        ([e.true for e in found], 0.19, SECOND, names[1]),
    ):
        axes.barh(at + shift, values, 0.36, color=ink, label=name if len(name) < 40 else f"…{name[-38:]}")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(at, [e.name.replace("`", "") for e in found], fontsize=9)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("effect, standard deviations of the reward", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, fontsize=9, frameon=False)
    figure.set_layout_engine("constrained")
    return figure


def scatter(
    names: tuple[str, str], aligned: Aligned, features: Features, found: Explanation, most: int = 4000
) -> Figure:
    """Steps as points, in the aligned unit; coloured by the feature with the largest effect on the gap."""
    figure = blank(5.6, 4.2)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    rows = np.linspace(0, len(aligned.proxy) - 1, min(most, len(aligned.proxy))).astype(int)
    x, y = aligned.true[rows], aligned.proxy[rows]
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    axes.plot(ends, ends, color="#9A9A9A", linewidth=0.9, linestyle=(0, (5, 4)), zorder=1)
    if found.effects:
        e = found.effects[0]
        column = features.values[rows, features.names.index(e.name)]
        if e.binary:
            for value, ink in ((e.low, "#7A7A7A"), (e.high, FIRST)):
                on = column == value
                label = f"{e.name.replace('`', '')} = {value:g}"
                axes.scatter(
                    x[on], y[on], s=9, color=ink, alpha=0.5, linewidth=0, label=label, zorder=2 + (ink == FIRST)
                )
            figure.legend(loc="outside upper center", ncols=2, fontsize=8.5, frameon=False, markerscale=2)
        else:
            low, high = np.quantile(column, [0.02, 0.98])
            drawn = axes.scatter(
                x, y, s=9, c=column, cmap="cividis", vmin=low, vmax=high, alpha=0.6, linewidth=0, zorder=2
            )
            figure.colorbar(drawn, ax=axes).set_label(e.name.replace("`", ""), fontsize=9)
    else:
        axes.scatter(x, y, s=9, color="#7A7A7A", alpha=0.5, linewidth=0)
    axes.set_xlabel(f"{names[1]}, standard deviations", fontsize=9)
    axes.set_ylabel(f"{names[0]}, standard deviations", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def steps(
    names: tuple[str, str],
    data: Transitions,
    interface: Interface,
    aligned: Aligned,
    features: Features,
    found: Explanation,
    top: int,
) -> pd.DataFrame:
    """The steps with the widest gap, one of each look: those that the features shown cannot tell apart stand for each other."""
    shown = [features.names.index(e.name) for e in found.effects[:5]]
    looks, rows = set(), []
    for i in np.argsort(-np.abs(aligned.gap), kind="stable"):
        if abs(aligned.gap[i]) < AGREED:
            break
        look = (round(float(aligned.gap[i]), 3), *np.round(features.values[i, shown], 3).tolist())
        if look in looks:
            continue
        looks.add(look)
        rows.append(
            {
                "episode": int(data.episode[i]),
                "step": int(data.step[i]),
                "action": _action(data.actions[i], interface),
                names[0]: float(aligned.proxy[i]),
                names[1]: float(aligned.true[i]),
                "gap": float(aligned.gap[i]),
                **{features.names[c].replace("`", ""): float(features.values[i, c]) for c in shown},
            }
        )
        if len(rows) == top:
            break
    return pd.DataFrame(rows)


def _action(action: np.ndarray, interface: Interface) -> str:
    if isinstance(interface.action_space, Discrete):
        return interface.action_names[int(action) - int(interface.action_space.start)]
    return " ".join(f"{x:.3g}" for x in np.ravel(action)[:4]) + (" …" if np.size(action) > 4 else "")
