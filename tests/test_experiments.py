"""Experiments: a table of runs from one command, in whatever way it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rhtool.config import CONF, compose_all
from rhtool.run import Run
from tests.conftest import PLUGIN, CommandLine

EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
METHODS = {
    ("none", "state_action", 0.0),
    ("sqrt_chi2", "state_action", 0.1),
    ("sqrt_chi2", "state_action", 1.0),
    ("sqrt_chi2", "state", 0.1),
    ("sqrt_chi2", "state", 1.0),
    ("kl", "state_action", 0.5),
    ("kl", "state_action", 5.0),
}
"""the cells of tests/plugin/conf/experiment/methods.yaml"""


def cell(run: Run) -> tuple[str, str, float]:
    return run.option("divergence"), run.divergence.over, run.coeff


def below(outputs: str) -> set[str]:
    return {str(path.parent) for path in Path(outputs).rglob("result.json")}


@pytest.fixture
def table(here: None) -> Callable[[str], list[Run]]:
    return lambda words: compose_all(
        ["experiment=methods", *words.split()], multirun=True, config_dir=str(PLUGIN / "conf")
    )


def test_it_is_the_union_of_its_lines_each_run_once_seed_by_seed(table: Callable) -> None:
    runs = table("")
    assert {(cell(run), run.seed) for run in runs} == {(method, seed) for method in METHODS for seed in (0, 1)}
    assert len({run.dir for run in runs}) == len(runs) == 2 * len(METHODS)
    assert [run.seed for run in runs] == [0] * len(METHODS) + [1] * len(METHODS)


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("seed=7", METHODS),
        ("divergence=kl", {m for m in METHODS if m[0] == "kl"}),
        ("divergence=kl,none", {m for m in METHODS if m[0] in ("kl", "none")}),
        ("coeff=0.10", {m for m in METHODS if m[2] == 0.1}),
        ("coeff=1.0 divergence.over=state", {("sqrt_chi2", "state", 1.0)}),
        ("task.lr=0.5 scale=small", METHODS),
    ],
)
def test_the_command_line_selects_and_never_mixes_methods(table: Callable, words: str, kept: set) -> None:
    runs = table(words)
    assert {cell(run) for run in runs} == kept
    assert {run.seed for run in runs} == ({7} if "seed" in words else {0, 1})
    assert all(run.task.lr == 0.5 and run.option("scale") == "small" for run in runs if "task.lr" in words)


def test_one_run_of_it_is_in_the_same_directory(table: Callable) -> None:
    words = ["experiment=methods", "divergence=sqrt_chi2", "coeff=0.1", "divergence.over=state", "seed=1"]
    (one,) = compose_all(words, config_dir=str(PLUGIN / "conf"))
    assert one.dir == "outputs/methods/tomato/sqrt_chi2-coeff=0.1-divergence.over=state/seed=1"
    assert one.dir in {run.dir for run in table("")}


def test_what_it_does_not_hold_is_said(in_process: Callable) -> None:
    code, _, said = in_process("experiment=methods -m divergence=kl coeff=0.1")
    assert code == 2 and "where: coeff=0.1" in said and "choose of 0.5, 5" in said
    code, _, said = in_process("experiment=methods -m divergence=none,sqrt_ch2")  # one typo of two
    assert code == 2 and "where: divergence=none,sqrt_ch2" in said and "choose of none, sqrt_chi2, kl" in said
    code, _, said = in_process("experiment=method -m")
    assert code == 2 and "did you mean 'methods'" in said
    assert not Path("outputs").exists()


def test_it_is_finished_by_repeating_and_a_launcher_gets_the_same_jobs(rhtool: CommandLine) -> None:
    done = rhtool("experiment=methods -m divergence=none,kl hydra/launcher=elsewhere")
    assert done.returncode == 0 and done.stderr.count("done  methods/") == 6, done.stderr
    (rhtool.cwd / "outputs/methods/tomato/kl-coeff=5/seed=1/result.json").unlink()
    done = rhtool("experiment=methods -m")
    assert done.returncode == 0 and done.stderr.count("done, skipped") == 5, done.stderr
    assert done.stderr.count("done  methods/") == 14 - 5
    assert len(below(str(rhtool.cwd))) == 14


def test_two_processes_share_it(rhtool: CommandLine) -> None:
    both = [rhtool.start("experiment=methods -m task.step_seconds=0.3") for _ in range(2)]
    said = [process.communicate(timeout=100)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    began = [text.count("done  methods/") for text in said]
    assert sum(began) == len(below(str(rhtool.cwd))) == 14 and min(began) >= 2


def test_help_and_ls_know_it(in_process: Callable) -> None:
    _, text, _ = in_process("--help")
    assert "methods Two methods with coefficients of their own, and one with none." in " ".join(text.split())
    _, text, _ = in_process("experiment=methods --help")
    assert "-m divergence=kl coeff=0.5,5 seed=range(2)" in text and "task.iterations  int = 2" in text
    _, text, _ = in_process("experiment=table --help")
    assert "\n  -m coeff=0,0.5 seed=range(2)\n" in text
    _, text, _ = in_process("task=ls")
    for name in (*EXPERIMENTS, "methods", "table"):
        assert name in text


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_shipped_experiment_is_a_table_with_its_own_rows(experiment: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = compose_all([f"experiment={experiment}", "seed=0"], multirun=True)
    assert len({run.dir for run in runs}) == len(runs) > 1
    for run in runs:
        assert run.dir.split(os.sep)[:2] == ["outputs", experiment]
        assert run.option("scale") == "paper"
        assert experiment.endswith(run.option("env")) or "env" not in run.task.uses
        assert (run.coeff != 0) == (run.option("divergence") != "none")
        run.check_values()
    if len({run.option("divergence") for run in runs}) > 1:
        assert any(run.option("divergence") == "none" and run.env.reward_fun == "proxy" for run in runs)
