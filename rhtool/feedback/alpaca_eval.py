"""`feedback=alpaca_eval`: the annotators of the package alpaca_eval (Li et al. 2023, github.com/tatsu-lab/alpaca_eval)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from rhtool.errors import RhtoolError
from rhtool.feedback.base import Comparison, Feedback, Judge, Opinion
from rhtool.schema import incidental

SURE = 1e-9
"""least probability that an opinion leaves to the other answer"""


@dataclass
class AlpacaEval(Feedback):
    """The annotators of the package alpaca_eval, with its own prompts, whatever the principle: for win rates that compare with
    published ones. The package keeps what it was told, so that nothing is paid for twice."""

    name: ClassVar[str] = "alpaca_eval"

    annotators: str = "alpaca_eval_gpt4"
    """its `annotators_config`: a name that it ships, or a directory with configs.yaml"""
    at_once: int = incidental(200)
    """comparisons that it is given at a time"""

    def check(self, data: Any) -> None:
        """Is the package there? Its annotators' keys and prices are its own affair."""
        if find_spec("alpaca_eval") is None:
            mend = (
                "pip install alpaca_eval, and set the key of its annotators; or feedback=server, which needs no package"
            )
            raise RhtoolError("the package 'alpaca_eval' is not installed", "feedback=alpaca_eval", mend)

    def inputs(self) -> dict[str, str]:
        """A configuration of your own."""
        return {"annotators": self.annotators} if Path(self.annotators).is_dir() else {}

    def load(self, data: Any, cache: Path) -> Judge:
        """The annotators; what they said is beside `cache`. Raises `RhtoolError` for a comparison that they leave open."""
        from alpaca_eval.annotators import PairwiseAnnotator

        kept = cache.with_name("alpaca_eval.json")
        kept.parent.mkdir(parents=True, exist_ok=True)
        own = Path(self.annotators).resolve() if Path(self.annotators).is_dir() else self.annotators
        annotator = PairwiseAnnotator(annotators_config=own, caching_path=kept)

        def judge(comparisons: Iterable[Comparison]) -> Iterator[Opinion]:
            rest = iter(comparisons)
            while part := tuple(itertools.islice(rest, self.at_once)):
                pairs = [pair(one) for one in part]
                said = {key(line): line["preference"] for line in annotator.annotate_pairs(pairs)}
                for asked in pairs:
                    yield opinion(said.get(key(asked)), kept)

        return judge


def pair(one: Comparison) -> dict[str, str]:
    """A comparison as the package has it."""
    instruction = "\n\n".join(message["content"] for message in one.row["prompt"])
    return {"instruction": instruction, "output_1": one.a, "output_2": one.b}


def key(line: dict[str, Any]) -> tuple[str, str, str]:
    """What tells comparisons apart."""
    return line["instruction"], line["output_1"], line["output_2"]


def opinion(preference: float | None, kept: Path) -> Opinion:
    """Of its `preference`: from 1, the first answer, to 2, the second, between them how sure it is; 0 is its older word for a
    tie. Raises `RhtoolError` where there is none."""
    if preference is None or math.isnan(preference):
        mend = f"see what it has logged, delete {kept} if the failure is kept there, and repeat the command"
        raise RhtoolError("alpaca_eval left a comparison open", "feedback=alpaca_eval", mend)
    second = 0.5 if preference == 0 else preference - 1
    second = min(max(second, SURE), 1 - SURE)
    return math.log1p(-second), math.log(second)
