"""Fine-tuning and reward models as runs: they learn, they resume to the same result, and nothing is a pickle."""

from __future__ import annotations

import json
import math

import pytest

from rhtool.errors import RhtoolError
from rhtool.models import SAVED, Lora
from rhtool.run import Run
from rhtool.tasks.rm_train import RmTrainTexts
from rhtool.tasks.sft import Sft
from tests.lm.small import Words, interrupted, small

pytest.importorskip("trl")
import pandas as pd
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.lm
TASKS = {
    "sft": lambda: Sft(passes=2, minibatch=16, lr=3e-3, max_length=48, every=2, warmup=2),
    "rm_train": lambda: RmTrainTexts(passes=2, minibatch=16, lr=1e-3, max_length=48, every=2),
}


def run(task, path, **model) -> Run:
    return Run(task=TASKS[task](), model=small(**model), data=Words(), dir=str(path), seed=2, checkpoint_every=0.0)


def outcome(path):
    """Metrics, rows and weights of a finished run."""
    metrics = json.loads((path / "result.json").read_text())["metrics"]
    rows = pd.read_csv(path / "metrics.csv").drop(columns="time/seconds")
    return metrics, rows, load_file(path / SAVED / "model.safetensors")


@pytest.mark.parametrize("model", [{}, {"lora": Lora(r=2)}, {"layers_unfrozen": 1}], ids=["full", "lora", "top"])
@pytest.mark.parametrize("task", TASKS)
def test_a_killed_run_ends_as_one_that_was_not(task, model, tmp_path, monkeypatch):
    run(task, tmp_path / "whole", **model).execute()
    for after in (5, 6):  # in the second pass, twice
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            interrupted(patch, after)
            run(task, tmp_path / "killed", **model).execute()
    torch.rand(3)  # what else the process draws must not matter
    run(task, tmp_path / "killed", **model).execute()
    (metrics, rows, weights), (again, rows_again, weights_again) = (outcome(tmp_path / x) for x in ("whole", "killed"))
    assert metrics == again
    pd.testing.assert_frame_equal(rows, rows_again)
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)
    assert len(rows) == 8
    pickles = [p for p in tmp_path.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert pickles == []


@pytest.mark.parametrize("task", TASKS)
def test_a_run_killed_in_its_last_evaluation_ends_as_one_that_was_not(task, tmp_path, monkeypatch):
    from rhtool.lm import loading

    def killed(*args):
        raise MemoryError("killed")

    run(task, tmp_path / "whole").execute()
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(loading, "save", killed)
        run(task, tmp_path / "killed").execute()
    run(task, tmp_path / "killed").execute()
    (metrics, _, weights), (again, _, weights_again) = (outcome(tmp_path / x) for x in ("whole", "killed"))
    assert metrics == again
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


def test_fine_tuning_learns_the_answers(sft_run):
    found = json.loads((sft_run / "result.json").read_text())["metrics"]
    rows = pd.read_csv(sft_run / "metrics.csv")
    assert rows["sft/loss"].iloc[0] > 5 and found["sft/validation_loss"] < 2.5
    assert found["sft/validation_perplexity"] == pytest.approx(math.exp(found["sft/validation_loss"]))


def test_only_the_tokens_of_answers_are_in_the_loss(sft_run):
    """The validation loss is that of plain transformers with -100 at the prompt."""
    from transformers import AutoModelForCausalLM

    from rhtool.lm import sft, text
    from rhtool.models import Model

    tokenizer = text.tokenizer_of(Model(path=str(sft_run)))
    model = AutoModelForCausalLM.from_pretrained(sft_run / SAVED)
    form, total, count = text.Format(tokenizer, 48), 0.0, 0
    rows = sft.tokens(Words().demonstrations("validation"), form)
    for row in rows:
        labels = torch.tensor([row["labels"]])
        kept = int((labels >= 0).sum())
        words = tokenizer.decode(labels[labels >= 0])
        assert words.endswith("<|endoftext|>") and len(words.split()) == 2  # the answer with its end, and nothing else
        with torch.no_grad():
            total += float(model(torch.tensor([row["input_ids"]]), labels=labels).loss) * kept
        count += kept
    found = json.loads((sft_run / "result.json").read_text())["metrics"]["sft/validation_loss"]
    assert found == pytest.approx(total / count, rel=1e-4)


def test_a_reward_model_learns_what_is_preferred(tmp_path):
    task = RmTrainTexts(passes=8, minibatch=16, lr=3e-3, max_length=48, l2=0.001, margin=True)
    result = Run(task=task, model=small(), data=Words(), dir=str(tmp_path / "run")).execute()["metrics"]
    assert result["rm/validation_accuracy"] == 1.0 and result["rm/validation_kendall_tau"] == 1.0
    assert result["rm/score/chosen"] > result["rm/score/rejected"] + 0.5
    config = json.loads((tmp_path / "run" / SAVED / "config.json").read_text())
    assert config["score_mean"] == result["rm/score/mean"] and config["score_std"] > 0


@pytest.mark.parametrize(
    ("chosen", "rejected", "l2", "margin"), [(1.2, 0.5, 0.001, None), (1.2, 0.5, 0.0, None), (0.3, 0.9, 0.01, 0.4)]
)
def test_the_loss_of_a_pair(chosen, rejected, l2, margin, monkeypatch):
    """The original's code: r = 1.2 against 0.5 with a penalty of 0.001 costs .40403101."""
    from types import SimpleNamespace

    from trl import RewardTrainer

    from rhtool.lm.reward_model import RewardModel

    work = object.__new__(RewardModel)
    work.l2 = l2
    scores = torch.tensor([[chosen], [rejected]], dtype=torch.float64)

    def plain(self, model, inputs, return_outputs=False, **options):
        x = scores[0] - scores[1] - (margin or 0.0)
        return -torch.nn.functional.logsigmoid(x).mean(), SimpleNamespace(logits=scores)

    monkeypatch.setattr(RewardTrainer, "compute_loss", plain)
    expected = math.log1p(math.exp(-(chosen - rejected - (margin or 0)))) + l2 * 0.5 * (chosen**2 + rejected**2)
    assert float(work.compute_loss(None, {})) == pytest.approx(expected, rel=1e-9)
    if l2 == 0.001:
        assert expected == pytest.approx(0.40403101, abs=1e-7)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_batch(tmp_path, monkeypatch):
    made = run("sft", tmp_path / "run")
    from rhtool.lm import sft

    monkeypatch.setattr(
        sft.Sft, "compute_loss", lambda self, *a, **k: next(self.model.parameters()).sum() * float("nan")
    )
    with pytest.raises(RhtoolError, match="the loss of step 1 is nan"):
        made.execute()
    batch = load_file(tmp_path / "run" / "bad_batch.safetensors")
    assert batch["input_ids"].shape == batch["labels"].shape == (16, batch["input_ids"].shape[1])
