"""A run on a Ray of several nodes, of which one is killed, and then the head."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
RUN = "task=orpo env=tomato env.level=-1 env.horizon=20 scale=smoke task.exact=false divergence=none task.workers=2"
LONG = f"{RUN} task.iterations=40 checkpoint_every=0"
ENV = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
}


class Cluster:
    """Nodes, in a process of their own."""

    def __init__(self, nodes: int):
        words = [sys.executable, str(Path(__file__).parent / "ray_cluster.py"), str(nodes)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(words, env=ENV, stderr=subprocess.DEVNULL, **pipes)
        self.address = self._answer("address").split()[1]

    def kill(self, node: int) -> None:
        self.process.stdin.write(f"kill {node}\n")
        self.process.stdin.flush()
        self._answer("killed")

    def _answer(self, word: str) -> str:
        return next(line for line in self.process.stdout if line.startswith(word))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)


@pytest.fixture
def cluster() -> Iterator[Callable[[int], Cluster]]:
    made: list[Cluster] = []

    def make(nodes: int) -> Cluster:
        made.append(Cluster(nodes))
        return made[-1]

    yield make
    for one in made:
        one.close()


def start(line: str, cwd: Path) -> subprocess.Popen:
    words = [sys.executable, "-m", "rhtool", *line.split()]
    return subprocess.Popen(words, cwd=cwd, env=ENV, stderr=subprocess.PIPE, text=True)


def rows(directory: Path) -> list[list[str]]:
    """metrics.csv without times and without what was lost."""
    if not (directory / "metrics.csv").exists():
        return []
    header, *lines = [line.split(",") for line in (directory / "metrics.csv").read_text().splitlines()]
    kept = [i for i, key in enumerate(header) if not key.startswith("time/") and key != "workers/lost"]
    return [[line[i] for i in kept] for line in lines if len(line) == len(header)]


def until(count: int, directory: Path, process: subprocess.Popen) -> None:
    while len(rows(directory)) < count:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)


def test_a_lost_node_and_a_lost_head_leave_the_run_as_it_would_have_been(tmp_path: Path, cluster: Callable) -> None:
    alone = start(f"{LONG} dir=alone", tmp_path)
    assert alone.wait(300) == 0, alone.communicate()[1]
    wanted = rows(tmp_path / "alone")
    assert len(wanted) == 40

    first, there = cluster(3), tmp_path / "lost"
    process = start(f"{LONG} dir=lost ray.address={first.address}", tmp_path)
    until(10, there, process)
    first.kill(1)
    first.kill(2)  # of two workers on three nodes one was on these
    until(25, there, process)
    assert '"event": "lost"' in (there / "events.jsonl").read_text()
    first.kill(0)
    said = process.communicate(timeout=300)[1]
    assert process.returncode != 0 and not (there / "result.json").exists()
    assert "lost, and made anew" in said

    line = f"{LONG} dir=lost ray.address="
    nobody = start(f"{line}{first.address}", tmp_path)
    said = nobody.communicate(timeout=300)[1]
    assert nobody.returncode == 1 and "there is no Ray at" in said and "ray start --head" in said
    again = start(f"{line}{cluster(2).address}", tmp_path)
    assert again.wait(300) == 0, again.communicate()[1]
    assert rows(there) == wanted
    lost = json.loads((there / "result.json").read_text())["metrics"]["workers/lost"]
    events = [json.loads(line)["event"] for line in (there / "events.jsonl").read_text().splitlines()]
    assert (
        1 <= lost <= events.count("lost") and "resume" in events
    )  # what came after the last checkpoint is not counted twice
