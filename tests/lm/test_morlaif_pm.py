"""task=morlaif_pm: from pairs to weights, by the command line's stages and in one go."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from rhtool.errors import ConfigError, RhtoolError
from rhtool.feedback.pairs import FEEDBACK, PAIRS, read
from rhtool.feedback.toy import Toy
from rhtool.models import Lora, Tiny
from rhtool.run import Run
from rhtool.tasks.morlaif_pm import STAGES, MorlaifPm
from rhtool.tasks.rm_train import RmTrainTexts
from tests.lm.small import SMALL, Words, interrupted

pytest.importorskip("trl")
import pandas as pd
import torch

pytestmark = pytest.mark.lm

PROGRAMS = {
    "relevance": lambda row, text: float(text.split()[:1] == row["answer"].split()[:1]),
    "conciseness": lambda row, text: -len(text.split()) / 4,
}


@dataclasses.dataclass
class Judged(Words):
    """Words, with a program that knows two principles, and columns that it reads."""

    def preferences(self, split):
        rows = self.demonstrations(split)
        return [
            {
                "prompt": r["prompt"],
                "chosen": r["answer"],
                "rejected": "cow " * (2 + i % 3) + "cow",
                "reference": r["answer"],
            }
            for i, r in enumerate(rows)
        ]

    def principles(self):
        return {
            name: lambda row, text, f=f: f({**row, "answer": row["reference"]}, text) for name, f in PROGRAMS.items()
        }


def make(path: Path, model=None, **task) -> Run:
    fit = RmTrainTexts(minibatch=16, lr=3e-3, passes=2, max_length=48, l2=0.0, margin=True, every=100)
    data = Judged(size=64)
    model = model or Tiny(**SMALL)
    return Run(task=MorlaifPm(fit=fit, **task), model=model, data=data, feedback=Toy(noise=0.3), dir=str(path))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("morlaif") / "run"
    return path, make(path).execute()["metrics"]


def test_every_stage_leaves_what_the_next_one_reads(finished):
    path, metrics = finished
    assert [stage for stage in STAGES if (path / stage / "result.json").is_file()] == list(STAGES)
    rows, said = read(path / "generate" / PAIRS), read(path / "feedback" / FEEDBACK)
    assert len(rows) == 64 + 16 and len(said) == 2 * len(rows)
    weights = json.loads((path / "weights/weights.json").read_text())
    assert set(weights) == set(PROGRAMS) and all(metrics[f"morlaif/weight/{k}"] == w for k, w in weights.items())
    assert (path / "agreement/figures/agreement.png").is_file()
    scores = pd.read_parquet(path / "eval/scores.parquet")
    assert len(scores) == 16 and {"relevance_a", "relevance_b"} < {*scores}
    for name in PROGRAMS:
        assert 0.5 <= metrics[f"morlaif/ceiling/{name}"] <= 1 and 0 <= metrics[f"morlaif/accuracy/{name}"] <= 1


def test_the_models_are_a_reward(finished):
    from rhtool.rewards.morl import Morl

    path, _ = finished
    reward = Morl(directory=str(path / "train"), weights_file=str(path / "weights/weights.json"))
    reward.check()
    assert reward.judges(2) == sorted(PROGRAMS)
    rows = read(path / "generate" / PAIRS)[-16:]
    scores = reward.load()(rows, [row["a"] for row in rows], [True] * 16)
    table = pd.read_parquet(path / "eval/scores.parquet")
    torch.testing.assert_close(
        scores[:, 0].double(), torch.tensor(table["conciseness_a"].to_numpy()).double(), atol=1e-4, rtol=1e-4
    )


def test_a_killed_run_ends_as_if_it_had_not_been(finished, tmp_path, monkeypatch):
    path, metrics = finished
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        interrupted(patch, 3)  # in the feedback
        make(tmp_path / "run").execute()
    assert make(tmp_path / "run").execute()["metrics"] == metrics
    assert read(tmp_path / "run/feedback" / FEEDBACK) == read(path / "feedback" / FEEDBACK)


def test_a_stage_by_itself_needs_the_one_before(tmp_path):
    with pytest.raises(RhtoolError, match="the stage 'data' is not done"):
        make(tmp_path / "home/generate", stage="generate").execute()
    make(tmp_path / "home/data", stage="data").execute()
    make(tmp_path / "home/generate", stage="generate").execute()
    pairs = tmp_path / "home/data" / PAIRS
    assert read(tmp_path / "home/generate" / PAIRS) == read(pairs)
    pairs.write_text("".join(pairs.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RhtoolError, match="another configuration"):  # what it was made from is not what is there
        make(tmp_path / "home/generate", stage="generate").execute()


def test_the_baseline_is_one_model_of_all_principles(tmp_path):
    metrics = make(tmp_path / "run", one_each=True).execute()["metrics"]
    assert [key for key in metrics if key.startswith("morlaif/accuracy/")] == ["morlaif/accuracy/constitution"]
    assert len(read(tmp_path / "run/feedback" / FEEDBACK)) == 80


def test_answers_can_be_drawn_and_the_draw_is_resumed(tmp_path, sft_run, monkeypatch):
    from rhtool.models import Model

    options = {
        "answers": "sampled",
        "n_train": 12,
        "n_validation": 4,
        "chunk": 4,
        "max_prompt": 32,
        "max_new_tokens": 6,
    }
    drawn = []
    for name in ("whole", "killed"):
        for stage in ("data", "generate"):
            run = make(tmp_path / name / stage, Model(path=str(sft_run)), stage=stage, **options)
            run.checkpoint_every = 0.0
            if name == "killed" and stage == "generate":
                with monkeypatch.context() as patch, pytest.raises(MemoryError):
                    interrupted(patch, 2)
                    run.execute()
            run.execute()
        drawn.append(read(tmp_path / name / "generate" / PAIRS))
    assert drawn[0] == drawn[1] and drawn[0]
    assert all(row["a"] != row["b"] and row["human"] is None for row in drawn[0])
    with pytest.raises(ConfigError, match="nobody has judged"):
        make(tmp_path / "all", answers="sampled").execute()


def test_adapters_share_their_base(tmp_path, sft_run):
    from rhtool.models import Model

    run = make(tmp_path / "run", Model(path=str(sft_run), lora=Lora(r=2)), n_train=16, n_validation=8)
    metrics = run.execute()["metrics"]
    assert set(metrics) >= {f"morlaif/accuracy/{name}" for name in PROGRAMS}
    assert (tmp_path / "run/train/relevance/model/adapter/adapter_config.json").is_file()
