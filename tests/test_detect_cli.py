"""task=detect as a user runs it: over the runs that are there, killed and taken up again, over what hacks and what does not."""

import json
import math
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rhtool.config import compose
from rhtool.errors import RhtoolError
from rhtool.rl.policy import Policy
from tests.conftest import begin, forked
from tests.rl.conftest import uniform
from tests.rl.test_detection import mixed

TOY = "env=tomato env.level=-1 env.dry_distance=0 env.noop=true env.horizon=20 env.base_policy=base"


@pytest.fixture
def board(tmp_path, monkeypatch):
    """The working directory, with a base policy of the toy board in it."""
    monkeypatch.chdir(tmp_path)
    env = compose(*TOY.split()).env
    uniform(env).save(tmp_path / "base")
    return env


def metrics(directory: Path) -> dict:
    return json.loads((directory / "result.json").read_text())["metrics"]


def test_the_runs_that_are_there_are_judged(board, tmp_path, capsys):
    """Two tiny runs of this board are found, also in another unit of its reward, one of a shorter game is not."""
    tiny = ("task=orpo", "scale=smoke", "divergence=none", "task.exact=false", "task.iterations=1", "task.episodes=2")
    for words in ("seed=0", "seed=1 env.proxy_scale=2", "env.horizon=10"):
        compose(*tiny, *TOY.split(), *words.split()).execute()
    run = compose("task=detect", "scale=smoke", "task.label_below=-1", *TOY.split())
    result = run.execute()["metrics"]
    directory = run.path
    policies = pd.read_csv(directory / "scores.csv")
    assert policies.control.tolist() == [True] * 3 + [False] * 2 and not policies.anomalous.any()
    assert {path.rpartition("/")[2] for path in policies.path[3:]} == {"seed=0", "seed=1"}
    episodes = pd.read_csv(directory / "episodes.csv")
    assert len(episodes) == 16 * 5
    assert np.allclose(episodes.groupby("policy").true.mean(), policies.true)
    for name in ("rollout_kl", "occupancy_chi2", "action_js"):
        assert np.allclose(episodes.groupby("policy")[name].mean(), policies[name], rtol=1e-4, atol=1e-6)
    # All of one class: no number is made up, and it is said.
    assert result["detect/rollout_kl/auroc"] is None and result["detect/policies"] == 2
    said = capsys.readouterr()
    assert "not defined" in said.out and "not defined" in (directory / "table.md").read_text()
    assert "WARNING" in said.err and not (directory / "figures/roc.png").exists()
    assert (directory / "figures/scores.png").stat().st_size > 5000
    assert run.execute()["metrics"] == result and "skipped" in capsys.readouterr().err
    # Another policy is there: it is another run, and that is said.
    compose(*tiny, *TOY.split(), "seed=2").execute()
    with pytest.raises(RhtoolError, match="seed=2"):
        compose("task=detect", "scale=smoke", "task.label_below=-1", *TOY.split()).execute()


def policies_of(board, root: Path, shares=(0.1, 0.2, 0.3, 3.0, 4.0, 5.0)) -> Path:
    base = Policy.load(root / "base")
    for i, share in enumerate(shares):
        mixed(base, share).save(root / f"policies/{i}")
    return root / "policies"


def test_policies_far_from_the_trusted_one_are_found(board, tmp_path):
    """Those that almost always walk one way have less true return, and lie above those that hardly do."""
    policies_of(board, tmp_path)
    run = compose("task=detect", *TOY.split(), "task.policies=[policies/*]", "task.label_below=0.1")
    result = run.execute()["metrics"]
    assert result["detect/anomalous"] == 3 and result["detect/policies"] == 6
    for name in ("action_kl", "action_hellinger", "occupancy_kl", "rollout_kl", "rollout_sqrt_chi2"):
        found = {
            k: result[f"detect/{name}/{k}"]
            for k in ("auroc", "auroc_low", "average_precision", "recall", "episode_auroc")
        }
        assert found["auroc"] == found["auroc_low"] == found["average_precision"] == found["recall"] == 1
        assert 0.5 < found["episode_auroc"] < 1
    assert (run.path / "figures/roc.png").stat().st_size > 5000


@pytest.mark.slow
def test_killed_and_repeated_it_ends_as_if_it_had_never_been(board, tmp_path):
    policies_of(board, tmp_path, (0.1, 3.0, 5.0))
    line = f"task=detect {TOY} task.policies=[policies/*] task.episodes=20 task.controls=1 checkpoint_every=0"
    assert forked(f"{line} dir=whole", tmp_path).returncode == 0
    process = begin(f"{line} dir=killed", tmp_path)
    rows = tmp_path / "killed/metrics.csv"
    while process.is_alive() and (not rows.exists() or rows.read_bytes().count(b"\n") < 4):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = rows.read_text().splitlines()[:3]
    last = forked(f"{line} dir=killed", tmp_path)
    assert last.returncode == 0, last.stderr
    assert rows.read_text().splitlines()[:3] == kept  # their times too: they were not measured again
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    for name in ("scores.csv", "episodes.csv", "table.md"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()


@pytest.mark.slow
def test_a_policy_that_hacks_the_shipped_board_is_above_one_that_does_not(tmp_path, monkeypatch):
    """Trained on the proxy without regularisation, and with much: the first stands on the bucket."""
    monkeypatch.chdir(tmp_path)
    common = ("task=orpo", "env=tomato", "scale=small", "task.exact=false", "task.episodes=10")
    compose(*common, "divergence=none", "task.iterations=25").execute()
    compose(*common, "divergence=kl", "coeff=5", "task.iterations=5").execute()
    run = compose("task=detect", "env=tomato", "scale=small", "task.episodes=60", "task.controls=1")
    result = run.execute()["metrics"]
    assert result["detect/anomalous"] == 1
    for name in ("action_kl", "occupancy_kl", "rollout_kl", "rollout_sqrt_chi2"):
        assert result[f"detect/{name}/auroc"] == 1
    assert math.isnan(result["detect/rollout_kl/auroc_low"] or math.nan)  # too few policies for an interval
