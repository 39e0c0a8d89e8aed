"""Which of two letters a language model would say next."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from rhtool.errors import RhtoolError
from rhtool.lm.loading import loaded
from rhtool.lm.text import tokenizer_at


class Letters:
    """Log-probabilities of A and B as the next token after questions.

    Args:
        source: of the model: a directory or a hub name.
        dtype: of its weights.
        chat_template: how a question becomes text, as `model.template`; empty: the tokenizer's own.
        max_length: tokens of a question.
    """

    def __init__(self, source: str, dtype: str, chat_template: str, max_length: int):
        self.max_length = max_length
        self.tokenizer = tokenizer_at(source, chat_template, option="feedback.chat_template", new_tokens=False)
        self.tokens = _tokens(self.tokenizer, source)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = loaded(AutoModelForCausalLM, source, dtype=getattr(torch, dtype)).to(device).eval()

    @torch.no_grad()
    def __call__(self, questions: list[str]) -> list[tuple[float, float]]:
        """Of each question, in nats. Raises `RhtoolError` for one of more than `max_length` tokens."""
        messages = [[{"role": "user", "content": text}] for text in questions]
        texts = [
            self.tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True) for each in messages
        ]
        tokens = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        if (length := tokens["input_ids"].shape[1]) > self.max_length:
            mend = "raise feedback.max_length, or leave out long conversations"
            raise RhtoolError(f"a question has {length} tokens", "feedback.max_length", mend)
        out = self.model(**tokens.to(self.model.device), use_cache=False, logits_to_keep=1)
        said = out.logits[:, -1].float().log_softmax(-1)
        return list(zip(*(said[:, ids].logsumexp(-1).tolist() for ids in self.tokens), strict=True))


def _tokens(tokenizer: Any, source: str) -> list[list[int]]:
    """Of A and B: all tokens that read so, with or without space."""
    found: list[list[int]] = [[], []]
    for number in range(len(tokenizer)):
        text = tokenizer.decode([number]).strip()
        if text in ("A", "B"):
            found["AB".index(text)].append(number)
    for letter, ids in zip("AB", found, strict=True):
        if not ids:
            mend = "choose a model that was trained on ordinary text"
            raise RhtoolError(f"no token of the model's vocabulary is the letter {letter}", source, mend)
    return found
