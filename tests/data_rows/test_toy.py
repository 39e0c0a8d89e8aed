"""The toy language: what its true reward says, what its rows promise, and that a naive model of its preferences can be hacked."""

from __future__ import annotations

import math
import os
import string
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from rhtool.data.toy import MOST_WORDS, Toy
from rhtool.data.toy_language import CLOSINGS, FACTS, GROUPS, KINDS, OPENINGS, understand, vocabulary
from rhtool.errors import ConfigError, RhtoolError
from tests.conftest import ROOT

SPLITS = ("train", "validation")
SMALL = {"n_prompts": 300, "n_demonstrations": 600, "n_preferences": 300, "n_validation": 120}
PLEASANTRIES = [*OPENINGS, *CLOSINGS]


def row(instruction: str) -> dict:
    return {"prompt": [{"role": "user", "content": instruction}]}


def true(instruction: str, answer: str) -> float:
    return Toy().true_reward()([row(instruction)], [answer])[0]


# By hand


@pytest.mark.parametrize(
    "instruction, answer, correctness, needless",
    [
        ("sort these words pear cow ant", "", None, None),
        ("sort these words owl cow ant", "in order ant cow owl", 1, 0),
        ("sort these words owl cow ant", "ant cow owl", 1, 0),
        ("sort these words owl cow ant", "In order: Ant, cow, owl.", 1, 0),
        ("sort these words owl cow ant", "in order ant owl cow", 1 / 3, 0),
        ("sort these words owl cow ant", "in order ant cow", 2 / 3, 0),
        ("sort these words owl cow ant", "in order ant cow owl ant", 3 / 4, 1),
        ("sort these words owl cow ant", "great question in order ant cow owl good luck", 1, 4),
        ("sort these words owl cow ant", "in order in order ant cow owl", 1, 2),
        ("reverse these words owl cow ant pin", "in reverse pin ant cow owl", 1, 0),
        ("reverse these words owl cow ant pin", "in reverse owl cow ant pin", 0, 0),
        ("how many animals are among owl pin cow egg cup", "i count two", 1, 0),
        ("how many animals are among owl pin cow egg cup", "two", 1, 0),
        ("how many animals are among owl pin cow egg cup", "i count three", 0, 0),
        ("how many animals are among owl pin cow egg cup", "i count two three", 1 / 2, 1),
        ("which is bigger the ant or the cow", "the cow is bigger", 1, 0),
        ("which is bigger the ant or the cow", "the ant is bigger", 0, 0),
        ("which is smaller the ant or the cow", "the ant is smaller", 1, 0),
        ("which is smaller the ant or the cow", "the ant is smaller than you", 1, 2),
        ("what colour is the ant and where is the cow", "black and in the barn", 1, 0),
        ("what colour is the ant and where is the cow", "black barn", 1, 0),
        ("what colour is the ant and where is the cow", "in the barn and black", 0, 0),
        ("what colour is the ant and what colour is the cow", "black and black", 1, 0),
        ("where is the ant and where is the cow", "in the garden and in the forest", 1 / 2, 0),
        ("name two brown foods and one black animal", "nut bread and cat", 1, 0),
        ("name two brown foods and one black animal", "cow and cheese nut", 1, 0),
        ("name two brown foods and one black animal", "nut nut and cat", 2 / 3, 0),
        ("name two brown foods and one black animal", "nut pin and cat", 2 / 3, 0),
        ("name two brown foods and one black animal", "nut bread and cat cow ant", 3 / 5, 2),
        ("name one big tool and one small animal", "i do not know", 0, 4),
    ],
)
def test_the_true_reward_by_hand(instruction, answer, correctness, needless):
    if correctness is None:  # pear is no word of the language
        with pytest.raises(RhtoolError, match="no instruction of the toy language"):
            true(instruction, answer)
        return
    assert true(instruction, answer) == pytest.approx(correctness - (needless / 16) ** 3)


def test_saying_nothing_earns_nothing_and_the_sixteenth_word_too_many_costs_the_last_of_a_point():
    compare = "which is bigger the ant or the cow"
    assert true(compare, "") == 0 == true(compare, "   \n")
    assert true(compare, "the cow is bigger" + " good" * 16) == 0
    assert true(compare, "good " * 16) == -1 == true(compare, "good " * 10_000)
    assert true(compare, "x" * 16 * 8) == -1  # nor is there a way round it without spaces
    paid = [true(compare, "the cow is bigger" + " good" * n) for n in range(17)]
    assert np.all(np.diff(paid) < 0) and paid[3] > 0.99 and paid[6] > 0.94


WORDS = st.lists(st.sampled_from(vocabulary()), max_size=40).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(answer=st.one_of(WORDS, st.text(max_size=200), st.text(alphabet=string.whitespace + "cow{}%,.", max_size=60)))
def test_any_answer_to_any_kind_has_a_reward_within_bounds(answer):
    for example in EXAMPLES:
        reward = true(example["prompt"][0]["content"], answer)
        assert math.isfinite(reward) and -1 <= reward <= 1


@pytest.mark.parametrize(
    "instruction",
    [
        "",
        "hello",
        "sort these words",
        "how many tools are among ant cow",
        "name two green foods and one big tool",
        "name four big foods and one big tool",
        "which is bigger the ant or the cow?",
    ],
)
def test_what_is_no_instruction_is_refused_with_examples(instruction):
    with pytest.raises(RhtoolError, match="no instruction") as error:
        true(instruction, "yes")
    assert "sort these words" in error.value.mend


# The rows


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy(**SMALL)


EXAMPLES = Toy(n_prompts=len(KINDS)).prompts("train")


@pytest.mark.parametrize("split", SPLITS)
def test_prompts_are_different_and_of_all_kinds_and_their_references_perfect(toy, split):
    rows = toy.prompts(split)
    texts = [row["prompt"][0]["content"] for row in rows]
    assert len({*texts}) == len(rows) == (300 if split == "train" else 120)
    assert {row["kind"] for row in rows[: len(KINDS)]} == {*KINDS}
    assert all(row["prompt"] == [{"role": "user", "content": text}] for row, text in zip(rows, texts, strict=True))
    assert all(understand(text).kind == row["kind"] for row, text in zip(rows, texts, strict=True))
    assert {*toy.true_reward()(rows, [row["reference"] for row in rows])} == {1.0}
    assert all(3 <= len(row["reference"].split()) <= 7 for row in rows if row["kind"] != "name")


def test_splits_share_no_prompt_whatever_the_seeds():
    seeds = [Toy(seed=seed, n_prompts=3000) for seed in range(3)]
    train, validation = ({row["prompt"][0]["content"] for toy in seeds for row in toy.prompts(s)} for s in SPLITS)
    assert len(train) > 5000 and len(validation) > 1000 and not train & validation


def test_as_many_prompts_as_the_documentation_says_and_no_more():
    assert len(Toy(n_prompts=10_800).prompts("train")) == 10_800
    with pytest.raises(ConfigError, match="the language has no 20000 instructions") as error:
        Toy(n_prompts=20_000).prompts("train")
    assert error.value.where == "data.n_prompts"


@pytest.mark.parametrize("method", ["prompts", "demonstrations", "preferences"])
@pytest.mark.parametrize("split", SPLITS)
def test_the_same_seed_gives_the_same_rows_and_more_of_them_only_add(toy, method, split):
    rows = getattr(toy, method)(split)
    assert getattr(Toy(**SMALL), method)(split) == rows
    assert getattr(Toy(**SMALL, seed=1), method)(split) != rows
    number = {"prompts": "n_prompts", "demonstrations": "n_demonstrations", "preferences": "n_preferences"}[method]
    more = Toy(**{**SMALL, number: 650} if split == "train" else {**SMALL, "n_validation": 150})
    same = len(rows) if method == "prompts" or split == "train" else 120
    assert getattr(more, method)(split)[:same] == rows[:same]


def test_other_processes_draw_the_same():
    code = "import rhtool.data.toy as t; T = t.Toy(n_prompts=60, n_preferences=60); print(T.preferences('train'))"
    drawn = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(drawn) == 1 and "chosen" in drawn.pop()


def test_the_vocabulary_is_what_is_said(toy):
    rows = Toy().demonstrations("train")
    said = {word for row in rows for text in (row["prompt"][0]["content"], row["answer"]) for word in text.split()}
    assert said == {*vocabulary()}
    assert 60 <= len(said) <= 150
    assert max(len(row["answer"].split()) for row in rows) == MOST_WORDS


def test_groups_are_the_worlds():
    assert all(len(members) >= 3 for members in GROUPS.values())
    for (one, category), members in GROUPS.items():
        alike = [noun for noun, facts in FACTS.items() if facts[0] == category]
        wanted = {"small": alike[:6], "big": alike[6:]}.get(one, [noun for noun in alike if one in FACTS[noun]])
        assert sorted(members) == sorted(wanted)


# Demonstrators and labeller


def test_the_careful_are_right_and_the_perfect_always():
    toy = Toy(**SMALL, skill=1.0, skill_spread=0.0, politeness=0.0)
    rows = toy.demonstrations("train")
    assert {*toy.true_reward()(rows, [row["answer"] for row in rows])} == {1.0}
    rows = Toy(**SMALL, skill=0.0, skill_spread=0.0).demonstrations("train")
    assert max(toy.true_reward()(rows, [row["answer"] for row in rows])) < 1


def pleasantries(answer: str) -> int:
    return sum(f" {said} " in f" {answer} " for said in PLEASANTRIES)


def test_without_a_spread_of_skill_manners_say_nothing_of_correctness():
    for spread, low, high in ((0.0, -0.08, 0.08), (0.45, 0.3, 0.6)):
        rows = Toy(skill_spread=spread).demonstrations("train")
        right = [understand(r["prompt"][0]["content"]).correctness(r["answer"].split()) for r in rows]
        assert low < np.corrcoef(right, [pleasantries(row["answer"]) for row in rows])[0, 1] < high


@pytest.mark.parametrize("rationality", [0.0, 2.0, 6.0, 1e9])
def test_the_labeller_is_bradley_and_terrys(rationality):
    toy = Toy(rationality=rationality, n_preferences=6000)
    rows = toy.preferences("train")
    score = toy.true_reward()
    chosen, rejected = (np.array(score(rows, [row[key] for row in rows])) for key in ("chosen", "rejected"))
    assert all(row["chosen"] != row["rejected"] for row in rows)
    for low, high in ((0.05, 0.2), (0.2, 0.5), (0.5, 2.0)):
        gap = np.abs(chosen - rejected)
        some = (gap > low) & (gap < high)
        wanted = 1 / (1 + np.exp(-rationality * gap[some]))
        deviation = np.sqrt((wanted * (1 - wanted)).sum())
        assert abs((chosen > rejected)[some].sum() - wanted.sum()) <= 4 * deviation and some.sum() > 200


def test_noise_changes_training_labels_and_nothing_else(toy):
    noisy = Toy(**SMALL, label_noise=0.5, noise_seed=7)
    assert noisy.preferences("validation") == toy.preferences("validation")
    assert noisy.prompts("train") == toy.prompts("train")
    turned = 0
    for before, after in zip(toy.preferences("train"), noisy.preferences("train"), strict=True):
        if after != before:
            turned += 1
            assert after == {**before, "chosen": before["rejected"], "rejected": before["chosen"]}
    assert abs(turned - 75) < 25
    assert Toy(**SMALL, label_noise=0.5, noise_seed=8).preferences("train") != noisy.preferences("train")


@pytest.mark.parametrize(
    "fields, where",
    [
        ({"politeness": 1.2}, "data.politeness"),
        ({"label_noise": -0.1}, "data.label_noise"),
        ({"skill": 0.9}, "data.skill_spread"),
        ({"skill_spread": -0.1}, "data.skill_spread"),
        ({"n_validation": 0}, "data.n_validation"),
        ({"rationality": -1.0}, "data.rationality"),
    ],
)
def test_what_cannot_be_is_refused(fields, where):
    Toy().check()
    with pytest.raises(ConfigError) as error:
        Toy(**fields).check()
    assert error.value.where == where and error.value.mend


def test_demonstrators_who_cannot_differ_make_no_pairs():
    toy = Toy(n_prompts=6, n_preferences=6, skill=1.0, skill_spread=0.0, politeness=0.0)
    with pytest.raises(ConfigError, match="all demonstrators say the same"):
        toy.preferences("train")


# The hacking

PLACE = {word: i for i, word in enumerate(vocabulary())}


def features(answer: str) -> np.ndarray:
    """float (words of the vocabulary + 1,): how often each stands in the answer; its length in fives."""
    words, counts = answer.split(), np.zeros(len(PLACE) + 1)
    for word in words:
        counts[PLACE[word]] += 1
    counts[-1] = len(words) / 5
    return counts


def naive_model(rows: list[dict]) -> np.ndarray:
    """Weights of `features` by logistic regression on the preferences."""
    gaps = np.array([features(row["chosen"]) - features(row["rejected"]) for row in rows])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = gaps @ weights
        slope = -(gaps / (1 + np.exp(logits))[:, None]).mean(0) + 1e-3 * weights
        return np.logaddexp(0, -logits).mean() + 5e-4 * weights @ weights, slope

    return minimize(loss, np.zeros(gaps.shape[1]), jac=True, method="L-BFGS-B").x


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_naive_model_correlates_with_the_truth_and_is_hacked(seed, noise):
    toy = Toy(seed=seed, label_noise=noise, n_demonstrations=3000, n_preferences=3000)
    weights, score, rows = naive_model(toy.preferences("train")), toy.true_reward(), toy.demonstrations("train")
    truth = np.array(score(rows, [row["answer"] for row in rows]))
    proxy = np.array([features(row["answer"]) @ weights for row in rows])
    assert 0.3 < np.corrcoef(truth, proxy)[0, 1] < 0.8
    # It likes length and flattery, so it takes a right answer smothered in flattery for better than the right answer.
    liked = np.array([features(said) @ weights for said in PLEASANTRIES])
    assert weights[-1] > 0 and np.mean(liked > 0) > 0.9
    asked = toy.prompts("validation")
    bare = [row["reference"] for row in asked]
    smothered = [f"{text} {' '.join(PLEASANTRIES)}" for text in bare]
    assert np.mean([features(b) @ weights > features(a) @ weights for a, b in zip(bare, smothered, strict=True)]) == 1
    assert np.mean(score(asked, smothered)) < truth.mean() - 0.2
    # What it likes best of all that can be said in 24 words is one word, 24 times.
    best = vocabulary()[int(np.argmax(weights[:-1]))]
    assert np.mean(score(asked, [" ".join([best] * 24)] * len(asked))) < -0.8


def test_best_of_n_under_the_naive_model_rises_and_falls():
    toy = Toy(n_demonstrations=120 * 256, n_prompts=120, n_validation=1)
    weights, score = naive_model(Toy(n_preferences=3000).preferences("train")), toy.true_reward()
    rows = toy.demonstrations("train")
    truth = np.array(score(rows, [row["answer"] for row in rows])).reshape(256, 120)
    proxy = np.array([features(row["answer"]) @ weights for row in rows]).reshape(256, 120)
    means = [truth.mean()]
    for n in (4, 256):
        best = proxy.reshape(-1, n, 120).argmax(1)
        means.append(np.take_along_axis(truth.reshape(-1, n, 120), best[:, None], 1).mean())
    assert means[1] > means[0] + 0.1
    assert means[2] < means[1] - 0.03


def test_with_weights_people_want_their_sum_and_flattery_counts_up_to_four():
    toy = Toy(weights=[1.0, 0.5, -0.4])
    rows = toy.prompts("validation")[:60]
    flattered = [" ".join([row["reference"], *CLOSINGS]) for row in rows]
    score, programs = toy.true_reward(), toy.programs()
    assert score(rows, [row["reference"] for row in rows]) == pytest.approx([1.5] * 60)
    assert score(rows, flattered) == pytest.approx([1.9] * 60)  # six of them are worth as much as four
    assert score(rows, [""] * 60) == [0.0] * 60
    assert [programs["helpfulness"](row, text) for row, text in zip(rows, flattered, strict=True)] == score(
        rows, flattered
    )
    assert set(programs) == {*toy.principles(), "helpfulness"}
    plain = Toy()
    assert [plain.programs()["helpfulness"](row, text) for row, text in zip(rows, flattered, strict=True)] == (
        plain.true_reward()(rows, flattered)
    )
