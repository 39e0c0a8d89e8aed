"""`feedback=local`: a language model of the hub or a directory, by the probabilities of its next token."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rhtool.errors import ConfigError, RhtoolError
from rhtool.feedback.base import Comparison, Feedback, Judge, Opinion, question
from rhtool.schema import choice, incidental


@dataclass
class Local(Feedback):
    """A language model in this process: which letter it would say next, A or B."""

    name: ClassVar[str] = "local"

    path: str = ""
    """hub name, directory with config.json, or run that made a model"""
    dtype: str = choice("float32", "bfloat16", "float16")
    """of the weights"""
    chat_template: str = ""
    """how the question becomes text, as model.template; empty: the tokenizer's own"""
    max_length: int = 2048
    """tokens of a question; a longer one is refused"""
    batch: int = incidental(16)
    """questions of a forward pass"""
    template: str = ""
    """Jinja file of the question; empty: rhtool/feedback/comparison.jinja"""

    def check(self, data: Any) -> None:
        """Is a model named?"""
        if not self.path:
            raise ConfigError("no model is named", "feedback.path", "give a hub name, a directory or a run")

    def inputs(self) -> dict[str, str]:
        """The model's directory, and a template of your own."""
        found = {"feedback_model": self._source(), "template": self.template}
        return {name: path for name, path in found.items() if path and Path(path).exists()}

    def load(self, data: Any, cache: Path) -> Judge:
        """The model, on the GPU if there is one."""
        import torch
        from transformers import AutoModelForCausalLM

        from rhtool.lm.loading import loaded
        from rhtool.lm.text import tokenizer_at

        tokenizer = tokenizer_at(self._source(), self.chat_template)
        letters = _letters(tokenizer, self._source())
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = loaded(AutoModelForCausalLM, self._source(), dtype=getattr(torch, self.dtype)).to(device).eval()

        @torch.no_grad()
        def opinions(part: tuple[Comparison, ...]) -> list[Opinion]:
            messages = [[{"role": "user", "content": question(one, self.template)}] for one in part]
            texts = [tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m in messages]
            tokens = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(device)
            if (length := tokens["input_ids"].shape[1]) > self.max_length:
                mend = "raise feedback.max_length, or leave out long conversations"
                raise RhtoolError(f"a question has {length} tokens", "feedback.max_length", mend)
            said = model(**tokens, use_cache=False, logits_to_keep=1).logits[:, -1].float().log_softmax(-1)
            both = [said[:, ids].logsumexp(-1).tolist() for ids in letters]
            return list(zip(*both, strict=True))

        def judge(comparisons: Iterable[Comparison]) -> Iterator[Opinion]:
            rest = iter(comparisons)
            while part := tuple(itertools.islice(rest, self.batch)):
                yield from opinions(part)

        return judge

    def _source(self) -> str:
        from rhtool.models import Model

        return Model(path=self.path).source() if self.path else ""


def _letters(tokenizer: Any, source: str) -> list[list[int]]:
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
