"""method=tokens: attributions are those of closed forms and of captum, complete where they promise it, and of the reward's own scores."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from rhtool.errors import ConfigError, RhtoolError
from rhtool.interpret import spans
from rhtool.interpret.tokens import Tokens
from rhtool.rewards.python import Python
from rhtool.rewards.rm import Ensemble, Rm
from rhtool.run import Run
from rhtool.tasks.interpret import InterpretTexts
from tests.lm.small import Words, small

pytest.importorskip("trl")
import pandas as pd
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from rhtool.lm.inside import Inside
from rhtool.lm.loading import reward_model
from rhtool.lm.reward_model import Scorer
from rhtool.lm.text import corpus, tokenizer_at, tokenizer_of

pytestmark = pytest.mark.lm

PROMPT = [{"role": "user", "content": "say cat dog"}]
ANSWER = "the cat and a dog, of course"


def inside(family: str, spread: float = 0.15) -> Inside:
    """A random reward model whose score depends on every token."""
    model = small(family=family if family != "bert" else "llama")
    tokenizer = tokenizer_of(model, corpus(Words()))
    if family == "bert":
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = BertConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=tokenizer.pad_token_id, **sizes)
        torch.manual_seed(0)
        made = BertForSequenceClassification(config)
    else:
        made = reward_model(model, tokenizer, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * spread)
    return Inside(Scorer(made.eval(), tokenizer, 60))


FAMILIES = ("gpt2", "gpt_neox", "llama", "bert")


@pytest.mark.parametrize("family", FAMILIES)
def test_integrated_gradients_sum_to_the_difference_of_scores(family):
    model = inside(family)
    tokens = model.tokens(PROMPT, ANSWER)
    base, _ = model.baseline("mean", tokens)
    each = model.integrated_gradients(tokens, base, 128)
    difference = model.checked(tokens.ids) - float(model.score(base.unsqueeze(0), tokens.ids))
    assert abs(difference) > 1e-3
    assert float(each.sum()) == pytest.approx(difference, rel=0.05)
    fixed = [i for i in range(len(tokens.ids)) if i < tokens.start or tokens.spans[i - tokens.start] == (0, 0)]
    assert each[fixed].abs().max() == 0 and tokens.ids[-1] == model.tokenizer.eos_token_id


@pytest.mark.parametrize("family", FAMILIES)
def test_attributions_are_those_of_captum(family):
    captum = pytest.importorskip("captum.attr")
    model = inside(family)
    tokens = model.tokens(PROMPT, ANSWER)
    base, _ = model.baseline("mean", tokens)
    own = model.embeddings(tokens.ids)
    ours = model.integrated_gradients(tokens, base, 20)

    def forward(embeddings):
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
        out = model.model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False)
        return out.logits[:, 0]  # unpadded, and the last token is no padding: read at the end

    theirs = captum.IntegratedGradients(forward).attribute(
        own[None], base[None], n_steps=20, method="riemann_middle", internal_batch_size=20
    )
    assert ours.numpy() == pytest.approx(theirs[0].sum(-1).detach().numpy(), abs=1e-5)


def test_padded_batches_score_as_texts_alone_and_embeddings_as_tokens():
    for family in FAMILIES:
        model = inside(family)
        answers = ["cat", "cat dog bee", ANSWER]
        batch = model.scorer([PROMPT] * 3, answers)
        for answer, score in zip(answers, batch.tolist(), strict=True):
            tokens = model.tokens(PROMPT, answer)
            assert model.checked(tokens.ids) == pytest.approx(score, abs=1e-5)


def test_where_padding_is_the_end_token_scores_of_embeddings_are_read_where_those_of_tokens_are():
    model = inside("llama")
    model.tokenizer.pad_token = model.tokenizer.eos_token
    model.model.config.pad_token_id = model.tokenizer.eos_token_id
    tokens = model.tokens(PROMPT, ANSWER)
    assert model.read_at(tokens.ids) == len(tokens.ids) - 2
    model.checked(tokens.ids)
    theirs = model.model(inputs_embeds=model.embeddings(tokens.ids)[None]).logits.item()
    assert abs(theirs - model.score_ids(tokens.ids)) > 1e-2  # what transformers makes of embeddings


def test_tokens_are_found_in_the_answer_and_its_units():
    model = inside("llama")
    tokens = model.tokens(PROMPT, ANSWER)
    pieces = spans.Pieces.of(ANSWER, "word")
    of = tokens.units(pieces.spans)
    texts = [
        "".join(p for p, k in zip(tokens.pieces[tokens.start :], of, strict=True) if k == i) for i in range(len(pieces))
    ]
    assert [text.strip() for text in texts] == ANSWER.split() == pieces.units
    assert of[-1] == -1


def test_a_layer_that_does_not_exist_lists_those_that_do():
    model = inside("gpt2")
    with pytest.raises(ConfigError, match=r"transformer\.h\.0\.mlp"):
        model.layer("transformer.h.7")
    with pytest.raises(ConfigError, match="among 2"):
        model.layer("2")
    assert model.layer("-1") is model.model.transformer.h[1]


# Of scores alone

WEIGHTS = {"cat": 1.0, "dog": -2.0, "bee": 0.5, "ant": 3.0, "owl": -1.0, "fox": 0.25, "hen": 0.125, "cow": 4.0}


def remembered(text: str, value) -> spans.Remembered:
    return spans.Remembered(lambda texts: np.array([value(t.split()) for t in texts]), spans.Pieces.of(text, "word"))


METHODS = {
    "shapley": lambda value: spans.shapley(value, 8, 0),
    "leave_one_out": spans.leave_one_out,
    "prefix": spans.prefix_increments,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("text", ["cat dog bee", " ".join(WEIGHTS)])
def test_of_a_sum_over_words_every_method_finds_the_summands(method, text):
    value = remembered(text, lambda words: sum(WEIGHTS[w] for w in words) + 7)
    assert METHODS[method](value) == pytest.approx([WEIGHTS[w] for w in text.split()])


def test_shapley_values_are_those_of_the_definition():
    worth = {frozenset(s): float(hash(s) % 97) for k in range(5) for s in itertools.combinations("abcd", k)}
    found = spans.shapley(remembered("a b c d", lambda words: worth[frozenset(words)]), 1, 0)
    for i, player in enumerate("abcd"):
        orders = [*itertools.permutations("abcd")]
        gains = [worth[frozenset(o[: o.index(player) + 1])] - worth[frozenset(o[: o.index(player)])] for o in orders]
        assert found[i] == pytest.approx(sum(gains) / math.factorial(4))


def test_sampled_shapley_values_and_prefix_increments_sum_to_the_whole():
    value = remembered(" ".join(WEIGHTS), lambda words: float(len(words) ** 2 + len(set("".join(words)))))
    whole = value([[*range(8)]])[0] - value([[]])[0]
    for method in ("shapley", "prefix"):
        assert METHODS[method](value).sum() == pytest.approx(whole)


def test_faithfulness_ranks_the_right_order_above_the_wrong_one():
    value = remembered(" ".join(WEIGHTS), lambda words: sum(WEIGHTS[w] for w in words))
    right = np.array([*WEIGHTS.values()])
    good, bad = (spans.faithfulness(value, x, 20, 0) for x in (right, -right))
    assert good.deletion < good.random_deletion < bad.deletion and good.insertion > bad.insertion
    assert good.comprehensiveness > bad.comprehensiveness and good.sufficiency < bad.sufficiency
    ranked = sorted(right)[::-1]  # by hand: 1, 2, 2 and 4 of 8 units
    assert good.comprehensiveness == pytest.approx(np.mean([sum(ranked[:k]) for k in (1, 2, 2, 4)]))
    assert good.sufficiency == pytest.approx(np.mean([sum(ranked[k:]) for k in (1, 2, 2, 4)]))


def test_sentences_are_units_too():
    text = "One is 3.5 long. Two? Three\n\nfour"
    pieces = spans.Pieces.of(text, "sentence")
    assert [u.strip() for u in pieces.units] == ["One is 3.5 long.", "Two?", "Three", "four"]
    assert pieces.without([]) == text and pieces.only([1, 3]) == "Two? four"


# The task


def paid(prompts, completions, columns):
    """2 for each cow."""
    return [2.0 * text.split().count("cow") for text in completions]


def make(to: Path, reward, **method) -> Run:
    return Run(task=InterpretTexts(prompts=8), method=Tokens(**method), data=Words(), reward=reward, dir=str(to))


def test_a_reward_that_is_a_function_is_attributed_to_the_words_it_pays_for(tmp_path):
    run = make(tmp_path / "run", Python(function="tests.interpret.test_texts_tokens:paid"), fewest=2)
    metrics = run.execute()["metrics"]
    words = pd.read_csv(tmp_path / "run/tables/words.csv").set_index("word")
    assert words["mean"]["cow"] == pytest.approx(2) and (words["mean"].drop("cow").abs() < 1e-9).all()
    assert metrics["tokens/shapley/comprehensiveness"] > 0
    page = (tmp_path / "run/report.html").read_text()
    assert "What most surely raises the reward" in page and "“cow” (+2.00)" in page and page.count('title="+2"') >= 8


def test_a_reward_model_is_attributed_by_all_methods(reward_run, tmp_path):
    model = Rm(model=str(reward_run), max_length=60)
    run = make(tmp_path / "run", model, pairs=3, permutations=4)
    metrics = run.execute()["metrics"]
    assert metrics["tokens/completeness"] < 0.05 and metrics["tokens/answers"] == 6
    lines = [json.loads(line) for line in (tmp_path / "run/tables/attributions.jsonl").read_text().splitlines()]
    tokenizer = tokenizer_at(str(reward_run / "model"))
    scorer = Scorer(AutoModelForSequenceClassification.from_pretrained(reward_run / "model"), tokenizer, 60)
    for line in lines:
        assert line["reward"] == pytest.approx(scorer([line["prompt"]], [line["answer"]]).item(), abs=1e-5)
        empty = scorer([line["prompt"]], [""]).item()
        assert sum(line["prefix"]) == pytest.approx(line["reward"] - empty, abs=1e-5)
        assert sum(line["shapley"]) == pytest.approx(line["reward"] - empty, abs=1e-5)


def test_a_baseline_that_moves_where_the_score_is_read_fails_the_run(reward_run, tmp_path):
    options = {"methods": ["integrated_gradients"], "baseline": "pad", "end": True, "pairs": 3}
    with pytest.raises(RhtoolError, match="integrated gradients miss"):
        make(tmp_path / "run", Rm(model=str(reward_run), max_length=60), **options).execute()
    assert (tmp_path / "run/report.html").is_file()


def test_what_cannot_be_done_is_said_before_anything_is_loaded(reward_run, tmp_path):
    with pytest.raises(ConfigError, match="shapley"):
        make(tmp_path / "a", Rm(model=str(reward_run)), methods=["shapely"]).execute()
    with pytest.raises(ConfigError, match="one learned model"):
        make(tmp_path / "b", Ensemble(models=[str(reward_run)]), methods=["gradient"]).execute()
