"""What several tests use: the command line as users call it, and a task of their own kind (tests/plugin)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "tests" / "plugin"


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


@pytest.fixture
def rhtool(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


@pytest.fixture
def compose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable:
    """`rhtool.config.compose` with the tests' own task, in an empty directory."""
    monkeypatch.syspath_prepend(PLUGIN)
    monkeypatch.setenv("RHTOOL_PLUGINS", "counter")
    monkeypatch.chdir(tmp_path)
    from rhtool.config import compose_all

    return lambda *overrides: compose_all(overrides, config_dir=str(PLUGIN / "conf"))[0]
