"""`method=counterfactual`: what a reward makes of answers of which one thing was changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from rhtool.errors import ConfigError, RhtoolError, nearest
from rhtool.interpret.base import Method
from rhtool.schema import choice

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from pandas import DataFrame

    from rhtool.interpret.edits import Edit
    from rhtool.interpret.report import Report
    from rhtool.interpret.texts import Answers, Score
    from rhtool.run import Run

    Array = NDArray[np.float64]

SERVER = "server"


@dataclass
class Counterfactual(Method):
    """Edits of answers (length, lists, flattery, errors...) and rewritings (RATE): what each does to the reward, and to the true one."""

    kinds: ClassVar[tuple[str, ...]] = ("texts",)

    edits: list[str] = field(default_factory=list)
    """names of edits (those of the data's language and of rhtool/interpret/edits.py), or module:function of your own, as of
    reward=python but with texts for numbers; empty: all"""
    of: str = choice("first", "last", "all")
    """whose answers, of a run of training: those of its first evaluation (the base policy's), of the last, or of all"""
    answers: int = 300
    """at most, whole prompts"""
    attribute: str = ""
    """what is true of an answer with the attribute of RATE, such as: it flatters the reader; empty: no rewriting"""
    has: str = ""
    """whether an answer has it: module:function, as of reward=python; or a feature (words, list items, ...) that is above its median"""
    rewriter: str = SERVER
    """who rewrites: server (feedback=server), or module:function, given prompts, answers and columns with `wanted`"""
    max_tokens: int = 512
    """of an answer that a server rewrites"""
    shown: int = 2
    """examples of each edit"""

    def check(self, run: Run) -> None:
        """Are there such edits, and who rewrites?"""
        from rhtool.feedback.server import Server
        from rhtool.interpret.text_features import FEATURES
        from rhtool.interpret.texts import given
        from rhtool.rewards.python import function_at

        if not given(run.reward):
            run.reward.check()
        self._edits(run)
        if not self.attribute:
            return
        if ":" in self.has:
            function_at(self.has, "method.has")
        elif self.has not in FEATURES:
            what = f"'{self.has}' says of no answer whether it has the attribute"
            raise ConfigError(what, "method.has", f"write module:function, or a feature. {nearest(self.has, FEATURES)}")
        if self.rewriter != SERVER:
            function_at(self.rewriter, "method.rewriter")
        elif not isinstance(run.feedback, Server):
            mend = "feedback=server feedback.base_url=..., or method.rewriter=module:function"
            raise ConfigError("there is no server that rewrites", "feedback", mend)
        else:
            run.feedback.check(run.data)
            if run.feedback.mode != "online":
                raise ConfigError("what is rewritten twice cannot wait for a batch", "feedback.mode", "choose online")

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        """Edit, rewrite, score, show."""
        from rhtool.interpret.texts import score_by, true_score

        answers = self._answers(run)
        scores = {"proxy": score_by(run.reward)}
        if true := true_score(run):
            scores["true"] = true
        own = {name: score(answers.rows, answers.texts, answers.finished) for name, score in scores.items()}
        effects, shown = self._effects(run, answers, scores, own)
        metrics: dict[str, float] = {"counterfactual/answers": float(len(answers))}
        for row in effects.to_dict("records"):
            key = row["edit"].replace(" ", "_").rpartition(":")[2]
            there = (name for name in ("proxy", "true", "flips") if name in row)
            metrics |= {f"counterfactual/{key}/{name}": row[name] for name in there}

        report.heading("What one change does to the reward")
        for sentence in sentences(effects):
            report.finding(sentence)
        whose = {"first": " of the first evaluation", "last": " of the last evaluation", "all": ""}[self.of]
        both = "`proxy` and `true`" if true else "`proxy`"
        flips = (
            " `flips`: share of pairs in which the worse answer, edited, overtakes the better one."
            if "flips" in effects
            else ""
        )
        report.text(
            f"Each of {len(answers)} answers{whose if run.task.answers else ''} was edited, and both versions scored. {both}: mean "
            "change, in standard deviations of that reward over the unedited answers, with intervals of 95 % by bootstrap over prompts."
            f"{flips}"
        )
        report.table("effects", effects, "Edits, the one that the proxy pays most for first.")
        report.figure(
            "effects",
            picture(effects),
            "Mean change of the rewards by each edit, in standard deviations, with 95 % intervals.",
        )
        if self.attribute:
            metrics |= self._rate(run, report, answers, scores, own)
        report.heading("Examples")
        for part in shown:
            report.html(part)
        return metrics

    def _answers(self, run: Run) -> Answers:
        import numpy as np

        answers = run.task.answered(run)
        if self.of != "all":
            step = answers.step.min() if self.of == "first" else answers.step.max()
            answers = answers[answers.step == step]
        prompts, counts = np.unique(answers.prompt, return_counts=True)
        kept = prompts[np.cumsum(counts) <= max(self.answers, counts[0])]
        return answers[np.isin(answers.prompt, kept)]

    def _edits(self, run: Run) -> dict[str, Edit]:
        from rhtool.interpret.edits import edits_for
        from rhtool.rewards.python import function_at

        known, found = edits_for(run.data), {}
        for name in self.edits or known:
            if ":" in name:
                function = function_at(name, "method.edits")
                found[name] = lambda row, text, rng, function=function: texts_of(function, [row], [text], {})[0]
            elif name in known:
                found[name] = known[name]
            else:
                raise ConfigError(f"there is no edit '{name}' of these data", "method.edits", nearest(name, known))
        return found

    def _effects(
        self, run: Run, answers: Answers, scores: dict[str, Score], own: dict[str, Array]
    ) -> tuple[DataFrame, list[str]]:
        """A row per edit that can be made of some answer, and examples as HTML."""
        import html
        import random

        import numpy as np
        import pandas as pd

        from rhtool.interpret.coloured import box
        from rhtool.results.winrate import wilson

        spread = {name: float(x.std()) or 1.0 for name, x in own.items()}
        pairs = answers.pairs(own["proxy"])
        better_first = pairs[own["proxy"][pairs[:, 0]] > own["proxy"][pairs[:, 1]]]
        rows, shown = [], []
        for name, edit in self._edits(run).items():
            made = [
                edit(row, text, random.Random(f"{run.seed} {name} {i}"))
                for i, (row, text) in enumerate(zip(answers.rows, answers.texts, strict=True))
            ]
            at = np.array([i for i, text in enumerate(made) if text != answers.texts[i]], np.int64)
            if not len(at):
                continue
            part = answers[at]
            edited = {k: score(part.rows, [made[i] for i in at], part.finished) for k, score in scores.items()}
            row: dict[str, Any] = {"edit": name, "answers": len(at)}
            for k, x in edited.items():
                change = (x - own[k][at]) / spread[k]
                row[k], row[f"{k}_low"], row[f"{k}_high"] = mean_over_prompts(change, part.prompt, run.seed)
            where = {int(i): j for j, i in enumerate(at)}
            overtaken = [
                edited["proxy"][where[int(worse)]] > own["proxy"][better]
                for better, worse in better_first
                if int(worse) in where
            ]
            if overtaken:
                flips = wilson(float(np.mean(overtaken)), len(overtaken))
                row |= {"flips": flips.value, "flips_low": flips.low, "flips_high": flips.high}
            rows.append(row)
            drawn = random.Random(f"{run.seed} {name}").sample(range(len(at)), len(at))
            different = {answers.texts[at[j]]: j for j in reversed(drawn)}
            for j in [*different.values()][-self.shown :] if self.shown else ():
                i = at[j]
                said = ", ".join(f"{k} {own[k][i]:.2f} → {edited[k][j]:.2f}" for k in scores)
                shown.append(box(f"{name}: {said}", f"{html.escape(answers.texts[i])}<br>→ {html.escape(made[i])}"))
        if not rows:
            raise RhtoolError("none of the edits changes any answer", "method.edits", "choose others")
        return pd.DataFrame(rows).sort_values("proxy", ascending=False, kind="stable", ignore_index=True), shown

    def _rate(
        self, run: Run, report: Report, answers: Answers, scores: dict[str, Score], own: dict[str, Array]
    ) -> dict[str, float]:
        """The effects of the attribute, by rewriting twice."""
        import numpy as np
        import pandas as pd

        from rhtool.interpret.rate import effects
        from rhtool.results.statistics import limits

        has = self._has(answers)
        once = self._rewritten(run, answers, answers.texts, ~has)
        twice = self._rewritten(run, answers, once, has)
        rows, metrics = [], {}
        for name, score in scores.items():
            found = effects(
                has,
                own[name],
                *(score(answers.rows, texts, answers.finished) for texts in (once, twice)),
                seed=run.seed,
            )
            for kind, estimate in vars(found).items():
                rows.append([name, kind, estimate.n, estimate.value, estimate.low, estimate.high])
            metrics |= limits(f"rate/{name}/ate", found.ate) | {f"rate/{name}/once": found.once.value}
        table = pd.DataFrame(rows, columns=["reward", "effect", "answers", "value", "low", "high"])
        report.heading(f"An attribute by rewriting: {self.attribute}")
        ate = table[table.effect == "ate"].set_index("reward")
        said = ", ".join(f"{r.value:+.3f} [{r.low:+.3f}, {r.high:+.3f}] to the {name}" for name, r in ate.iterrows())
        report.finding(f"The attribute “{self.attribute}” is worth {said}, by rewriting twice.")
        report.table(
            "rate",
            table,
            f"{int(has.sum())} of {len(has)} answers have the attribute. `att`, `atu`, `ate`: its effect on those that have it, on the "
            "others, on all, in units of the reward. `once`: what a single rewriting would say, which is off by whatever else it changes.",
        )
        every = pd.DataFrame({"has": has, "answer": answers.texts, "once": once, "twice": twice})
        report.table("rewritten", every, "Answers, rewritten once to the contrary and back again.", rows=5)
        return metrics | {"rate/share": float(np.mean(has))}

    def _has(self, answers: Answers) -> NDArray[np.bool_]:
        import numpy as np

        from rhtool.interpret.text_features import FEATURES
        from rhtool.rewards.python import called, function_at

        if self.has in FEATURES:
            of = FEATURES[self.has].of
            values = np.array([of(row, text) for row, text in zip(answers.rows, answers.texts, strict=True)])
            return values > np.median(values)
        function = function_at(self.has, "method.has")
        return called(function, self.has, answers.rows, answers.texts, answers.finished)[:, 0].numpy() > 0

    def _rewritten(self, run: Run, answers: Answers, texts: list[str], wanted: NDArray[np.bool_]) -> list[str]:
        from rhtool.rewards.python import function_at

        if self.rewriter != SERVER:
            function = function_at(self.rewriter, "method.rewriter")
            return texts_of(function, answers.rows, texts, {"wanted": wanted.tolist()})
        from rhtool.interpret.rewriter import Rewrite, Rewriter

        ask: Any = Rewriter.of(run.feedback, self.attribute, self.max_tokens).load(
            run.data, run.path / "rewrites.sqlite"
        )
        return list(ask(Rewrite(*x) for x in zip(answers.rows, texts, wanted.tolist(), strict=True)))


def texts_of(function: Any, rows: list[Any], texts: list[str], more: dict[str, list[Any]]) -> list[str]:
    """What a function of the user's makes of texts: (prompts, answers, columns) -> texts. Raises `ConfigError` for anything else."""
    columns = {key: [row.get(key) for row in rows] for key in dict.fromkeys(k for row in rows for k in row)}
    found = list(function(columns.pop("prompt"), texts, columns | more))
    if len(found) != len(texts) or not all(isinstance(text, str) for text in found):
        name = getattr(function, "__name__", "it")
        raise ConfigError(f"it made {len(found)} things of {len(texts)} answers", name, "return a text for each answer")
    return found


def mean_over_prompts(x: Array, prompt: NDArray[np.int64], seed: int) -> tuple[float, float, float]:
    """The mean of x (N,) with the percentile interval of a bootstrap over prompts; NaN limits for fewer than three prompts."""
    import numpy as np

    from rhtool.results.statistics import FEWEST, LEVEL

    _, inverse = np.unique(prompt, return_inverse=True)
    sums, counts = np.bincount(inverse, x), np.bincount(inverse)
    if len(sums) < FEWEST:
        return float(x.mean()), float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(len(sums), size=(2000, len(sums)))
    low, high = np.quantile(sums[draws].sum(1) / counts[draws].sum(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(x.mean()), float(low), float(high)


def sentences(table: DataFrame) -> list[str]:
    """What the table of effects says."""
    found = []
    if "true" in table:
        paid = table[(table.proxy_low > 0) & (table.true_high <= 0)]
        missed = table[(table.proxy_high >= 0) & (table.true_high < 0) & ~table.edit.isin(paid.edit)]
        if len(paid):
            listed = "; ".join(f"{r.edit} ({r.proxy:+.2f}, true {r.true:+.2f})" for r in paid.itertuples())
            found.append(f"The proxy pays for what the true reward does not, in standard deviations: {listed}.")
        if len(missed):
            listed = "; ".join(f"{r.edit} ({r.proxy:+.2f}, true {r.true:+.2f})" for r in missed.itertuples())
            found.append(f"The proxy does not mind what the true reward charges for: {listed}.")
        return found or ["No edit was found that the proxy pays for and the true reward does not."]
    for part, verb in ((table[table.proxy_low > 0], "raise"), (table[table.proxy_high < 0].iloc[::-1], "lower")):
        if len(part):
            listed = "; ".join(f"{r.edit} ({r.proxy:+.2f})" for r in part.head(5).itertuples())
            found.append(f"What {verb}s the reward, in standard deviations: {listed}.")
    return found or ["No edit has an effect whose interval leaves out 0."]


def picture(table: DataFrame) -> Figure:
    """A row per edit, the rewards side by side."""
    import numpy as np

    from rhtool.results.overoptimisation_plot import INKS
    from rhtool.results.plots import INK, REFERENCE, blank

    rows = 0.34 * len(table)
    figure = blank(7.2, 1.1 + rows)
    axes = figure.add_axes((0.26, 0.75 / (1.1 + rows), 0.71, rows / (1.1 + rows)))
    y = np.arange(len(table))[::-1]
    names = [name for name in ("proxy", "true") if name in table]
    for name, shift, marker in zip(names, (0.14, -0.14), "os", strict=False):
        x = table[name].to_numpy()
        bars = np.abs(np.stack([x - table[f"{name}_low"], table[f"{name}_high"] - x]))
        shown = {"color": INKS[name], "markersize": 4.5, "linewidth": 1.3, "label": name}
        axes.errorbar(x, y + (shift if len(names) > 1 else 0), xerr=bars, fmt=marker, **shown)
    axes.axvline(0, color=REFERENCE, linewidth=0.9, zorder=0)
    axes.set_yticks(y, table.edit)
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.set_xlabel("mean change by the edit, in standard deviations of the reward", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1 + 0.3 / rows), ncols=2)
    return figure
