"""Who says what a text so far is worth: a head on the policy's hidden states, or a value model with a backbone of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from trl.trainer.utils import disable_dropout_in_model

from rhtool.errors import ConfigError
from rhtool.lm import loading
from rhtool.lm.text import tokenizer_at
from rhtool.run import Run

HEAD, MODEL = "value_head", "value_model"
"""names among the policy's modules, and of what is saved beside it"""


def value_head(kind: str, width: int, seed: int) -> nn.Module:
    """One value of a hidden state of `width` units: `linear`, or `mlp`, two layers with ReLU, the inner one twice as wide."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers = [nn.Linear(width, 1)]
        if kind == "mlp":
            layers = [nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 1)]
        return nn.Sequential(*layers)


def value_model(run: Run, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    """A sequence classifier of one label, whose score at each position is its value, as in TRL's former PPOTrainer. It starts
    from the policy's base with a new score, or from the reward model (`run.task.value_model`), and has what `run.model` says of
    adapters, frozen layers and dropout.

    Raises `ConfigError` where the reward model reads other tokens than the policy.
    """
    about = run.model
    if run.task.value_model == "reward":
        about = dataclasses.replace(about, path=next(iter(run.reward.trained().values())).path, revision=None)
        if tokenizer_at(about.source(), about.template).get_vocab() != tokenizer.get_vocab():
            raise ConfigError(
                "the reward model reads other tokens than the policy",
                "task.value_model=reward",
                "take task.value_model=base, or a reward model that was trained from the policy's base",
            )
    made = loading.reward_model(about, tokenizer, run.seed + 1)
    if not about.dropout:
        disable_dropout_in_model(made)
    if about.gradient_checkpointing:
        made.gradient_checkpointing_enable()
    return made


def values(critic: nn.Module, inputs: Mapping[str, Any], hidden: Tensor, keep: int) -> Tensor:
    """(B, keep) values of the states in which the last `keep` tokens were chosen: of the policy's `hidden` states
    (B, T, width) by a head, of the same texts by a model."""
    head = critic
    if not isinstance(critic, nn.Sequential):
        classifier = critic.get_base_model() if hasattr(critic, "get_base_model") else critic
        texts = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        hidden, head = classifier.base_model(**texts, use_cache=False).last_hidden_state, classifier.score
    hidden = hidden[:, -keep - 1 : -1].to(next(head.parameters()).dtype)
    return head(hidden).float().squeeze(-1)
