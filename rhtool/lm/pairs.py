"""Pairs of answers that a model draws for prompts."""

from __future__ import annotations

from typing import Any

import numpy as np

from rhtool.data.base import Row
from rhtool.lm.generation import answering, generate, tokens
from rhtool.lm.text import corpus
from rhtool.run import Run


class Drawing:
    """Two answers to every prompt, `task.chunk` prompts at a time; what was drawn is kept where it is stopped.

    Args:
        run: whose model draws.
        task: `rhtool.tasks.morlaif_pm.MorlaifPm`.
        rows: with `prompt`.
    """

    def __init__(self, run: Run, task: Any, rows: list[Row]):
        self.task, self.rows, self.seed = task, rows, run.seed
        room = {"max_prompt": task.max_prompt, "max_new_tokens": task.max_new_tokens}
        self.model, self.form = answering(run.model, rows, run.seed, texts=corpus(run.data), **room)
        self.answers: list[list[str]] = []

    @property
    def iterations(self) -> int:
        """Chunks."""
        return -(-len(self.rows) // self.task.chunk)

    def iteration(self) -> dict[str, float]:
        """The next chunk."""
        task, start = self.task, len(self.answers)
        prompts = tokens(self.form, self.rows[start : start + task.chunk], task.max_prompt)
        options = {"max_new_tokens": task.max_new_tokens, "temperature": task.temperature, "first": start}
        both = []
        for which in range(2):
            seed = int(np.random.SeedSequence([self.seed, 61, which]).generate_state(1)[0]) % 2**20
            ids = [x for _, part in generate(self.model, self.form, prompts, seed, **options) for x in part]
            both.append(self.form.tokenizer.batch_decode(ids, skip_special_tokens=True))
        self.answers += [list(pair) for pair in zip(*both, strict=True)]
        return {"steps": 2 * len(self.answers)}

    def pairs(self) -> list[Row]:
        """The rows with their answers, without those whose answers are the same."""
        found = [row | {"a": a, "b": b} for row, (a, b) in zip(self.rows, self.answers, strict=True)]
        return [row for row in found if row["a"] != row["b"]]

    def get_state(self) -> dict[str, Any]:
        """What was drawn."""
        return {"answers": self.answers}

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.answers = [list(pair) for pair in state["answers"]]
