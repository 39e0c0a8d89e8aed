"""What several tests use: the command line as users call it, and a task of their own kind (tests/plugin)."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "tests" / "plugin"


os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would have its processes starve beside other tests

gc.set_threshold(
    50_000, 20, 50
)  # composing makes many objects; looking through all of torch's each time is a quarter of it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that wait for SLURM's clock first, then what takes long: at the end no process is left alone with it."""
    items.sort(key=lambda item: (not item.get_closest_marker("slurm"), not item.get_closest_marker("slow")))


class CommandLine:
    """`rhtool ...` in an empty directory, as a process of its own."""

    def __init__(self, cwd: Path):
        self.cwd = cwd

    def environment(self, **changes: str) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT), str(PLUGIN)])
        return {**os.environ, "PYTHONPATH": path, "RHTOOL_PLUGINS": "counter", "OMP_NUM_THREADS": "1", **changes}

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "rhtool", "--config-dir", str(PLUGIN / "conf"), *words]

    def __call__(self, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
        words = self.words(*line.split())
        env = self.environment(**environment)
        return subprocess.run(words, cwd=self.cwd, env=env, capture_output=True, text=True, timeout=120)

    def start(self, line: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words(*line.split()),
            cwd=self.cwd,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # as from a terminal: a shell starts background processes with SIGINT ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def result(self, directory: str) -> dict:
        return json.loads((self.cwd / directory / "result.json").read_text())


FORKED = multiprocessing.get_context("forkserver")
"""processes that come from one in which everything is imported: of a short run of the control half imports are most of it"""
FORKED.set_forkserver_preload(
    ["rhtool.cli", "rhtool.rl.orpo", "rhtool.rl.evaluation", "rhtool.results.overoptimisation"]
)


def begin(line: str, cwd: Path, **environment: str) -> multiprocessing.Process:
    """Start `rhtool ...` in a forked process; what it says goes to the files `stdout` and `stderr` of `cwd`."""
    process = FORKED.Process(target=_command, args=(line.split(), str(cwd), environment))
    process.start()
    return process


def forked(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`rhtool ...` in a forked process, to its end."""
    process = begin(line, cwd, **environment)
    process.join(300)
    assert process.exitcode is not None, f"{line}: still running"
    said = [(cwd / name).read_text() for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(line.split(), process.exitcode, *said)


def _command(words: list[str], cwd: str, environment: dict[str, str]) -> None:
    os.chdir(cwd)
    os.environ |= environment
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    from rhtool.cli import cli

    sys.argv[1:] = words
    cli()


@pytest.fixture
def rhtool(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty directory, in which the tests' own task is known."""
    monkeypatch.syspath_prepend(PLUGIN)
    monkeypatch.setenv("RHTOOL_PLUGINS", "counter")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def in_process(here: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable:
    """`rhtool ...` without the cost of a process: `(exit code, stdout, stderr)`."""
    from rhtool.cli import cli

    def call(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rhtool", "--config-dir", str(PLUGIN / "conf"), *line.split()])
        with pytest.raises(SystemExit) as end:
            cli()
        return end.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def compose(here: None) -> Callable:
    """`rhtool.config.compose` with the tests' own task, in an empty directory."""
    from rhtool.config import compose_all

    return lambda *overrides: compose_all(overrides, config_dir=str(PLUGIN / "conf"))[0]
