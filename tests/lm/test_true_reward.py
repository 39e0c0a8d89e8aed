"""A true reward that is named: a reward model or a function, for data that have none."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from rhtool.data.base import Data
from rhtool.data.toy import Toy
from rhtool.errors import ConfigError, RhtoolError
from rhtool.models import SAVED, Model
from rhtool.rewards.python import Python
from rhtool.rewards.true import TrueReward
from rhtool.run import Run
from rhtool.tasks.bon import Bon
from rhtool.tasks.rlhf_ppo import RlhfPpo
from tests.lm.small import Words

pytest.importorskip("trl")
import pandas as pd
import torch

pytestmark = pytest.mark.lm
SAMPLING = {"max_prompt": 32, "max_new_tokens": 8}
TASKS = {
    "rlhf_ppo": lambda: RlhfPpo(iterations=1, rollouts=8, minibatch=8, epochs=1, eval_prompts=8, **SAMPLING),
    "bon": lambda: Bon(answers=4, prompts=8, soft_n=2, **SAMPLING),
}


@dataclass
class Untold(Words):
    """Words without a true reward of their own."""

    def true_reward(self):
        return Data.true_reward(self)


def length(prompts, answers, columns, unit=1.0):
    """As long as what was asked for."""
    return [unit * len(a) / len(r) for a, r in zip(answers, columns["answer"], strict=True)]


def missing(prompts, answers, columns):
    return [float("inf")] * len(answers)


def make(task, path, sft_run, **true) -> Run:
    data, reward = Untold(true_by=TrueReward(**true)), Python(function="tests.lm.test_rlhf_ppo:cows")
    return Run(task=TASKS[task](), model=Model(path=str(sft_run)), data=data, reward=reward, dir=str(path), seed=1)


def answers_of(path, task) -> list[tuple[list[dict[str, str]], str, float]]:
    """(prompt, answer, true reward) of what a run sampled on held-out prompts."""
    if task == "rlhf_ppo":
        lines = map(json.loads, (path / "eval" / "step_000001.jsonl").read_text().splitlines())
        return [(line["prompt"], line["answer"], line["true"]) for line in lines]
    rows = Untold().prompts("validation")
    return [(rows[x.row]["prompt"], x.answer, x.true) for x in pd.read_parquet(path / "answers.parquet").itertuples()]


@pytest.mark.parametrize("task", TASKS)
def test_a_reward_model_gives_the_true_reward(task, sft_run, reward_run, tmp_path):
    """Its score in plain transformers, of the prompt and the answer with its end."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    metrics = make(task, tmp_path / "run", sft_run, model=str(reward_run)).execute()["metrics"]
    tokenizer = AutoTokenizer.from_pretrained(reward_run / SAVED)
    model = AutoModelForSequenceClassification.from_pretrained(reward_run / SAVED).eval()
    found = answers_of(tmp_path / "run", task)
    for prompt, answer, true in found:
        text = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": answer}], tokenize=False)
        with torch.no_grad():
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            assert float(model(ids).logits) == pytest.approx(true, abs=1e-4)
    key = "true/return" if task == "rlhf_ppo" else "base/true/return"
    assert metrics[key] == pytest.approx(sum(true for *_, true in found) / len(found))


@pytest.mark.parametrize("task", TASKS)
def test_a_function_gives_the_true_reward(task, sft_run, tmp_path):
    options = {"function": "tests.lm.test_true_reward:length", "options": {"unit": 2.0}}
    make(task, tmp_path / "run", sft_run, **options).execute()
    for prompt, answer, true in answers_of(tmp_path / "run", task):
        asked = prompt[-1]["content"].removeprefix("say ")
        assert true == pytest.approx(2 * len(answer) / len(asked))


def test_it_takes_the_place_of_the_program_of_the_toy_language():
    rows = Toy(n_prompts=12).prompts("train")
    answers, named = [row["reference"] for row in rows], TrueReward(function="tests.lm.test_true_reward:kinds")
    assert Toy().true_reward()(rows, answers) == [1.0] * 12
    assert Toy(true_by=named).true_reward()(rows, answers) == kinds([], answers, {"kind": [r["kind"] for r in rows]})


def kinds(prompts, answers, columns):
    return [float(len(kind)) for kind in columns["kind"]]


@pytest.mark.parametrize(
    ("true", "said"),
    [
        ({"model": "./nowhere"}, "no reward model at"),
        ({"function": "nowhere:f"}, "nowhere"),
        ({"model": "x", "function": "y:z"}, "a model's or a function's"),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_one_that_is_not_there_is_refused_before_anything_is_done(task, true, said, sft_run, tmp_path):
    with pytest.raises((ConfigError, RhtoolError), match=said) as error:
        make(task, tmp_path / "run", sft_run, **true).check()
    assert "data.true_by" in error.value.where


def test_a_true_reward_that_is_not_finite_ends_the_run(sft_run, tmp_path):
    with pytest.raises(RhtoolError, match=r"true reward of the answer .* is inf"):
        make("bon", tmp_path / "run", sft_run, function="tests.lm.test_true_reward:missing").execute()
