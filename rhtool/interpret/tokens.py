"""`method=tokens`: which words of an answer raise its reward, and which lower it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from rhtool.errors import ConfigError, RhtoolError, nearest
from rhtool.interpret.base import Method
from rhtool.schema import choice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pandas import DataFrame

    from rhtool.interpret.report import Report
    from rhtool.interpret.texts import Answers, Score
    from rhtool.run import Run

    Array = NDArray[np.float64]

OF_GRADIENTS = ("integrated_gradients", "gradient")
"""what needs one learned model"""
OF_SCORES = ("shapley", "leave_one_out", "prefix")
"""what needs scores alone"""
SAID = {
    "shapley": "Shapley values",
    "leave_one_out": "leaving out",
    "prefix": "increments of prefixes",
    "gradient": "gradient times input",
}
"""methods in a sentence"""
AROUND = ".,;:!?\"'()*"
"""what is no part of a word"""
WORST = 0.05
"""relative error of completeness with which a run fails"""


@dataclass
class Tokens(Method):
    """Attribution of a reward to the words of answers: gradients, leaving out, Shapley values, increments; and how faithful they are."""

    kinds: ClassVar[tuple[str, ...]] = ("texts",)

    methods: list[str] = field(default_factory=list)
    """of integrated_gradients, gradient (of one learned model: reward=rm), shapley, leave_one_out, prefix (of any reward); the first is
    shown. Empty: all that the reward allows, and the most faithful is shown"""
    unit: str = choice("word", "sentence")
    """what is left out, and in what attributions to tokens are summed"""
    pairs: int = 30
    """prompts: of each the data's pair of answers, or the best and the worst by the reward"""
    shown: int = 10
    """pairs in colour"""
    steps: int = 32
    """gradients of integrated gradients"""
    baseline: str = "mean"
    """what stands in the place of an answer's tokens for gradients: mean (of all embeddings), zero, pad, or the text of a token"""
    end: bool = False
    """whether the end token, and what the template says after the answer, are replaced and have attributions too"""
    permutations: int = 16
    """orders of Shapley values"""
    orders: int = 5
    """random orders that faithfulness is compared with"""
    fewest: int = 5
    """answers in which a word has to be to have a mean"""

    def check(self, run: Run) -> None:
        """Are there such methods, for this reward?"""
        from rhtool.interpret.texts import given, is_model

        if not given(run.reward):
            run.reward.check()
        for name in self.methods:
            if name not in OF_GRADIENTS + OF_SCORES:
                what = f"there is no method '{name}' of attribution"
                raise ConfigError(what, "method.methods", nearest(name, OF_GRADIENTS + OF_SCORES))
        for name in ("pairs", "steps", "permutations", "fewest"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is too small", f"method.{name}", "choose 1 or more")
        if wrong := [name for name in self.methods if name in OF_GRADIENTS and not is_model(run.reward)]:
            mend = f"choose reward=rm, or method.methods=[{','.join(OF_SCORES)}]"
            raise ConfigError(f"{wrong[0]} needs one learned model", "method.methods", mend)

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        """Attribute, measure, show."""
        import numpy as np
        import pandas as pd

        from rhtool.interpret.texts import is_model, score_by

        names = list(self.methods) or [*(OF_GRADIENTS if is_model(run.reward) else ()), *OF_SCORES]
        answers, score, inside = self._subject(run)
        score = score or score_by(run.reward)
        scores = score(answers.rows, answers.texts, answers.finished)
        pairs = answers.pairs(scores)[: self.pairs]
        if not len(pairs):
            raise RhtoolError("no prompt has two answers of different scores", "task.answers", "give other answers")
        found = {int(i): self._one(run, answers, int(i), score, inside, names) for i in pairs.ravel()}

        quality = pd.DataFrame(
            [{"method": name, **_means([f.quality[name] for f in found.values()])} for name in names]
        )
        main = names[0] if self.methods else names[int(quality.deletion.fillna(np.inf).argmin())]
        of_words = word_table(found, main, self.fewest)
        agreement = agreements(found, names)
        relative = _relative(list(found.values()))
        metrics = {
            f"tokens/{name}/{key}": x for name, q in quality.set_index("method").iterrows() for key, x in q.items()
        }
        metrics |= {
            "tokens/completeness": relative,
            "tokens/agreement": _off_diagonal(agreement),
            "tokens/answers": len(found),
        }

        report.heading("What the reward pays for, word by word")
        for sentence in sentences(of_words, main):
            report.finding(sentence)
        spread = np.std([scores[i] for i in found])
        overall = np.concatenate([f.units[main] for f in found.values()]).mean()
        report.text(
            f"Attributions by {said(main)}, of {len(names)} methods "
            f"{'the first' if self.methods else 'the most faithful'}, to the {self.unit}s of {len(found)} answers, two to each of "
            f"{len(pairs)} prompts, in units of the reward, whose standard deviation over these answers is {spread:.3g}. They are against "
            f"an answer without the word, and {overall:+.3g} in the mean over all words: compare them with that."
        )
        report.table(
            "words",
            of_words,
            "Mean attribution by word, over the answers that have it, with intervals of 95 %.",
            rows=30,
        )
        report.table(
            "kinds", kind_table(answers, found, main), "Mean attribution by kind and place of the word, likewise."
        )
        self._show(report, answers, scores, pairs, found, main)
        report.heading("How far to trust it")
        report.text(
            "Comprehensiveness: what the score loses without the highest words. Sufficiency: what it loses with these alone. "
            "Deletion: mean score while words are taken away, the highest first, below that of random order if the attribution is "
            "faithful; insertion: while they are put in. All are asked of the reward itself."
        )
        report.table("faithfulness", quality, "Means over the answers.")
        report.table(
            "agreement",
            agreement.reset_index(names="method"),
            "Spearman's rank correlation of methods within answers, mean.",
        )
        if relative == relative:
            report.text(
                f"Completeness of integrated gradients: the sums miss the differences of scores by {relative:.2%} in the mean."
            )
        if relative > WORST:
            report.write()
            what = f"integrated gradients miss the differences of scores that they explain by {relative:.1%}"
            mend = "take more method.steps, or method.baseline=mean with method.end=false, which leave the end token"
            raise RhtoolError(what, f"method.baseline={self.baseline}, method.steps={self.steps}", mend)
        return metrics

    def _subject(self, run: Run) -> tuple[Answers, Score | None, Any]:
        """The answers, of training those of the last step; and, of one learned model, its scores and its inside."""
        from rhtool.interpret.texts import checked, is_model

        answers = run.task.answered(run)
        if not is_model(run.reward):
            return answers, None, None
        from rhtool.lm.inside import Inside, scorer_of

        scorer = scorer_of(run.reward)

        def score(rows: list[Any], texts: list[str], finished: list[bool]) -> Array:
            found = scorer([row["prompt"] for row in rows], texts, finished).double().numpy()
            return checked("proxy", found, rows, texts)

        return answers, score, Inside(scorer)

    def _one(self, run: Run, answers: Answers, i: int, score: Score, inside: Any, names: list[str]) -> Attributed:
        """One answer by all methods."""
        import numpy as np

        from rhtool.interpret import spans

        row, text, finished = answers.rows[i], answers.texts[i], answers.finished[i]
        pieces = spans.Pieces.of(text, self.unit)
        value = spans.Remembered(lambda texts: score([row] * len(texts), texts, [finished] * len(texts)), pieces)
        seed = int(np.random.SeedSequence([run.seed, 71, i]).generate_state(1)[0])
        found = Attributed(pieces.units, {}, {})
        for name in names:
            if name in OF_GRADIENTS:
                found.units[name] = self._gradients(name, inside, row, text, finished, pieces, found)
            elif name == "shapley":
                found.units[name] = spans.shapley(value, self.permutations, seed)
            else:
                function = spans.leave_one_out if name == "leave_one_out" else spans.prefix_increments
                found.units[name] = function(value)
            if len(pieces) > 1:
                found.quality[name] = vars(spans.faithfulness(value, found.units[name], self.orders, seed))
            else:
                found.quality[name] = {}
        return found

    def _gradients(
        self, name: str, inside: Any, row: Any, text: str, finished: bool, pieces: Any, found: Attributed
    ) -> Array:
        """Attributions to tokens, summed over units; with those of integrated gradients, what they miss."""
        import numpy as np

        tokens = inside.tokens(row["prompt"], text, finished)
        whole = inside.checked(tokens.ids)
        base, base_ids = inside.baseline(self.baseline, tokens, self.end)
        if name == "gradient":
            each = inside.gradient(tokens, base).double().numpy()
        else:
            each = inside.integrated_gradients(tokens, base, self.steps).double().numpy()
            empty = (
                float(inside.score(base.unsqueeze(0), tokens.ids)) if base_ids is None else inside.score_ids(base_ids)
            )
            found.explained, found.missed = whole - empty, whole - empty - float(each.sum())
        of = np.array(tokens.units(pieces.spans))
        return np.bincount(of[of >= 0], each[tokens.start :][of >= 0], minlength=len(pieces))

    def _show(
        self, report: Report, answers: Answers, scores: Array, pairs: Array, found: dict[int, Attributed], main: str
    ) -> None:
        """Pairs in colour, on one scale; all attributions as JSON lines."""
        import json

        import numpy as np

        from rhtool.checkpoints import write_atomic
        from rhtool.interpret.coloured import box, coloured, legend

        report.heading("Answers in colour")
        report.html(legend(f"what each {self.unit} does to the reward"))
        every = np.concatenate(
            [np.abs(found[int(i)].units[main]) for i in pairs[: self.shown].ravel()] or [np.zeros(1)]
        )
        scale = float(np.quantile(every, 0.98)) if len(every) else 0.0
        for better, worse in pairs[: self.shown]:
            asked = answers.rows[better]["prompt"][-1]["content"]
            labelled = answers.label[better] >= 0
            report.html(f"<p>{html_of(asked)} <small>difference {scores[better] - scores[worse]:+.2f}</small></p>")
            for i, name in ((better, "chosen" if labelled else "best"), (worse, "rejected" if labelled else "worst")):
                one = found[int(i)]
                parts = [(f"{text} ", float(x)) for text, x in zip(one.pieces, one.units[main], strict=True)]
                report.html(box(f"{name}, reward {scores[i]:.2f}", coloured(parts, scale)))
        lines = [
            {"prompt": answers.rows[i]["prompt"], "answer": answers.texts[i], "reward": scores[i], "units": f.pieces}
            | {name: x.tolist() for name, x in f.units.items()}
            for i, f in found.items()
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomic(report.directory / "tables" / "attributions.jsonl", text.encode())
        report.text("All attributions of all methods: `tables/attributions.jsonl`.")


@dataclass
class Attributed:
    """An answer's attributions."""

    pieces: list[str]
    """(n,): its units"""
    units: dict[str, Array]
    """{method: (n,)}"""
    quality: dict[str, dict[str, float]]
    """{method: fields of `spans.Faithfulness`}"""
    explained: float = float("nan")
    """by integrated gradients: the score less that of the baseline"""
    missed: float = float("nan")
    """... less what the attributions sum to"""


def word_table(found: dict[int, Attributed], method: str, fewest: int) -> DataFrame:
    """A row per word of at least `fewest` answers: `word`, `answers`, `times`, the mean of its attributions over answers, `mean`, with an
    interval of 95 % by their standard error, `low`, `high`; those of the highest `low` first."""
    return _table("word", found, method, lambda i, k, text: [text.lower().strip(AROUND)], max(2, fewest))


def kind_table(answers: Answers, found: dict[int, Attributed], method: str) -> DataFrame:
    """Likewise a row per kind of word, of which one can be several, and per place in the answer."""
    from rhtool.interpret.text_features import HEDGES, SURE, words

    said = {i: {word for message in answers.rows[i]["prompt"] for word in words(message["content"])} for i in found}
    listed = {"hedge": frozenset(HEDGES.split()), "certainty": frozenset(SURE.split())}

    def kinds(i: int, k: int, text: str) -> list[str]:
        pieces, word = found[i].pieces, text.lower().strip(AROUND)
        before = {piece.lower().strip(AROUND) for piece in pieces[:k]}
        there = {
            "first": k == 0,
            "last": k == len(pieces) - 1,
            "number": any(c.isdigit() for c in text),
            "list mark": bool(re.fullmatch(r"[-*+•]|\d+[.)]", text)),
            "bold": text.startswith("**") or text.endswith("**"),
            "capital": text[:1].isupper(),
            "word of the prompt": word in said[i],
            "said before": bool(word) and word in before,
            **{name: word in among for name, among in listed.items()},
        }
        return [name for name, is_so in there.items() if is_so] or ["other"]

    return _table("kind", found, method, kinds, 2)


def _table(name: str, found: dict[int, Attributed], method: str, of: Any, fewest: int) -> DataFrame:
    """Means of attributions by what `of` (answer, place, unit) gives."""
    import numpy as np
    import pandas as pd

    groups: dict[str, dict[int, list[float]]] = {}
    for i, one in found.items():
        for k, (text, x) in enumerate(zip(one.pieces, one.units[method], strict=True)):
            for group in of(i, k, text):
                groups.setdefault(group, {}).setdefault(i, []).append(float(x))
    rows = []
    for group, by_answer in groups.items():
        if group and len(by_answer) >= fewest:
            means = np.array([np.mean(x) for x in by_answer.values()])
            mean, half = means.mean(), 1.96 * means.std(ddof=1) / len(means) ** 0.5
            rows.append([group, len(means), sum(map(len, by_answer.values())), mean, mean - half, mean + half])
    table = pd.DataFrame(rows, columns=[name, "answers", "times", "mean", "low", "high"])
    return table.sort_values("low", ascending=False, kind="stable", ignore_index=True)


def said(method: str) -> str:
    """The method in a sentence."""
    return SAID.get(method, method.replace("_", " "))


def sentences(table: DataFrame, method: str) -> list[str]:
    """What the table of words says."""
    found = []
    for part, verb in (
        (table[table.low > 0].head(8), "raise"),
        (table[table.high < 0].sort_values("high").head(8), "lower"),
    ):
        if len(part):
            listed = ", ".join(f"“{w}” ({x:+.2f})" for w, x in zip(part.word, part["mean"], strict=True))
            found.append(f"What most surely {verb}s the reward, in the mean by {said(method)}: {listed}.")
    return found or ["No word of several answers has a mean attribution whose interval leaves out 0."]


def agreements(found: dict[int, Attributed], names: list[str]) -> DataFrame:
    """Spearman's coefficient of each two methods within answers of three units or more, mean (M, M)."""
    import numpy as np
    import pandas as pd
    from scipy.stats import rankdata

    total, count = np.zeros((len(names), len(names))), 0
    for one in found.values():
        ranks = np.stack([rankdata(one.units[name]) for name in names])
        if len(one.pieces) >= 3 and (np.ptp(ranks, axis=1) > 0).all():
            total += np.atleast_2d(np.corrcoef(ranks))
            count += 1
    return pd.DataFrame(total / count if count else total * np.nan, index=names, columns=names)


def html_of(text: str) -> str:
    """Text as HTML."""
    import html

    return html.escape(text)


def _means(found: list[dict[str, float]]) -> dict[str, float]:
    import numpy as np

    keys = ("comprehensiveness", "sufficiency", "deletion", "random_deletion", "insertion")
    return {key: float(np.mean([q[key] for q in found if q])) if any(found) else float("nan") for key in keys}


def _relative(found: list[Attributed]) -> float:
    """What integrated gradients miss, over what they explain, both in the mean of sizes; NaN if there are none."""
    import numpy as np

    missed, explained = (np.abs([getattr(one, name) for one in found]).mean() for name in ("missed", "explained"))
    return float(missed / explained) if explained > 0 else float("nan") if np.isnan(missed) else float(missed > 0)


def _off_diagonal(table: DataFrame) -> float:
    import numpy as np

    off = ~np.eye(len(table), dtype=bool)
    return float(table.to_numpy()[off].mean()) if off.any() else float("nan")
