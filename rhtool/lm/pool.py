"""Scored answers of one policy to the same prompts: what best-of-n selects from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from rhtool.data.base import Row
from rhtool.lm.generation import generate, tokens
from rhtool.lm.text import Format
from rhtool.lm.training import check_scores
from rhtool.run import Run


class Pool:
    """Draws one more answer to every prompt at a time, scores them, and can be stopped in between.

    Args:
        run: whose reward and data judge; its `task` says how to sample.
        model: the policy.
        form: how it sees conversations.
        rows: the prompts.
    """

    def __init__(self, run: Run, model: Any, form: Format, rows: list[Row]):
        self.run, self.task, self.model, self.form, self.rows = run, run.task, model, form, rows
        self._prompts = tokens(form, rows, run.task.max_prompt)
        self._scores = run.reward.load()
        self._true: Callable[[list[Row], list[str]], list[float]] | None = run.data.true_reward()
        self.answers: list[list[str]] = []
        self.finished: list[list[bool]] = []
        self.scores: list[np.ndarray] = []
        self.true: list[np.ndarray] = []

    def iteration(self) -> dict[str, float]:
        """One more answer to each prompt; means over them."""
        task, ids = self.task, []
        options = {"max_new_tokens": task.max_new_tokens, "stop": task.stop}
        options |= {"temperature": task.temperature, "top_p": task.top_p, "top_k": task.top_k, "chunk": task.chunk}
        seed = int(np.random.SeedSequence([self.run.seed, 60, len(self.answers)]).generate_state(1)[0]) % 2**20
        for _, part in generate(self.model, self.form, self._prompts, seed, **options):
            ids += part
        answers = self.form.tokenizer.batch_decode(ids, skip_special_tokens=True)
        finished = [x[-1:] == [self.form.tokenizer.eos_token_id] for x in ids]
        scores = self._scores(self.rows, answers, finished)
        proxy = self.run.reward.combined(scores).double().numpy()
        check_scores(self.rows, answers, scores, torch.from_numpy(proxy), self.run.path)
        self.answers.append(answers)
        self.finished.append(finished)
        self.scores.append(scores.numpy().astype(np.float32))
        row = {"mean/proxy": float(proxy.mean()), "text/length": float(np.mean([len(x) for x in ids]))}
        row["text/finished"] = float(np.mean(finished))
        if self._true:
            self.true.append(np.asarray(self._true(self.rows, answers), np.float64))
            row["mean/true"] = float(self.true[-1].mean())
        return row

    @property
    def proxy(self) -> np.ndarray:
        """The combined scores (N, Q), float64."""
        scores = torch.from_numpy(np.stack(self.scores))
        return np.stack([self.run.reward.combined(x).double().numpy() for x in scores])

    def table(self) -> pd.DataFrame:
        """A row per answer: `row` (of the data), `draw`, `answer`, `finished`, a column per judge (`judge_0` and so on), `proxy`,
        and `true` where it is known."""
        n, q = len(self.answers), len(self.rows)
        scores = np.stack(self.scores).reshape(n * q, -1)
        columns: dict[str, Any] = {
            "row": np.tile(np.arange(q), n),
            "draw": np.repeat(np.arange(n), q),
            "answer": [text for answers in self.answers for text in answers],
            "finished": [x for finished in self.finished for x in finished],
            **{name: scores[:, k] for k, name in enumerate(self.run.reward.judges(scores.shape[1]))},
            "proxy": self.proxy.ravel(),
        }
        if self.true:
            columns["true"] = np.stack(self.true).ravel()
        return pd.DataFrame(columns)

    def get_state(self) -> dict[str, Any]:
        """All that was drawn."""
        arrays = (
            {"scores": np.stack(self.scores), "true": np.stack(self.true)}
            if self.true
            else {"scores": np.stack(self.scores)}
        )
        return {"answers": self.answers, "finished": self.finished, **arrays}

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.answers, self.finished = state["answers"], state["finished"]
        self.scores, self.true = [*state["scores"]], [*state.get("true", ())]
