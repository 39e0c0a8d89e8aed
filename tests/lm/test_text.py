"""Conversations as text: templates, tokenizers, and what is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhtool.errors import RhtoolError
from rhtool.models import Model
from tests.lm.small import Words, small

pytest.importorskip("trl")
from rhtool.lm import text

pytestmark = pytest.mark.lm

TALK = [{"role": "user", "content": "say cat dog"}]


@pytest.fixture(scope="module")
def tokenizer():
    return text.tokenizer_of(small(), text.corpus(Words()))


@pytest.mark.parametrize(
    ("name", "prompt", "answer"),
    [
        ("oasst", "<|prompter|>say cat dog<|endoftext|><|assistant|>", "cat dog<|endoftext|>"),
        ("tulu", "<|user|>\nsay cat dog\n<|assistant|>\n", "cat dog<|endoftext|>"),
        ("hh", "\n\nHuman: say cat dog\n\nAssistant:", " cat dog<|endoftext|>"),
    ],
)
def test_templates_are_the_papers(tokenizer, name, prompt, answer):
    """Spec: Open-Assistant's tokens (Coste et al.), Tulu's roles, HH's dialogue with the space kept."""
    tokenizer.chat_template = text.template(name)
    form = text.Format(tokenizer, 64)
    assert form.prompt(TALK) == prompt
    assert form.answer(TALK, answer.removesuffix("<|endoftext|>")) == answer


@pytest.mark.parametrize("file", sorted(text.TEMPLATES.glob("*.jinja")), ids=lambda f: f.stem)
def test_every_template_only_adds_to_a_conversation(tokenizer, file):
    tokenizer.chat_template = file.read_text()
    form = text.Format(tokenizer, 64)
    talk = [*TALK, {"role": "assistant", "content": "cat dog"}, {"role": "user", "content": "and now?"}]
    for n in (1, 3):
        assert form.answer(talk[:n], "yes").startswith("yes") and form.answer(talk[:n], "yes").endswith("<|endoftext|>")
        assert form.prompt(talk[:n]).endswith(form.prompt(TALK)[-5:])


def test_a_template_that_rewrites_is_refused(tokenizer):
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(RhtoolError, match="anew"):
        text.Format(tokenizer, 64).answer(TALK, "yes")


@given(st.text(max_size=40))
def test_every_text_comes_back_from_the_tokens(tokenizer, words):
    assert tokenizer.decode(tokenizer(words, add_special_tokens=False)["input_ids"]) == words


@given(st.integers(0, 60), st.integers(1, 60), st.integers(2, 50))
def test_answers_stay_whole_as_long_as_prompts_keep_half(tokenizer, prompt, answer, most):
    form = text.Format(tokenizer, most)
    left, right = form.fit([*range(prompt)], [*range(100, 100 + answer)])
    assert len(left) + len(right) <= most
    assert left == [*range(prompt)][prompt - len(left) :] and right == [*range(100, 100 + answer)][: len(right)]
    if answer <= most - most // 2:
        assert len(right) == answer  # the answer is whole
    if len(right) < answer:
        assert len(left) == min(prompt, most // 2)  # the prompt was cut to its half first


def test_what_is_missing_is_said(tmp_path, tokenizer):
    bare = tokenizer
    bare.chat_template = None
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(RhtoolError, match="no chat template"):
        text.tokenizer_of(Model(path=str(tmp_path / "bare")))
    assert text.tokenizer_of(Model(path=str(tmp_path / "bare"), template="oasst")).chat_template
    with pytest.raises(RhtoolError, match="no template 'oast'"):
        text.tokenizer_of(Model(path=str(tmp_path / "bare"), template="oast"))
    with pytest.raises(RhtoolError, match="cannot be loaded"):
        text.tokenizer_of(Model(path=str(tmp_path)))
