"""ODIN: a reward model's score without what an answer's length explains."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

import pytest

from rhtool.config import compose
from rhtool.errors import ConfigError, RhtoolError
from rhtool.models import SAVED, Lora, Model
from rhtool.rewards.rm import Rm
from rhtool.run import Run
from rhtool.tasks.rm_train import RmTrainTexts
from tests.lm.small import WORDS, Words, small

pytest.importorskip("trl")
import numpy as np
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.lm


@dataclass
class Longer(Words):
    """Pairs in which the longer answer wins, mostly, and one that begins with `cat` more often than not."""

    def preferences(self, split):
        draw, rows = random.Random(split), []
        for _ in range(self.size if split == "train" else 64):
            answers = [" ".join(draw.choices(["cat", "dog"], k=draw.randint(1, 8))) for _ in range(2)]
            worth = [len(text.split()) + 2 * text.startswith("cat") + draw.random() for text in answers]
            good, bad = sorted(zip(worth, answers, strict=True), reverse=True)
            prompt = [{"role": "user", "content": f"say {draw.choice(WORDS)}"}]
            rows.append({"prompt": prompt, "chosen": good[1], "rejected": bad[1]})
        return rows


def train(path, length_weight, **model) -> dict[str, float]:
    task = RmTrainTexts(passes=6, minibatch=32, lr=3e-3, max_length=48, l2=0.0, length_weight=length_weight)
    return Run(task=task, model=small(**model), data=Longer(size=192), dir=str(path)).execute()["metrics"]


def test_the_correlation_is_pearsons():
    from rhtool.lm.odin import correlation

    x, y = np.random.default_rng(0).normal(size=(2, 20))
    assert correlation(torch.tensor(x), torch.tensor(y)).item() == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert correlation(torch.ones(5), torch.arange(5.0)) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("odin")
    return root, {name: train(root / name, weight) for name, weight in (("plain", 0.0), ("odin", 1.0))}


def test_what_length_explains_is_not_in_the_score(trained):
    _, metrics = trained
    plain, odin = (metrics[name]["rm/length_correlation"] for name in ("plain", "odin"))
    assert plain > 0.8 and abs(odin) < 0.5 * plain


def test_the_model_has_one_score_and_it_is_the_one_that_was_measured(trained):
    root, metrics = trained
    assert json.loads((root / "odin" / SAVED / "config.json").read_text()).get("num_labels", 1) == 1
    reward = Rm(model=str(root / "odin"), max_length=48)
    reward.check()
    rows = Longer(size=192).preferences("validation")
    scores = reward.load()
    chosen, rejected = (scores(rows, [row[k] for row in rows], [True] * len(rows)) for k in ("chosen", "rejected"))
    both = torch.cat([chosen, rejected])
    assert chosen.shape == (64, 1)
    assert float(both.mean()) == pytest.approx(metrics["odin"]["rm/score/mean"], abs=1e-4)
    assert float((chosen > rejected).float().mean()) == pytest.approx(
        metrics["odin"]["rm/validation_accuracy"], abs=0.02
    )


def test_adapters_have_one_score_too(tmp_path):
    metrics = train(tmp_path / "run", 1.0, lora=Lora(r=4))
    rows = Longer(size=192).preferences("validation")
    scores = Rm(model=str(tmp_path / "run"), max_length=48).load()
    merged = scores(rows, [row["chosen"] for row in rows], [True] * len(rows))
    assert float(merged.mean()) == pytest.approx(metrics["rm/score/chosen"], abs=1e-3)
    adapter = load_file(tmp_path / "run" / SAVED / "adapter" / "adapter_model.safetensors")
    assert {len(weight) for name, weight in adapter.items() if "score" in name} == {1}


@pytest.mark.parametrize("words", [["task.length_weight=-1"], ["task.length_weight=1", "accelerate=zero3"]])
def test_what_it_cannot_do_is_refused(words):
    with pytest.raises(ConfigError, match="length_weight"):
        run = compose("task=rm_train", "model=tiny", "data=toy", *words)
        run.task.check(run)


def test_a_classifier_of_one_score_is_no_beginning_of_two(trained, tmp_path):
    root, _ = trained
    task = RmTrainTexts(max_length=48, length_weight=1.0)
    with pytest.raises(RhtoolError, match="2 scores is wanted, and this one has 1"):
        Run(task=task, model=Model(path=str(root / "plain")), data=Longer(), dir=str(tmp_path / "run")).execute()
