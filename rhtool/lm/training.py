"""TRL's trainers inside a run: its checkpoints, its log and its signals take the place of transformers' own.

Transformers saves optimisers and random states as pickles, and starts a log and a directory of its own. Here the state of
training is one nested dict that `Run.loop` keeps as safetensors and JSON, written whole or not at all and verified when
read, and from which the next process goes on to the same result.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from transformers import PrinterCallback, TrainerCallback, TrainerState

from rhtool.checkpoints import write_atomic
from rhtool.data.base import Optimiser, Row
from rhtool.errors import RhtoolError
from rhtool.lm import parallel
from rhtool.ranks import LOGS
from rhtool.run import Run

BAD = "bad_batch.safetensors"
"""in the run's directory: the batch whose loss was not finite"""
BAD_SCORES = "bad_scores.jsonl"
"""likewise: the answers of which one has a proxy reward that is not finite"""


def arguments(run: Run, fit: Optimiser, microbatch: int | None = None, **options: Any) -> dict[str, Any]:
    """Keyword arguments of any TRL configuration: the optimiser `fit`, and nothing saved, reported or downloaded behind the
    run's back. The minibatch is that of all processes together, `microbatch` that of one forward pass of one of them."""
    model = run.model
    share = fit.minibatch // parallel.ranks()
    micro = min(microbatch or share, share)
    accumulate = -(-share // micro)
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(run.path / ".trainer"),
        "seed": run.seed,
        "use_cpu": not cuda,
        "bf16": model.dtype == "bfloat16",
        "fp16": model.dtype == "float16",
        "gradient_checkpointing": None,
        "activation_checkpointing": model.gradient_checkpointing,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulate,
        "learning_rate": fit.lr,
        "lr_scheduler_type": {"constant": "constant_with_warmup"}.get(fit.schedule, fit.schedule),
        "warmup_steps": fit.warmup,
        "adam_beta1": fit.betas[0],
        "adam_beta2": fit.betas[1],
        "adam_epsilon": fit.eps,
        "weight_decay": fit.weight_decay,
        "max_grad_norm": fit.grad_clip or 0.0,
        "optim": "adamw_torch_fused",
        "ddp_find_unused_parameters": False,
        "deepspeed": parallel.deepspeed_config(run.accelerate),
        "fsdp": run.accelerate.fsdp_config() is not None,
        "fsdp_config": run.accelerate.fsdp_config(),
        "save_strategy": "no",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": cuda,
        "remove_unused_columns": True,
        **options,
    }


class InRun:
    """Mixin of TRL's trainers, before the trainer in the list of bases. `fit` takes the place of `train`.

    A subclass adds to `extra_state` what else decides the next step.
    """

    run_: Run
    renamed: dict[str, str]
    """{a key that the trainer logs: that of docs/metrics.md}; others are dropped"""
    evaluate_now: Callable[[int], dict[str, float]] | None
    """what is measured of the model after so many iterations"""
    evaluate_every: int

    def attach(
        self,
        run: Run,
        renamed: dict[str, str],
        evaluate_now: Callable[[int], dict[str, float]] | None = None,
        evaluate_every: int = 0,
    ) -> None:
        """Say for which run this trains; see the attributes."""
        self.run_, self.renamed = run, renamed
        self.evaluate_now, self.evaluate_every = evaluate_now, evaluate_every
        self._restored: dict[str, Any] | None = None
        self._steps: Iterator[int] = iter(())
        self._row: dict[str, float] = {}
        self.remove_callback(PrinterCallback)
        self.add_callback(_Collect(self))

    def fit(self, rows: int, per_row: int = 1) -> None:
        """Train for `rows` iterations of the run, each of `per_row` gradient steps, from its last checkpoint if there is one."""
        self._per_row = per_row
        self._steps = self.run_.loop(self, rows)
        if next(self._steps, None) is not None:
            self.train(resume_from_checkpoint=self._resumed() if self._restored else None)
        else:
            self.model.to(self.args.device)  # training would have
        self.check_weights()

    def _resumed(self) -> str:
        """A directory that tells transformers how far training is; the rest comes from the run's checkpoint."""
        directory = Path(self.args.output_dir)
        state = TrainerState(global_step=self._restored["step"], train_batch_size=self._train_batch_size)
        state.compute_steps(self.args, steps_of(self))
        if parallel.rank() == 0:
            directory.mkdir(parents=True, exist_ok=True)
            state.save_to_json(str(directory / "trainer_state.json"))
        self.accelerator.wait_for_everyone()
        return str(directory)

    # Resumable

    def get_state(self) -> dict[str, Any]:
        """Weights that are trained, optimiser, schedule, random states, and how far it is."""
        return {
            "step": self.state.global_step,
            "weights": parallel.trained(self),
            "optimizer": parallel.optimizer_state(self),
            "schedule": self.lr_scheduler.state_dict(),
            "random": random_state(),
            "extra": self.extra_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """The weights at once, the rest when training has made what holds it."""
        model = self.accelerator.unwrap_model(self.model)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in state["weights"].items():
                parameters[name].copy_(value)
        self.set_extra_state(state["extra"])
        self.state.global_step = state["step"]  # of a run that has only to be evaluated, `train` does not say it
        self._restored = state

    def row(self, logged: dict[str, float]) -> dict[str, float]:
        """What is written of an iteration, from what the trainer `logged` of its last gradient step."""
        return logged

    def extra_state(self) -> dict[str, Any]:
        """What a kind of training has besides."""
        return {}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse of `extra_state`."""

    # Hooks of transformers' Trainer

    def create_accelerator_and_postprocess(self) -> None:
        """The trainer's, and FSDP on CPUs too."""
        super().create_accelerator_and_postprocess()
        parallel.set_up_fsdp(self)

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Done by `set_state`."""

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's; which weights it has in which order is kept, for DeepSpeed does not."""
        made = super().create_optimizer(*args, **kwargs)
        if self.is_deepspeed_enabled and not hasattr(self, "parameters_in_order"):
            self.parameters_in_order = [list(group["params"]) for group in made.param_groups]
        return made

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """The trainer's, which would look for pickles to go on from."""
        made = super()._prepare_for_training(max_steps, train_dataloader, None)
        if self._restored:
            parallel.set_optimizer_state(self, self._restored["optimizer"])
            self.lr_scheduler.load_state_dict(self._restored["schedule"])
        return made

    def _load_rng_state(self, checkpoint: Any) -> None:
        if self._restored:
            set_random_state(self._restored["random"])

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """The trainer's, and an end to training where the loss is not finite."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        if not torch.isfinite(loss):
            file = save_batch(self.prepared(inputs), self.run_.path)
            raise RhtoolError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}",
                str(file),
                "the batch is kept there; lower task.lr, or set task.grad_clip",
            )
        return loss

    def prepared(self, inputs: Any) -> dict[str, Any]:
        """What the loss of the last step was of."""
        return inputs

    def check_weights(self) -> None:
        """Raise `RhtoolError` if a weight is not finite: a step broke it whose own loss was."""
        model = self.accelerator.unwrap_model(self.model)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        broken = [name for name, p in trained.items() if not parallel.full(torch.isfinite(p).all())]
        if broken:
            raise RhtoolError(
                f"after step {self.state.global_step} {len(broken)} weights are not finite, the first is {broken[0]}",
                str(self.run_.path),
                "lower task.lr, or set task.grad_clip, and start again: fresh=true",
            )

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        before = self.state.global_step
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if not self._row or before != self.state.global_step:
            return
        step = self.state.global_step
        if step % self._per_row:
            return
        row, self._row = self.row(self._row), {}
        step //= self._per_row
        if self.evaluate_now and self.evaluate_every and step % self.evaluate_every == 0:
            row |= self.evaluate_now(step)
        self.run_.log({"steps": self.state.global_step, **row}, iteration=step - 1)
        next(self._steps, None)  # saves when due, obeys signals


def steps_of(trainer: Any) -> int:
    """Gradient steps of its configuration on its data."""
    *_, steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    return steps


class _Collect(TrainerCallback):
    """Keeps what the trainer logs of a step."""

    def __init__(self, trainer: InRun):
        self.trainer = trainer

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        names = self.trainer.renamed
        if "loss" in (logs or {}):  # of a step, not of the end
            self.trainer._row = {names[key]: value for key, value in logs.items() if key in names}


def random_state() -> dict[str, Any]:
    """States of the generators that libraries draw from; of torch's, those of all ranks."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    numpy = {"kind": kind, "keys": keys, "position": position, "has_gauss": has_gauss, "gauss": gauss}
    states = {"torch": torch.get_rng_state()} | (
        {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    )
    of_ranks = {name: parallel.gathered(state.unsqueeze(0), parallel.ranks()) for name, state in states.items()}
    return {"python": random.getstate(), "numpy": numpy, **of_ranks}


def set_random_state(state: dict[str, Any]) -> None:
    """The inverse of `random_state`."""
    random.setstate(state["python"])
    np.random.set_state(tuple(state["numpy"].values()))
    mine = min(parallel.rank(), len(state["torch"]) - 1)  # there may have been fewer ranks
    torch.set_rng_state(state["torch"][mine].clone())  # not a view, whose storage begins elsewhere
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][mine].clone())


def check_scores(
    rows: list[Row], answers: list[str], scores: torch.Tensor, combined: torch.Tensor, directory: Path
) -> None:
    """Raise `RhtoolError` if a proxy reward, `combined` (B,), is not finite, with all answers and the judges' `scores` (B, K) in
    `BAD_SCORES`."""
    wrong = (~torch.isfinite(combined)).nonzero().flatten().tolist()
    if not wrong:
        return
    file, lines = directory / BAD_SCORES, []
    for row, answer, each, proxy in zip(rows, answers, scores.tolist(), combined.tolist(), strict=True):
        known = {"judges": each, "proxy": proxy, "prompt": row["prompt"], "answer": answer}
        lines.append(json.dumps(known, ensure_ascii=False) + "\n")
    write_atomic(file, "".join(lines).encode())
    prompt, answer = rows[wrong[0]]["prompt"][-1]["content"], answers[wrong[0]]
    raise RhtoolError(
        f"the proxy reward of {len(wrong)} of {len(rows)} answers is not finite; the first is {answer[:80]!r} to {prompt[:80]!r}",
        str(file),
        "the answers and their scores are kept there; mend the reward and repeat the command",
    )


def save_batch(inputs: dict[str, Any], directory: Path) -> Path:
    """Write the tensors of a batch as `BAD`; of another rank than the first beside its log."""
    file = directory / LOGS / f"{parallel.rank()}.{BAD}" if parallel.rank() else directory / BAD
    tensors = {key: value.detach().cpu().contiguous() for key, value in inputs.items() if torch.is_tensor(value)}
    safetensors.torch.save_file(tensors, file)
    return file
