"""`reward=warm` and `reward=par`, against scores of the models themselves."""

from __future__ import annotations

import math

import pytest

from rhtool.config import compose
from rhtool.errors import RhtoolError
from rhtool.models import Lora, Model
from rhtool.rewards.par import Par
from rhtool.rewards.rm import Ensemble, Rm
from rhtool.rewards.warm import Warm
from tests.lm.small import WORDS, Words, small

pytestmark = pytest.mark.lm
torch = pytest.importorskip("torch")
pytest.importorskip("trl")

ROWS = [{"prompt": [{"role": "user", "content": f"say {word}"}], "reference": word} for word in WORDS]
ANSWERS = [" ".join(WORDS[: i % 4]) for i in range(len(ROWS))]
FINISHED = [i % 3 > 0 for i in range(len(ROWS))]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """`a`; `b`, which differs from it in its head; `c`, which differs in all; `adapter`, of the base of all; `wide`."""
    from rhtool.lm import loading, text

    root = tmp_path_factory.mktemp("models")
    tokenizer = text.tokenizer_of(small(), text.corpus(Words()))
    loading.save(loading.language_model(small(), tokenizer, 0), tokenizer, root / "base")
    for name, model, seed in (
        ("a", Model(path=str(root / "base")), 1),
        ("b", Model(path=str(root / "base")), 2),
        ("c", small(), 3),
        ("adapter", Model(path=str(root / "base"), lora=Lora(r=4)), 4),
        ("wide", small(width=64), 5),
    ):
        made = loading.reward_model(model, tokenizer, seed)
        for parameter in made.parameters():
            if parameter.requires_grad and name == "adapter":
                torch.nn.init.normal_(parameter, std=0.2)
        loading.save(made, tokenizer, root / name)
    return root


def scores(reward):
    return reward.load()(ROWS, ANSWERS, FINISHED)


def test_weights_that_differ_in_the_head_alone_average_to_the_mean_score(models):
    """In the head the score is linear, so the mean of weights is the ensemble's mean there; elsewhere it is not."""
    paths = [str(models / name) for name in "abc"]
    mean = scores(Ensemble(models=paths[:2])).mean(1)
    torch.testing.assert_close(scores(Warm(models=paths[:2]))[:, 0], mean, rtol=1e-4, atol=1e-5)
    three = scores(Warm(models=paths))[:, 0]
    assert (three - scores(Ensemble(models=paths)).mean(1)).abs().max() > 1e-3
    torch.testing.assert_close(scores(Warm(models=[paths[2]] * 3)), scores(Rm(model=paths[2])), rtol=1e-4, atol=1e-5)


def test_an_adapter_alone_counts_as_what_it_makes_of_its_base(models):
    alone, merged = str(models / "adapter" / "adapter"), str(models / "adapter")
    found, expected = (scores(Warm(models=[path, str(models / "a")])) for path in (alone, merged))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_models_that_have_no_mean(models):
    with pytest.raises(RhtoolError, match="number and shape"):
        Warm(models=[str(models / "a"), str(models / "wide")]).load()
    with pytest.raises(RhtoolError, match="no models are named"):
        compose("task=rlhf_ppo", "model=tiny", "data=toy", "reward=warm").reward.check()


def test_the_shaped_score_is_the_probability_of_being_preferred_to_the_reference(models):
    model = str(models / "c")
    reward = compose("task=rlhf_ppo", "model=tiny", "data=toy", "reward=par", f"reward.model={model}").reward
    reward.check()
    judge = reward.load()
    own = Rm(model=model).load()
    answers = own(ROWS, ANSWERS, FINISHED)[:, 0].tolist()
    references = own(ROWS, [row["reference"] for row in ROWS], [True] * len(ROWS))[:, 0].tolist()
    expected = [1 / (1 + math.exp(b - a)) for a, b in zip(answers, references, strict=True)]
    for order in (slice(None), slice(None, None, -1)):  # the second time the references are known
        found = judge(ROWS[order], ANSWERS[order], FINISHED[order])
        assert reward.combined(found).tolist() == pytest.approx(expected[order], abs=1e-5)
    same = judge(ROWS, [row["reference"] for row in ROWS], [True] * len(ROWS))
    assert reward.combined(same).tolist() == pytest.approx([0.5] * len(ROWS), abs=1e-5)


def test_a_reference_that_is_missing_is_named(models):
    with pytest.raises(RhtoolError, match="reference is None"):
        Par(model=str(models / "c")).load()([{"prompt": ROWS[0]["prompt"]}], ["cat"], [True])
