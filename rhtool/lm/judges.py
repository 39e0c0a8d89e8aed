"""Several reward models that score the same texts; of those that are adapters of one base, only one base is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from rhtool.data.base import Message
from rhtool.errors import RhtoolError
from rhtool.lm.loading import loaded, score_model
from rhtool.lm.reward_model import Scorer
from rhtool.lm.text import tokenizer_at
from rhtool.models import Trained

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""files that decide which tokens a text becomes"""


class Judges:
    """Scores of answers by K reward models.

    Args:
        models: of each judge.
        dtype: of the weights.
        max_length: tokens of a prompt and its answer.
        batch: texts of a forward pass.
        template: how they see conversations, as `model.template`; empty: their tokenizers' own.
        option: the user's name of the template.
    """

    def __init__(
        self,
        models: Sequence[Trained],
        dtype: str = "float32",
        max_length: int = 776,
        batch: int = 32,
        template: str = "",
        option: str = "reward.template",
    ):
        self.count = len(models)
        self.groups: list[tuple[list[int], Scorer]] = []
        """judges that share a model, and what scores with it"""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for members in together(models):
            one = models[members[0]]
            tokenizer = tokenizer_at(one.tokenizer, template, option=option, new_tokens=False)
            if len(members) == 1 and one.whole:
                model = score_model(one.source, dtype)
            else:
                model = adapted(one.base, {_name(k): models[k].adapter for k in members}, tokenizer, dtype)
            self.groups.append((members, Scorer(model.to(device), tokenizer, max_length, batch)))

    def __call__(self, prompts: list[list[Message]], answers: list[str], finished: list[bool] | None = None) -> Tensor:
        """Scores (B, K) float32 on the CPU. An answer that is not `finished` has no end token."""
        scores = torch.empty(len(answers), self.count)
        for members, scorer in self.groups:
            ids = scorer.ids(prompts, answers, finished)
            for k in members:
                if _name(k) in getattr(scorer.model, "peft_config", ()):
                    scorer.model.set_adapter(_name(k), inference_mode=True)
                scores[:, k] = scorer.of_ids(ids)
        return scores


def averaged(
    models: Sequence[Trained],
    dtype: str = "float32",
    max_length: int = 776,
    batch: int = 32,
    template: str = "",
    option: str = "reward.template",
) -> Scorer:
    """The reward model whose weights are the mean of the models' weights. Arguments as of `Judges`. Raises `RhtoolError` for one
    of another shape, or with another tokenizer."""
    tokenizer = tokenizer_at(models[0].tokenizer, template, option=option, new_tokens=False)
    count = len(models)
    mean: dict[str, Tensor] = {}
    for model in models:
        one = _whole(model, tokenizer)
        weights = {name: weight.double() / count for name, weight in one.state_dict().items()}
        shapes = {name: weight.shape for name, weight in weights.items()}
        if mean and shapes != {name: weight.shape for name, weight in mean.items()}:
            mend = "give models that were fitted from the same one"
            raise RhtoolError(f"its weights are not those of {models[0].path} in number and shape", model.path, mend)
        if _words(model.tokenizer) != _words(models[0].tokenizer):
            raise RhtoolError(
                f"its tokenizer is not that of {models[0].path}", model.path, "give models that share one"
            )
        mean = {name: mean[name] + weight if mean else weight for name, weight in weights.items()}
    one.load_state_dict(mean)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Scorer(one.to(device, getattr(torch, dtype)), tokenizer, max_length, batch)


def _whole(model: Trained, tokenizer: PreTrainedTokenizerBase) -> Any:
    """A model in float32, its adapter, if it has only one, merged."""
    if model.whole:
        return score_model(model.source)
    return adapted(model.base, {_name(0): model.adapter}, tokenizer).merge_and_unload()


def together(models: Sequence[Trained]) -> list[list[int]]:
    """The numbers of the models that can share one: adapters of one base that were trained with one tokenizer. Of a model that
    has both an adapter and merged weights the adapter counts if its base is there."""
    groups: dict[Any, list[int]] = {}
    for k, model in enumerate(models):
        adapts = model.adapter is not None and model.base is not None and model.base.whole
        groups.setdefault((model.base.source, _words(model.tokenizer)) if adapts else k, []).append(k)
    return list(groups.values())


def adapted(
    base: Trained, adapters: dict[str, Path], tokenizer: PreTrainedTokenizerBase, dtype: str = "float32"
) -> Any:
    """A reward model with several adapters, each with its own head, of which one at a time is set.

    Args:
        base: what they adapt, loaded once; it may be a language model.
        adapters: `{name: directory}`, as peft saves them.
        tokenizer: with which they were trained.
    """
    from peft import PeftModel

    made = loaded(AutoModelForSequenceClassification, base.source, num_labels=1, dtype=getattr(torch, dtype))
    if len(tokenizer) > made.get_input_embeddings().num_embeddings:
        made.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=16, mean_resizing=False)
    made.config.pad_token_id = tokenizer.pad_token_id
    for name, directory in adapters.items():
        try:
            if isinstance(made, PeftModel):
                made.load_adapter(directory, name)
            else:
                made = PeftModel.from_pretrained(made, directory, name)
        except (OSError, ValueError, RuntimeError) as error:
            what = next(iter(str(error).splitlines()), type(error).__name__)
            mend = "train it again on that base, or name the base that it had: base_model_name_or_path"
            raise RhtoolError(f"it does not fit its base {base.path}: {what}", str(directory), mend) from error
    return made.to(getattr(torch, dtype)).eval().requires_grad_(False)


def _name(k: int) -> str:
    return f"judge_{k}"


def _words(source: str) -> Any:
    """What tells tokenizers apart: of a directory the files, of the hub the name."""
    if not Path(source).is_dir():
        return source
    files = [file.read_text() if (file := Path(source) / name).is_file() else "" for name in TOKENIZER]
    return tuple(_without_padding(text) for text in files)


def _without_padding(text: str) -> str:
    """JSON without what is said of padding and truncation; other text as it is."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    for key in (
        "padding",
        "truncation",
        "padding_side",
        "truncation_side",
        "max_length",
        "stride",
        "pad_to_multiple_of",
    ):
        found.pop(key, None)
    return json.dumps(found, sort_keys=True)
