"""Supervised fine-tuning: cross-entropy of the answers' tokens, on TRL's SFTTrainer."""

from __future__ import annotations

import math
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from rhtool.data.base import TRAIN, VALIDATION, Fit, Row
from rhtool.lm import parallel
from rhtool.lm.loading import context, language_model
from rhtool.lm.text import Format, check_lengths
from rhtool.lm.training import InRun, arguments
from rhtool.run import Run

IGNORED = -100
"""label of a token that is no part of the loss"""


class Sft(InRun, SFTTrainer):
    """TRL's trainer in a run."""

    held_out: Dataset
    """tokens of the validation split"""


def trainer(run: Run, fit: Fit, tokenizer: PreTrainedTokenizerBase, microbatch: int | None, every: int) -> Sft:
    """A trainer of the run's model on the run's demonstrations."""
    form = Format(tokenizer, fit.max_length)
    train, held_out = (tokens(run.data.demonstrations(split), form) for split in (TRAIN, VALIDATION))
    check_lengths(form, [*train["input_ids"], *held_out["input_ids"]], context(run.model))
    model = language_model(run.model, tokenizer, run.seed)
    options = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    args = SFTConfig(**arguments(run, fit, microbatch, num_train_epochs=fit.passes, **options))
    made = Sft(model=model, args=args, train_dataset=train, processing_class=tokenizer)
    made.held_out = held_out
    made.attach(run, NAMES, lambda step: evaluate(made), every)
    return made


NAMES = {
    "loss": "sft/loss",
    "mean_token_accuracy": "sft/accuracy",
    "grad_norm": "sft/gradient_norm",
    "learning_rate": "sft/lr",
}
"""what TRL calls it, and docs/metrics.md"""


def tokens(rows: list[Row], form: Format) -> Dataset:
    """Columns `input_ids` and `labels`, which are `IGNORED` but for the tokens of the answers."""
    pairs = [form.pair(row["prompt"], row["answer"]) for row in rows]
    return Dataset.from_dict(
        {
            "input_ids": [prompt + answer for prompt, answer in pairs],
            "labels": [[IGNORED] * len(prompt) + answer for prompt, answer in pairs],
        }
    )


@torch.no_grad()
def evaluate(made: Sft, batch: int = 32) -> dict[str, float]:
    """Cross-entropy of the tokens of held-out answers (nats), its exponential, and the share that are the likeliest."""
    model, rows, training = made.model, made.held_out, made.model.training
    model.eval()
    mine = range(parallel.rank(), len(rows), parallel.ranks())
    loss = hits = count = 0.0
    with parallel.whole(made):
        for start in range(0, len(mine), batch):
            inputs: dict[str, Any] = made.data_collator([rows[i] for i in mine[start : start + batch]])
            inputs = made._prepare_inputs(inputs)
            labels = inputs.pop("labels")[:, 1:]
            logits, mask = model(**inputs).logits[:, :-1].float(), labels != IGNORED
            chosen = logits.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
            loss -= float(chosen[mask].sum())
            hits += float((logits.argmax(-1) == labels)[mask].sum())
            count += float(mask.sum())
    model.train(training)
    loss, hits, count = parallel.summed([loss, hits, count])
    mean = loss / max(count, 1)
    return {
        "sft/validation_loss": mean,
        "sft/validation_perplexity": math.exp(min(mean, 700)),
        "sft/validation_accuracy": hits / max(count, 1),
    }
