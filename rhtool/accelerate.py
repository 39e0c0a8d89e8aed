"""Over which processes a run is spread: the group `accelerate` for tasks that train language models, `ray` for control.

How a run is computed, not what it is: no part of its identity, like the logger. The same run may be begun by one process and
ended by four.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from rhtool.errors import ConfigError, MissingExtra, RhtoolError
from rhtool.schema import choice, incidental

if TYPE_CHECKING:
    from rhtool.run import Run


@dataclass
class Ray:
    """The Ray whose actors sample and learn, if task.workers or task.learners asks for some."""

    address: str = incidental("")
    """empty: one of this machine alone, which the run starts and ends; auto or host:port: the cluster that `ray start` made"""


@dataclass
class Accelerate:
    """How many processes, and what each of them holds."""

    def processes(self) -> int:
        """Processes of a run."""
        return 1

    def check(self, run: Run) -> None:
        """Raise `RhtoolError` if the run cannot be spread so, before anything is started."""

    def execute(self, run: Run) -> dict[str, Any]:
        """Do the run's task, and return its metrics."""
        return run.task.run(run)

    def deepspeed_config(self) -> dict[str, Any] | None:
        """DeepSpeed's configuration, with "auto" for what the task decides; None without DeepSpeed."""
        return None

    def fsdp_config(self) -> dict[str, Any] | None:
        """FSDP's configuration, as transformers has it; None without FSDP."""
        return None


@dataclass
class Single(Accelerate):
    """One process, the run's own."""


@dataclass
class Ddp(Accelerate):
    """Several processes, each with the whole model and a share of every minibatch (torch's DistributedDataParallel)."""

    extra: ClassVar[str] = "lm"

    num_processes: int | None = None
    """processes of all nodes, each with a GPU if there are any; null: as many as there are GPUs, or 1 on each node"""

    def processes(self) -> int:
        if self.num_processes is not None:
            return self.num_processes
        return (_gpus() or 1) * nodes()

    def check(self, run: Run) -> None:
        if not run.task.parallel:
            what = f"task={run.option('task')} works in one process"
            raise ConfigError(what, "accelerate", "leave it out, or accelerate=single")
        if self.num_processes is not None and self.num_processes < 1:
            raise ConfigError(f"{self.num_processes} processes", "accelerate.num_processes", "choose 1 or more")
        if find_spec("torch") is None:
            raise MissingExtra("lm", "torch")
        count, gpus, machines = self.processes(), _gpus(), nodes()
        if machines > 1 and "SLURMD_NODENAME" not in os.environ:
            what = "the job has several nodes, and this process is on none of them"
            raise RhtoolError(what, "SLURM_JOB_NUM_NODES", "start the command by sbatch, or by srun --ntasks=1")
        if machines > 1 and run.overrides is None:
            what = "the other nodes compose the run anew, and no overrides compose this one"
            raise RhtoolError(what, "SLURM_JOB_NUM_NODES", "make it by rhtool.config.compose(...), or use one node")
        if count % machines:
            mend = f"choose a multiple of {machines}"
            raise ConfigError(f"{count} processes for {machines} nodes", "accelerate.num_processes", mend)
        if gpus and count > gpus * machines:
            what = f"{count} processes for {gpus * machines} GPU{'s' * (gpus * machines > 1)}"
            mend = f"choose {gpus * machines} or fewer: each has one of its own"
            raise ConfigError(what, "accelerate.num_processes", mend)
        for name in ("minibatch", "rollouts"):
            if getattr(run.task, name, 0) % count:
                mend = f"choose a multiple of {count}, or another accelerate.num_processes"
                raise ConfigError(f"{getattr(run.task, name)} for {count} processes", f"task.{name}", mend)

    def execute(self, run: Run) -> dict[str, Any]:
        from rhtool.ranks import launch

        return launch(run, self.processes())


@dataclass
class Zero2(Ddp):
    """DeepSpeed's ZeRO stage 2: each process has all weights, and a part of the gradients and of the optimiser's state."""

    deepspeed: dict[str, Any] = field(default_factory=dict)
    """DeepSpeed's configuration; auto: what the task and the model say"""

    def check(self, run: Run) -> None:
        super().check(run)
        if find_spec("deepspeed") is None:
            raise MissingExtra("lm", "deepspeed")
        if run.model.dtype == "float16":
            mend = "choose bfloat16, or accelerate=ddp"
            raise ConfigError("DeepSpeed's scaling of float16 losses is not kept", "model.dtype", mend)
        stage = self.deepspeed.get("zero_optimization", {}).get("stage")
        if stage != self.stage:
            mend = f"choose another option of accelerate, or stage: {self.stage}"
            raise ConfigError(f"stage {stage} of ZeRO", "accelerate.deepspeed.zero_optimization.stage", mend)
        for key in ("optimizer", "scheduler"):
            if key in self.deepspeed:
                raise ConfigError(f"the {key} is the task's", f"accelerate.deepspeed.{key}", "leave it out")

    stage: ClassVar[int] = 2
    """of ZeRO"""

    def deepspeed_config(self) -> dict[str, Any]:
        return self.deepspeed


@dataclass
class Zero3(Zero2):
    """DeepSpeed's ZeRO stage 3: each process has a part of the weights, the gradients and the optimiser's state."""

    stage: ClassVar[int] = 3

    offload: str = choice("none", "optimizer", "all")
    """what waits in the main memory while the GPU does not need it: nothing, the optimiser's state, the weights too"""

    def deepspeed_config(self) -> dict[str, Any]:
        to_cpu = {"device": "cpu", "pin_memory": bool(_gpus())}
        zero = dict(self.deepspeed["zero_optimization"])
        if self.offload != "none":
            zero["offload_optimizer"] = to_cpu
        if self.offload == "all":
            zero["offload_param"] = to_cpu
        return self.deepspeed | {"zero_optimization": zero}


@dataclass
class Fsdp(Ddp):
    """torch's FSDP2 (`fully_shard`): each process has a part of the weights, the gradients and the optimiser's state."""

    KEYS: ClassVar[tuple[str, ...]] = (
        "reshard_after_forward",
        "auto_wrap_policy",
        "min_num_params",
        "transformer_layer_cls_to_wrap",
    )
    """what of FSDP's configuration is to be chosen"""
    POLICIES: ClassVar[tuple[str, ...]] = ("TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP")
    """which modules are gathered at once: blocks, modules of so many weights, the whole model"""

    fsdp: dict[str, Any] = field(default_factory=dict)
    """FSDP's configuration, as transformers has it (`fsdp_config`)"""

    def check(self, run: Run) -> None:
        super().check(run)
        from torch.distributed.fsdp import FSDPModule

        if not hasattr(FSDPModule, "reset_iter_state"):
            raise ConfigError("FSDP asks for torch 2.13", "accelerate=fsdp", "take accelerate=zero3, or a newer torch")
        if run.model.dtype == "float16":
            mend = "choose bfloat16, or accelerate=ddp"
            raise ConfigError("FSDP's scaling of float16 losses is not kept", "model.dtype", mend)
        for key in self.fsdp:
            if key not in self.KEYS:
                where, mend = f"accelerate.fsdp.{key}", f"choose among {', '.join(self.KEYS)}"
                raise ConfigError(f"{key} is not kept", where, mend)
        if (policy := self.fsdp.get("auto_wrap_policy", self.POLICIES[0])) not in self.POLICIES:
            mend = f"choose among {', '.join(self.POLICIES)}"
            raise ConfigError(f"{policy} is no policy", "accelerate.fsdp.auto_wrap_policy", mend)

    def fsdp_config(self) -> dict[str, Any]:
        return self.fsdp | {"version": 2}


def nodes() -> int:
    """Machines of the SLURM job that this process belongs to; 1 outside of one."""
    return int(os.environ.get("SLURM_STEP_NUM_NODES") or os.environ.get("SLURM_JOB_NUM_NODES") or 1)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
