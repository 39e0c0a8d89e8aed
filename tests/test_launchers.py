"""hydra/launcher=local and task=status, without a SLURM: what they leave, and what is said when there is none."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from rhtool import slurm
from rhtool.errors import ConfigError, RhtoolError
from rhtool.results import status
from tests.conftest import CommandLine

RUNS = "outputs/counter/tomato/none-coeff=0-task.iterations=10"
SWEEP = "task=counter task.iterations=10 -m seed=0,1,2 hydra/launcher=local"


def test_processes_of_this_machine_do_all_jobs_and_repeated_none(rhtool: CommandLine) -> None:
    done = rhtool(SWEEP)
    assert done.returncode == 0, done.stderr
    assert [rhtool.result(f"{RUNS}/seed={seed}")["status"] for seed in range(3)] == ["done"] * 3
    assert rhtool(SWEEP).stderr.count("done, skipped") == 3


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_process_and_the_repeated_command_goes_on(rhtool: CommandLine, signum: int) -> None:
    process = rhtool.start(f"{SWEEP} task.step_seconds=1 checkpoint_every=0 hydra.launcher.at_once=3")
    checkpoints = [rhtool.cwd / RUNS / f"seed={seed}" / "checkpoints" for seed in range(3)]
    end = time.monotonic() + 60
    while not all(path.is_dir() and any(path.iterdir()) for path in checkpoints):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signum)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signum and said.count(f"stopped by {signal.Signals(signum).name}") >= 3, said
    assert not list((rhtool.cwd / RUNS).rglob("result.json"))
    again = rhtool(SWEEP)
    assert again.returncode == 0 and again.stderr.count("again  counter") == 3, again.stderr


def test_a_launcher_without_a_sweep_and_slurm_without_a_slurm_are_said(compose, in_process, monkeypatch) -> None:
    code, _, said = in_process("task=counter hydra/launcher=local")
    assert code == 2 and "add -m" in said
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, said = in_process("task=counter -m seed=0,1 hydra/launcher=slurm")
    assert code == 1 and "sbatch is not found" in said
    code, _, said = in_process("task=counter -m seed=0,1 hydra/launcher=slurm hydra.launcher.partitoin=x")
    assert code == 2 and "partitoin" in said


# task=status


def write(root: Path, path: str, **files: object) -> None:
    directory = root / path
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))


def submission(root: Path, jobs: object, number: str = "0001") -> None:
    folder = root / ".sweep" / number
    folder.mkdir(parents=True)
    (folder / "jobs.json").write_text(json.dumps({"jobs": jobs, "pack": 1}))


def job(root: Path, seed: int) -> dict:
    path = root / f"counter/tomato/none-coeff=0/seed={seed}"
    return {
        "dir": str(path),
        "words": ["task=counter", f"seed={seed}"],
        "config_dirs": [],
        "cwd": str(root),
        "plugins": "",
    }


def test_what_was_submitted_and_is_nowhere_is_missing_with_its_command(rhtool: CommandLine, monkeypatch) -> None:
    assert rhtool("task=counter task.iterations=2 dir=outputs/counter/tomato/none-coeff=0/seed=0").returncode == 0
    outputs = rhtool.cwd / "outputs"
    submission(outputs, [job(outputs, seed) for seed in range(4)])
    waiting = slurm.Task((outputs / ".sweep/0001").resolve(), 2, "17_2", "PENDING", "Priority")
    monkeypatch.setattr(slurm, "tasks", lambda: [waiting])
    rows = status.read(outputs, slurm.by_directory(outputs)).set_index("seed").sort_index()
    assert rows.status.tolist() == ["done", "missing", "pending", "missing"]
    text = "\n".join(status.lines(outputs, rows.reset_index(), 20))
    assert text.startswith("1 pending, 2 missing, 1 done")
    assert "seed=2  Priority  17_2" in text and "rhtool -m task=counter seed=1,3" in text


@pytest.mark.parametrize(
    "jobs", [3, [3], [{}], [{"dir": 1, "words": [], "config_dirs": [], "cwd": "", "plugins": ""}], None, "x" * 1000]
)
def test_a_submission_that_is_none_is_passed_over(tmp_path: Path, jobs: object) -> None:
    submission(tmp_path, jobs)
    assert slurm.jobs(tmp_path / ".sweep/0001") == ([], 1)
    assert status.read(tmp_path, {}).empty


def test_nothing_there_is_said(in_process) -> None:
    code, _, said = in_process("task=status")
    assert code == 1 and "there is no such directory" in said


def test_a_queue_that_does_not_answer_hides_no_run(rhtool: CommandLine, monkeypatch) -> None:
    (rhtool.cwd / "squeue").write_text("#!/bin/sh\necho no controller >&2\nexit 1\n")
    (rhtool.cwd / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{rhtool.cwd}:{os.environ['PATH']}")
    assert rhtool("task=counter task.iterations=1").returncode == 0
    done = rhtool("task=status")
    assert done.returncode == 0 and "1 done" in done.stdout
    assert "the queue is not known: squeue says: no controller" in done.stdout


def test_progress_and_watching_to_the_end(rhtool: CommandLine) -> None:
    process = rhtool.start("task=counter task.iterations=10 task.step_seconds=1")
    end, said = time.monotonic() + 60, ""
    while "it/s" not in said:
        assert time.monotonic() < end, said
        said = rhtool("task=status").stdout
    assert "1 running" in said and "/10" in said and "left" in said
    watched = rhtool("task=status task.watch=0.5")
    process.communicate()
    assert watched.returncode == 0 and "1 done" in watched.stdout


def test_values_that_cannot_be_are_refused() -> None:
    from rhtool.config import compose

    for word in ("task.shown=-1", "task.watch=-2"):
        with pytest.raises((ConfigError, RhtoolError)):
            compose("task=status", word).execute()
