"""Greedy answers of a run's policy and of its base policy, for the alignment tax."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rhtool.data.base import Row
from rhtool.lm.generation import answering, generate, tokens
from rhtool.models import Model
from rhtool.results.tax import models_of


def answered(
    run: Path, rows: list[Row], *, max_prompt: int, max_new_tokens: int, chunk: int
) -> tuple[list[str], list[str]]:
    """The answers of the policy, and of the base policy, to rows with `prompt`."""
    policy, base = models_of(run)
    options = (max_prompt, max_new_tokens, chunk)
    return greedy(policy, rows, *options), greedy(base, rows, *options)


def greedy(model: Model, rows: Sequence[Row], max_prompt: int, max_new_tokens: int, chunk: int) -> list[str]:
    """The likeliest token at every step, of each answer to rows with `prompt`."""
    made, form = answering(model, rows, 0, max_prompt=max_prompt, max_new_tokens=max_new_tokens)
    ids: list[list[int]] = []
    for _, part in generate(
        made, form, tokens(form, rows, max_prompt), 0, temperature=0.0, max_new_tokens=max_new_tokens, chunk=chunk
    ):
        ids += part
    return form.tokenizer.batch_decode(ids, skip_special_tokens=True)
