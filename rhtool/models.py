"""What language models are: where their weights and tokenizer come from, how they are held; the schema of the group `model`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from rhtool.errors import ConfigError, RhtoolError
from rhtool.schema import choice, incidental

SAVED = "model"
"""directory, below that of a run, of the model that the run made: an ordinary Hugging Face folder"""


@dataclass
class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), trained in the place of the weights."""

    r: int = 0
    """rank; 0: no adapters, the weights themselves are trained"""
    alpha: int = 16
    """the adapters' product is scaled by alpha / r"""
    dropout: float = 0.0
    """of the adapters' inputs, in training"""
    targets: list[str] = field(default_factory=list)
    """names of the layers that get adapters (q_proj, v_proj); empty: what peft knows of the architecture"""


@dataclass
class Model:
    """A language model by the name it has on the Hugging Face hub, or from a directory."""

    name: ClassVar[str] = "pretrained"

    path: str = ""
    """name on the hub, a directory with config.json, or the directory of a run that made a model"""
    revision: str | None = None
    """branch, tag or commit on the hub"""
    dtype: str = choice("float32", "bfloat16", "float16")
    """of the weights; those that are trained stay in float32 and compute in this one"""
    attention: str | None = None
    """implementation of attention: eager, sdpa, flash_attention_2; null: what transformers chooses"""
    template: str = ""
    """how conversations become text: a file of rhtool/lm/templates (oasst, alpaca, tulu, ...) or a path of your own; empty: the
    tokenizer's own chat template"""
    layers_unfrozen: int | None = None
    """train only so many of the last blocks, the final norm and the heads; null: all"""
    dropout: bool = False
    """whether the model's dropout, if it has any, is on in training"""
    lora: Lora = field(default_factory=Lora)
    """adapters"""
    gradient_checkpointing: bool = incidental(False)
    """compute activations twice instead of keeping them: less memory, a third more time"""

    def check(self) -> None:
        """Raise `RhtoolError` if there is nothing to load. What is on the hub is not asked."""
        if not self.path:
            raise ConfigError(
                "no model is named", "model.path", "give a hub name, a directory or a run: model.path=..."
            )
        if self.lora.r and self.layers_unfrozen is not None:
            raise ConfigError(
                "adapters leave all layers frozen", "model.layers_unfrozen", "leave it out, or model.lora.r"
            )
        if not Trained(self.path).whole:
            raise RhtoolError(f"there is no model at {self.path}", "model.path", self.how_to_make())

    def how_to_make(self) -> str:
        """The command that makes the model where one is missing."""
        return "give the directory of a finished run of task=sft, or a folder with config.json"

    def directory(self) -> Path:
        """`path`, or the model in it if that is a run's directory."""
        return Trained(self.path).directory

    def inputs(self) -> dict[str, str]:
        """`{name: path}` of the local files whose content decides what the model is."""
        return {"model": str(self.directory())} if self.path and self.directory().is_dir() else {}

    def source(self) -> str:
        """What `from_pretrained` takes: a directory or a name on the hub."""
        return Trained(self.path).source


@dataclass
class Tiny(Model):
    """A transformer of a few hundred thousand weights, made here, with a tokenizer trained on the data: needs nothing."""

    name: ClassVar[str] = "tiny"

    family: str = choice("gpt_neox", "gpt2", "llama")
    """architecture"""
    layers: int = 2
    """blocks"""
    width: int = 128
    """units of a hidden state"""
    heads: int = 4
    """attention heads"""
    context: int = 256
    """tokens that it can look at"""
    vocabulary: int = 512
    """tokens of a byte-level BPE, of which 256 are the bytes"""

    def check(self) -> None:
        """As `Model.check` if there is a `path`; else it is made."""
        if self.path:
            super().check()
        if self.width % self.heads:
            raise ConfigError(
                f"{self.width} units for {self.heads} heads", "model.width", "choose a multiple of the heads"
            )
        if self.vocabulary < 300:
            raise ConfigError(f"{self.vocabulary} tokens", "model.vocabulary", "choose 300 or more: 256 are the bytes")

    def spec(self) -> dict[str, Any]:
        """Its sizes."""
        return {key: getattr(self, key) for key in ("family", "layers", "width", "heads", "context", "vocabulary")}


@dataclass(frozen=True)
class Trained:
    """A trained model: of a run, in a directory, or on the hub; whole, or an adapter, or both."""

    path: str
    """directory of a run, of a model, of an adapter as peft saves them; or name on the hub"""

    @cached_property
    def directory(self) -> Path:
        """`path`, or the model in it if that is a run's directory."""
        path = Path(self.path).expanduser()
        return path / SAVED if (path / SAVED / "config.json").is_file() else path

    @property
    def source(self) -> str:
        """What `from_pretrained` takes: a directory or a name on the hub."""
        return str(self.directory) if self.directory.is_dir() else self.path

    @property
    def local(self) -> bool:
        """Whether it cannot be a name on the hub, which is name or owner/name."""
        return self.directory.is_dir() or self.path.startswith((".", "/", "~")) or self.path.count("/") > 1

    @property
    def whole(self) -> bool:
        """Whether it loads without adapters; of what is on the hub one supposes so."""
        return not self.local or (self.directory / "config.json").is_file()

    @cached_property
    def adapter(self) -> Path | None:
        """The directory of its adapter: `directory`, or `adapter` in it, where runs save it beside the merged weights."""
        for found in (self.directory, self.directory / "adapter"):
            if (found / "adapter_config.json").is_file() and (found / "adapter_model.safetensors").is_file():
                return found
        return None

    @property
    def loads(self) -> bool:
        """Whether there is anything to load."""
        return self.whole or self.adapter is not None

    @cached_property
    def base(self) -> Trained | None:
        """What its adapter adapts; None if it has none, or the adapter does not say."""
        if self.adapter is None:
            return None
        name = json.loads((self.adapter / "adapter_config.json").read_bytes()).get("base_model_name_or_path")
        return Trained(name) if name else None

    @property
    def tokenizer(self) -> str:
        """Where its tokenizer is: with it, with its adapter, or with its base."""
        for place in (self.directory, *filter(None, [self.adapter])):
            if (place / "tokenizer.json").is_file():
                return str(place)
        return self.base.tokenizer if self.base else self.source
