"""`method=vocabulary`: the tokens that a reward model likes best and least as whole answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

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
class Vocabulary(Method):
    """Every token as an answer of one token: optimal and pessimal tokens (Christian et al. 2025, arXiv 2506.07326)."""

    kinds: ClassVar[tuple[str, ...]] = ("texts",)

    questions: list[str] = field(default_factory=list)
    """what is asked, such as: What is, in one word, the greatest thing ever?; empty: the first prompts of the data"""
    prompts: int = 20
    """of the data, at most"""
    tokens: int = 0
    """drawn from the vocabulary; 0: all of it"""
    others: list[str] = field(default_factory=list)
    """further reward models with the same tokenizer, whose rankings are compared: runs of task=rm_train, directories, hub names"""
    shown: int = 20
    """tokens at each end"""

    def check(self, run: Run) -> None:
        """Is there one model, and are the others there?"""
        from rhtool.interpret.texts import require_model
        from rhtool.rewards.rm import Rm

        require_model(run.reward)
        for i, path in enumerate(self.others):
            other = Rm(model=path)
            other.option = f"method.others[{i}]"
            other.check()
        for name in ("prompts", "shown"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is too small", f"method.{name}", "choose 1 or more")

    def inputs(self, run: Run) -> dict[str, str]:
        """The other models."""
        from rhtool.rewards.rm import Rm

        return {f"other_{i}: {k}": v for i, path in enumerate(self.others) for k, v in Rm(model=path).inputs().items()}

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        """Score all tokens, rank them, compare."""
        import numpy as np
        from scipy.stats import kendalltau, spearmanr

        from rhtool.data.base import VALIDATION
        from rhtool.lm.inside import Inside, scorer_of
        from rhtool.rewards.rm import Rm

        inside = Inside(scorer_of(run.reward))
        asked = [[{"role": "user", "content": text}] for text in self.questions]
        prompts = asked or [row["prompt"] for row in run.data.prompts(VALIDATION)[: self.prompts]]
        tokens = candidates(inside, self.tokens, run.seed)
        scores = token_scores(inside, prompts, tokens)
        counts = frequencies(inside, run, tokens)
        table = ranking(inside, tokens, scores, counts)
        rank = float(spearmanr(table.score, table.times).statistic) if np.ptp(counts) > 0 else float("nan")
        best, worst = table.head(self.shown), table.tail(self.shown).iloc[::-1]
        never = float((best.times == 0).mean())

        report.heading("Answers of one token")
        report.finding(f"Best: {_listed(best)}. Worst: {_listed(worst)}.")
        report.finding(
            f"{never:.0%} of the {len(best)} best tokens never occur in the answers that the data hold, against "
            f"{(counts == 0).mean():.0%} of all tokens; rank correlation of score and frequency: {rank:.2f}."
        )
        report.text(
            f"Every one of {len(tokens)} tokens as the whole answer to each of {len(prompts)} prompts. `score`: mean over the prompts; "
            "`spread`: its standard deviation over prompts, less that of the prompts' means; `times`: in the data's training answers."
        )
        report.table("best", best, "The best tokens.")
        report.table("worst", worst, "The worst tokens, from the worst on.")
        report.file("tokens", table, "All tokens")
        report.figure(
            "tokens",
            picture(table, self.shown),
            "Score against number of times in the data, a point per token; the ends are named.",
        )
        metrics = {
            "vocabulary/tokens": float(len(tokens)),
            "vocabulary/range": float(table.score.max() - table.score.min()),
            "vocabulary/frequency": rank,
            "vocabulary/best_unseen": never,
        }
        if self.others:
            import pandas as pd

            ranked = {"proxy": scores.mean(0)}
            for path in self.others:
                other = Inside(
                    scorer_of(Rm(model=path, max_length=run.reward.max_length, template=run.reward.template))
                )
                if other.tokenizer.get_vocab() != inside.tokenizer.get_vocab():
                    what, mend = (
                        "its tokenizer is another one, so that its tokens are not these",
                        "give models that share one",
                    )
                    raise RhtoolError(what, path, mend)
                ranked[path] = token_scores(other, prompts, tokens).mean(0)
            pairs = [(a, b) for i, a in enumerate(ranked) for b in [*ranked][i + 1 :]]
            rows = [[a, b, kendalltau(ranked[a], ranked[b]).statistic] for a, b in pairs]
            report.heading("Other reward models")
            report.table(
                "kendall",
                pd.DataFrame(rows, columns=["model", "other", "kendall"]),
                "Kendall's tau of the rankings of tokens.",
            )
            metrics["vocabulary/kendall"] = float(np.mean([row[2] for row in rows]))
        return metrics


def candidates(inside: Inside, number: int, seed: int) -> list[int]:
    """Tokens that are no special ones, all or so many of them at random."""
    import numpy as np

    special = set(inside.tokenizer.all_special_ids)
    every = [token for token in range(len(inside.tokenizer)) if token not in special]
    if not number or number >= len(every):
        return every
    return sorted(np.random.default_rng(seed).choice(every, number, replace=False).tolist())


def token_scores(inside: Inside, prompts: list[list[dict[str, str]]], tokens: list[int]) -> Array:
    """(P, V): of each prompt with each token as its answer, that ended by itself."""
    import numpy as np

    found = []
    for prompt in prompts:
        frame = inside.tokens(prompt, "a")
        end = max(i for i, span in enumerate(frame.spans) if span != (0, 0)) + 1
        before, after = frame.ids[: frame.start], frame.ids[frame.start + end :]
        found.append(inside.scorer.of_ids([[*before, token, *after] for token in tokens]).double().numpy())
    scores = np.stack(found)
    if (wrong := np.argwhere(~np.isfinite(scores))).size:
        said = inside.tokenizer.decode([tokens[wrong[0][1]]])
        raise RhtoolError(
            f"the reward of the answer {said!r} is {scores[tuple(wrong[0])]}",
            prompts[wrong[0][0]][-1]["content"][:80],
            "mend the model",
        )
    return scores


def frequencies(inside: Inside, run: Run, tokens: list[int]) -> NDArray[np.int64]:
    """(V,): how often each token is in the training answers of the data, demonstrations or else preferences."""
    import numpy as np

    from rhtool.data.base import TRAIN

    try:
        texts = [row["answer"] for row in run.data.demonstrations(TRAIN)]
    except RhtoolError:
        texts = [row[name] for row in run.data.preferences(TRAIN) for name in ("chosen", "rejected")]
    counts = np.zeros(len(inside.tokenizer), np.int64)
    for ids in inside.tokenizer(texts, add_special_tokens=False)["input_ids"]:
        np.add.at(counts, ids, 1)
    return counts[tokens]


def ranking(inside: Inside, tokens: list[int], scores: Array, counts: NDArray[np.int64]) -> DataFrame:
    """A row per token, the best first."""
    import pandas as pd

    left = scores - scores.mean(1, keepdims=True)
    columns = {
        "token": [printable(inside.tokenizer.decode([t])) for t in tokens],
        "id": tokens,
        "score": scores.mean(0),
    }
    columns |= {"spread": left.std(0), "times": counts}
    return pd.DataFrame(columns).sort_values("score", ascending=False, kind="stable", ignore_index=True)


def printable(text: str) -> str:
    """The text with what cannot be seen written out: ␣ for a blank, "\\n" """
    return "".join("␣" if c == " " else c if c.isprintable() else repr(c)[1:-1] for c in text)


def _listed(table: DataFrame) -> str:
    return ", ".join(f"“{t}” ({x:+.2f})" for t, x in zip(table.token.head(8), table.score.head(8), strict=True))


def picture(table: DataFrame, shown: int) -> Figure:
    """Score against frequency, on a scale that has zero."""
    from rhtool.results.plots import COLOURS, INK, REFERENCE, blank

    figure = blank(7.2, 4.2)
    axes = figure.add_axes((0.1, 0.14, 0.86, 0.82))
    axes.set_xscale("symlog", linthresh=1)
    axes.plot(table.times, table.score, ".", color=REFERENCE, markersize=3, alpha=0.5)
    for part, ink in ((table.head(min(6, shown)), COLOURS["sqrt_chi2"]), (table.tail(min(6, shown)), COLOURS["kl"])):
        axes.plot(part.times, part.score, "o", color=ink, markersize=4)
        for row in part.itertuples():
            axes.annotate(
                row.token.replace("$", r"\$"),
                (row.times, row.score),
                fontsize=7,
                color=ink,
                xytext=(4, 0),
                textcoords="offset points",
            )
    axes.set_xlabel("times in the data's answers", fontsize=9, color=INK)
    axes.set_ylabel("mean score as the whole answer", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure
