"""What a user may get wrong with models and texts: it is said before anything is trained, or ends the run with what it was."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from rhtool.errors import ConfigError, RhtoolError
from rhtool.models import SAVED, Model
from rhtool.rewards.python import Python
from rhtool.rewards.rm import Rm
from rhtool.run import Run
from rhtool.tasks.bon import Bon
from rhtool.tasks.rlhf_ppo import RlhfPpo
from rhtool.tasks.rm_train import RmTrainTexts
from rhtool.tasks.sft import Sft
from tests.lm.small import SMALL, Words

pytest.importorskip("trl")
import torch
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.lm
SAMPLING = {"max_prompt": 32, "max_new_tokens": 8}


def counted(prompts, answers, columns):
    return [float(len(answer)) for answer in answers]


def unknown(prompts, answers, columns):
    return [float("nan") if i == 1 else 1.0 for i in range(len(answers))]


@dataclass
class Wordy(Words):
    """One row's prompt is longer than the context of the models."""

    def demonstrations(self, split):
        rows = super().demonstrations(split)
        rows[3]["prompt"] = [{"role": "user", "content": "say " + "cat dog bee ant fox " * 30}]
        return rows

    prompts = demonstrations


def make(task: str, path: Path, model: str | Path, data=None, reward=None, **options) -> Run:
    """A run of a task by its name; `options` are the task's."""
    fit = {"passes": 1, "minibatch": 16, "max_length": 48}
    ppo = {"iterations": 1, "rollouts": 8, "minibatch": 8, "eval_prompts": 8, **SAMPLING}
    made = {
        "sft": lambda: Sft(**fit | options),
        "rm_train": lambda: RmTrainTexts(**fit | options),
        "rlhf_ppo": lambda: RlhfPpo(**ppo | options),
        "bon": lambda: Bon(**{"answers": 2, "prompts": 8, **SAMPLING} | options),
    }
    reward = reward or Python(function="tests.lm.test_bad_input:counted")
    model = Model(path=str(model))
    return Run(task=made[task](), model=model, data=data or Words(), reward=reward, dir=str(path))


def changed(source: Path, path: Path, file: str, **keys) -> Path:
    """A copy of a model's folder with other keys in one of its JSON files; None: without the key."""
    shutil.copytree(source, path)
    known = json.loads((path / file).read_text()) | keys
    (path / file).write_text(json.dumps({key: value for key, value in known.items() if value is not None}))
    return path


@pytest.mark.parametrize(
    ("task", "option", "fits", "cut"),
    [
        ("sft", "max_length", SMALL["context"], "2 of 80 texts"),
        ("rm_train", "max_length", SMALL["context"], "4 of 160 texts"),
        ("rlhf_ppo", "max_prompt", SMALL["context"] - 8, "2 of 72 prompts"),
        ("bon", "max_prompt", SMALL["context"] - 8, "1 of 8 prompts"),
    ],
)
def test_texts_longer_than_the_context_are_refused_and_those_that_are_cut_are_counted(
    task, option, fits, cut, sft_run, tmp_path, caplog
):
    with pytest.raises(ConfigError, match=rf"exceeds? the model's context of {SMALL['context']}") as error:
        make(task, tmp_path / "long", sft_run, Wordy(), **{option: 520}).execute()
    assert f"task.{option}={fits} " in error.value.mend
    make(task, tmp_path / "cut", sft_run, Wordy()).execute()
    assert f"{cut} are longer than task.{option}=" in caplog.text


@pytest.mark.parametrize("task", ["rlhf_ppo", "bon"])
def test_answers_longer_than_the_context_are_refused(task, sft_run, tmp_path):
    with pytest.raises(ConfigError, match="leave no room for a prompt"):
        make(task, tmp_path / "run", sft_run, max_new_tokens=SMALL["context"]).execute()


def test_a_reward_model_with_two_labels_is_refused_before_anything_is_loaded(reward_run, sft_run, tmp_path):
    labels = {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
    two = changed(reward_run / SAVED, tmp_path / "two", "config.json", **labels)
    weights = load_file(two / "model.safetensors")
    save_file(
        weights | {"score.weight": weights["score.weight"].repeat(2, 1)}, two / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(RhtoolError, match="2 labels") as error:
        make("rlhf_ppo", tmp_path / "run", sft_run, reward=Rm(model=str(two))).check()
    assert "reward.model" in error.value.where
    with pytest.raises(RhtoolError, match="2 labels"):
        make("rm_train", tmp_path / "run", two).execute()
    with pytest.raises(RhtoolError, match="it is GPTNeoXForCausalLM"):
        make("rlhf_ppo", tmp_path / "other", sft_run, reward=Rm(model=str(sft_run))).check()


def test_a_tokenizer_without_a_chat_template_is_refused_unless_one_is_named(reward_run, sft_run, tmp_path):
    folders = {}
    for name, source in (("policy", sft_run), ("judge", reward_run)):
        folders[name] = changed(source / SAVED, tmp_path / name, "tokenizer_config.json", chat_template=None)
        (folders[name] / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(RhtoolError, match="no chat template") as error:
        make("sft", tmp_path / "run", folders["policy"]).execute()
    assert "model.template=" in error.value.mend
    with pytest.raises(RhtoolError, match="no chat template") as error:
        make("rlhf_ppo", tmp_path / "other", sft_run, reward=Rm(model=str(folders["judge"]))).execute()
    assert "reward.template=" in error.value.mend
    named = [Rm(model=str(path), template=t) for path, t in ((folders["judge"], "oasst"), (reward_run, ""))]
    row, answers = {"prompt": [{"role": "user", "content": "say cat dog"}]}, ["cat dog", "cow"]
    one, other = (reward.load()([row, row], answers, [True, False]) for reward in named)
    assert torch.equal(one, other)


def test_a_tokenizer_without_a_pad_token_will_do(sft_run, tmp_path):
    without = changed(sft_run / SAVED, tmp_path / "model", "tokenizer_config.json", pad_token=None)
    results = []
    for model in (without, sft_run):
        found = make("sft", tmp_path / f"run{len(results)}", model).execute()["metrics"]
        results.append({key: value for key, value in found.items() if not key.startswith("time/")})
    assert results[0] == results[1]  # padding never counts


def test_a_proxy_that_is_not_finite_ends_best_of_n_and_keeps_the_answers(sft_run, tmp_path):
    run = make("bon", tmp_path / "run", sft_run, reward=Python(function="tests.lm.test_bad_input:unknown"))
    with pytest.raises(RhtoolError, match="1 of 8 answers is not finite"):
        run.execute()
    kept = [json.loads(line) for line in (tmp_path / "run" / "bad_scores.jsonl").read_text().splitlines()]
    assert len(kept) == 8 and all({"prompt", "answer", "judges"} <= line.keys() for line in kept)
    assert [line["proxy"] == line["proxy"] for line in kept].index(False) == 1
