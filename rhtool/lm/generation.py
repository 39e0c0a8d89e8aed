"""Answers of a language model to prompts, as tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, PreTrainedModel, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from rhtool.data.base import Row
from rhtool.lm import loading
from rhtool.lm.text import Format, check_prompts, tokenizer_of
from rhtool.models import Model


def answering(
    model: Model,
    rows: Sequence[Row],
    seed: int,
    *,
    max_prompt: int,
    max_new_tokens: int,
    texts: Iterable[str] | None = None,
) -> tuple[PreTrainedModel, Format]:
    """A language model, and how it sees conversations, for answers of `max_new_tokens` to the prompts of `rows`; `seed` and `texts`
    make what a new model and its tokenizer are made of. Raises `ConfigError` for prompts that its context has no room for."""
    form = Format(tokenizer_of(model, texts), max_prompt + max_new_tokens)
    check_prompts(form, rows, loading.context(model), max_prompt, max_new_tokens)
    return loading.language_model(model, form.tokenizer, seed), form


@torch.no_grad()
def generate(
    model: Any,
    form: Format,
    prompts: Sequence[list[int]],
    seed: int,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: Sequence[str] = (),
    chunk: int | None = None,
    first: int = 0,
) -> Iterator[tuple[Any, list[list[int]]]]:
    """An answer to each prompt (tokens): of `chunk` prompts at a time the padded prompts (`input_ids`, `attention_mask`) and the
    tokens of the answers, to their end token or stop string.

    What is drawn for a prompt is decided by `seed` and its number, counted from `first`: an answer is the same, but for
    rounding, whatever is answered beside it. With temperature 0 each token is the likeliest one. The random states, and whether
    the model is in training, stay as they were.
    """
    tokenizer, device = form.tokenizer, model.device
    options = {"do_sample": False, "max_new_tokens": max_new_tokens, "use_cache": True}
    options |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    options |= {
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
    }  # whatever the model's own generation_config.json says
    training, size = model.training, chunk or len(prompts)
    for start in range(0, len(prompts), size):
        part = list(prompts[start : start + size])
        padded = tokenizer.pad({"input_ids": part}, return_tensors="pt", padding_side="left").to(device)
        width = padded["input_ids"].shape[1]
        processors: list[LogitsProcessor] = []
        if temperature > 0:
            draw = Draw(seed, range(first + start, first + start + len(part)), width, device)
            processors = [*warpers(temperature, top_k, top_p), draw]
        model.eval()
        out = model.generate(**padded, **options, logits_processor=processors)
        model.train(training)
        yield padded, [stopped(cut(ids, tokenizer.eos_token_id), form, stop) for ids in out[:, width:].tolist()]


def tokens(form: Format, rows: Sequence[Row], longest: int) -> list[list[int]]:
    """The prompts of rows; one of more than `longest` tokens loses its beginning."""
    return [form.ids(form.prompt(row["prompt"]))[-longest:] for row in rows]


def warpers(temperature: float, top_k: int, top_p: float) -> list[LogitsProcessor]:
    """What transformers does to the logits before it draws."""
    made: list[LogitsProcessor] = []
    if temperature != 1:
        made.append(TemperatureLogitsWarper(temperature))
    if top_k:
        made.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        made.append(TopPLogitsWarper(top_p))
    return made


class Draw(LogitsProcessor):
    """Makes the likeliest token a sample: to each logit is added a draw of its own from Gumbel's distribution, -log(-log(u))
    (Gumbel 1954; the maximum is then distributed as the softmax).

    u comes from SplitMix64 (Steele et al. 2014, doi 10.1145/2660193.2660195) of the seed, the number of the text, the position
    and the token: no state, and no generator that texts share.

    Args:
        seed: of all texts.
        numbers: of the texts, one for each row of the batch.
        width: tokens of the padded prompts.
    """

    def __init__(self, seed: int, numbers: Sequence[int], width: int, device: torch.device):
        texts = torch.tensor(list(numbers), device=device)
        self.keys, self.width = mixed(mixed(torch.tensor(_signed(seed), device=device)) + GOLDEN * (texts + 1)), width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits (B, V) float32 with the noise of this position."""
        keys = mixed(self.keys + _signed(GOLDEN * (input_ids.shape[1] - self.width + 1)))
        bits = mixed(keys[:, None] + GOLDEN * torch.arange(1, scores.shape[1] + 1, device=scores.device))
        u = (_shifted(bits, 11).double() + 0.5) * 2.0**-53
        return scores.float() - (-u.log()).log().float()


def _signed(x: int) -> int:
    return (x + 2**63) % 2**64 - 2**63


GOLDEN = _signed(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio, as the signed integers of torch have it, whose sums and products are modulo 2^64 too"""


def mixed(x: torch.Tensor) -> torch.Tensor:
    """The finaliser of SplitMix64: int64 to int64."""
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right, zeros coming in from the left."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


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
