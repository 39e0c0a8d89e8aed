"""task=rer_eval: what it says of runs is what their files say, judged by whoever is asked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from rhtool.config import compose
from rhtool.data.base import Data
from rhtool.data.jsonl import Jsonl
from rhtool.errors import ConfigError, RhtoolError
from rhtool.feedback.base import Feedback
from rhtool.feedback.toy import Toy
from rhtool.models import SAVED, Model
from rhtool.results.comparisons import COMPARISONS
from rhtool.rewards.base import Reward
from rhtool.rewards.python import Python
from rhtool.rewards.true import TrueReward
from rhtool.run import Run
from rhtool.tasks.rer_eval import RerEval
from tests.lm.small import Words, interrupted
from tests.lm.test_rlhf_ppo import make as make_ppo
from tests.results.test_monotonicity import write

pytest.importorskip("trl")
import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.lm


def length(prompts, answers, columns):
    """A true reward of one's own: letters."""
    return [float(len(answer)) for answer in answers]


@dataclasses.dataclass
class Judged(Words):
    """Words, with a program that knows a principle."""

    def principles(self):
        return {"helpfulness": lambda row, text: float(len(text))}


def make(to: Path, data=None, feedback=None, reward=None, **task) -> Run:
    return Run(
        task=RerEval(**task),
        data=data or Data(),
        feedback=feedback or Feedback(),
        reward=reward or Reward(),
        dir=str(to),
        checkpoint_every=0.0,
    )


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def ppo(sft_run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ppo") / "hacked" / "seed=0"
    make_ppo(path, sft_run, iterations=4, eval_every=1).execute()
    return path


def test_a_trained_run_from_its_evaluations_to_the_picture(ppo, tmp_path):
    judge = Toy(noise=0, position_bias=0)
    tax = tmp_path / "tax.jsonl"
    rows = [{"prompt": f"say {a} dog", "references": [f"{a} dog", "cow"], "task": a} for a in ("cat", "bee", "cat")]
    tax.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = make(
        tmp_path / "run", Judged(), judge, path=str(ppo), against="base", tax=str(tax), max_new_tokens=8, max_prompt=32
    )
    metrics = run.execute()["metrics"]
    files = sorted((ppo / "eval").glob("*.jsonl"))
    assert len(files) == 5 and metrics["steps"] == 5 * 16
    means = {name: [np.mean([line[name] for line in lines_of(file)]) for file in files] for name in ("proxy", "true")}
    table = pd.read_csv(run.path / "evaluations.csv")
    for name, expected in means.items():
        assert table[name].tolist() == pytest.approx(expected)
    assert metrics["rer/hacked/proxy_gain"] == pytest.approx(means["proxy"][-1] - means["proxy"][0])
    assert metrics["rer/hacked/lost"] == pytest.approx(max(means["true"]) - means["true"][-1])
    assert metrics["rer/hacked/peak_step"] == table.step[int(np.argmax(means["true"]))]
    assert pd.read_csv(run.path / "monotonicity.csv").over.tolist() == ["prompts"]
    assert (run.path / "figures/monotonicity.png").stat().st_size > 10_000

    first, last = lines_of(files[0]), lines_of(files[-1])
    wins = [(np.sign(len(a["answer"]) - len(b["answer"])) + 1) / 2 for a, b in zip(last, first, strict=True)]
    assert metrics["rer/hacked/win_rate"] == pytest.approx(np.mean(wins))
    said = lines_of(run.path / COMPARISONS)
    assert [line["win"] for line in said] == wins
    assert {line.get("first") for line in said if line["a"] != line["b"]} == {"a", "b"}

    answers = lines_of(run.path / "tax.jsonl")
    assert answers[0]["answer"] == answers[2]["answer"]  # greedy
    assert metrics["rer/hacked/tax"] == pytest.approx(
        np.mean([line["base_rouge_l"] - line["rouge_l"] for line in answers])
    )
    per_task = pd.read_csv(run.path / "tax.csv")
    assert per_task.task.tolist() == ["all", "cat", "bee"] and per_task.prompts.tolist() == [3, 2, 1]


def test_the_base_policy_says_what_its_model_says(ppo, sft_run):
    from rhtool.lm.tax import greedy
    from rhtool.results.tax import models_of

    rows = [{"prompt": [{"role": "user", "content": f"say {a} dog"}]} for a in ("cat", "bee", "ant")]
    _, base = models_of(ppo)
    alone = [greedy(Model(path=str(sft_run)), [row], 32, 8, 1)[0] for row in rows]
    assert greedy(base, rows, 32, 8, 2) == alone == [likeliest(sft_run, row) for row in rows]


def likeliest(run: Path, row: dict, longest: int = 8) -> str:
    """The answer whose every token is the likeliest one, a forward pass of all before it each."""
    tokenizer = AutoTokenizer.from_pretrained(run / SAVED)
    model = AutoModelForCausalLM.from_pretrained(run / SAVED).eval()
    ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
    start = len(ids)
    while len(ids) < start + longest and tokenizer.eos_token_id not in ids[start:]:
        with torch.no_grad():
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_seeds_are_one_group_and_other_rewards_judge_anew(tmp_path):
    for name in ("long/seed=0", "long/seed=1", "short/seed=0"):
        write(tmp_path / "runs" / name)
    data = Data(true_by=TrueReward(function="tests.lm.test_rer_eval:length"))
    reward = Python(function="tests.lm.test_rlhf_ppo:cows")
    run = make(tmp_path / "run", data, reward=reward, path=str(tmp_path / "runs"))
    metrics = run.execute()["metrics"]
    table = pd.read_csv(run.path / "monotonicity.csv").set_index("group")
    assert table.runs.to_dict() == {"long": 2, "short": 1}
    assert metrics["rer/long/true_gain"] == metrics["rer/long/proxy_gain"] == 0  # "0 1" and "8 1", no cows
    assert metrics["rer/long/spearman"] is None
    kept = make(tmp_path / "kept", path=str(tmp_path / "runs/short/seed=0")).execute()["metrics"]
    assert kept["rer/short/spearman"] == -1 and kept["rer/short/peak_step"] == 0 and kept["rer/short/true_gain"] == -8


def test_without_a_true_reward_it_says_who_could_give_one(tmp_path):
    path = write(tmp_path / "runs/a")
    for file in (path / "eval").glob("*.jsonl"):
        file.write_text("".join(json.dumps({k: v for k, v in x.items() if k != "true"}) + "\n" for x in lines_of(file)))
    with pytest.raises(RhtoolError, match="no true reward"):
        make(tmp_path / "run", path=str(path)).execute()


def test_win_rates_by_the_true_reward_against_another_run_and_references(tmp_path):
    mine, theirs = write(tmp_path / "mine"), write(tmp_path / "theirs", steps=(0, 4, 800), true=-8.0)
    (tmp_path / "data.jsonl").write_text(
        "".join(json.dumps({"prompt": f"q{i}", "answer": "x" * i}) + "\n" for i in range(3))
    )
    by = TrueReward(function="tests.lm.test_rer_eval:length")
    options = {"path": str(mine), "judged_by": "true", "monotonicity": False}
    for name, against, data, expected in (
        ("equal", str(theirs), Data(), 0.5),
        ("letters", str(theirs), Data(true_by=by), 0.0),
        (
            "references",
            "reference",
            Jsonl(path=str(tmp_path / "data.jsonl"), validation_path=str(tmp_path / "data.jsonl"), true_by=by),
            1.0,
        ),
    ):
        found = make(tmp_path / name, data, against=against, **options).execute()["metrics"]
        assert found["rer/mine/win_rate"] == expected, name
        assert found["rer/mine/win_rate_low"] <= expected <= found["rer/mine/win_rate_high"]


def test_a_run_is_not_compared_with_itself(tmp_path):
    """Against one of the runs, all others are; against nothing but itself it is refused."""
    one, other = write(tmp_path / "runs/one"), write(tmp_path / "runs/other", steps=(0, 4, 800))
    options = {"against": str(one), "judged_by": "true"}
    metrics = make(tmp_path / "run", path=str(tmp_path / "runs"), **options).execute()["metrics"]
    assert metrics["rer/other/win_rate"] == 0 and "rer/one/win_rate" not in metrics  # -800 against -8
    assert pd.read_csv(tmp_path / "run/win_rates.csv").run.tolist() == [str(other)]
    with pytest.raises(ConfigError, match="with itself"):
        make(tmp_path / "alone", path=str(one), **options).execute()


def test_a_biased_judge_is_fooled_half_of_the_time(tmp_path):
    mine, theirs = write(tmp_path / "mine", prompts=200), write(tmp_path / "theirs", steps=(0, 4, 9), prompts=200)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"q{i}"}) + "\n" for i in range(200)))

    @dataclasses.dataclass
    class Equal(Jsonl):
        def principles(self):
            return {"helpfulness": lambda row, text: 0.0}

    judge, rows = Toy(noise=0, position_bias=3.0), Equal(path=str(data), validation_path=str(data))
    run = make(tmp_path / "run", rows, judge, path=str(mine), against=str(theirs), monotonicity=False)
    metrics = run.execute()["metrics"]
    assert metrics["feedback/position_bias"] == 0.5
    assert metrics["rer/mine/win_rate_low"] < 0.5 < metrics["rer/mine/win_rate_high"]


def test_a_killed_evaluation_goes_on_to_the_same_result(tmp_path, monkeypatch):
    mine = write(tmp_path / "mine", prompts=40)
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"q{i}"}) + "\n" for i in range(40)))
    by = TrueReward(function="tests.lm.test_rer_eval:length")
    asked = []

    @dataclasses.dataclass
    class Counting(Jsonl):
        def principles(self):
            return {"helpfulness": lambda row, text: asked.append(text) or float(len(text))}

    def made(name):
        data = Counting(path=str(file), validation_path=str(file), true_by=by)
        return make(tmp_path / name, data, Toy(), path=str(mine), against="base")

    whole = made("whole").execute()["metrics"]
    count = len(asked)
    asked.clear()
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        interrupted(patch, 4)  # after the three evaluations, and some of the comparisons
        made("killed").execute()
    assert made("killed").execute()["metrics"] == whole
    assert count <= len(asked) < 2 * count
    assert (tmp_path / "killed" / COMPARISONS).read_bytes() == (tmp_path / "whole" / COMPARISONS).read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no run is named"),
        (["task.path=nowhere"], "no evaluations of a run"),
        (["task.path=mine", "task.from_step=4"], "2 evaluations from step 4"),
        (["task.path=mine", "task.monotonicity=false"], "nothing to do"),
        (["task.path=mine", "task.against=base"], "nobody gives feedback"),
        (["task.path=mine", "task.against=base", "task.principle=helpfulnes"], "no principle"),
        (["task.path=mine", "task.against=reference", "task.judged_by=true"], "nobody gives references"),
        (["task.path=mine", "task.against=theirs", "task.judged_by=true"], "no evaluations of a run"),
        (["task.path=mine", "task.tax=mine/eval/step_000000.jsonl"], "no list of reference answers"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("mine"))
    with pytest.raises((ConfigError, RhtoolError), match=said):
        compose("task=rer_eval", *words).check()


def test_a_run_without_a_policy_has_no_tax(tmp_path):
    file = tmp_path / "tax.jsonl"
    file.write_text('{"prompt": "q", "references": ["a"]}\n')
    with pytest.raises(RhtoolError, match="saved no policy"):
        make(tmp_path / "run", path=str(write(tmp_path / "mine")), tax=str(file)).check()


def test_the_data_must_be_those_of_the_run(tmp_path):
    with pytest.raises(RhtoolError, match="3 of 3 prompts"):
        make(tmp_path / "run", Words(), path=str(write(tmp_path / "mine"))).execute()
