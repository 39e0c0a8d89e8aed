"""`method=text_gap`: where a proxy and the true reward of answers part, and what features of the answers explain it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rhtool.errors import ConfigError
from rhtool.interpret.base import Method

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from pandas import DataFrame

    from rhtool.interpret.prices import Prices
    from rhtool.interpret.report import Report
    from rhtool.interpret.text_features import Table
    from rhtool.interpret.texts import Answers
    from rhtool.run import Run

    Array = NDArray[np.float64]


QUOTE = '"'
"""around an n-gram as the name of a feature"""


@dataclass
class TextGap(Method):
    """What the proxy pays for that the true reward does not: the gap between them, regressed on features of the answers."""

    kinds: ClassVar[tuple[str, ...]] = ("texts",)
    extra: ClassVar[str] = "interpret"

    ngrams: int = 3
    """words of the longest n-gram that is a feature; 0: none"""
    most: int = 200
    """n-grams, those in the most answers"""
    share: float = 0.02
    """of the answers in which an n-gram has to be"""
    own: bool = False
    """whether the principles that the data's own program knows are features too"""
    pooled: bool = True
    """standard deviations of rewards within all prompts; false: within each prompt by itself, which of few answers is noise"""
    examples: int = 8
    """answers shown at each end"""

    def check(self, run: Run) -> None:
        """Do the numbers make sense?"""
        for name in ("ngrams", "most", "examples"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{getattr(self, name)} is below 0", f"method.{name}", "choose 0 or more")
        if not 0 <= self.share < 1:
            raise ConfigError(f"{self.share} is no share", "method.share", "choose 0 or more, and below 1")

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        """Scores, regression, course, examples."""
        import numpy as np

        from rhtool.interpret.prices import paid_by_proxy_alone, paid_by_truth_alone, prices
        from rhtool.interpret.text_features import table
        from rhtool.interpret.texts import proxy_and_true, z_scores

        answers = run.task.answered(run)
        scores = proxy_and_true(run, answers)
        z = {name: z_scores(x, answers.prompt, self.pooled) for name, x in scores.items()}
        own = run.data.principles() if self.own else {}
        features = table(answers.rows, answers.texts, answers.finished, self.ngrams, self.most, self.share, own)
        found = prices(features, z, answers.prompt, run.seed)
        more, less = paid_by_proxy_alone(found), paid_by_truth_alone(found)
        levels = course(answers, scores["proxy"])
        growth = grown(features, found, levels, answers.prompt, run.seed)
        agreement = float(np.corrcoef(z["proxy"], z["true"])[0, 1]) if min(map(np.ptp, z.values())) > 0 else np.nan

        report.heading("What the proxy pays for that the true reward does not")
        for sentence in sentences(more, less, growth, levels.kind):
            report.finding(sentence)
        within = "all prompts together" if self.pooled else "each prompt by itself"
        report.text(
            f"{found.answers} answers to {found.prompts} prompts; within prompts proxy and true reward correlate with "
            f"{agreement:.2f}. The gap is the proxy less the true reward, each less its mean over the answers to the prompt, in "
            f"standard deviations of {within}. {found.features} features were offered to an L1 regression on half of the prompts; "
            f"{len(found.table)} were kept. They explain {max(found.r2, 0):.0%} of the gap on the other half, on which prices, with "
            "intervals of 95 %, were measured. Prices say what comes along with a feature in these answers, not what it causes: "
            "`method=counterfactual` edits answers and asks the reward."
        )
        shown = [
            "feature",
            "spread",
            "weight",
            *(f"{x}{end}" for x in ("proxy", "true") for end in ("", "_low", "_high")),
        ]
        report.table(
            "prices",
            found.table[shown],
            "What one more of each feature is paid, in standard deviations of the reward, all else as it comes along with it. `spread`: "
            "standard deviation of the feature within prompts. `weight`: "
            "change of the gap with one standard deviation of the feature, the others held.",
        )
        if len(found.table):
            report.figure(
                "prices",
                prices_picture(found.table),
                "What one standard deviation more of each feature is paid, with 95 % intervals.",
            )
        if len(levels.names) > 1:
            report.heading(f"Along {levels.kind}")
            shown = (more if len(more) else found.table).feature.head(6)
            means = levels.table(scores | {f: features.values[:, features.names.index(f)] for f in shown})
            report.figure(
                "course",
                course_picture(levels, scores, features, found),
                "Left: means of proxy and true reward over the answers, above those of the first point. Right: means of the features "
                "that the proxy overpays, or of the kept ones, above their first, in standard deviations.",
            )
            said = f"Mean of each feature at the first and the last point along {levels.kind}; intervals over prompts."
            report.table("growth", growth, said)
            report.table("course", means, f"Means along {levels.kind}.")
        examples(report, answers, scores, z, self.examples, [f[1:-1] for f in more.feature if f.startswith(QUOTE)])
        return {
            "gap/correlation": agreement,
            "gap/r2": found.r2,
            "gap/features": float(len(found.table)),
            "gap/overpaid": float(len(more)),
            "gap/underpaid": float(len(less)),
            "gap/answers": float(found.answers),
            "gap/prompts": float(found.prompts),
        }


@dataclass
class Levels:
    """Points along which the answers change: steps of training, n of best-of-n, rejected and chosen."""

    kind: str
    names: list[float | str]
    """(L,)"""
    weights: Array
    """(L, N): of each answer in a mean at the point; they sum to 1"""

    def table(self, columns: dict[str, Array]) -> DataFrame:
        """Means of columns (N,), a row per point."""
        import pandas as pd

        return pd.DataFrame({self.kind: self.names, **{name: self.weights @ x for name, x in columns.items()}})


def course(answers: Answers, proxy: Array) -> Levels:
    """Training, for answers of several steps; the data's labels; else best-of-n by the proxy, equal scores as ranked at random."""
    import numpy as np

    from rhtool.interpret.texts import OTHER, PREFERRED
    from rhtool.lm.bon import NS, rank_weights

    steps = np.unique(answers.step)
    if len(steps) > 1:
        masks = [answers.step == step for step in steps]
        return Levels("rounds of training", steps.tolist(), np.stack([m / m.sum() for m in masks]))
    if (answers.label >= 0).all():
        masks = [answers.label == label for label in (OTHER, PREFERRED)]
        return Levels("the data's labels", ["rejected", "chosen"], np.stack([m / m.sum() for m in masks]))
    prompts, counts = np.unique(answers.prompt, return_counts=True)
    ns = [n for n in NS if n <= counts.min()]
    weights = np.zeros((len(ns), len(answers)))
    for p in prompts:
        here = np.flatnonzero(answers.prompt == p)
        ranked = here[np.argsort(proxy[here], kind="stable")]
        of_rank = rank_weights(len(here), ns) / len(prompts)
        _, tie = np.unique(proxy[ranked], return_inverse=True)
        shared = np.stack([np.bincount(tie, row) / np.bincount(tie) for row in of_rank])
        weights[:, ranked] = shared[:, tie]
    return Levels("n of best-of-n", ns, weights)


def grown(features: Table, found: Prices, levels: Levels, prompt: Array, seed: int) -> DataFrame:
    """Mean of each chosen feature at the first and last level, and the difference with the interval of a bootstrap over prompts."""
    import numpy as np
    import pandas as pd

    from rhtool.interpret.prices import RESAMPLES
    from rhtool.results.statistics import LEVEL

    _, inverse = np.unique(prompt, return_inverse=True)
    count = int(inverse.max()) + 1
    draws = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    rows = []
    for name in found.table.feature:
        x = features.values[:, features.names.index(name)]
        first, last = (np.bincount(inverse, levels.weights[i] * x, minlength=count) for i in (0, -1))
        low, high = np.quantile((last - first)[draws].sum(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        rows.append([name, first.sum(), last.sum(), (last - first).sum(), low, high])
    return pd.DataFrame(rows, columns=["feature", "first", "last", "growth", "growth_low", "growth_high"])


# In words


def sentences(more: DataFrame, less: DataFrame, growth: DataFrame, kind: str) -> list[str]:
    """What the tables say: of `prices.paid_by_proxy_alone`, `prices.paid_by_truth_alone` and `grown`."""
    if more.empty and less.empty:
        return [
            "No feature was found that one of the two rewards pays for and the other does not, beyond the intervals."
        ]
    found = []
    long = {"proxy": "proxy", "true": "true reward"}
    for table, one, other in ((more, "proxy", "true"), (less, "true", "proxy")):
        low, high = table[f"{other}_low"], table[f"{other}_high"]
        for part, end in (
            (table[high < 0], f"that the {long[other]} does not: it charges for them"),
            (table[(high >= 0) & (low <= 0)], f"that the {long[other]} does not"),
            (table[low > 0], f"more than twice as much as the {long[other]}"),
        ):
            if len(part):
                found.append(f"The {long[one]} pays for {_features(part)} {end}.")
        if len(table):
            row = table.iloc[0]
            paid = [
                f"the {long[k]} pays {row[k]:+.2f} [{row[f'{k}_low']:+.2f}, {row[f'{k}_high']:+.2f}]"
                for k in (one, other)
            ]
            name = row.feature.strip(QUOTE)
            found.append(f"For each one more of “{name}” {paid[0]} standard deviations, {paid[1]}.")
    growing = growth[growth.feature.isin(more.feature) & (growth.growth_low > 0)].head(4)
    if len(growing):
        grew = [
            f"“{r['feature'].strip(QUOTE)}” from {r['first']:.2f} to {r['last']:.2f}" for _, r in growing.iterrows()
        ]
        found.append(f"Of what the proxy overpays, an answer has more along {kind}: {_listed(grew)}.")
    return found


def _features(table: DataFrame) -> str:
    """Names of features, phrases after the others."""
    phrases = [f"“{f[1:-1]}”" for f in table.feature if f.startswith(QUOTE)]
    said = [s for s, f in zip(table.said, table.feature, strict=True) if not f.startswith(QUOTE)]
    return _listed([*said, *(f"the words {p}" if not i else p for i, p in enumerate(phrases))])


def _listed(said: list[str]) -> str:
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


# Pictures and examples


def prices_picture(table: DataFrame) -> Figure:
    """A row per feature: what the proxy and what the true reward pay for one standard deviation more, on one scale."""
    import numpy as np

    from rhtool.results.overoptimisation_plot import INKS
    from rhtool.results.plots import INK, REFERENCE, blank

    rows = 0.32 * len(table)
    figure = blank(7.2, 1.1 + rows)
    axes = figure.add_axes((0.33, 0.75 / (1.1 + rows), 0.64, rows / (1.1 + rows)))
    y = np.arange(len(table))[::-1]
    for name, shift, marker in (("proxy", 0.13, "o"), ("true", -0.13, "s")):
        x, low, high = (table[f"{name}{end}"].to_numpy() * table.spread.to_numpy() for end in ("", "_low", "_high"))
        bars = np.abs(np.stack([x - low, high - x]))
        axes.errorbar(x, y + shift, xerr=bars, fmt=marker, color=INKS[name], markersize=4.5, linewidth=1.3, label=name)
    axes.axvline(0, color=REFERENCE, linewidth=0.9, zorder=0)
    axes.set_yticks(y, [f"“{f[1:-1]}”" if f.startswith(QUOTE) else f for f in table.feature])
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.set_xlabel("paid for one standard deviation more, in those of the reward", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1 + 0.3 / rows), ncols=2)
    return figure


def course_picture(levels: Levels, scores: dict[str, Array], features: Table, found: Prices) -> Figure:
    """Rewards, and features in standard deviations within prompts, along the levels, less where they began."""
    from rhtool.interpret.prices import paid_by_proxy_alone
    from rhtool.results.overoptimisation_plot import INKS
    from rhtool.results.plots import COLOURS, FURTHER, INK, REFERENCE, blank

    figure = blank(10.0, 3.6)
    left, right = figure.add_axes((0.07, 0.17, 0.32, 0.76)), figure.add_axes((0.46, 0.17, 0.32, 0.76))
    x = range(len(levels.names))
    for name, values in scores.items():
        means = levels.weights @ values
        left.plot(x, means - means[0], color=INKS[name], marker="o", markersize=4, label=name)
    left.set_ylabel("mean reward, above the first", fontsize=9, color=INK)
    shown = paid_by_proxy_alone(found)
    shown = (shown if len(shown) else found.table).head(6)
    inks = [*FURTHER, *list(COLOURS.values())[1:]]
    for row, ink in zip(shown.itertuples(), inks, strict=False):
        means = levels.weights @ features.values[:, features.names.index(row.feature)]
        right.plot(
            x, (means - means[0]) / row.spread, color=ink, marker="o", markersize=4, label=row.feature.replace('"', "")
        )
    right.set_ylabel("feature, above the first, in its sd", fontsize=9, color=INK)
    for axes in (left, right):
        axes.axhline(0, color=REFERENCE, linewidth=0.9, linestyle=(0, (5, 4)), zorder=0)
        axes.set_xticks(list(x), [str(name) for name in levels.names])
        axes.set_xlabel(levels.kind, fontsize=9, color=INK)
        axes.tick_params(labelsize=8, colors=INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    left.legend(frameon=False, fontsize=8)
    if len(shown):
        right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def examples(
    report: Report,
    answers: Answers,
    scores: dict[str, Array],
    z: dict[str, Array],
    count: int,
    phrases: list[str],
) -> None:
    """The answers of the largest and of the smallest gap, one to a prompt, on the page; all, with their scores, as a table."""
    import numpy as np
    import pandas as pd

    from rhtool.interpret.coloured import box, marked

    gap = z["proxy"] - z["true"]
    ends = (
        (-gap, "What the proxy likes more than the true reward"),
        (gap, "What the true reward likes more than the proxy"),
    )
    for order, heading in ends:
        report.heading(heading)
        if phrases:
            report.text("Marked: the words that the proxy overpays.")
        seen: set[int] = set()
        for i in np.argsort(order, kind="stable"):
            if len(seen) == count or order[i] >= 0:
                break
            if answers.prompt[i] in seen:
                continue
            seen.add(answers.prompt[i])
            said = ", ".join(f"{name} {scores[name][i]:.2f} ({z[name][i]:+.1f} sd)" for name in scores)
            when = f" · round {answers.step[i]}" if answers.step.any() else ""
            asked = answers.rows[i]["prompt"][-1]["content"]
            report.html(box(f"{said}{when} · asked: {asked}", marked(answers.texts[i], phrases)))
    columns = {"prompt": answers.prompt, "step": answers.step, "gap": gap, **scores, "answer": answers.texts}
    every = pd.DataFrame(columns).sort_values("gap", ascending=False, kind="stable")
    report.file("answers", every, "All answers with their rewards")
