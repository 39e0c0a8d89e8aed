"""Reward models whose score knows nothing of an answer's length (ODIN: Chen et al. 2024, arXiv 2402.07319).

Two heads on the same hidden states, q for quality and l for length. Their sum is what the preferences are fitted with; besides,

    length_weight (|corr(q, length)| - corr(l, length)) + orthogonality |cos(w_q, w_l)|

with Pearson's correlations over the answers of a forward pass. What length explains goes into l, which is thrown away.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from trl.trainer.reward_trainer import DataCollatorForPreference

from rhtool.lm.reward_model import RewardModel

LENGTHS = ("chosen_length", "rejected_length")
"""columns: tokens of the answers"""


class WithLengths(DataCollatorForPreference):
    """Batches with `lengths` (2B,), of the chosen answers and then of the rejected ones."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of pairs."""
        lengths = [float(example[name]) for name in LENGTHS for example in examples]
        return super().torch_call(examples) | {"lengths": torch.tensor(lengths)}


class Odin(RewardModel):
    """The trainer of a model with two heads."""

    length_weight: float
    orthogonality: float

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += [name for name in LENGTHS if name not in self._signature_columns]

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any) -> Any:
        """The loss of a batch of pairs."""
        inputs = dict(inputs)
        lengths, heads = inputs.pop("lengths"), []

        def summed(**rest: Any) -> Any:
            heads.append(model(**rest).logits.float())
            return SimpleNamespace(logits=heads[0].sum(1, keepdim=True))

        loss, outputs = super().compute_loss(summed, inputs, return_outputs=True, **kwargs)
        quality, length = heads[0].unbind(1)
        apart = correlation(quality, lengths).abs() - correlation(length, lengths)
        loss = loss + self.length_weight * apart + self.orthogonality * self._cosine().abs()
        return (loss, outputs) if return_outputs else loss

    def _cosine(self) -> Tensor:
        """Of the two heads' weights."""
        weight = next(head.weight for _, head in _heads(self.accelerator.unwrap_model(self.model)))
        return torch.nn.functional.cosine_similarity(*weight, dim=0)


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's, of two vectors (N,); 0 where one of them is constant."""
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x.square().sum() * y.square().sum()).clamp(min=1e-12).sqrt()


def keep_quality(made: nn.Module) -> None:
    """Leave the model, or what adapts it, the first head alone: an ordinary reward model of one score."""
    for name, head in [*_heads(made)]:
        weight = nn.Parameter(head.weight[:1].detach().clone(), head.weight.requires_grad)
        kept = nn.Linear(head.in_features, 1, bias=False, device=weight.device, dtype=weight.dtype)
        kept.weight = weight
        made.set_submodule(name, kept)
    for module in made.modules():
        if getattr(module, "num_labels", None) == 2:
            module.num_labels = 1


def _heads(made: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Those that give two scores, with their names; of adapters that which is trained comes first."""
    found = [(n, m) for n, m in made.named_modules() if isinstance(m, nn.Linear) and "score" in n.split(".")]
    return sorted(found, key=lambda item: not item[1].weight.requires_grad)
