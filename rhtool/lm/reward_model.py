"""Reward models of texts: trained from preferences on TRL's RewardTrainer, and scoring.

The loss of a pair is that of Bradley and Terry, with a margin m where the data know one, and Coste et al.'s penalty
(arXiv 2310.02743) that keeps scores near zero: -log sigmoid(r_c - r_r - m) + l2 (r_c^2 + r_r^2) / 2.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import RewardConfig, RewardTrainer

from rhtool.data.base import TRAIN, VALIDATION, Message, Row
from rhtool.lm import parallel
from rhtool.lm.loading import context, reward_model
from rhtool.lm.text import Format, check_lengths
from rhtool.lm.training import InRun, arguments
from rhtool.run import Run

NAMES = {
    "loss": "rm/loss",
    "accuracy": "rm/accuracy",
    "margin": "rm/margin",
    "grad_norm": "rm/gradient_norm",
    "learning_rate": "rm/lr",
}
"""what TRL calls it, and docs/metrics.md"""


class RewardModel(InRun, RewardTrainer):
    """TRL's trainer in a run, with the penalty on scores."""

    l2: float
    held_out: Dataset
    """tokens of the validation split"""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any) -> Any:
        """The loss of a batch of pairs."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        loss = loss + self.l2 * outputs.logits.square().mean()  # the mean over both answers is half of the sum of two
        return (loss, outputs) if return_outputs else loss


def trainer(run: Run, task: Any, tokenizer: PreTrainedTokenizerBase) -> RewardModel:
    """A trainer of the run's model on the run's preferences. `task` is `rhtool.tasks.rm_train.RmTrainTexts`."""
    from rhtool.lm.odin import Odin, WithLengths

    form, heads = Format(tokenizer, task.max_length), 2 if task.length_weight else 1
    train, held_out = (tokens(run.data.preferences(split), form, task.margin) for split in (TRAIN, VALIDATION))
    every_text = [ids for data in (train, held_out) for key in ("chosen_ids", "rejected_ids") for ids in data[key]]
    check_lengths(form, every_text, context(run.model))
    model = reward_model(run.model, tokenizer, run.seed, heads)
    model.config.num_labels = 1  # which TRL asks for, and is what is kept
    options = {"max_length": None, "disable_dropout": not run.model.dropout}
    args = RewardConfig(**arguments(run, task, task.microbatch, num_train_epochs=task.passes, **options))
    kind = Odin if heads == 2 else RewardModel
    collator = WithLengths(tokenizer.pad_token_id) if heads == 2 else None
    made = kind(model=model, args=args, train_dataset=train, processing_class=tokenizer, data_collator=collator)
    made.l2, made.held_out = task.l2, held_out
    made.length_weight, made.orthogonality = task.length_weight, task.orthogonality
    made.attach(run, NAMES, lambda step: evaluate(made), task.every)
    return made


def tokens(rows: list[Row], form: Format, margin: bool) -> Dataset:
    """Columns `chosen_ids`, `rejected_ids`, `chosen_length`, `rejected_length` (tokens of the answers) and, if asked for, `margin`."""
    columns: dict[str, list[Any]] = {}
    for kind in ("chosen", "rejected"):
        pairs = [form.pair(row["prompt"], row[kind]) for row in rows]
        columns[f"{kind}_ids"] = [[*chain(*pair)] for pair in pairs]
        columns[f"{kind}_length"] = [len(answer) for _, answer in pairs]
    if margin:
        columns["margin"] = [float(row["margin"]) for row in rows]
    return Dataset.from_dict(columns)


def evaluate(made: RewardModel) -> dict[str, float]:
    """On held-out pairs: accuracy (a tie counts half), Kendall's tau, mean and deviation of the scores, their correlation with
    the answers' lengths, the loss."""
    scorer = Scorer(made.accelerator.unwrap_model(made.model), made.processing_class)
    n = len(made.held_out)
    mine = made.held_out.select(parallel.share(n))
    with parallel.whole(made):
        scores = [scorer.of_ids(mine[key]).double() for key in ("chosen_ids", "rejected_ids")]
    chosen, rejected = (parallel.gathered(x, n).numpy() for x in scores)
    difference = chosen - rejected
    margin = np.asarray(made.held_out["margin"]) if "margin" in made.held_out.column_names else 0.0
    accuracy = float((difference > 0).mean() + (difference == 0).mean() / 2)
    both = np.concatenate([chosen, rejected])
    return {
        "rm/validation_loss": float(np.logaddexp(0, -(difference - margin)).mean()),
        "rm/validation_accuracy": accuracy,
        "rm/validation_kendall_tau": 2 * accuracy - 1,  # of rankings of two
        "rm/score/chosen": float(chosen.mean()),
        "rm/score/rejected": float(rejected.mean()),
        "rm/score/mean": float(both.mean()),
        "rm/score/std": float(both.std()),
        "rm/length_correlation": _correlation(
            both, [*made.held_out["chosen_length"], *made.held_out["rejected_length"]]
        ),
    }


def _correlation(x: np.ndarray, y: list[int]) -> float:
    """Pearson's; NaN where one of the two is constant."""
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) and np.ptp(y) else float("nan")


class Scorer:
    """Scores of answers by one reward model.

    Args:
        model: a sequence classifier with one label.
        tokenizer: with a chat template.
        max_length: tokens of a prompt and its answer; what is longer is cut as in training.
        batch: texts of a forward pass. Texts are scored in the order of their lengths, so that little is padding.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int = 776, batch: int = 32
    ):
        self.model, self.tokenizer, self.batch = model, tokenizer, batch
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or max_length
        self.form = Format(tokenizer, min(max_length, longest))

    def __call__(self, prompts: list[list[Message]], answers: list[str], finished: list[bool] | None = None) -> Tensor:
        """Scores (B,) float32 on the CPU. An answer that is not `finished` has no end token."""
        return self.of_ids(self.ids(prompts, answers, finished))

    def ids(
        self, prompts: list[list[Message]], answers: list[str], finished: list[bool] | None = None
    ) -> list[list[int]]:
        """Each prompt with its answer as tokens, cut to what the model takes."""
        before, after = self.texts(prompts, answers, finished)
        pairs = zip(self.form.all_ids(before), self.form.all_ids(after), strict=True)
        return [[*chain(*self.form.fit(*pair))] for pair in pairs]

    def texts(
        self, prompts: list[list[Message]], answers: list[str], finished: list[bool] | None = None
    ) -> tuple[list[str], list[str]]:
        """What the model reads: the prompts as text, and what each goes on with."""
        before, after = [self.form.prompt(prompt) for prompt in prompts], []
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            text = self.form.answer(prompt, answer, before[i])
            if finished is not None and not finished[i]:
                text = text.removesuffix(self.tokenizer.eos_token)
            after.append(text)
        return before, after

    @torch.no_grad()
    def of_ids(self, rows: list[list[int]]) -> Tensor:
        """Scores (B,) float32 on the CPU of texts as tokens."""
        model, training = self.model, self.model.training
        model.eval()
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores = torch.empty(len(rows))
        for start in range(0, len(rows), self.batch):
            part = order[start : start + self.batch]
            ids = [torch.tensor(rows[i], dtype=torch.long) for i in part]
            padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id)
            mask = torch.arange(padded.shape[1]) < torch.tensor([len(x) for x in ids]).unsqueeze(1)
            out = model(padded.to(model.device), attention_mask=mask.long().to(model.device), use_cache=False)
            scores[part] = out.logits[:, 0].float().cpu()
        model.train(training)
        return scores
