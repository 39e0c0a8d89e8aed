"""Answers of a language model to prompts, as tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from rhtool.data.base import Row
from rhtool.lm.text import Format


@torch.no_grad()
def generate(
    model: Any,
    form: Format,
    rows: Sequence[Row],
    seed: int,
    *,
    max_prompt: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: Sequence[str] = (),
    chunk: int | None = None,
) -> Iterator[tuple[Any, list[list[int]]]]:
    """An answer to the `prompt` of each row: of `chunk` rows at a time the padded prompts (`input_ids`, `attention_mask`) and
    the tokens of the answers, to their end token or stop string.

    Seeded anew for each chunk by (seed, its number), so that a chunk is the same whoever made those before it. The random
    states, and whether the model is in training, stay as they were.
    """
    tokenizer, device = form.tokenizer, model.device
    options = {"do_sample": True, "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    options |= {"top_k": top_k, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    training, size = model.training, chunk or len(rows)
    for number, start in enumerate(range(0, len(rows), size)):
        prompts = [form.ids(form.prompt(row["prompt"]))[-max_prompt:] for row in rows[start : start + size]]
        padded = tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding_side="left").to(device)
        model.eval()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed * 1_000_003 + number)
            out = model.generate(**padded, **options)[:, padded["input_ids"].shape[1] :]
        model.train(training)
        yield padded, [stopped(cut(ids, tokenizer.eos_token_id), form, stop) for ids in out.tolist()]


def cut(ids: list[int], end: int) -> list[int]:
    """The tokens up to the first end token, and that one."""
    return ids[: ids.index(end) + 1] if end in ids else ids


def stopped(ids: list[int], form: Format, stop: Sequence[str]) -> list[int]:
    """The tokens before the one that completes the first of the strings `stop`, and the end token; all without any."""
    tokenizer = form.tokenizer
    text = tokenizer.decode(ids, skip_special_tokens=True) if stop else ""
    if not any(string in text for string in stop):
        return ids
    # The shortest beginning that has one: found by halving, for what has one has it in all that goes on from it.
    low, high = 0, len(ids)
    while high - low > 1:
        middle = (low + high) // 2
        text = tokenizer.decode(ids[:middle], skip_special_tokens=True)
        low, high = (low, middle) if any(string in text for string in stop) else (middle, high)
    return [*ids[:low], tokenizer.eos_token_id]
