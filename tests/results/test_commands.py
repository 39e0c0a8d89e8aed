"""A command that the report shows, pasted into a shell, finishes that very run and makes no other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rhtool.config import compose_all
from rhtool.errors import RhtoolError
from rhtool.results.commands import Command, commands
from rhtool.results.rows import read
from tests.conftest import PLUGIN, ROOT

FAILING = ["task=counter", "task.fail_at=3", "checkpoint_every=0"]


@pytest.fixture
def fail(here):
    """`fail(*overrides, multirun=False)`: start the run, or the runs of a sweep; they fail in their loop."""

    def start(*overrides, multirun=False):
        for run in compose_all([*FAILING, *overrides], multirun=multirun, config_dir=str(PLUGIN / "conf")):
            with pytest.raises(ValueError, match="wall"):
                run.execute()

    return start


def paste(lines):
    """Run the lines in a shell in which what failed is mended."""
    path = os.pathsep.join([str(ROOT), str(PLUGIN)])
    environment = {**os.environ, "PYTHONPATH": path, "COUNTER_MENDED": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("RHTOOL_PLUGINS")  # the commands say it
    text = "\n".join(["set -e", f'rhtool() {{ {sys.executable} -m rhtool "$@"; }}', *lines])
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def unfinished(outputs):
    rows = read(outputs)
    return rows[rows.status != "done"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=3", "coeff=1e-7"],
        ["env.training.hidden=[8,8]", "task.mode=slow"],
        ["dir=mine/x=1"],
        ["dir='it\\'s (odd) & $HOME; #\"*'", "task.lr=2"],
        ["outputs='my runs'", "divergence=kl", "divergence.over=state", "scale=smoke"],
        ["task.needs=there"],
        ["task.needs='" + "long/" * 30 + "name'"],
        ["task=env_only", "coeff=3", "seed=1"],
    ],
    ids=lambda words: words[0][:30],
)
def test_a_run_is_finished_whatever_its_directory_is_called(fail, overrides):
    Path("long/" * 30).mkdir(parents=True)
    for needed in ("there", "long/" * 30 + "name"):
        Path(needed).write_text("content")
    fail(*overrides)
    (row,) = unfinished(".").itertuples()
    assert "resumed after iteration 3" in paste(commands(unfinished("."))) + (Path(row.path) / "run.log").read_text()
    assert read(".")[["path", "status"]].to_numpy().tolist() == [[row.path, "done"]]


def test_a_sweep_and_an_experiment_are_finished(fail):
    fail("coeff=0,0.5", "seed=0,1", multirun=True)
    fail("experiment=table", "task.iterations=5", multirun=True)
    before = sorted(read("outputs").path)
    found = commands(unfinished("outputs"))
    assert len(found) == 2 and all(" -m " in line for line in found)
    paste(found)
    assert sorted(read("outputs").path) == before and unfinished("outputs").empty


def test_a_seed_that_is_missing_is_started(fail):
    fail("divergence=kl", "coeff=0.1", "seed=0,1", multirun=True)
    fail("divergence=kl", "coeff=0.2", "seed=1")
    fail("divergence=kl", "coeff=0.4", "seed=1", "dir=outputs/named")
    rows = unfinished("outputs")
    missing = rows[rows.status == "missing"]
    assert missing.coeff.tolist() == [0.2, 0.4]
    # Where the fourth run's directory was named by hand, nobody knows what another seed's would be called.
    assert [command is None for command in missing.command] == [False, True]
    paste(commands(missing))
    assert (Path("outputs/counter/tomato") / "kl-coeff=0.2-task.fail_at=3" / "seed=0" / "result.json").is_file()


def test_from_another_directory(fail, tmp_path, monkeypatch):
    Path("there").write_text("content")
    fail("task.needs=there", "dir=mine")
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (line,) = commands(unfinished(tmp_path))
    assert line.startswith(f"(cd {tmp_path} && RHTOOL_PLUGINS=counter rhtool ")
    paste([line])
    assert unfinished(tmp_path).empty and not list(elsewhere.iterdir())


def test_a_tree_that_was_moved_and_a_run_that_was_copied_are_finished_where_they_are(fail, tmp_path, monkeypatch):
    Path("project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    fail()
    shutil.copytree("outputs", tmp_path / "a copy's {$x}")
    (copied,) = commands(unfinished(tmp_path / "a copy's {$x}"))
    paste([copied])
    assert unfinished(tmp_path / "a copy's {$x}").empty and len(unfinished("outputs")) == 1
    monkeypatch.chdir(tmp_path)
    Path("project").rename("moved")
    assert commands(unfinished("moved/outputs")) == []  # from here nobody knows what relative paths meant
    monkeypatch.chdir(tmp_path / "moved")
    paste(commands(unfinished("outputs")))
    assert unfinished("outputs").empty and not (tmp_path / "project").exists()


def test_a_run_that_no_command_line_made_has_no_command(tmp_path):
    assert (
        Command.of({"overrides": None, "directory": "/", "dir": "x", "config_dirs": [], "plugins": ""}, tmp_path)
        is None
    )
    assert Command.of({}, tmp_path) is None and Command.of("damaged", tmp_path) is None


def test_what_must_not_be_repeated_is_left_out(fail):
    fail()
    fail("fresh=true")
    (line,) = commands(unfinished("outputs"))
    assert "fresh=" not in line


def test_a_run_that_failed_its_check_is_reported_with_its_reason(here):
    (run,) = compose_all(["task=counter", "task.needs=there", "coeff=0.5"], config_dir=str(PLUGIN / "conf"))
    with pytest.raises(RhtoolError, match="there is no there"):
        run.execute()
    (row,) = read("outputs").itertuples()
    assert (row.status, row.reason) == ("failed", "RhtoolError: there is no there")
    assert (row.env, row.coeff, row.tuned) == ("tomato", 0.5, ("task.needs=there",))
    Path("there").write_text("content")
    paste(commands(unfinished("outputs")))
    assert read("outputs").status.tolist() == ["done"]
