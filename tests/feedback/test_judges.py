"""Who compares answers: the toy data's program, a language model, a reward model; and how they are asked."""

from __future__ import annotations

import numpy as np
import pytest

from rhtool.data.base import VALIDATION
from rhtool.data.toy import Toy as ToyData
from rhtool.errors import ConfigError, RhtoolError
from rhtool.feedback import pairs
from rhtool.feedback.base import PRINCIPLES, Comparison, conversation, known, question, wordings
from rhtool.feedback.toy import Toy

ROW = {
    "prompt": [
        {"role": "user", "content": "why?"},
        {"role": "assistant", "content": "so"},
        {"role": "user", "content": "and?"},
    ]
}


def some(n: int = 200) -> list[dict]:
    return pairs.of_preferences(ToyData(n_validation=n).preferences(VALIDATION), VALIDATION, 0)


def asked(judge, principles, n: int = 200, **options) -> pairs.Asking:
    work = pairs.Asking(some(n), principles, judge, 0, **options)
    for _ in range(work.iterations):
        work.iteration()
    return work


def test_every_principle_has_wordings_and_the_question_has_all_its_parts():
    assert len(known()) >= 12
    for name in known():
        for wording in wordings(name):
            text = question(Comparison(name, wording, ROW, "yes", "no"))
            assert text.count(wording) == 2 and "Option A:\nyes\n" in text and "Option B:\nno\n" in text
            assert conversation(ROW) == "Human: why?\n\nAssistant: so\n\nHuman: and?" and conversation(ROW) in text
            assert not wording.endswith(".") and wording == wording.strip()
    with pytest.raises(ConfigError, match="did you mean 'helpfulness'"):
        wordings("helpfulnes")


def test_principles_of_your_own_are_files(tmp_path):
    (tmp_path / "brevity.txt").write_text("the shorter\n\nthe briefer\n")
    assert wordings("brevity", str(tmp_path)) == ["the shorter", "the briefer"]
    assert {"brevity", *(file.stem for file in PRINCIPLES.glob("*.txt"))} == {*known(str(tmp_path))}
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ConfigError, match="no wording"):
        wordings("empty", str(tmp_path))


def test_a_template_of_your_own_cannot_reach_into_the_program(tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ a }} or {{ b }}?")
    assert question(Comparison("x", "y", ROW, "1", "2"), str(tmp_path / "mine.jinja")) == "1 or 2?"
    (tmp_path / "bad.jinja").write_text("{{ a.__class__.__mro__ }}")
    with pytest.raises(RhtoolError, match="does not render: access to attribute"):
        question(Comparison("x", "y", ROW, "1", "2"), str(tmp_path / "bad.jinja"))


def test_what_cannot_ask_is_refused_before_anything_is_asked(tmp_path):
    from rhtool.feedback.local import Local
    from rhtool.feedback.server import Server

    (tmp_path / "typo.jinja").write_text("{{ conversaton }}")
    for feedback in (Server(key_variable="", template=str(tmp_path / "typo.jinja")), Local(path="gpt2")):
        feedback.template = str(tmp_path / "typo.jinja")
        with pytest.raises(RhtoolError, match="'conversaton' is undefined"):
            feedback.check(None)
    with pytest.raises(RhtoolError, match="there is no model at"):
        Local(path=str(tmp_path / "none")).check(None)


def test_a_reward_model_that_is_missing_is_named_as_the_user_names_it():
    from rhtool.feedback.rm import Rm

    with pytest.raises(ConfigError) as none:
        Rm().check(None)
    with pytest.raises(RhtoolError) as wrong:
        Rm(model="nowhere/at/all").check(None)
    assert {none.value.where, wrong.value.where} == {"feedback.model"}


def test_far_apart_answers_have_finite_opinions():
    ((a, b),) = Toy(rationality=1e5, noise=0.0).load(ToyData(), None)(
        [Comparison("sycophancy", "x", some(1)[0], "yes", "great question yes")]
    )
    assert a == 0.0 and b == pytest.approx(-25_000.3)


def test_the_program_is_bradley_and_terrys_labeller():
    data = ToyData()
    score, rationality = data.principles()["factuality"], 3.0
    work = asked(Toy(rationality=rationality, position_bias=0.0).load(data, None), ["factuality"], 600)
    rows = work.answered()
    gap = np.array([score(p, p["a"]) - score(p, p["b"]) for p in work.pairs])
    chose = np.array([row["log_prob_a"] > row["log_prob_b"] for row in rows])
    p = 1 / (1 + np.exp(-rationality * gap))
    assert abs((chose - p).mean()) < 3 * np.sqrt((p * (1 - p)).mean() / len(p))
    expected = np.maximum(p, 1 - p).mean()
    assert abs((chose == (gap > 0))[gap != 0].mean() - np.maximum(p, 1 - p)[gap != 0].mean()) < 0.05 and expected < 1
    total = np.exp([row["log_prob_a"] for row in rows]) + np.exp([row["log_prob_b"] for row in rows])
    np.testing.assert_allclose(total, 1)


def test_nobody_foretells_opinions_more_often_than_their_reliability_says():
    """Against asking both orders again and again, with other noise each time."""
    data, one = ToyData(), Toy(rationality=3.0, position_bias=1.0)
    work = pairs.Asking(some(60), ["factuality"], one.load(data, None), 0)
    for pair, line in zip(work.pairs, work.lines, strict=True):
        said = []
        for seed in range(200):
            judge = Toy(rationality=3.0, position_bias=1.0, seed=seed).load(data, None)
            turned = line | {"first": "ab"[seed % 2]}
            (first, second), *_ = judge([pairs.comparison(work.pairs, turned)])
            said.append((first > second) == (turned["first"] == "a"))
        share = max(np.mean(said), 1 - np.mean(said))
        assert abs(share - one.reliability(data, pairs.comparison(work.pairs, line))) < 4 * 0.5 / np.sqrt(200), pair


def test_a_bias_for_what_is_shown_first_is_measured_and_says_nothing_about_answers():
    biased = asked(Toy(rationality=0.0, position_bias=1.5, noise=0.0).load(ToyData(), None), ["factuality"])
    assert biased.metrics()["feedback/position_bias"] == 0.5
    chose = np.array([row["log_prob_a"] > row["log_prob_b"] for row in biased.answered()])
    human = np.array([pair["human"] == "a" for pair in biased.pairs])
    for share in (
        chose.mean(),
        human.mean(),
        (chose == human).mean(),
    ):  # neither the place nor people tell which was first
        assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(200)


def test_the_same_comparison_gets_the_same_opinion():
    one, other = (asked(Toy().load(ToyData(), None), ["relevance", "sycophancy"]).answered() for _ in range(2))
    assert one == other and len(one) == 400
    assert asked(Toy(seed=1).load(ToyData(), None), ["relevance", "sycophancy"]).answered() != one


def test_a_stopped_feedback_goes_on_where_it_was():
    judge = Toy().load(ToyData(), None)
    whole = asked(judge, ["relevance", "factuality"])
    stopped = pairs.Asking(some(), ["relevance", "factuality"], judge, 0)
    for _ in range(5):
        stopped.iteration()
    resumed = pairs.Asking(some(), ["relevance", "factuality"], judge, 0)
    resumed.set_state(stopped.get_state())
    for _ in range(5, resumed.iterations):
        resumed.iteration()
    assert resumed.answered() == whole.answered()


def test_the_baseline_asks_of_one_principle_a_pair():
    work = asked(Toy().load(ToyData(), None), ["relevance", "factuality"], one_each=True)
    rows = work.answered()
    assert [row["pair"] for row in rows] == list(range(200)) and {row["principle"] for row in rows} == {
        "relevance",
        "factuality",
    }
    found = pairs.preferences(work.pairs, rows, None)[VALIDATION]
    assert len(found) == sum(row["log_prob_a"] != row["log_prob_b"] for row in rows)
    first, said = found[0], rows[0]
    assert first["margin"] == abs(said["log_prob_a"] - said["log_prob_b"])
    assert first["chosen"] == work.pairs[0]["a" if said["log_prob_a"] > said["log_prob_b"] else "b"]


def test_a_principle_that_the_program_does_not_know():
    with pytest.raises(ConfigError, match="empathy"):
        asked(Toy().load(ToyData(), None), ["empathy"])


def test_a_language_model_is_asked_for_its_next_token(tmp_path):
    """Against the whole distribution, one question at a time and without padding."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    from rhtool.feedback.local import Local
    from rhtool.lm.text import template, trained_tokenizer

    questions = [Comparison("x", w, ROW, "yes", "no " * k) for k, w in enumerate(wordings("detail") * 3, 1)]
    tokenizer = trained_tokenizer([question(one) for one in questions] * 5, 400, 512, template("oasst"))
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = list(Local(path=str(tmp_path), batch=4).load(None, tmp_path)(questions))
    for one, opinion in zip(questions, found, strict=True):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question(one)}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        p = model(ids).logits[0, -1].softmax(-1)
        for letter, value in zip("AB", opinion, strict=True):
            total = sum(p[i] for i in range(len(tokenizer)) if tokenizer.decode([i]).strip() == letter)
            assert value == pytest.approx(float(torch.log(total).detach()), abs=1e-4)
    with pytest.raises(RhtoolError, match="tokens"):
        list(Local(path=str(tmp_path), max_length=10).load(None, tmp_path)(questions))
