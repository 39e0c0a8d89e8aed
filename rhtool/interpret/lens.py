"""`method=lens`: at which layer a reward model's score comes about, and which parts of it cause the difference of two answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rhtool.errors import ConfigError, RhtoolError
from rhtool.interpret.base import Method

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from pandas import DataFrame

    from rhtool.interpret.report import Report
    from rhtool.lm.inside import Inside
    from rhtool.run import Run

    Array = NDArray[np.float64]


@dataclass
class Lens(Method):
    """The score read off every layer, and what patching each part of the model from one answer to the other does to it."""

    kinds: ClassVar[tuple[str, ...]] = ("texts",)

    pairs: int = 60
    """prompts: of each the data's pair of answers, or the best and the worst by the reward"""
    shown: int = 4
    """answers whose layers and tokens are drawn"""

    def check(self, run: Run) -> None:
        """Is there one model?"""
        from rhtool.interpret.texts import require_model

        require_model(run.reward)
        for name in ("pairs", "shown"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is too small", f"method.{name}", "choose 1 or more")

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        """Read off, attribute, patch, compare."""
        import numpy as np

        from rhtool.interpret.texts import checked
        from rhtool.lm.inside import Inside, scorer_of

        inside = Inside(scorer_of(run.reward))
        answers = run.task.answered(run)
        scores = inside.scorer([row["prompt"] for row in answers.rows], answers.texts, answers.finished)
        scores = checked("proxy", scores.double().numpy(), answers.rows, answers.texts)
        pairs = answers.pairs(scores)[: self.pairs]
        if not len(pairs):
            raise RhtoolError("no prompt has two answers of different scores", "task.answers", "give other answers")
        ids = {
            int(i): inside.tokens(answers.rows[i]["prompt"], answers.texts[i], answers.finished[i])
            for i in pairs.ravel()
        }
        read = read_off(inside, [t.ids for t in ids.values()])
        at = np.array([inside.read_at(t.ids) for t in ids.values()])
        final = np.stack([values[:, k] for values, k in zip(read, at, strict=True)])  # (answers, layers + 1)
        of_layers = layer_table(final, {i: k for k, i in enumerate(ids)}, pairs)
        of_parts, agreement = patch_table(inside, [[ids[int(i)].ids for i in pair] for pair in pairs], run.seed)
        layer = (
            int(of_layers.index[of_layers.correlation >= 0.9][0])
            if (of_layers.correlation >= 0.9).any()
            else len(of_layers) - 1
        )
        strongest = of_parts.iloc[0]

        report.heading("Where the score comes about")
        report.finding(
            f"From {of_layers.layer[layer]} on, the score that can be read off correlates with the final one by 0.9 or more. The part "
            f"whose patching moves most of the difference of two answers is {strongest.part}: {strongest.patched:.0%} "
            f"[{strongest.patched_low:.0%}, {strongest.patched_high:.0%}]."
        )
        report.text(
            "The lens: the residual stream after each block, through the last norm, times the weights of the score, at the token where "
            "the score is read. It says what is there, not what is used."
        )
        report.table(
            "layers",
            of_layers,
            "Over the answers: correlation with the final score, share of pairs whose order is that of the final scores, mean.",
        )
        report.figure(
            "layers", layers_picture(of_layers), "Correlation of the score read off each layer with the final one."
        )
        report.heading("What causes the difference of two answers")
        report.text(
            f"Patching: the part's output at the token where the score is read is taken from the better answer of {len(pairs)} pairs "
            "and put into the worse one's pass; `patched` is the share of the difference of the scores that this brings about. "
            "`attributed`: the share by the linear attribution, the score's weights times the difference of the part's outputs, the "
            f"last norm held fixed. Rank correlation of the two over parts, mean over pairs: {agreement:.2f}. Where it is low, attribution "
            "says nothing of causes."
        )
        report.table(
            "parts",
            of_parts,
            "Shares of the difference, with intervals of 95 % by bootstrap over pairs, the largest first.",
        )
        report.figure(
            "parts", parts_picture(of_parts), "Share of the difference by patching and by attribution, a row per part."
        )
        report.heading("Layers and tokens")
        for k, (i, tokens) in enumerate([*ids.items()][: self.shown]):
            said = f"{answers.texts[i]!r}, score {scores[i]:.2f}: what the lens reads off each layer (rows) at each token of the answer."
            report.figure(f"tokens_{k}", tokens_picture(tokens, read[k]), said)
        return {
            "lens/layer": float(layer),
            "lens/attribution_agreement": agreement,
            "lens/strongest": float(strongest.patched),
            "lens/pairs": float(len(pairs)),
        }


def read_off(inside: Inside, rows: list[list[int]]) -> list[Array]:
    """Of each text, (layers + 1, T): the score that the lens reads off the embeddings and off each block's output, at each token.

    That of the last block is the model's own. Raises `RhtoolError` where it is not.
    """
    import numpy as np
    import torch

    modules = {str(i): block for i, block in enumerate(inside.blocks)}
    names = ["embeddings", *modules]
    norm, head = inside.final_norm, inside.head
    found = []
    for row, seen in zip(rows, inside.record(rows, modules), strict=True):
        with torch.no_grad():
            dtype = next(inside.model.parameters()).dtype
            states = [norm(seen[name].to(inside.device, dtype)).float().cpu() @ head.cpu() for name in names]
        found.append(torch.stack(states).double().numpy())
        direct = inside.score_ids(row)
        own = found[-1][-1, inside.read_at(row)] + inside.bias
        if not abs(own - direct) <= 1e-2 * max(1.0, abs(direct)):
            what = f"what the lens reads off the last block is {own:.4g}, and the score {direct:.4g}"
            raise RhtoolError(what, type(inside.model).__name__, "the lens does not fit this architecture")
    return [np.asarray(x) + inside.bias for x in found]


def layer_table(final: Array, place: dict[int, int], pairs: NDArray[np.int64]) -> DataFrame:
    """A row per layer of scores (answers, layers + 1), of which the last is the model's."""
    import numpy as np
    import pandas as pd

    rows = []
    better, worse = ([place[int(i)] for i in pairs[:, k]] for k in (0, 1))
    order = np.sign(final[better, -1] - final[worse, -1])
    for k in range(final.shape[1]):
        x = final[:, k]
        constant = min(np.ptp(x), np.ptp(final[:, -1])) < 1e-9
        correlation = np.nan if constant else np.corrcoef(x, final[:, -1])[0, 1]
        alike = (np.sign(x[better] - x[worse]) * order + 1) / 2
        rows.append(["embeddings" if not k else f"block {k - 1}", correlation, alike.mean(), x.mean()])
    return pd.DataFrame(rows, columns=["layer", "correlation", "agreement", "mean"])


def patch_table(inside: Inside, pairs: list[list[list[int]]], seed: int) -> tuple[DataFrame, float]:
    """A row per part and per block: shares of the differences of pairs (better, worse), as tokens, by patching and by attribution; and
    the mean rank correlation of the two over parts.

    Shares are sums over pairs, so that pairs of nearly equal scores do not count for more than they are.
    """
    import numpy as np
    import pandas as pd
    import torch
    from scipy.stats import spearmanr

    from rhtool.results.statistics import LEVEL

    parts = inside.parts()
    modules = parts | {f"block {i}": block for i, block in enumerate(inside.blocks)}
    causes, linear, gaps, agreements = [], [], [], []
    for better, worse in pairs:
        one, other = next(inside.record([better], modules)), next(inside.record([worse], modules))
        i, j = inside.read_at(better), inside.read_at(worse)
        scores = inside.score_ids(better), inside.score_ids(worse)
        direction = read_direction(inside, worse, j)
        patched, attributed = [], []
        for name, module in modules.items():
            new = one[name][i]

            def put(out: Any, new: Any = new, j: int = j) -> Any:
                return torch.cat([out[:j], new[None], out[j + 1 :]])

            patched.append(inside.changed(worse, module, put) - scores[1])
            attributed.append(float(direction @ (one[name][i] - other[name][j])))
        causes.append(patched)
        linear.append(attributed)
        gaps.append(scores[0] - scores[1])
        few = len(parts)
        if few > 2 and np.ptp(patched[:few]) > 0 and np.ptp(attributed[:few]) > 0:
            agreements.append(spearmanr(patched[:few], attributed[:few]).statistic)
    sign = np.sign(gaps)[:, None]
    whole = np.abs(gaps)
    if not whole.any():
        raise RhtoolError("the scores of all pairs are equal", "task.answers", "give answers of different scores")
    draws = np.random.default_rng(seed).integers(len(gaps), size=(1000, len(gaps)))
    columns: dict[str, Any] = {"part": list(modules)}
    for name, x in (("patched", np.array(causes) * sign), ("attributed", np.array(linear) * sign)):
        drawn = x[draws].sum(1) / np.maximum(whole[draws].sum(1), 1e-12)[:, None]
        columns[name] = x.sum(0) / whole.sum()
        columns[f"{name}_low"], columns[f"{name}_high"] = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    table = pd.DataFrame(columns)
    is_part = table.part.isin(parts)
    own = table[is_part].sort_values("patched", ascending=False, kind="stable")
    table = pd.concat([own, table[~is_part]], ignore_index=True)
    return table, float(np.mean(agreements)) if agreements else float("nan")


def read_direction(inside: Inside, row: list[int], at: int) -> Any:
    """(d,): the gradient of the score by the last block's output where it is read: the score's weights through the last norm."""
    return inside.slope(row, inside.blocks[-1])[at]


def layers_picture(table: DataFrame) -> Figure:
    """Correlation and agreement by layer."""
    from rhtool.results.plots import COLOURS, INK, blank

    figure = blank(6.0, 3.2)
    axes = figure.add_axes((0.11, 0.2, 0.86, 0.74))
    x = range(len(table))
    axes.plot(x, table.correlation, color=COLOURS["kl"], marker="o", markersize=4, label="correlation with the score")
    axes.plot(x, table.agreement, color=COLOURS["sqrt_chi2"], marker="s", markersize=4, label="pairs ranked alike")
    axes.set_xticks(list(x), table.layer, fontsize=8, rotation=30 if len(table) > 6 else 0)
    axes.tick_params(labelsize=8, colors=INK)
    axes.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def parts_picture(table: DataFrame) -> Figure:
    """A row per part: shares by patching and by attribution."""
    import numpy as np

    from rhtool.results.plots import COLOURS, INK, REFERENCE, blank

    rows = 0.32 * len(table)
    figure = blank(6.8, 1.1 + rows)
    axes = figure.add_axes((0.2, 0.75 / (1.1 + rows), 0.77, rows / (1.1 + rows)))
    y = np.arange(len(table))[::-1]
    for name, shift, marker, ink in (
        ("patched", 0.13, "o", COLOURS["sqrt_chi2"]),
        ("attributed", -0.13, "s", COLOURS["kl"]),
    ):
        x = table[name].to_numpy()
        bars = np.abs(np.stack([x - table[f"{name}_low"], table[f"{name}_high"] - x]))
        axes.errorbar(x, y + shift, xerr=bars, fmt=marker, color=ink, markersize=4.5, linewidth=1.3, label=name)
    axes.axvline(0, color=REFERENCE, linewidth=0.9, zorder=0)
    axes.set_yticks(y, table.part)
    axes.set_xlabel("share of the difference of the scores", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1 + 0.3 / rows), ncols=2)
    return figure


def tokens_picture(tokens: Any, read: Array) -> Figure:
    """What is read off each layer at each token of the answer, in colours around the mean of the last layer."""
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    from rhtool.interpret.coloured import LOWERS, RAISES
    from rhtool.results.plots import INK, blank

    shown = read[:, tokens.start :]
    middle = float(np.median(shown))
    reach = float(np.abs(shown - middle).max()) or 1.0
    colours = [tuple(c / 255 for c in LOWERS), (1, 1, 1), tuple(c / 255 for c in RAISES)]
    width, height = max(4.0, 0.42 * shown.shape[1] + 1.9), 0.3 * len(shown) + 1.2
    figure = blank(width, height)
    axes = figure.add_axes((1.0 / width, 0.95 / height, (width - 1.9) / width, 0.3 * len(shown) / height))
    image = axes.imshow(
        shown,
        aspect="auto",
        vmin=middle - reach,
        vmax=middle + reach,
        cmap=LinearSegmentedColormap.from_list("", colours),
    )
    axes.set_xticks(
        range(shown.shape[1]),
        [p.strip() or repr(p) for p in tokens.pieces[tokens.start :]],
        rotation=60,
        fontsize=8,
        ha="right",
    )
    axes.set_yticks(range(len(shown)), ["embeddings", *(f"block {k}" for k in range(len(shown) - 1))], fontsize=8)
    axes.tick_params(colors=INK)
    bar = figure.add_axes(((width - 0.75) / width, 0.95 / height, 0.15 / width, 0.3 * len(shown) / height))
    figure.colorbar(image, cax=bar).ax.tick_params(labelsize=7)
    return figure
