"""Several processes do what one does, to rounding; they stop together, resume, and end when one of them does."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass

import pytest
from omegaconf import OmegaConf

from rhtool.accelerate import Accelerate, Ddp, Fsdp, Single, Zero2, Zero3
from rhtool.config import CONF, compose
from rhtool.divergences import SqrtChi2
from rhtool.errors import ConfigError, RhtoolError
from rhtool.identity import fingerprint
from rhtool.ranks import RankFailed
from rhtool.run import Run
from rhtool.signals import Stopped
from rhtool.tasks.rm_train import RmTrainTexts
from rhtool.tasks.sft import Sft
from tests.lm.small import Words, small
from tests.lm.test_rlhf_ppo import make
from tests.sockets import LOOPBACK, listening

pytest.importorskip("trl")
import pandas as pd
import torch
from safetensors.torch import load_file

from rhtool.models import SAVED

pytestmark = pytest.mark.lm
FIT = {"passes": 2, "minibatch": 16, "lr": 3e-3, "max_length": 48, "every": 4}
PPO = {"divergence": SqrtChi2(), "coeff": 0.1, "score_scale": "running", "target_kl": 1.0, "kl_horizon": 100.0}
ROUNDING = {"rtol": 2e-3, "atol": 2e-4}
"""of float32 over some steps of AdamW, whose first ones go a whole learning rate by the sign of a gradient"""


def spread(cls: type[Accelerate], **options) -> Accelerate:
    """Two processes, with the shipped YAML's numbers."""
    if cls is Single:
        return Single()
    shipped = OmegaConf.to_container(OmegaConf.load(CONF / "accelerate" / f"{cls.__name__.lower()}.yaml"))
    config = {key: value for key, value in shipped.items() if key != "defaults"}
    return cls(num_processes=2, **config, **options)


def run_of(task: str, path, accelerate: Accelerate, sft_run, **options) -> Run:
    if task == "rlhf_ppo":
        run = make(path, sft_run, **PPO | options)
    else:
        kind = {"sft": Sft, "rm_train": RmTrainTexts}[task](**FIT)
        run = Run(task=kind, model=small(), data=Words(), dir=str(path), seed=1)
    run.accelerate = accelerate
    return run


@pytest.fixture(scope="session")
def alone(sft_run, tmp_path_factory):
    """`alone(task)`: a run of one process."""
    made = {}

    def of(task: str):
        if task not in made:
            made[task] = tmp_path_factory.mktemp(task) / "run"
            run_of(task, made[task], Single(), sft_run).execute()
        return made[task]

    return of


@pytest.fixture(scope="session")
def spread_out(sft_run, tmp_path_factory):
    """`spread_out(cls, task)`: a run of two processes."""
    made = {}

    def of(cls: type[Accelerate], task: str):
        if (cls, task) not in made:
            made[cls, task] = tmp_path_factory.mktemp(task) / "run"
            run_of(task, made[cls, task], spread(cls), sft_run).execute()
        return made[cls, task]

    return of


def rows(path) -> pd.DataFrame:
    table = pd.read_csv(path / "metrics.csv")
    return table.drop(columns=[name for name in table if name.startswith("time/")])


def answers(path) -> list[str]:
    lines = (line for file in sorted((path / "eval").glob("*")) for line in file.read_text().splitlines())
    return [json.loads(line)["answer"] for line in lines]


def alike(one, other, **tolerance) -> None:
    """Metrics, their rows, weights, and every answer of the evaluations."""
    metrics, others = (json.loads((path / "result.json").read_text())["metrics"] for path in (one, other))
    pd.testing.assert_series_equal(pd.Series(metrics, dtype=float), pd.Series(others, dtype=float), **tolerance)
    pd.testing.assert_frame_equal(rows(one), rows(other), check_dtype=False, **tolerance)
    weights, others = (load_file(path / SAVED / "model.safetensors") for path in (one, other))
    assert weights.keys() == others.keys()
    weight, other_weight = (torch.cat([x[name].flatten() for name in weights]) for x in (weights, others))
    assert (weight - other_weight).norm() <= tolerance["rtol"] * weight.norm()
    assert answers(one) == answers(other)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("cls", "task"),
    [
        (Ddp, "sft"),
        (Ddp, "rm_train"),
        (Ddp, "rlhf_ppo"),
        (Zero2, "rlhf_ppo"),
        pytest.param(Zero3, "rlhf_ppo", marks=pytest.mark.slow),
        (Fsdp, "sft"),
        pytest.param(Fsdp, "rm_train", marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_result_of_one(cls, task, alone, spread_out):
    alike(alone(task), spread_out(cls, task), **ROUNDING)
    assert not multiprocessing.active_children()
    written = {file.name for file in (spread_out(cls, task) / "ranks").iterdir()}
    assert written == {"1.log"}


@pytest.mark.distributed
@pytest.mark.parametrize("cls", [Ddp, pytest.param(Zero2, marks=pytest.mark.slow), Fsdp])
def test_a_run_that_a_signal_stopped_ends_as_one_that_was_not(cls, sft_run, tmp_path, monkeypatch, alone, spread_out):
    """The signal comes while the first round is logged; nothing listens beyond this machine meanwhile. Of FSDP the end is
    compared with that of one process, a launch less."""
    heard = set()
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        write = Run.log

        def log(self, *args):
            write(self, *args)
            heard.update(listening())
            os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(Run, "log", log)
        run = run_of("rlhf_ppo", tmp_path / "stopped", spread(cls), sft_run)
        run.checkpoint_every = 1e9
        run.execute()
    assert heard <= {*LOOPBACK}
    assert not multiprocessing.active_children()
    events = [json.loads(line) for line in (tmp_path / "stopped" / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "loop", "checkpoint", "signal"]
    assert 1 <= events[2]["iteration"] < 3
    run_of("rlhf_ppo", tmp_path / "stopped", spread(cls), sft_run).execute()
    if cls is Fsdp:
        alike(alone("rlhf_ppo"), tmp_path / "stopped", **ROUNDING)
    else:
        alike(spread_out(cls, "rlhf_ppo"), tmp_path / "stopped", rtol=1e-5, atol=1e-6)


@dataclass
class Fatal(Words):
    """The second process comes to grief."""

    how: str = "raise"

    def demonstrations(self, split):
        if os.environ.get("RANK") == "1":
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"raise": ZeroDivisionError("no more sheep"), "mend": ConfigError("a", "b", "c")}[self.how]
        if self.how != "mend" and os.environ.get("RANK") == "0":
            time.sleep(600)  # stuck, as in waiting for the other one
        return super().demonstrations(split)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ("kill", RankFailed, "process 1 of 2 was killed by SIGKILL"),
        ("raise", RankFailed, "ZeroDivisionError: no more sheep"),
    ],
)
def test_a_process_that_dies_ends_the_run(how, error, said, tmp_path):
    started = time.monotonic()
    run = Run(task=Sft(**FIT), model=small(), data=Fatal(how=how), dir=str(tmp_path / "run"), accelerate=spread(Ddp))
    with pytest.raises(error, match=said) as caught:
        run.execute()
    assert how == "kill" or "in demonstrations" in str(caught.value)
    assert time.monotonic() - started < 300
    assert not multiprocessing.active_children()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "failed" and said in result["reason"]


# What is refused before anything is started


COMMAND = ("task=sft", "model=tiny", "data=toy", "task.minibatch=16")
"""what is spread"""


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["accelerate=ddp", "accelerate.num_processes=3"], "task.minibatch"),
        (["accelerate=ddp", "accelerate.num_processes=0"], "accelerate.num_processes"),
        (["accelerate=ddp", "task=rm_train", "data=none", "task.threads=1"], "accelerate"),
        (["accelerate=zero2", "accelerate.deepspeed.zero_optimization.stage=3"], "accelerate.deepspeed.zero_optimization.stage"),
        (["accelerate=zero3", "model.dtype=float16"], "model.dtype"),
        (["accelerate=fsdp", "model.dtype=float16"], "model.dtype"),
        (["accelerate=fsdp", "accelerate.fsdp.auto_wrap_policy=by_feel"], "accelerate.fsdp.auto_wrap_policy"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_be_spread(words, where):
    run = compose(*COMMAND, *words)
    with pytest.raises(ConfigError) as caught:
        run.accelerate.check(run)
    assert caught.value.where == where


def test_a_job_of_several_nodes_is_divided_evenly_from_one_of_them(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    run = compose(*COMMAND, "accelerate=ddp", "accelerate.num_processes=2")
    with pytest.raises(RhtoolError, match="on none of them"):
        run.accelerate.check(run)
    monkeypatch.setenv("SLURMD_NODENAME", "node1")
    run.accelerate.check(run)
    run.accelerate.num_processes = 3
    with pytest.raises(ConfigError, match="3 processes for 2 nodes"):
        run.accelerate.check(run)
    run.accelerate.num_processes = None
    assert run.accelerate.processes() == 2
    run.overrides = None
    with pytest.raises(RhtoolError, match="no overrides compose this one"):
        run.accelerate.check(run)


def test_how_a_run_is_computed_is_no_part_of_what_it_is():
    one, two = compose(*COMMAND), compose(*COMMAND, "accelerate=zero3", "accelerate.num_processes=2")
    assert one.dir == two.dir and fingerprint(one) == fingerprint(two)


def test_what_is_offloaded():
    zero = compose(*COMMAND, "accelerate=zero3", "accelerate.offload=all").accelerate.deepspeed_config()
    devices = [zero["zero_optimization"][key]["device"] for key in ("offload_optimizer", "offload_param")]
    assert devices == ["cpu", "cpu"]
    assert (
        "offload_param" not in compose(*COMMAND, "accelerate=zero3").accelerate.deepspeed_config()["zero_optimization"]
    )
