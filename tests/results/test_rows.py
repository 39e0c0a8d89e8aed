"""Reading `outputs/` in every state in which a sweep can leave it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from synthetic import returns, write_run

from rhtool.results.commands import commands
from rhtool.results.rows import curve, read


@pytest.fixture
def held():
    """`held(path)`: hold the run's lock from another process until the test ends."""
    holders = []

    def hold(path):
        code = (
            "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print(); sys.stdin.read()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        process.stdout.readline()
        holders.append(process)
        return process

    yield hold
    for process in holders:
        process.communicate()


def states(rows):
    return {(row.coeff, row.seed): row.status for row in rows.itertuples()}


def test_a_finished_run_is_read_whole(tmp_path):
    path = write_run(
        tmp_path, coeff=0.02, seed=3, over="state", tuned={"task.lr": "1e-3"}, metrics=returns(7, 8, odd=1.5)
    )
    (row,) = read(tmp_path).itertuples(index=False)
    assert (row.group, row.task, row.env, row.divergence, row.over) == ("orpo", "orpo", "tomato", "sqrt_chi2", "state")
    assert (row.coeff, row.seed, row.tuned, row.status) == (0.02, 3, ("task.lr=1e-3",), "done")
    assert (row.steps, row.seconds, row.odd) == (9000, 1.5, 1.5)
    assert read(tmp_path)["true/return"].tolist() == [7]
    assert tmp_path / row.path == path


def test_every_state_of_a_run(tmp_path, held):
    for seed in range(3):
        write_run(tmp_path, coeff=0.1, seed=seed, metrics=returns(1, 2))
    write_run(tmp_path, coeff=0.2, seed=0, status="failed", reason="ValueError: no\ntraceback")
    running = write_run(tmp_path, coeff=0.2, seed=1, status=None, curve=(4, 1, 2))
    write_run(tmp_path, coeff=0.5, seed=0, status=None, curve=(3, 1, 2))
    again = write_run(tmp_path, coeff=0.5, seed=1, status="failed", reason="OSError: disk", curve=(2, 1, 2))
    process = held(running)
    held(again)
    rows = read(tmp_path)
    assert states(rows) == {
        (0.1, 0): "done",
        (0.1, 1): "done",
        (0.1, 2): "done",
        (0.2, 0): "failed",
        (0.2, 1): "running",
        (0.2, 2): "missing",
        (0.5, 0): "interrupted",
        (0.5, 1): "running",  # a failed run that is being run again
        (0.5, 2): "missing",
    }
    by_cell = {(row.coeff, row.seed): row for row in rows.itertuples()}
    assert by_cell[0.2, 0].reason.startswith("ValueError: no")
    assert (by_cell[0.2, 1].steps, by_cell[0.2, 1].iteration) == (12000, 4)
    assert np.isnan(rows["true/return"][rows.status != "done"]).all()
    process.communicate()  # the lock is gone when its process is
    assert states(read(tmp_path))[0.2, 1] == "interrupted"


def test_reading_changes_nothing_and_frees_the_lock_at_once(tmp_path):
    path = write_run(tmp_path, status=None, curve=(3, 1, 2))
    before = {file: os.stat(file).st_mtime_ns for file in path.rglob("*")}
    read(tmp_path)
    code = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'ab'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    subprocess.run([sys.executable, "-c", code, str(path / ".lock")], check=True)
    assert {file: os.stat(file).st_mtime_ns for file in path.rglob("*")} == before


def test_an_unfinished_run_is_what_its_provenance_says(tmp_path):
    tuned = {"env.reward_fun": "true", "task.hidden": [8, 8], "task.lr": 1e-5, "task.grad_clip": None}
    path = write_run(
        tmp_path, divergence="kl", over="action", coeff=1e-7, seed=4, tuned=tuned, scale="smoke", status=None
    )
    path.rename(tmp_path / "orpo" / "odd name")
    write_run(tmp_path, group="bc", divergence="", coeff=0, seed=1, tuned={"task.epochs": 3}, status=None)
    write_run(tmp_path, group="orpo", experiment="table1", env="glucose", seed=2, status=None)
    bc, orpo, table = sorted(read(tmp_path).itertuples(index=False), key=lambda row: row.group)
    assert (orpo.task, orpo.env, orpo.divergence, orpo.over, orpo.coeff) == ("orpo", "tomato", "kl", "action", 1e-7)
    assert (orpo.seed, orpo.scale, orpo.status, orpo.path) == (4, "smoke", "interrupted", "orpo/odd name")
    assert orpo.tuned == ("env.reward_fun=true", "task.grad_clip=null", "task.hidden=[8,8]", "task.lr=1e-05")
    assert (bc.task, bc.env, bc.divergence, bc.over, bc.tuned) == ("bc", "tomato", "", "", ("task.epochs=3",))
    assert (table.group, table.task, table.experiment, table.env) == ("table1", "orpo", "table1", "glucose")


def test_a_result_speaks_for_a_run_whose_provenance_is_lost(tmp_path):
    path = write_run(tmp_path, coeff=0.2, seed=3, tuned={"task.lr": 0.1}, metrics=returns(1, 2))
    (path / "provenance.json").write_text("{")
    (row,) = read(tmp_path).itertuples(index=False)
    assert (row.status, row.coeff, row.seed, row.tuned, row.command) == ("done", 0.2, 3, ("task.lr=0.1",), None)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("result.json", "{", "result.json"),
        ("result.json", "[1]", "result.json"),
        ("result.json", '{"schema": 99, "status": "done"}', "schema 99"),
        ("result.json", '{"schema": 1, "status": "done"}', "no metrics in it"),
        ("result.json", '{"schema": 1, "status": "odd", "metrics": {}}', "status is 'odd'"),
        ("result.json", b"\xff\xfe\x00", "result.json"),
        ("provenance.json", '{"schema": 1', "provenance.json"),
        ("provenance.json", '{"schema": 1, "identity": {}, "run": {"seed": 1}, "attempts": []}', "which run"),
        ("provenance.json", None, "no provenance.json"),
    ],
)
def test_damage_is_reported_and_not_fatal(tmp_path, file, content, said):
    write_run(tmp_path, seed=0, metrics=returns(1, 2))
    path = write_run(tmp_path, seed=1, status=None)
    if content is None:
        (path / file).unlink()
    else:
        (path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = read(tmp_path)
    (damaged,) = rows[rows.status == "damaged"].itertuples()
    assert said in damaged.reason and damaged.path.endswith("seed=1")
    assert damaged.seed == 1 or file == "provenance.json"
    assert rows[rows.seed == 0].status.tolist() == ["done"]


def test_odd_numbers_and_unknown_metrics(tmp_path):
    metrics = {
        "true/return": None,
        "proxy/return": "nan",
        "a": "-inf",
        "b": {"deep": 1},
        "c": "text",
        "seed": 5,
        "d": True,
    }
    write_run(tmp_path, seed=0, metrics=metrics)
    row = read(tmp_path).iloc[0]
    assert np.isnan(row["true/return"]) and np.isnan(row["proxy/return"])
    assert (row["a"], row["d"], row["seed"]) == (-np.inf, 1, 0)
    assert not {"b", "c"} & set(row.index)


def test_foreign_directories_hidden_ones_and_loops_are_passed_over(tmp_path):
    run = write_run(tmp_path, metrics=returns(1, 2))
    (run / "wandb").mkdir()
    (run / "wandb/config.yaml").write_text("x: 1")
    (tmp_path / ".sweep").mkdir()
    (tmp_path / ".sweep/config.yaml").write_text("x: 1")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert len(read(tmp_path)) == 1


def test_a_copied_directory_is_not_another_seed(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, seed=0, metrics=returns(1, 2))
    rows = read(tmp_path)
    assert sorted(rows.status) == ["damaged", "done"]
    assert "a/orpo/tomato" in rows.reason[rows.status == "damaged"].item()


def test_no_runs(tmp_path):
    assert read(tmp_path).empty
    assert read(tmp_path / "absent").empty


def test_curve_of_a_file_that_is_being_written(tmp_path):
    text = "iteration,steps,true/return,extra\n1,100,1.5,\n2,200,nan,3\n3,300,2.5,x\n2,200,2.0,\n4,400,9"
    (tmp_path / "metrics.csv").write_text(text)
    data = curve(tmp_path, ("true/return", "proxy/return"))
    assert data.steps.tolist() == [100, 200, 300]  # the last line is not whole; 200 was run again after a resume
    assert data["true/return"].tolist() == [1.5, 2.0, 2.5]
    assert data["proxy/return"].isna().all()


def test_curve_is_of_held_out_rows_where_a_run_measures_itself_on_them(tmp_path):
    lines = ["steps,true/return,proxy/return,validation/true/return", "1,9.0,1.0,", "2,9.5,2.0,0.5", "3,9.9,3.0,"]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    found = curve(tmp_path, ["true/return", "proxy/return"])
    assert found["true/return"].dropna().tolist() == [0.5] and found["proxy/return"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("content", [None, b"", b"iteration,st", b"iteration,steps\n", b"\0\0\0"])
def test_curve_of_a_file_with_nothing_in_it(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.csv").write_bytes(content)
    assert len(curve(tmp_path, ("true/return",)).dropna()) == 0


def test_one_command_finishes_the_runs_that_differ_in_coeff_and_seed_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for coeff, seed in ((0.1, 0), (0.1, 1), (0.1, 2), (0.2, 0), (0.2, 1), (1e-7, 0)):
        status = None if coeff == 0.1 and seed else "done"
        write_run(tmp_path, over="state", coeff=coeff, seed=seed, tuned={"task.hidden": "[8,8]"}, status=status)
    rows = read(tmp_path)
    common = "task=orpo env=tomato divergence=sqrt_chi2 divergence.over=state 'task.hidden=[8,8]'"
    assert commands(rows[rows.status != "done"]) == [
        f"rhtool -m {common} coeff=1e-07,0.1 seed=1,2",
        f"rhtool {common} coeff=0.2 seed=2",
    ]


def test_thousands_of_runs_keep_their_order(tmp_path):
    for seed in range(200):
        write_run(tmp_path, coeff=0.1 + seed % 3, seed=seed // 3, metrics=returns(seed, seed))
    rows = read(tmp_path)
    done = rows[rows.status == "done"]
    assert len(done) == 200 and (rows.status == "missing").sum() == 1
    assert list(zip(done.coeff, done.seed, strict=True)) == sorted(zip(done.coeff, done.seed, strict=True))
    assert json.loads((tmp_path / done.path.iloc[0] / "result.json").read_text())["coeff"] == done.coeff.iloc[0]
    assert yaml.safe_load((tmp_path / done.path.iloc[0] / "config.yaml").read_text())["seed"] == 0
