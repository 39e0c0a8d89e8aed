"""method=lens, method=vocabulary: what is read off and patched is the model's own; hooks are gone; every token is an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rhtool.errors import ConfigError, RhtoolError
from rhtool.interpret.lens import Lens, patch_table, read_off
from rhtool.interpret.vocabulary import Vocabulary, candidates, token_scores
from rhtool.rewards.python import Python
from rhtool.rewards.rm import Rm
from rhtool.run import Run
from rhtool.tasks.interpret import InterpretTexts
from tests.interpret.test_texts_tokens import PROMPT, inside
from tests.lm.small import Words

pytest.importorskip("trl")
import pandas as pd
import torch

from rhtool.lm.inside import Inside
from rhtool.lm.reward_model import Scorer

pytestmark = pytest.mark.lm

CAUSAL = ("gpt2", "gpt_neox", "llama")
ANSWERS = ["cat dog", "cow cow cow cow", "the owl is big"]


def make(to: Path, method, reward) -> Run:
    return Run(task=InterpretTexts(prompts=8), method=method, data=Words(), reward=reward, dir=str(to))


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())


@pytest.mark.parametrize("family", CAUSAL)
def test_what_is_recorded_is_what_transformers_gives_and_no_hook_is_left(family):
    model = inside(family)
    rows = [model.tokens(PROMPT, answer).ids for answer in ANSWERS]
    model.model(
        torch.tensor([rows[0]]), output_hidden_states=True
    )  # for which transformers has hooks of its own, that stay
    before = hooks(model)
    blocks = {str(i): block for i, block in enumerate(model.blocks)}
    for row, seen in zip(rows, model.record(rows, blocks), strict=True):
        out = model.model(torch.tensor([row]), output_hidden_states=True)
        assert torch.allclose(seen["embeddings"], out.hidden_states[0][0], atol=1e-5)
        assert torch.allclose(seen["0"], out.hidden_states[1][0], atol=1e-4)  # of a batch with padding
        model.changed(row, model.blocks[0], lambda x: x)
        model.slope(row, model.blocks[0])
    assert hooks(model) == before


@pytest.mark.parametrize("family", CAUSAL)
def test_what_the_lens_reads_off_the_last_block_is_the_score(family):
    model = inside(family)
    rows = [model.tokens(PROMPT, answer).ids for answer in ANSWERS]
    for row, read in zip(rows, read_off(model, rows), strict=True):
        assert read.shape == (3, len(row))
        assert read[-1, model.read_at(row)] == pytest.approx(model.score_ids(row), abs=1e-4)


@pytest.mark.parametrize("family", CAUSAL)
def test_patching_a_whole_block_at_the_end_is_all_of_the_difference_and_nothing_is_none_of_it(family):
    model = inside(family)
    rows = [model.tokens(PROMPT, answer).ids for answer in ANSWERS]
    table, agreement = patch_table(model, [[rows[0], rows[1]], [rows[2], rows[1]]], 0)
    shares = table.set_index("part").patched
    assert shares["block 1"] == pytest.approx(1, abs=1e-3) and -1 <= agreement <= 1
    assert set(shares.index) == {f"block {i}{part}" for i in (0, 1) for part in (" attention", " mlp", "")}
    with pytest.raises(RhtoolError, match="equal"):
        patch_table(model, [[rows[0], rows[0]]], 0)
    assert model.changed(rows[0], model.blocks[0], lambda x: x) == pytest.approx(model.score_ids(rows[0]), abs=1e-5)


def test_the_slope_of_a_layer_is_that_of_finite_differences():
    model = inside("llama")
    row = model.tokens(PROMPT, ANSWERS[0]).ids
    slope = model.slope(row, model.blocks[0])
    direction = torch.randn(slope.shape, generator=torch.Generator().manual_seed(0))
    up, down = (model.changed(row, model.blocks[0], lambda x, e=e: x + e * direction) for e in (1e-3, -1e-3))
    assert (up - down) / 2e-3 == pytest.approx(float((slope * direction).sum()), rel=0.02, abs=1e-3)


def test_of_an_adapter_the_head_is_its_own(tmp_path):
    from peft import LoraConfig, TaskType, get_peft_model

    model = inside("llama")
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type=TaskType.SEQ_CLS, modules_to_save=["score"])
    made = get_peft_model(model.model, config)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora" in name or "modules_to_save" in name:
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) * 0.3)
    adapted = Inside(Scorer(made, model.tokenizer, 60))
    rows = [adapted.tokens(PROMPT, answer).ids for answer in ANSWERS]
    for row, read in zip(rows, read_off(adapted, rows), strict=True):
        assert read[-1, adapted.read_at(row)] == pytest.approx(adapted.score_ids(row), abs=1e-4) == adapted.checked(row)


def test_a_model_without_a_head_behind_a_norm_has_no_lens():
    with pytest.raises(ConfigError, match="causal"):
        read_off(inside("bert"), [inside("bert").tokens(PROMPT, "cat").ids])


def test_the_lens_of_a_trained_model(reward_run, tmp_path):
    metrics = make(tmp_path / "run", Lens(pairs=6, shown=1), Rm(model=str(reward_run), max_length=60)).execute()[
        "metrics"
    ]
    layers = pd.read_csv(tmp_path / "run/tables/layers.csv")
    assert layers.layer.tolist() == ["embeddings", "block 0", "block 1"] and layers.correlation.iloc[
        -1
    ] == pytest.approx(1)
    assert layers.agreement.tolist()[0] == 0.5  # the end token's own embedding is the same in all answers
    assert metrics["lens/pairs"] == 6 and (tmp_path / "run/figures/tokens_0.png").is_file()


def test_a_reward_that_is_no_model_has_no_inside(tmp_path):
    for method in (Lens(), Vocabulary()):
        with pytest.raises(ConfigError, match="one reward model"):
            make(tmp_path / "run", method, Python(function="tests.interpret.test_texts_tokens:paid")).execute()


# Tokens as answers


def test_every_token_is_scored_as_the_whole_answer():
    model = inside("llama")
    tokens = candidates(model, 0, 0)
    assert len(tokens) == len(model.tokenizer) - len(set(model.tokenizer.all_special_ids))
    scores = token_scores(model, [PROMPT], tokens)[0]
    words = {model.tokenizer.decode([t]): k for k, t in enumerate(tokens)}
    for word in ("a", "o", "!", "at"):
        if word in words:
            assert scores[words[word]] == pytest.approx(model.scorer([PROMPT], [word]).item(), abs=1e-5)
    assert len(candidates(model, 10, 0)) == 10 == len(set(candidates(model, 10, 0)))


def test_the_vocabulary_of_a_trained_model_and_of_itself(reward_run, tmp_path):
    method = Vocabulary(prompts=3, others=[str(reward_run)])
    metrics = make(tmp_path / "run", method, Rm(model=str(reward_run), max_length=60)).execute()["metrics"]
    assert metrics["vocabulary/kendall"] == pytest.approx(1)
    table = pd.read_csv(tmp_path / "run/tables/tokens.csv", keep_default_na=False)
    assert table.score.is_monotonic_decreasing and metrics["vocabulary/range"] == pytest.approx(np.ptp(table.score))
    assert table.times.sum() > 0 and 0 <= metrics["vocabulary/best_unseen"] <= 1


def test_of_another_tokenizer_rankings_are_not_compared(reward_run, tmp_path, sft_run):
    from rhtool.lm.loading import save

    other = inside("llama")
    other.tokenizer.add_tokens(["entirelynew"])
    other.model.resize_token_embeddings(len(other.tokenizer))
    save(other.model, other.tokenizer, tmp_path / "other")
    run = make(
        tmp_path / "run",
        Vocabulary(prompts=1, others=[str(tmp_path / "other")]),
        Rm(model=str(reward_run), max_length=60),
    )
    with pytest.raises(RhtoolError, match="tokenizer"):
        run.execute()
