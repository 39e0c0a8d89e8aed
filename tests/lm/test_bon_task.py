"""task=bon: answers drawn once, selections from them, and the same after an interruption."""

from __future__ import annotations

import json

import pytest

from rhtool.errors import RhtoolError
from rhtool.models import Model
from rhtool.rewards.python import Python
from rhtool.run import Run
from rhtool.tasks.bon import Bon
from tests.lm.small import Words, interrupted

pytest.importorskip("trl")
import numpy as np
import pandas as pd

pytestmark = pytest.mark.lm


def judges(prompts, answers, columns):
    """Three: how often an answer says cow, how long it is, and whether it begins as it should."""
    references = columns["answer"]
    return [
        [float(a.count("cow")), float(len(a.split())), float(a.split()[:1] == r.split()[:1])]
        for a, r in zip(answers, references, strict=True)
    ]


def make(path, sft_run, **task) -> Run:
    task = {"answers": 12, "prompts": 8, "max_new_tokens": 8, "max_prompt": 32, "soft_n": 4} | task
    reward = Python(function="tests.lm.test_bon_task:judges")
    return Run(
        task=Bon(**task),
        model=Model(path=str(sft_run)),
        data=Words(),
        reward=reward,
        dir=str(path),
        checkpoint_every=0.0,
    )


@pytest.fixture(scope="module")
def finished(sft_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("bon") / "run"
    return path, make(path, sft_run).execute()["metrics"]


def test_the_table_of_answers_is_what_was_scored(finished):
    path, metrics = finished
    table = pd.read_parquet(path / "answers.parquet")
    assert len(table) == 12 * 8 and table.groupby("row").draw.nunique().eq(12).all()
    assert (table["judge_0"] == [float(a.count("cow")) for a in table.answer]).all()
    assert metrics["base/proxy/return"] == pytest.approx(table.proxy.mean())
    assert metrics["base/true/return"] == pytest.approx(table.true.mean())
    assert table.groupby("row").answer.nunique().max() > 1  # draws differ


def test_one_answer_is_the_base_policy_and_all_are_the_best(finished):
    path, metrics = finished
    table = pd.read_csv(path / "selection.csv")
    own = table[(table.proxy_name == "proxy") & (table.method == "best_of_n") & ~table.tuned].set_index("strength")
    assert own.proxy[1] == pytest.approx(metrics["base/proxy/return"]) and own.kl[1] == 0
    assert own.proxy.is_monotonic_increasing
    answers = pd.read_parquet(path / "answers.parquet")
    every = [(len(rows), rows.proxy.max()) for _, rows in answers.groupby("row")]
    assert own.proxy[8] <= np.mean([best for _, best in every]) + 1e-9
    assert metrics["proxy/return"] == own.proxy[8] and metrics["bon/n"] == 8


def test_every_combination_of_judges_and_every_judge_has_curves(finished):
    path, _ = finished
    table = pd.read_csv(path / "selection.csv")
    assert {*table.proxy_name} == {"proxy", "mean", "wco", "uwo", "judge_0", "judge_1", "judge_2"}
    assert {*table.method} == {"best_of_n", "best_of_poisson", "soft_best_of_n"}
    for _, part in table.groupby(["proxy_name", "method"]):
        assert part.tuned.sum() == 1
    of_n = table[table.method == "best_of_n"]
    for _, part in of_n.groupby("proxy_name"):  # the tuned n is the best of all
        assert part[part.tuned].true.max() >= part.true.max() - 1e-9
    assert (path / "figures" / "best_of_n.png").stat().st_size > 10_000


def test_a_killed_run_ends_as_one_that_was_not(finished, sft_run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        interrupted(patch, 5)
        make(tmp_path / "killed", sft_run).execute()
    make(tmp_path / "killed", sft_run).execute()
    path, metrics = finished
    assert json.loads((tmp_path / "killed" / "result.json").read_text())["metrics"] == metrics
    one, other = (pd.read_parquet(p / "answers.parquet") for p in (path, tmp_path / "killed"))
    pd.testing.assert_frame_equal(one, other)


def test_without_a_true_reward_there_is_nothing_to_compare_with(sft_run, tmp_path):
    run = make(tmp_path / "run", sft_run)
    run.data.true_reward = lambda: None
    with pytest.raises(RhtoolError, match="no true reward"):
        run.check()
