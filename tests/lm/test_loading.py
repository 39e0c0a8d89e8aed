"""Models: made, loaded, frozen, given adapters, saved; and reward models that score in plain transformers as they do here."""

from __future__ import annotations

import pytest

from rhtool.errors import ConfigError, RhtoolError
from rhtool.models import Lora, Model
from tests.lm.small import Words, small

pytest.importorskip("trl")
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rhtool.lm import loading, text
from rhtool.lm.reward_model import Scorer

pytestmark = pytest.mark.lm
FAMILIES = ["gpt_neox", "gpt2", "llama"]


@pytest.fixture(scope="module")
def tokenizer():
    return text.tokenizer_of(small(), text.corpus(Words()))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_makes_a_model_and_leaves_other_draws_alone(tokenizer, family):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    one, two, other = (loading.language_model(small(family=family), tokenizer, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    same = [torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True)]
    assert all(same) and not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapters", [0, 4])
def test_what_is_saved_loads_in_plain_transformers(tokenizer, tmp_path, family, adapters):
    made = loading.language_model(small(family=family, lora=Lora(r=adapters)), tokenizer, 0)
    with torch.no_grad():
        for parameter in made.parameters():  # adapters start as nothing
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    ids = torch.tensor([tokenizer("say cat dog")["input_ids"]])
    expected = made(ids).logits
    loading.save(made, tokenizer, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("say cat dog")["input_ids"] == ids[0].tolist()
    torch.testing.assert_close(plain(ids).logits, expected, atol=1e-5, rtol=1e-4)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file() == bool(adapters)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_last_blocks_and_what_follows_are_trained(tokenizer, family, layers):
    made = loading.language_model(small(family=family, layers_unfrozen=layers), tokenizer, 0)
    trained = {name for name, p in made.named_parameters() if p.requires_grad}
    for block in range(2):
        of_block = {name for name, _ in made.named_parameters() if f".{block}." in name}
        assert of_block <= trained if block >= 2 - layers else not of_block & trained
    assert any("norm" in name or "ln_f" in name for name in trained)
    assert not any("embed_in" in name or "wte" in name or "embed_tokens" in name for name in trained)


def test_more_blocks_than_there_are(tokenizer):
    with pytest.raises(ConfigError, match="3 of 2 blocks"):
        loading.language_model(small(layers_unfrozen=3), tokenizer, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_plain_transformers_in_any_batch(tokenizer, tmp_path, family):
    made = loading.reward_model(small(family=family), tokenizer, 0)
    loading.save(made, tokenizer, tmp_path)
    talks = [[{"role": "user", "content": " ".join(["say"] * n)}] for n in (1, 7, 3, 12)]
    answers = ["cat", "dog dog dog", "", "owl fox"]
    plain, tok = AutoModelForSequenceClassification.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    form = text.Format(tok, 64)
    texts = [form.prompt(t) + form.answer(t, a) for t, a in zip(talks, answers, strict=True)]
    with torch.no_grad():
        alone = torch.stack(
            [plain(**tok(x, return_tensors="pt", add_special_tokens=False)).logits[0, 0] for x in texts]
        )
        for side in ("left", "right"):
            if side == "left" and family == "gpt2":
                continue  # plain transformers counts a GPT-2 classifier's positions from the padding
            batch = tok(texts, return_tensors="pt", padding=True, padding_side=side, add_special_tokens=False)
            torch.testing.assert_close(plain(**batch).logits[:, 0], alone, atol=1e-5, rtol=1e-4)
    for size in (1, 2, 4):
        scorer = Scorer(loading.score_model(str(tmp_path)), tok, batch=size)
        torch.testing.assert_close(scorer(talks, answers), alone, atol=1e-5, rtol=1e-4)


def test_an_answer_that_did_not_end_has_no_end_token(tokenizer):
    scorer = Scorer(loading.reward_model(small(), tokenizer, 0), tokenizer)
    talk = [{"role": "user", "content": "say cat"}]
    ended, cut = scorer([talk, talk], ["cat", "cat"], [True, False])
    form = text.Format(tokenizer, 64)
    ids = form.ids(form.prompt(talk)) + form.ids("cat")
    torch.testing.assert_close(torch.stack([ended, cut]), scorer.of_ids([[*ids, tokenizer.eos_token_id], ids]))
    assert ended != cut


def test_a_classifier_of_two_labels_is_no_reward_model(tokenizer, tmp_path):
    two = loading._made(AutoModelForSequenceClassification, small(), tokenizer, 0, num_labels=2)
    loading.save(two, tokenizer, tmp_path)
    for load in (
        lambda: loading.score_model(str(tmp_path)),
        lambda: loading.reward_model(Model(path=str(tmp_path)), tokenizer, 0),
    ):
        with pytest.raises(RhtoolError, match="2 labels"):
            load()


def test_no_model(tmp_path):
    with pytest.raises(RhtoolError, match="no model at"):
        Model(path=str(tmp_path / "nothing")).check()
    with pytest.raises(ConfigError, match="no model is named"):
        Model().check()
    with pytest.raises(RhtoolError, match="cannot be loaded"):
        loading.score_model(str(tmp_path))
