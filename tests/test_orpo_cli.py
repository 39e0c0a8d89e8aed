"""task=orpo, bc and evaluate as a user runs them: sweeps, kills, failures, RLlib's Algorithm."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import begin, forked

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
TINY = "task=orpo env=tomato env.level=-1 env.horizon=20 scale=smoke task.exact=false"


def rhtool(line: str, cwd: Path, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rhtool", *line.split()]
    return subprocess.run(command, cwd=cwd, env=ENV, capture_output=True, text=True, timeout=300, **kwargs)


def results(cwd: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted(cwd.rglob("result.json"))]


@pytest.mark.slow
def test_a_sweep_as_it_is_written_and_its_report(tmp_path):
    """The base policy is the shipped one; a repeated sweep does nothing; the report has every cell."""
    line = "task=orpo env=tomato divergence=sqrt_chi2 -m coeff=0.05,0.1 seed=0,1 scale=smoke"
    first = rhtool(line, tmp_path)
    assert first.returncode == 0, first.stderr
    found = results(tmp_path)
    assert [(r["coeff"], r["seed"], r["status"]) for r in found] == [
        (c, s, "done") for c in (0.05, 0.1) for s in (0, 1)
    ]
    for result in found:
        metrics = result["metrics"]
        assert metrics["base/true/return"] > 5 and metrics["exact/bound_holds"] == 1
        assert {
            "true/return",
            "proxy/return",
            "correlation",
            "divergence/chi2",
            "exact/divergence/chi2",
        } <= metrics.keys()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")}
    assert "skipped" in forked(line, tmp_path).stderr
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")}
    report = forked("task=report", tmp_path)
    assert report.returncode == 0 and "base policy" in report.stdout
    assert (tmp_path / "outputs/report/frontier.png").stat().st_size > 5_000


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_as_if_it_had_never_been(tmp_path):
    def begun(options: str, directory: str):
        return begin(f"{TINY} {options} checkpoint_every=0 dir={directory}", tmp_path)

    def ended(options: str, directory: str) -> int | None:
        process = begun(options, directory)
        process.join()
        return process.exitcode

    line = "divergence=sqrt_chi2 coeff=0.1 task.iterations=50 env.base_policy=base"
    assert ended("divergence=none task.iterations=1", "base") == 0
    assert ended(line, "whole") == 0
    rng, rows = random.Random(0), tmp_path / "killed/metrics.csv"
    for kill in range(10):
        process = begun(line, "killed")
        while process.is_alive() and (not rows.exists() or rows.read_bytes().count(b"\n") < 1 + 4 * kill):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert ended(line, "killed") == 0
    ends = [json.loads((tmp_path / d / "result.json").read_text()) for d in ("whole", "killed")]
    for end in ends:
        end.pop("seconds")
    assert ends[0] == ends[1]
    rows = [
        [
            [cell for name, cell in zip(header, row, strict=True) if not name.startswith("time/")]
            for row in (line.split(",") for line in lines)
        ]
        for header, lines in (
            (text[0].split(","), text)
            for text in ((tmp_path / d / "metrics.csv").read_text().splitlines() for d in ("whole", "killed"))
        )
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 51


@pytest.mark.slow
def test_bc_clones_a_policy_and_evaluate_measures_it(tmp_path):
    assert forked("task=evaluate env=tomato task.episodes=60 dir=outputs/base", tmp_path).returncode == 0
    table = pq.read_table(tmp_path / "outputs/base/rollouts.parquet").to_pandas()
    base = results(tmp_path)[0]["metrics"]
    assert table["episode"].nunique() == 60 and len(table) == table.groupby("episode")["t"].max().add(1).sum()
    assert table.groupby("episode")["true"].sum().mean() == pytest.approx(base["true/return"])
    # A policy against itself: no divergence but the estimate's noise.
    assert abs(base["divergence/kl"]) < 0.2 and base["action_divergence/kl"] == 0

    options = "task.passes=25 task.minibatch=256 task.lr=3e-3 task.hidden=[64,64] task.episodes=60"
    line = f"task=bc env=tomato task.demonstrator=outputs/base/rollouts.parquet {options} dir=outputs/clone"
    clone = forked(line, tmp_path)
    assert clone.returncode == 0, clone.stderr
    line = "task=evaluate env=tomato task.policy=outputs/clone task.episodes=100 dir=outputs/cloned"
    assert forked(line, tmp_path).returncode == 0
    cloned = json.loads((tmp_path / "outputs/cloned/result.json").read_text())["metrics"]
    assert cloned["true/return"] == pytest.approx(base["true/return"], abs=0.8)
    assert cloned["action_divergence/kl"] < 0.1


def test_what_is_missing_is_said_before_anything_is_done(tmp_path):
    """A base policy that is not there: what, where, how to mend it; exit code 1; nothing but the record of it."""
    found = forked(f"{TINY} divergence=kl coeff=0.1 env.base_policy=outputs/nowhere", tmp_path)
    assert found.returncode == 1
    assert "no policy at outputs/nowhere" in found.stderr and "env.base_policy" in found.stderr
    assert "Traceback" not in found.stderr
    assert not list(tmp_path.rglob("checkpoints"))
    wrong = forked(f"{TINY} divergence=sqrt_chi2 task.split=true", tmp_path)
    assert wrong.returncode == 1 and "divergence=kl" in wrong.stderr


@pytest.mark.parametrize(
    "task, option",
    [
        ("bc", "task.every=0"),
        ("bc", "task.passes=0"),
        ("bc", "task.validation=1"),
        ("bc", "task.lr=-1"),
        ("evaluate", "task.episodes=0"),
        ("evaluate", "task.evaluation_lanes=-2"),
        ("orpo", "task.minibatch=0"),
        ("orpo", "task.init_from_base=true task.hidden=[3]"),
        ("orpo", "env.level=9"),
    ],
)
def test_numbers_that_cannot_be_used_are_refused_before_anything_is_done(task, option):
    from rhtool.config import compose
    from rhtool.errors import ConfigError

    run = compose(f"task={task}", "env=tomato", *option.split())
    with pytest.raises(ConfigError) as error:
        run.task.check(run)
    assert error.value.where.startswith(option.split()[-1].split("=")[0].split(".")[0]) and error.value.mend


@pytest.mark.slow
def test_the_algorithm_of_rllib_runs_the_same_loop(tmp_path):
    import ray

    from rhtool.config import compose
    from rhtool.rl.algorithm import OrpoAlgorithmConfig
    from rhtool.rl.orpo import Orpo
    from rhtool.rl.policy import Policy

    overrides = [o for o in TINY.split() if not o.startswith("task=")] + ["divergence=kl"]
    bases = [Policy.load(p) for p in _toy_base(tmp_path)]
    overrides.append(f"task.base_policies=[{tmp_path}/base]")
    algo = OrpoAlgorithmConfig().orpo(*overrides, coeff=0.1, seed=3).build_algo()
    found = [algo.train() for _ in range(2)]
    algo.save_checkpoint(str(tmp_path / "checkpoint"))
    loop = Orpo(compose("task=orpo", *overrides, "coeff=0.1", "seed=3"), bases)
    expected = [loop.iteration() for _ in range(2)]
    for a, b in zip(found, expected, strict=True):
        assert a["proxy/return"] == b["proxy/return"] and a["divergence/kl"] == b["divergence/kl"]
    third = algo.train()
    algo.load_checkpoint(str(tmp_path / "checkpoint"))
    assert algo.train()["divergence/kl"] == third["divergence/kl"]
    algo.stop()
    ray.shutdown()


def _toy_base(tmp_path):
    from rhtool.config import compose
    from tests.rl.conftest import uniform

    uniform(compose("env=tomato", "env.level=-1").env).save(tmp_path / "base")
    return [tmp_path / "base"]
