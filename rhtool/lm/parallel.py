"""What the ranks of a run tell each other, and what of the model each of them holds.

Of one process alone every function here is the identity.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.functional import pad

from rhtool.accelerate import Accelerate


def ranks() -> int:
    """How many there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """This one's number."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def device() -> torch.device:
    """Where tensors are that ranks exchange."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def share(n: int) -> range:
    """Which of n rows are this rank's, for `gathered` to bring together: ceil(n / ranks) consecutive ones, but for the last
    ranks. One that would have none does the first row, and nobody hears of it."""
    each = -(-n // ranks())
    mine = range(rank() * each, min((rank() + 1) * each, n))
    return mine or range(min(n, 1))


def gathered(x: Tensor, n: int) -> Tensor:
    """The n rows of which each rank has its `share` x (b, ...)."""
    if ranks() == 1:
        return x
    each = -(-n // ranks())
    mine = x.new_zeros(each, *x.shape[1:], device=device(), dtype=torch.uint8 if x.dtype == torch.bool else x.dtype)
    mine[: len(x)] = x
    parts = [torch.empty_like(mine) for _ in range(ranks())]
    distributed.all_gather(parts, mine)
    return torch.cat(parts)[:n].to(x.device, x.dtype)


def widest(x: Tensor, left: bool = False, value: Any = 0) -> Tensor:
    """x (B, T) padded, at the `left` or the right, to the greatest T of all ranks."""
    missing = int(largest(x.shape[1])) - x.shape[1]
    return pad(x, (missing, 0) if left else (0, missing), value=value)


def largest(x: float) -> float:
    """Of the numbers of the ranks."""
    found = torch.tensor(float(x), dtype=torch.float64, device=device())
    if ranks() > 1:
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return found.item()


def summed(values: Sequence[Any]) -> list[Any]:
    """The sums of the ranks' numbers or lists of numbers (all of one shape), in float64."""
    if ranks() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=device())
    distributed.all_reduce(total)
    return total.tolist()


def of_all(x: Tensor) -> Tensor:
    """x (B, ...) of the ranks one after the other. The gradient is for the mean over the ranks, as `DistributedDataParallel`
    and DeepSpeed take it: `ranks()` times that of the own part."""
    if ranks() == 1:
        return x
    found = gathered(x.detach(), len(x) * ranks())
    if not x.requires_grad:
        return found
    parts = list(found.split(len(x)))
    parts[rank()] = x.detach() + ranks() * (x - x.detach())
    return torch.cat(parts)


# Weights


def deepspeed_config(accelerate: Accelerate) -> dict[str, Any] | None:
    """DeepSpeed's configuration, which transformers fills in; None without it."""
    config = accelerate.deepspeed_config()
    if config is not None and not torch.cuda.is_available():
        import deepspeed.ops

        # Gloo does what it would do, and it is compiled for a minute and a half where it was not before.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return copy.deepcopy(config)


def zero_stage(trainer: Any) -> int:
    """Of DeepSpeed, where it trains already; 0 without it."""
    return _stage_to_be(trainer) if trainer.deepspeed is not None else 0


def _stage_to_be(trainer: Any) -> int:
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    return 0 if plugin is None else plugin.zero_stage


@contextlib.contextmanager
def whole(trainer: Any) -> Iterator[None]:
    """With all weights of the model in each process, for passes without gradients. Nested, the outer one counts."""
    if getattr(trainer, "_is_whole", False):
        yield
        return
    if isinstance(trainer.model, FSDPModule):
        with _gathered(trainer):
            yield
        return
    if _stage_to_be(trainer) < 3:
        yield
        return
    if not zero_stage(trainer):
        with _said_to_be_there(trainer.model):
            yield
        return
    from trl.models import unwrap_model_for_generation

    trainer._is_whole = True
    try:
        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator):
            yield
    finally:
        trainer._is_whole = False


def set_up_fsdp(trainer: Any) -> None:
    """Have accelerate divide the model when training begins, if the trainer's arguments say so. By itself it does on GPUs
    alone, and would round to bfloat16 what the model says: the loss, log-probs; and sums of gradients."""
    options = trainer.args.fsdp_plugin_args
    if options is None:
        return
    from accelerate import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    plugin, state = FullyShardedDataParallelPlugin(**options), trainer.accelerator.state
    computed = torch.bfloat16 if trainer.args.bf16 else None
    plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=torch.float32)
    # The first is what the second's type is set to whenever one is made.
    PartialState().distributed_type = state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin, trainer.is_fsdp_enabled = plugin, True


@contextlib.contextmanager
def _gathered(trainer: Any) -> Iterator[None]:
    """FSDP's weights whole, in the dtype it computes in. It lets go of them after a forward pass, of which ranks may make
    different numbers here: not within."""
    root = trainer.model
    root._get_fsdp_state()._lazy_init()  # as its first forward pass does; of a part alone it would take that for the root
    parts = [module for module in root.modules() if isinstance(module, FSDPModule)]
    groups = [(group, group.post_forward_mesh_info) for m in parts for group in m._get_fsdp_state()._fsdp_param_groups]
    for module in parts:
        module.unshard()
    for group, _ in groups:
        group.post_forward_mesh_info = None
    trainer._is_whole = True
    try:
        yield
    finally:
        trainer._is_whole = False
        for group, where in groups:
            group.post_forward_mesh_info = where
        root.reset_iter_state()  # divided again; and the passes are no order in which to gather in the next backward


def _undivide(model: nn.Module) -> None:
    """Take FSDP from a model that is trained no more. Its weights are whole, float32 and in the main memory of rank 0; other
    ranks have none."""
    made: dict[int, nn.Parameter] = {}
    for name, p in list(model.named_parameters(remove_duplicate=False)):
        if id(p) not in made:
            made[id(p)] = nn.Parameter(_collected(p), p.requires_grad)
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, made[id(p)])
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.__class__ = type(module).__bases__[1]  # (FSDPModule, the module's own)


def full(x: Any) -> Any:
    """What FSDP has divided, whole in each rank; anything else as it is."""
    return x.detach().full_tensor() if isinstance(x, DTensor) else x


def _collected(x: Any) -> Any:
    """What FSDP has divided, whole in rank 0's main memory, and empty in other ranks; anything else as it is."""
    if not isinstance(x, DTensor):
        return x
    found = full(x)
    return found.cpu() if rank() == 0 else found.new_empty(0)


@contextlib.contextmanager
def _said_to_be_there(model: Any) -> Iterator[None]:
    """TRL takes the weights for divided before training begins, and asks each where it is."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    for p in model.parameters():
        p.ds_status = ZeroParamStatus.AVAILABLE
    try:
        yield
    finally:
        for p in model.parameters():
            del p.ds_status


@contextlib.contextmanager
def exported(trainer: Any) -> Iterator[bool]:
    """With the model as it is to be saved, after training: whole, and float32. Whether this is the rank that saves it."""
    if isinstance(trainer.model, FSDPModule):
        _undivide(trainer.model)
    with whole(trainer):
        if zero_stage(trainer):
            weights, model = trained(trainer), trainer.accelerator.unwrap_model(trainer.model)
            for name, p in model.named_parameters():
                p.data = weights[name].to(p.device) if name in weights else p.data.float()
        yield rank() == 0


def trained(trainer: Any) -> dict[str, Tensor]:
    """`{name: weight}` of what is trained, whole and as the optimiser has it (float32): in each process, of FSDP in rank 0."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not zero_stage(trainer):
        return {name: _collected(p) for name, p in found.items()}
    from deepspeed.utils import safe_get_full_fp32_param

    return {name: safe_get_full_fp32_param(p) for name, p in found.items()}


def optimizer_state(trainer: Any) -> dict[str, Any]:
    """Its `state_dict`; where it is held in parts, what that would be in one process: in each, of FSDP in rank 0."""
    if not zero_stage(trainer):
        found = trainer.optimizer.state_dict()
        state = {i: {key: _collected(x) for key, x in of_weight.items()} for i, of_weight in found["state"].items()}
        return found | {"state": state}
    from deepspeed.utils import safe_get_full_optimizer_state

    inner, state, groups, number = _inner(trainer), {}, [], 0
    _link(trainer)
    steps = [s["step"] for s in inner.state.values() if "step" in s]
    for group, parameters in zip(inner.param_groups, trainer.parameters_in_order, strict=True):
        numbers = list(range(number, number := number + len(parameters)))
        groups.append({key: value for key, value in group.items() if key != "params"} | {"params": numbers})
        for i, p in zip(numbers, parameters, strict=True):
            state[i] = {key: safe_get_full_optimizer_state(p, key) for key in MOMENTS} | {"step": steps[0]}
    return {"state": state, "param_groups": groups}


def set_optimizer_state(trainer: Any, saved: dict[str, Any]) -> None:
    """The inverse of `optimizer_state`."""
    if not zero_stage(trainer):
        parameters = [p for group in trainer.optimizer.param_groups for p in group["params"]]
        state = {i: {key: _as(parameters[i], x) for key, x in s.items()} for i, s in saved["state"].items()}
        trainer.optimizer.load_state_dict(saved | {"state": state})
        return
    from deepspeed.utils import safe_set_full_optimizer_state

    inner = _inner(trainer)
    for flat in _parts(trainer):  # before the first step there are none
        inner.state[flat] = {key: torch.zeros_like(flat) for key in MOMENTS}
        inner.state[flat]["step"] = saved["state"][0]["step"].clone()
    _link(trainer)
    for i, p in enumerate(p for group in trainer.parameters_in_order for p in group):
        for key in MOMENTS:
            safe_set_full_optimizer_state(p, saved["state"][i][key].to(p.device), key)
    for group, old in zip(inner.param_groups, saved["param_groups"], strict=True):
        group.update({key: value for key, value in old.items() if key in group and key != "params"})


def _as(weight: Tensor, moment: Tensor) -> Tensor:
    """This process's part of a whole moment of a weight; all of a number of steps."""
    if not isinstance(weight, DTensor) or moment.shape != weight.shape:
        return moment
    moment = moment.to(weight.device)
    return distribute_tensor(moment, weight.device_mesh, weight.placements, src_data_rank=None)


MOMENTS = ("exp_avg", "exp_avg_sq")
"""of AdamW's state, one tensor each for every weight"""


def _parts(trainer: Any) -> list[Tensor]:
    """The flat weights of which this process has the optimiser's state."""
    zero = trainer.model_wrapped.optimizer
    return zero.fp32_partitioned_groups_flat if zero_stage(trainer) == 3 else zero.single_partition_of_fp32_groups


def _link(trainer: Any) -> None:
    """Have DeepSpeed know where the moments of each weight are. It does so after the step of the first group of weights, when
    the other groups have none."""
    if zero_stage(trainer) < 3:
        zero = trainer.model_wrapped.optimizer
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _inner(trainer: Any) -> Any:
    """The optimiser that DeepSpeed's wraps."""
    return trainer.model_wrapped.optimizer.optimizer
