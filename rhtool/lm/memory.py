"""What a run on language models will take of a GPU's memory, before it is started: the model is built from its configuration
without weights (torch's `FakeTensorMode`: shapes alone), and the passes of the task are made with it, every tensor counted while
it lives.

Attention counts as the fused kernels have it: its matrix is never whole in memory (except with model.attention=eager). What
CUDA takes for itself, about a gigabyte, and what its allocator loses between tensors, is not counted.
"""

from __future__ import annotations

import functools
import json
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from trl.trainer.utils import add_fused_lm_head

from rhtool.errors import RhtoolError
from rhtool.lm import loading, values
from rhtool.models import Model, Tiny, Trained
from rhtool.rewards.rm import Learned
from rhtool.run import Run

SHAPES = Path(__file__).with_name("shapes.json")
"""{name on the hub: what decides the size of the model}, of the shipped options of the group `model`: as published"""
FLOAT, ADAM = 4, 8
"""bytes of a float32 weight or gradient, and of AdamW's two moments of it"""
SAMPLING_COPIES = 6
"""of the next token's logits (B, V) in float32, that sampling has at a time: scaled, sorted, summed, masked"""
EVALUATION = 32
"""rows of a forward pass in the evaluations of task=sft and task=rm_train"""


class Unknown(RhtoolError):
    """The configuration of a model is not here, so that its size is not known."""


@dataclass
class Need:
    """Bytes of one process's GPU: `held` all the time, `passes` in turn on top of that; of the models in
    `unknown`, {model: why}, nothing."""

    held: dict[str, int] = field(default_factory=dict)
    passes: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    rows: str = ""
    """of which rows"""

    @property
    def peak(self) -> int:
        """The most at one time."""
        return sum(self.held.values()) + max(self.passes.values(), default=0)


def shapes_alone(function: Callable[[Run], Need]) -> Callable[[Run], Need]:
    """The function, with tensors that have no content while it runs."""

    @functools.wraps(function)
    def wrapped(run: Run) -> Need:
        with FakeTensorMode():
            return function(run)

    return wrapped


# Of the tasks


@shapes_alone
def of_sft(run: Run) -> Need:
    """Of task=sft."""
    task, made = run.task, sketch(run.model, AutoModelForCausalLM, ("log_probs", "entropy", "is_top1"))
    need = Need(_held(made), rows=f"rows of {_length(made, task.max_length)} tokens")
    length, micro = _length(made, task.max_length), min(task.microbatch or task.minibatch, task.minibatch)

    def step() -> None:
        ids = _ids(micro, length)
        made(input_ids=ids, labels=ids, fused_lm_head=True).loss.backward()

    need.passes["learning"] = _learning(made, run.model, step, micro < task.minibatch)
    need.passes["evaluation"] = _free(
        made, run.model, lambda: made(input_ids=_ids(EVALUATION, length)).logits[:, :-1].float().log_softmax(-1)
    )
    return need


@shapes_alone
def of_rm(run: Run) -> Need:
    """Of task=rm_train on texts: a row is a pair."""
    task, made = run.task, sketch(run.model, AutoModelForSequenceClassification)
    need = Need(_held(made), rows=f"rows of {_length(made, task.max_length)} tokens")
    length, micro = _length(made, task.max_length), min(task.microbatch or task.minibatch, task.minibatch)

    def step() -> None:
        made(input_ids=_ids(2 * micro, length), use_cache=False).logits.float().mean().backward()

    need.passes["learning"] = _learning(made, run.model, step, micro < task.minibatch)
    need.passes["evaluation"] = _free(
        made, run.model, lambda: made(input_ids=_ids(EVALUATION, length), use_cache=False).logits
    )
    return need


@shapes_alone
def of_ppo(run: Run) -> Need:
    """Of task=rlhf_ppo, if prompts are as long as `task.max_prompt` lets them be."""
    task, made = run.task, sketch(run.model, AutoModelForCausalLM, ("log_probs", "entropy"))
    critic = _critic(run, made) if task.algo == "ppo" else None
    need = Need({**_held(made, critic), "base policy": FLOAT * _trained(made)})
    prompt = _prompt(made, task)
    length = prompt + task.max_new_tokens
    need.rows = f"prompts of {prompt} tokens, answers of {task.max_new_tokens}"
    micro, chunk = (
        min(task.microbatch or task.minibatch, task.minibatch),
        min(task.chunk or task.rollouts, task.rollouts),
    )
    backbone = (made.get_base_model() if hasattr(made, "get_base_model") else made).base_model

    def log_probs(rows: int, valued: bool = True) -> list[Tensor]:
        found: list[Tensor] = []
        ids, hook = _ids(rows, length), None
        texts = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

        def see(_: Any, __: Any, out: Any) -> None:
            found.append(values.values(critic, texts, out.last_hidden_state, task.max_new_tokens))

        if critic is not None and valued:
            hook = backbone.register_forward_hook(see)
        out = made(input_ids=ids, labels=ids, fused_lm_head=True)
        if hook is not None:
            hook.remove()
        return [*found, out.log_probs, out.entropy]

    def step() -> None:
        sum(x.mean() for x in log_probs(micro)).backward()

    need.passes["sampling"] = _sampling(made, run.model, chunk, prompt, task.max_new_tokens)
    need.passes["log-probs"] = _free(made, run.model, lambda: log_probs(micro), critic)
    evaluated = min(task.chunk or task.rollouts, task.eval_prompts)
    need.passes["evaluation"] = _free(made, run.model, lambda: log_probs(evaluated, valued=False), critic)
    need.passes["learning"] = _learning(made, run.model, step, micro < task.minibatch, critic)
    return _with_rewards(need, run)


@shapes_alone
def of_bon(run: Run) -> Need:
    """Of task=bon, if prompts are as long as `task.max_prompt` lets them be."""
    task, made = run.task, sketch(run.model, AutoModelForCausalLM)
    chunk, prompt = min(task.chunk or task.prompts, task.prompts), _prompt(made, task)
    need = Need({"weights": FLOAT * _all(made)})
    need.rows = f"prompts of {_prompt(made, task)} tokens, answers of {task.max_new_tokens}"
    need.passes["sampling"] = _sampling(made, Model(), chunk, prompt, task.max_new_tokens)
    return _with_rewards(need, run)


def _with_rewards(need: Need, run: Run) -> Need:
    reward = run.reward
    for judge in reward.trained().values() if isinstance(reward, Learned) else ():
        source = judge.source
        try:
            made = sketch(Model(path=source), AutoModelForSequenceClassification, dtype=reward.dtype)
        except Unknown as error:
            need.unknown[source] = error.what
            continue
        rows = _ids(reward.batch, _length(made, reward.max_length))
        scoring = _free(made, Model(), lambda made=made, rows=rows: made(input_ids=rows, use_cache=False).logits)
        need.held["reward"] = need.held.get("reward", 0) + sum(p.nbytes for p in made.parameters())
        need.passes["scoring"] = max(need.passes.get("scoring", 0), scoring)
    return need


# Models


def sketch(model: Model, auto: Any, fused: tuple[str, ...] = (), dtype: str = "float32") -> Any:
    """The model as it would be trained, with TRL's `fused` head of language if it has outputs. Raises `Unknown`."""
    config = configuration(model)
    config.num_labels, config.use_cache, config.pad_token_id = 1, False, config.eos_token_id
    attention = "eager" if model.attention == "eager" else "counted"
    with unset_fake_temporarily(), torch.device("meta"):
        made = auto.from_config(config, dtype=getattr(torch, dtype), attn_implementation=attention)
        if fused:
            add_fused_lm_head(made, outputs=fused)
        made = loading.in_part(made, model)
    if model.gradient_checkpointing:
        made.activation_checkpointing_enable()
    # peft moves what it makes, which fake tensors do not bear; and meta tensors do not bear autocast.
    fake: dict[int, Tensor] = {}
    for module in made.modules():
        for held in (module._parameters, module._buffers):
            for name, t in held.items():
                if t is not None and id(t) not in fake:
                    empty = torch.empty(t.shape, dtype=t.dtype)
                    fake[id(t)] = nn.Parameter(empty, t.requires_grad) if held is module._parameters else empty
                held[name] = None if t is None else fake[id(t)]
    return made.train(model.dropout or model.gradient_checkpointing)


def configuration(model: Model) -> Any:
    """The model's configuration: of a directory, from the hub's cache, as published (`SHAPES`), or from the hub; in this order.
    Raises `Unknown`."""
    if isinstance(model, Tiny) and not model.path:
        return loading.tiny_config(model, _Vocabulary(model.vocabulary))
    source, options = model.source(), {"revision": model.revision}
    shapes = json.loads(SHAPES.read_text())
    try:
        return AutoConfig.from_pretrained(source, local_files_only=True, **options)
    except (OSError, ValueError):
        if source in shapes:
            return AutoConfig.for_model(**shapes[source])
    try:
        if Trained(source).local:
            raise OSError("no name on the hub")
        return AutoConfig.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        mend = "make the model, then ask again" if Trained(source).local else f"hf download {source} config.json"
        raise Unknown("its config.json is not here", source, mend) from error


@dataclass
class _Vocabulary:
    """All that `tiny_config` asks of a tokenizer."""

    size: int
    pad_token_id: int = 0
    eos_token_id: int = 1

    def __len__(self) -> int:
        return self.size


# Passes


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is entered, and live; `known` ones do not count."""

    def __init__(self, known: Iterable[Tensor] = ()):
        super().__init__()
        self.now = self.peak = 0
        self._known = {t.untyped_storage()._cdata for t in known}
        self._seen: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen or key in self._known:
            return

        def freed(_: Any) -> None:
            del self._seen[key]
            self.now -= size

        self._seen[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


class _Fused(torch.autograd.Function):
    """The memory of a fused attention kernel: it keeps its inputs and its output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


def _counted(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
    return _Fused.apply(query, key, value).transpose(1, 2).contiguous(), None


AttentionInterface.register("counted", _counted)


def _learning(
    made: Any, model: Model, step: Callable[[], None], accumulates: bool, head: nn.Module | None = None
) -> int:
    """The peak of a gradient step, gradients included; where they accumulate, of the second one."""
    parameters = _parameters(made, head)
    with _computing(model), Live([*parameters, *made.buffers()]) as live:
        for _ in range(1 + accumulates):
            step()
    for p in parameters:
        p.grad = None
    return live.peak


@torch.no_grad()
def _free(made: Any, model: Model, function: Callable[[], Any], head: nn.Module | None = None) -> int:
    """The peak of a pass without gradients."""
    with _computing(model), Live([*_parameters(made, head), *made.buffers()]) as live:
        function()
    return live.peak


@torch.no_grad()
def _sampling(made: Any, model: Model, rows: int, prompt: int, new: int) -> int:
    """The peak of the first forward pass over the prompts, or of the last one over a new token, where the keys and values of
    all tokens are kept, those of a layer twice while it grows."""
    with _computing(model), Live([*made.parameters(), *made.buffers()]) as live:
        cache = made(input_ids=_ids(rows, prompt), use_cache=True, logits_to_keep=1).past_key_values
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) * (prompt + new) // prompt
    logits = SAMPLING_COPIES * rows * made.config.get_text_config().vocab_size * FLOAT
    return max(live.peak, kept + kept // len(cache.layers) + logits)


def _critic(run: Run, made: Any) -> nn.Module:
    """What gives values; a value model that starts from the reward model counts as one from the policy's base."""
    if run.task.value_model != "none":
        return sketch(run.model, AutoModelForSequenceClassification)
    return values.value_head(run.task.value_head, made.config.get_text_config().hidden_size, 0)


def _parameters(made: Any, head: nn.Module | None = None) -> list[nn.Parameter]:
    return [*made.parameters(), *(head.parameters() if head is not None else ())]


def _held(made: Any, head: nn.Module | None = None) -> dict[str, int]:
    parameters = _parameters(made, head)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return {"weights": FLOAT * sum(p.numel() for p in parameters), "Adam": ADAM * trained}


def _all(made: Any) -> int:
    return sum(p.numel() for p in made.parameters())


def _trained(made: Any) -> int:
    return sum(p.numel() for p in made.parameters() if p.requires_grad)


def _computing(model: Model) -> Any:
    """Computing in the model's dtype, its weights being float32, as the trainers do."""
    return torch.autocast("cpu", getattr(torch, model.dtype), enabled=model.dtype != "float32")


def _length(made: Any, length: int) -> int:
    return min(length, getattr(made.config.get_text_config(), "max_position_embeddings", None) or length)


def _prompt(made: Any, task: Any) -> int:
    """Tokens of the longest prompt that leaves room for an answer."""
    return max(1, min(task.max_prompt, _length(made, task.max_prompt + task.max_new_tokens) - task.max_new_tokens))


def _ids(rows: int, length: int) -> Tensor:
    return torch.zeros(rows, length, dtype=torch.long)
