"""`method=sae`: the features that a sparse autoencoder finds in a reward model, and what each does to the reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rhtool.errors import ConfigError, RhtoolError
from rhtool.interpret.base import Method
from rhtool.schema import choice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pandas import DataFrame

    from rhtool.interpret.report import Report
    from rhtool.interpret.sparse import SparseAutoencoder
    from rhtool.interpret.texts import Answers
    from rhtool.lm.inside import Inside, Tokens
    from rhtool.run import Run

    Array = NDArray[np.float64]


@dataclass
class Sae(Method):
    """A sparse autoencoder of a layer's activations: its features, their causal effect on the reward, what they are on for."""

    kinds: ClassVar[tuple[str, ...]] = ("texts",)

    layer: str = "-1"
    """number of a block (-1: the last), or the name of a module"""
    tokens: str = choice("answer", "last")
    """whose activations: all tokens from the answer's first on, or the one at which the score is read"""
    activations: int = 50_000
    """at most, of the data's training preferences"""
    width: int = 4
    """features, as a multiple of the activations' dimension"""
    k: int = 16
    """features that are on at once, in the mean"""
    steps: int = 2000
    """of training"""
    batch: int = 512
    """activations of a step"""
    lr: float = 1e-3
    """learning rate of Adam"""
    ablated: int = 24
    """features whose effect is measured by taking them away: those of the largest attribution"""
    shown: int = 8
    """features with examples"""

    def check(self, run: Run) -> None:
        """Is there one model, and do the numbers make sense?"""
        from rhtool.interpret.texts import require_model

        require_model(run.reward)
        for name in ("activations", "width", "k", "steps", "batch", "ablated", "shown"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is too small", f"method.{name}", "choose 1 or more")
        if not self.lr > 0:
            raise ConfigError(f"{self.lr} is not a learning rate", "method.lr", "choose a number above 0")

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        """Record, fit, splice, take away, show."""
        import numpy as np
        from scipy.stats import spearmanr

        from rhtool.interpret.sparse import fit
        from rhtool.interpret.texts import checked
        from rhtool.lm.inside import Inside, scorer_of

        inside = Inside(scorer_of(run.reward))
        module = inside.layer(self.layer)
        x = self._activations(run, inside, module)
        fitted = fit(x, self.width * x.shape[1], self.k, self.steps, self.batch, self.lr, run.seed)
        fitted.sae.save(run.path / "sae")

        answers = run.task.answered(run)
        scores = inside.scorer([row["prompt"] for row in answers.rows], answers.texts, answers.finished)
        scores = checked("proxy", scores.double().numpy(), answers.rows, answers.texts)
        texts = [
            inside.tokens(r["prompt"], t, f)
            for r, t, f in zip(answers.rows, answers.texts, answers.finished, strict=True)
        ]
        spliced = np.array([self._spliced(inside, module, fitted.sae, t) for t in texts])
        fidelity = float(spearmanr(scores, spliced).statistic)
        table = self._features(inside, module, fitted.sae, texts, answers, scores)
        measured = table[table.ablated.notna()]
        check = float(spearmanr(measured.ablated, measured.attributed).statistic) if len(measured) > 2 else float("nan")

        report.heading("What the features of the reward model do")
        for sentence in sentences(measured):
            report.finding(sentence)
        report.text(
            f"A BatchTopK autoencoder of {fitted.sae.decoder.shape[0]} features, {fitted.on:.1f} on at once, of {len(x)} activations of "
            f"layer {self.layer}. It explains {fitted.explained:.0%} of their variance; {fitted.dead:.0%} of the features are never on. "
            f"With its reconstruction in the place of the activations the scores of {len(texts)} answers keep their order with a rank "
            f"correlation of {fidelity:.2f}. What a feature does to a score was measured by taking it away (`ablated`); the rank "
            f"correlation of that with the attribution by gradients is {check:.2f}."
        )
        report.table(
            "features",
            measured.drop(columns="examples"),
            "Features by effect. `words`: the tokens on which it is strongest. `on`: share of the answers with it. `ablated`: what the "
            "score loses, in the mean over answers with it, when it is taken away. `attributed`: the same by gradient. `direct`: its "
            "activation where the score is read times the score's weights along it, for the last block. `preferred`: mean activation in "
            "better less worse answers.",
        )
        report.file("all_features", table.drop(columns="examples"), "All features")
        report.heading("Where the strongest are on")
        report.text("The darker, the stronger the feature is on.")
        for row in measured.head(self.shown).itertuples():
            report.html(f"<p><b>Feature {row.feature}</b>, {row.ablated:+.3f}: {_html(row.words)}</p>")
            for example in row.examples:
                report.html(example)
        return {
            "sae/explained": fitted.explained,
            "sae/dead": fitted.dead,
            "sae/on": fitted.on,
            "sae/fidelity": fidelity,
            "sae/attribution_agreement": check,
            "sae/activations": float(len(x)),
        }

    def _activations(self, run: Run, inside: Inside, module: Any) -> Any:
        """(N, d) of the training preferences."""
        import torch

        from rhtool.data.base import TRAIN

        rows, texts, count = run.data.preferences(TRAIN), [], 0
        for row in rows:
            if count >= self.activations:
                break
            for name in ("chosen", "rejected"):
                texts.append(inside.tokens(row["prompt"], row[name]))
                count += 1 if self.tokens == "last" else len(texts[-1].ids) - texts[-1].start
        found = inside.record([t.ids for t in texts], {"x": module})
        return torch.cat([seen["x"][self._where(inside, t)] for t, seen in zip(texts, found, strict=True)])[
            : self.activations
        ]

    def _where(self, inside: Inside, tokens: Tokens) -> slice:
        """The tokens whose activations are looked at."""
        at = inside.read_at(tokens.ids)
        return slice(at, at + 1) if self.tokens == "last" else slice(tokens.start, len(tokens.ids))

    def _spliced(self, inside: Inside, module: Any, sae: SparseAutoencoder, tokens: Tokens) -> float:
        """The score with the reconstruction in the place of the activations."""
        where = self._where(inside, tokens)

        def put(x: Any) -> Any:
            x = x.clone()
            x[where] = sae(x[where])
            return x

        return inside.changed(tokens.ids, module, put)

    def _features(
        self, inside: Inside, module: Any, sae: SparseAutoencoder, texts: list[Tokens], answers: Answers, scores: Array
    ) -> DataFrame:
        """A row per feature that is on in some answer; the effect by taking away of those of the largest attribution."""
        import numpy as np
        import pandas as pd
        import torch

        seen = [s["x"] for s in inside.record([t.ids for t in texts], {"x": module})]
        spans = [self._where(inside, t) for t in texts]
        z = [sae.encode(x[w]) for x, w in zip(seen, spans, strict=True)]
        attributed = torch.stack(
            [
                (a * (inside.slope(t.ids, module)[w] @ (sae.decoder * sae.scale).T)).sum(0)
                for t, a, w in zip(texts, z, spans, strict=True)
            ]
        ).numpy()
        strongest = torch.stack([a.max(0).values for a in z]).numpy()  # (answers, width)
        at_end = torch.stack(
            [a[min(len(a) - 1, inside.read_at(t.ids) - w.start)] for t, a, w in zip(texts, z, spans, strict=True)]
        )
        on = strongest > 0
        if not on.any():
            raise RhtoolError(
                "no feature is on in any of the answers", "method.k", "take more method.k, or more method.steps"
            )
        pairs = answers.pairs(scores)
        preferred = (
            strongest[pairs[:, 0]].mean(0) - strongest[pairs[:, 1]].mean(0) if len(pairs) else np.zeros(on.shape[1])
        )
        size = np.abs(attributed).sum(0)
        last = module is inside.blocks[-1] and inside.has_head
        head = inside.head.cpu() if last else torch.zeros(sae.decoder.shape[1])
        chosen = [int(j) for j in np.argsort(-size, kind="stable")[: self.ablated] if size[j] > 0]
        rows = []
        for j in np.flatnonzero(on.any(0)).tolist():
            there = np.flatnonzero(on[:, j])
            row = {
                "feature": j,
                "words": words_of(j, texts, z, spans),
                "on": on[:, j].mean(),
                "ablated": np.nan,
                "attributed": attributed[there, j].mean(),
                **({"direct": float(at_end[:, j].mean() * (head @ sae.direction(j)))} if last else {}),
                "preferred": preferred[j],
                "examples": [],
            }
            if j in chosen:
                strong = there[np.argsort(-strongest[there, j], kind="stable")]
                effects = [
                    scores[i] - self._without(inside, module, sae, j, texts[i], z[i], spans[i]) for i in strong[:40]
                ]
                row |= {
                    "ablated": float(np.mean(effects)),
                    "examples": [shown(j, texts[i], z[i], spans[i], answers.rows[i]) for i in strong[:3]],
                }
            rows.append(row)
        table = pd.DataFrame(rows)
        order = table.ablated.abs().sort_values(ascending=False, kind="stable", na_position="last").index
        return table.loc[order].reset_index(drop=True)

    def _without(
        self, inside: Inside, module: Any, sae: SparseAutoencoder, j: int, tokens: Tokens, z: Any, where: slice
    ) -> float:
        """The score without the feature."""

        def put(x: Any) -> Any:
            x = x.clone()
            x[where] -= z[:, j : j + 1] * sae.direction(j)
            return x

        return inside.changed(tokens.ids, module, put)


def words_of(j: int, texts: list[Tokens], z: list[Any], spans: list[slice], most: int = 6) -> str:
    """The tokens at which the feature is on the most, by mean activation over all answers."""
    total: dict[str, list[float]] = {}
    for tokens, a, where in zip(texts, z, spans, strict=True):
        for piece, value in zip(tokens.pieces[where], a[:, j].tolist(), strict=True):
            total.setdefault(piece.strip() or repr(piece), []).append(value)
    means = {piece: sum(x) / len(x) for piece, x in total.items()}
    ranked = sorted((piece for piece in means if means[piece] > 0), key=lambda p: -means[p])
    return " · ".join(ranked[:most])


def shown(j: int, tokens: Tokens, z: Any, where: slice, row: Any) -> str:
    """An answer with the feature's activations in colour."""
    from rhtool.interpret.coloured import box, coloured

    values = z[:, j].tolist()
    parts = list(zip(tokens.pieces[where], values, strict=True))
    return box(row["prompt"][-1]["content"], coloured(parts, max(values, default=0.0)))


def sentences(table: DataFrame) -> list[str]:
    """What the table of effects says."""
    found = []
    for part, verb in ((table[table.ablated > 0].head(3), "raises"), (table[table.ablated < 0].head(3), "lowers")):
        for row in part.itertuples():
            found.append(
                f"Feature {row.feature}, on at {_quoted(row.words)}, {verb} the reward by {abs(row.ablated):.3f} where it is on, in "
                f"{row.on:.0%} of the answers."
            )
    return found or ["No feature has an effect."]


def _quoted(words: str) -> str:
    return ", ".join(f"“{word}”" for word in words.split(" · ")[:4])


def _html(text: str) -> str:
    import html

    return html.escape(text)
