"""Sweeps on a real SLURM on this machine (scripts/slurm/one_node.sh), which plays two nodes: what its jobs leave is what a sweep without
it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, CommandLine

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
SCRIPT = ROOT / "scripts" / "slurm" / "one_node.sh"
PATIENCE = 300.0
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""each of pytest's workers has a cluster of its own"""
RUNS = "counter/tomato/none-coeff=0-task.iterations=10"
"""where the runs of a sweep are, in outputs"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which SLURM's commands find the cluster, which is made for these tests and taken down after them."""
    if not shutil.which("slurmctld") or not shutil.which("munged") or os.geteuid():
        pytest.skip("no SLURM, or not root: scripts/slurm/one_node.sh up installs and starts one")
    here = {
        "RHTOOL_SLURM_DIR": str(tmp_path_factory.mktemp("slurm")),
        "RHTOOL_SLURM_CPUS": "16",
        "RHTOOL_SLURM_NODES": "2",
        "RHTOOL_SLURM_PORT": str(27817 + 10 * WORKER),
    }
    up = subprocess.run(["bash", SCRIPT, "up"], env=os.environ | here, capture_output=True, text=True)
    assert up.returncode == 0, up.stderr
    yield {"SLURM_CONF": f"{here['RHTOOL_SLURM_DIR']}/slurm.conf"}
    subprocess.run(["bash", SCRIPT, "down"], env=os.environ | here, check=True, capture_output=True)


@pytest.fixture
def slurm(cluster: dict[str, str], rhtool: CommandLine, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """`rhtool` where SLURM is."""
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    return rhtool


def slurm_says(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def results(root: Path) -> dict[str, dict]:
    """`{directory: result.json without what a clock says}`."""
    found = {}
    for path in root.rglob("result.json"):
        result = json.loads(path.read_text())
        result.pop("seconds")
        found[str(path.parent.relative_to(root))] = result
    return found


def rows(root: Path, directory: str) -> list[str]:
    """The rows of metrics.csv without their times, which stand last."""
    return [line.rpartition(",")[0] for line in (root / directory / "metrics.csv").read_text().splitlines()]


def empty() -> bool:
    return not slurm_says("squeue", "--me", "--noheader").strip()


def restarts(array: str) -> dict[int, int]:
    lines = slurm_says("scontrol", "show", "job", "--oneliner", array).splitlines()
    words = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
    return {int(found["ArrayTaskId"]): int(found["Restarts"]) for found in words}


def test_preempted_killed_and_timed_out_jobs_leave_what_an_undisturbed_sweep_leaves(slurm: CommandLine) -> None:
    """Twelve runs, of which seed k takes 10 k seconds: two told by a signal, two requeued, one killed, the last past its time."""
    sweep = "task=counter task.iterations=10 task.step_seconds=${seed} checkpoint_every=0 -m seed=range(0,12)"
    undisturbed = slurm("task=counter task.iterations=10 checkpoint_every=0 -m seed=range(0,12) outputs=undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr
    limits = "hydra.launcher.timeout_min=1 hydra.launcher.signal_delay_s=10"
    done = slurm(f"{sweep} hydra/launcher=slurm {limits} submit=detach")
    assert done.returncode == 0 and "submitted 12 jobs as 12 tasks of array" in done.stderr, done.stderr
    array = done.stderr.partition("tasks of array ")[2].split()[0]
    began = lambda seed: (slurm.cwd / f"outputs/{RUNS}/seed={seed}/checkpoints").is_dir()  # noqa: E731
    for seed, disturb in (
        (3, ["scancel", "--signal=USR2", f"{array}_3"]),
        (4, ["scancel", "--signal=USR2", f"{array}_4"]),
        (5, ["scontrol", "requeue", f"{array}_5"]),
        (6, ["scontrol", "requeue", f"{array}_6"]),
    ):
        until(lambda seed=seed: began(seed), f"seed {seed} never began")
        slurm_says(*disturb)
    until(lambda: began(7), "seed 7 never began")
    holder = (slurm.cwd / f"outputs/{RUNS}/seed=7/.lock").read_text()
    os.kill(int(holder.split()[-1]), signal.SIGKILL)
    until(empty, "the array never ended")
    again = restarts(array)
    assert all(again[seed] >= 1 for seed in (3, 4, 5, 6, 11)) and again[0] == again[7] == 0
    assert set(results(slurm.cwd / "outputs")) == set(results(slurm.cwd / "undisturbed")) - {f"{RUNS}/seed=7"}
    repeated = slurm(f"{sweep} hydra/launcher=slurm")
    assert repeated.returncode == 0 and "11 of 12 jobs are done" in repeated.stderr, repeated.stderr
    assert "submitted 1 jobs" in repeated.stderr
    wanted = results(slurm.cwd / "undisturbed")
    assert results(slurm.cwd / "outputs") == wanted and len(wanted) == 12
    for directory in wanted:
        assert rows(slurm.cwd / "outputs", directory) == rows(slurm.cwd / "undisturbed", directory)


def test_the_submitting_process_may_be_killed_and_nothing_is_submitted_twice(slurm: CommandLine) -> None:
    sweep = "task=counter task.iterations=10 task.step_seconds=0.6 -m seed=0,1,2 hydra/launcher=slurm"
    process = slurm.start(sweep)
    until(lambda: "RUNNING" in slurm_says("squeue", "--me", "--noheader", "--format=%T"), "never submitted")
    process.kill()
    process.communicate()
    twice = slurm(f"{sweep} submit=detach")
    assert twice.returncode == 0 and "submitted" not in twice.stderr, twice.stderr
    overlapping = slurm("task=counter task.iterations=10 task.step_seconds=0.6 -m seed=2,3 hydra/launcher=slurm")
    assert overlapping.returncode == 0 and "submitted 1 jobs" in overlapping.stderr, overlapping.stderr
    until(empty, "the array never ended")
    found = results(slurm.cwd / "outputs")
    assert len(found) == 4 and {result["status"] for result in found.values()} == {"done"}
    for path in (slurm.cwd / "outputs").rglob("provenance.json"):
        assert len(json.loads(path.read_text())["attempts"]) == 1
    assert "4 of 4 jobs are done" in slurm(sweep.replace("0,1,2", "0,1,2,3")).stderr


def test_several_runs_of_a_job_run_side_by_side(slurm: CommandLine) -> None:
    line = "task=counter task.iterations=5 task.step_seconds=0.2 -m seed=range(0,5) hydra/launcher=slurm hydra.launcher.pack=2"
    done = slurm(line)
    assert done.returncode == 0 and "submitted 5 jobs as 3 tasks" in done.stderr, done.stderr
    assert len(results(slurm.cwd / "outputs")) == 5


def test_a_job_that_fails_is_named_when_the_sweep_has_ended(slurm: CommandLine) -> None:
    done = slurm("task=counter task.iterations=5 task.fail_at=2 -m seed=0,1 hydra/launcher=slurm")
    assert done.returncode == 1
    assert "2 of 2 runs failed" in done.stderr and "the walk hit a wall" in done.stderr


def test_processes_on_two_nodes_are_requeued_and_end_as_one_process_does(slurm: CommandLine) -> None:
    pytest.importorskip("deepspeed")
    rows_of_toy = "data.n_prompts=16 data.n_demonstrations=256 data.n_preferences=16 data.n_validation=32"
    model = "model=tiny model.width=16 model.heads=2 model.layers=1"
    line = f"task=sft data=toy {rows_of_toy} {model} task.minibatch=16 task.passes=3 task.every=8 checkpoint_every=0"
    alone = slurm(f"{line} dir=alone")
    assert alone.returncode == 0, alone.stderr
    done = slurm(
        f"{line} dir=spread -m seed=0 accelerate=zero2 accelerate.num_processes=4"
        " hydra/launcher=slurm hydra.launcher.nodes=2 submit=detach"
    )
    assert done.returncode == 0, done.stderr
    array = done.stderr.partition("tasks of array ")[2].split()[0]
    until(lambda: any((slurm.cwd / "spread/checkpoints").glob("*")), "no checkpoint")
    slurm_says("scontrol", "requeue", f"{array}_0")
    until(empty, "the array never ended")
    found, wanted = (slurm.result(name)["metrics"] for name in ("spread", "alone"))
    assert found == pytest.approx(wanted, rel=1e-3)
    provenance = json.loads((slurm.cwd / "spread/provenance.json").read_text())
    assert len(provenance["attempts"]) == 2
    assert {path.name for path in (slurm.cwd / "spread/ranks").glob("*.log")} == {"1.log", "2.log", "3.log"}
    assert str(slurm.cwd) not in subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True).stdout
