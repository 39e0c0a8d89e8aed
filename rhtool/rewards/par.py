"""`reward=par`: how much better than a reference answer a reward model finds an answer, between 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rhtool.errors import RhtoolError
from rhtool.rewards.rm import Rm

if TYPE_CHECKING:
    from torch import Tensor

    from rhtool.data.base import Row
    from rhtool.rewards.base import Scores


@dataclass
class Par(Rm):
    """sigmoid(score - score of a reference answer), of one reward model (PAR: Fu et al. 2025, arXiv 2502.18770).

    Bounded, and steepest where an answer is as good as the reference: who is far better gains nothing more by hacking. With
    a model of preferences it is the probability of being preferred to the reference, the data's column `reference`.
    """

    name: ClassVar[str] = "par"

    def judges(self, count: int) -> list[str]:
        """The answer's score and the reference's."""
        return ["score", "reference"]

    def load(self) -> Scores:
        import torch

        score = super().load()
        known: dict[str, Tensor] = {}

        def references(rows: list[Row]) -> Tensor:
            """Of each row; the same prompts come again in training."""
            keys = [repr((row["prompt"], _reference(row))) for row in rows]
            new = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
            if new:
                answers = [row["reference"] for row in new.values()]
                known.update(zip(new, score([*new.values()], answers, [True] * len(new))[:, 0], strict=True))
            return torch.stack([known[key] for key in keys])

        return lambda rows, answers, finished: torch.stack([score(rows, answers, finished)[:, 0], references(rows)], 1)

    def combined(self, scores: Tensor) -> Tensor:
        return (scores[:, 0] - scores[:, 1]).sigmoid()


def _reference(row: Row) -> str:
    if isinstance(found := row.get("reference"), str):
        return found
    mend = "give every row a reference answer, an ordinary one of the base policy's, say"
    raise RhtoolError(f"a row's reference is {found!r}", "the column 'reference' of the data", mend)
