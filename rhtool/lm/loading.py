"""Language models and reward models: made, loaded, given adapters, frozen in part, saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rhtool.errors import ConfigError, RhtoolError
from rhtool.models import Model, Tiny


def language_model(model: Model, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """The model with a head of language, float32, with embeddings for the tokenizer's tokens; `seed` makes what is new."""
    return _made(AutoModelForCausalLM, model, tokenizer, seed)


def reward_model(model: Model, tokenizer: PreTrainedTokenizerBase, seed: int, heads: int = 1) -> PreTrainedModel:
    """The model with `heads` scores, taken at the last token that is not padding; `seed` makes what is new of them.

    Raises `RhtoolError` for a classifier of another number of labels.
    """
    made = _made(AutoModelForSequenceClassification, model, tokenizer, seed, num_labels=heads)
    made.config.problem_type = None
    return made


def score_model(source: str, dtype: str = "float32") -> PreTrainedModel:
    """A trained reward model, for scoring alone. Raises `RhtoolError` if it has no score, or several."""
    config = loaded(AutoConfig, source)
    if config.num_labels != 1:
        raise RhtoolError(
            f"a reward model has one score, and this one has {config.num_labels} labels",
            source,
            "give a model that task=rm_train made, or another sequence classifier with num_labels=1",
        )
    made = loaded(AutoModelForSequenceClassification, source, dtype=getattr(torch, dtype))
    made.eval().requires_grad_(False)
    return made


def context(model: Model) -> int | None:
    """Tokens that the model can look at; None where its configuration does not say."""
    if isinstance(model, Tiny) and not model.path:
        return model.context
    config = loaded(AutoConfig, model.source(), revision=model.revision).get_text_config()
    return getattr(config, "max_position_embeddings", None)


def _made(auto: Any, model: Model, tokenizer: PreTrainedTokenizerBase, seed: int, **options: Any) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if isinstance(model, Tiny) and not model.path:
            made = auto.from_config(tiny_config(model, tokenizer, **options), dtype=torch.float32)
        else:
            options |= {} if model.attention is None else {"attn_implementation": model.attention}
            if "num_labels" in options and (labels := _labels(model)) not in (None, options["num_labels"]):
                heads = options["num_labels"]
                raise RhtoolError(
                    f"a model of {heads} score{'s' * (heads > 1)} is wanted, and this one has {labels} labels",
                    model.source(),
                    f"start from a language model, or from a classifier with num_labels={heads}",
                )
            made = loaded(auto, model.source(), revision=model.revision, dtype=torch.float32, **options)
            if len(tokenizer) > made.get_input_embeddings().num_embeddings:
                made.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=16, mean_resizing=False)
        made.config.pad_token_id = tokenizer.pad_token_id
        made.config.eos_token_id = tokenizer.eos_token_id
        if getattr(made, "generation_config", None) is not None:
            made.generation_config.pad_token_id = tokenizer.pad_token_id
            made.generation_config.eos_token_id = tokenizer.eos_token_id
        return in_part(made, model)


def in_part(made: PreTrainedModel, model: Model) -> Any:
    """The model with the adapters, or with the layers frozen, that are asked for."""
    if model.lora.r:
        return with_adapters(made, model)
    if model.layers_unfrozen is not None:
        freeze(made, model.layers_unfrozen)
    return made


def _labels(model: Model) -> int | None:
    """Labels of what is already a classifier; None of a language model."""
    config = loaded(AutoConfig, model.source(), revision=model.revision)
    classifier = any("Classification" in name for name in config.architectures or ())
    return config.num_labels if classifier else None


def loaded(auto: Any, source: str, **options: Any) -> Any:
    try:
        return auto.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError) as error:
        what = next(iter(str(error).splitlines()), type(error).__name__)
        mend = "give a hub name, a directory with config.json, or the directory of a run; offline, only what is there loads"
        raise RhtoolError(f"the model cannot be loaded: {what}", source, mend) from error


def tiny_config(model: Tiny, tokenizer: PreTrainedTokenizerBase, **options: Any) -> Any:
    """Its configuration: the three families, alike in size."""
    from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig

    width, layers, heads, context = model.width, model.layers, model.heads, model.context
    ids = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    common = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **ids, **options}
    if model.family == "gpt2":
        off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Config(n_embd=width, n_layer=layers, n_head=heads, n_positions=context, **off, **common)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    sizes |= {"intermediate_size": 4 * width, "max_position_embeddings": context}
    return {"gpt_neox": GPTNeoXConfig, "llama": LlamaConfig}[model.family](**sizes, **common)


def with_adapters(made: PreTrainedModel, model: Model) -> Any:
    """The model in a `PeftModel`, whose adapters, and the score head where there is one, are what is trained."""
    from peft import LoraConfig, TaskType, get_peft_model

    classifier = "SequenceClassification" in type(made).__name__
    config = LoraConfig(
        r=model.lora.r,
        lora_alpha=model.lora.alpha,
        lora_dropout=model.lora.dropout,
        target_modules=list(model.lora.targets) or None,
        task_type=TaskType.SEQ_CLS if classifier else TaskType.CAUSAL_LM,
        modules_to_save=["score"] if classifier else None,
    )
    try:
        return get_peft_model(made, config)
    except ValueError as error:
        what = next(iter(str(error).splitlines()))
        raise ConfigError(f"no adapters fit: {what}", "model.lora.targets", "name layers that the model has") from error


def freeze(made: PreTrainedModel, layers: int) -> None:
    """Leave only the last `layers` blocks, what follows them and the heads to be trained."""
    backbone = made.base_model
    blocks = max((m for m in backbone.modules() if isinstance(m, nn.ModuleList)), key=len)
    if not 0 <= layers <= len(blocks):
        raise ConfigError(f"{layers} of {len(blocks)} blocks", "model.layers_unfrozen", f"choose 0 to {len(blocks)}")
    frozen = {id(p) for block in blocks[: len(blocks) - layers] for p in block.parameters()}
    frozen |= {id(p) for p in made.get_input_embeddings().parameters()}
    frozen |= {id(p) for m in backbone.children() if isinstance(m, nn.Embedding) for p in m.parameters()}
    for parameter in made.parameters():
        parameter.requires_grad_(id(parameter) not in frozen)


def save(made: Any, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """An ordinary Hugging Face folder: safetensors, configuration, tokenizer with its chat template. Adapters are written
    to `adapter/` in it, and merged into the weights, so that it loads without peft too: `made` has none afterwards."""
    if hasattr(made, "merge_and_unload"):
        made.save_pretrained(directory / "adapter")
        (directory / "adapter" / "README.md").unlink(missing_ok=True)  # a form that nobody has filled in
        made = made.merge_and_unload()
    made.config.use_cache = True  # which trainers turn off
    made.save_pretrained(directory)
    # GPT-2 counts a classifier's positions from the first token, padding or not; generation wants its padding on the left.
    side, classifier = tokenizer.padding_side, "SequenceClassification" in type(made).__name__
    tokenizer.padding_side = "right" if classifier else "left"
    tokenizer.save_pretrained(directory)
    tokenizer.padding_side = side
