"""What is drawn has the model's distribution, and does not depend on what is drawn beside it."""

from __future__ import annotations

import pytest

pytest.importorskip("trl")
import torch

from rhtool.lm.generation import Draw, generate, mixed, tokens, warpers
from rhtool.lm.loading import language_model
from rhtool.lm.text import Format, corpus, tokenizer_of
from tests.lm.small import Words, small

pytestmark = pytest.mark.lm


def test_the_hash_is_splitmix64():
    """The first outputs of Vigna's splitmix64.c from the seed 1234567: state n is seed + n x golden ratio."""
    golden = 0x9E3779B97F4A7C15
    states = [(1234567 + n * golden) % 2**64 for n in range(1, 4)]
    signed = torch.tensor([x - 2**64 if x >= 2**63 else x for x in states])
    found = [x % 2**64 for x in mixed(signed).tolist()]
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("position", [0, 1, 7])
def test_tokens_are_drawn_as_the_softmax_has_it(position):
    logits = torch.linspace(-3, 2, 20)
    n = 100_000
    draw = Draw(5, range(n), 3, torch.device("cpu"))
    drawn = draw(torch.zeros(1, 3 + position).expand(n, -1), logits.expand(n, -1)).argmax(1)
    p = logits.double().softmax(0)
    error = (torch.bincount(drawn, minlength=20) / n - p) / (p * (1 - p) / n).sqrt()
    assert error.abs().max() < 4.5


def test_texts_positions_and_seeds_draw_independently():
    n, logits = 20_000, torch.zeros(2)
    first, second = (
        Draw(seed, range(n), 1, torch.device("cpu"))(torch.zeros(n, width), logits.expand(n, 2)).argmax(1).double()
        for seed, width in ((1, 1), (1, 2))
    )
    other = Draw(2, range(n), 1, torch.device("cpu"))(torch.zeros(n, 1), logits.expand(n, 2)).argmax(1).double()
    for one, two in ((first, second), (first, other), (first[:-1], first[1:])):
        assert abs(torch.corrcoef(torch.stack([one, two]))[0, 1]) < 4.5 / n**0.5


def test_an_answer_is_the_same_whatever_is_answered_beside_it():
    data = Words()
    tokenizer = tokenizer_of(small(), corpus(data))
    model, form = language_model(small(), tokenizer, 0), Format(tokenizer, 48)
    prompts = tokens(form, data.prompts("train")[:9], 40)
    options = {"max_new_tokens": 12, "temperature": 0.9, "top_p": 0.95, "top_k": 100}

    def answers(prompts, **more):
        return [ids for _, part in generate(model, form, prompts, 7, **options, **more) for ids in part]

    whole = answers(prompts)
    assert answers(prompts, chunk=2) == whole
    assert answers(prompts[5:], first=5) == whole[5:]
    assert answers([prompts[0]] * 2)[1] != whole[0]
    assert len({tuple(x) for x in whole}) == 9


def test_what_is_cut_off_is_not_drawn():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    for warper, left in zip(warpers(1.0, 2, 1.0) + warpers(1.0, 0, 0.5), (2, 1), strict=True):
        assert warper(None, logits).isfinite().sum() == left
