"""`reward=morl`: adapters that take turns in one base are what each is alone; weights; what is missing is named."""

from __future__ import annotations

import itertools
import json

import pytest

from rhtool.config import compose
from rhtool.errors import ConfigError, RhtoolError
from rhtool.models import Lora, Model, Trained
from rhtool.rewards.morl import Morl
from rhtool.rewards.rm import Ensemble, Rm
from tests.lm.small import WORDS, Words, small

pytestmark = pytest.mark.lm
torch = pytest.importorskip("torch")
pytest.importorskip("trl")

PRINCIPLES = ["brevity", "empathy", "helpfulness"]
ROWS = [{"prompt": [{"role": "user", "content": f"say {a} {b}"}]} for a, b in itertools.pairwise(WORDS)]
ANSWERS = [" ".join(WORDS[: i % 4]) for i in range(len(ROWS))]
FINISHED = [i % 3 > 0 for i in range(len(ROWS))]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A language model, and adapters of it for each principle, as runs of task=rm_train save them."""
    from rhtool.lm import loading, text
    from rhtool.lm.text import tokenizer_of

    root = tmp_path_factory.mktemp("principles")
    tokenizer = tokenizer_of(small(), text.corpus(Words()))
    loading.save(loading.language_model(small(), tokenizer, 0), tokenizer, root / "base")
    base = Model(path=str(root / "base"), lora=Lora(r=4, targets=["query_key_value", "dense_h_to_4h"]))
    for seed, principle in enumerate(PRINCIPLES):
        made = loading.reward_model(base, tokenizer, seed)
        draw = torch.Generator().manual_seed(seed)
        for name, weight in made.named_parameters():
            if weight.requires_grad:  # else an adapter begins as nothing
                assert "lora" in name or "score" in name
                weight.data = torch.randn(weight.shape, generator=draw) / 4
        loading.save(made, tokenizer, root / "runs" / principle / "model")
    return root


def scores(reward, answers=ANSWERS):
    return reward.load()(ROWS, answers, FINISHED)


def test_adapters_that_take_turns_are_what_each_is_alone(models, monkeypatch):
    """The merged weights of each, which load without peft, are the truth; the base is loaded once."""
    from rhtool.lm import judges

    alone = torch.cat([scores(Rm(model=str(models / "runs" / name))) for name in PRINCIPLES], 1)
    assert alone.std(0).min() > 1e-2 and (alone[:, 0] - alone[:, 1]).abs().min() > 1e-4
    count, load = [], judges.loaded
    monkeypatch.setattr(judges, "loaded", lambda *args, **options: count.append(args) or load(*args, **options))
    reward = Morl(directory=str(models / "runs"))
    reward.check()
    together = reward.load()
    assert len(count) == 1 and reward.judges(3) == PRINCIPLES
    for _ in range(2):  # the turns leave nothing behind
        torch.testing.assert_close(together(ROWS, ANSWERS, FINISHED), alone, rtol=1e-4, atol=1e-5)
    ensemble = Ensemble(models=[str(models / "runs" / name) for name in PRINCIPLES[::-1]])
    torch.testing.assert_close(scores(ensemble), alone.flip(1), rtol=1e-4, atol=1e-5)


def test_an_adapter_needs_no_merged_weights(models, tmp_path):
    """Adapters as peft saves them, in directories with the names of principles, score as the runs do."""
    for name in PRINCIPLES:
        (tmp_path / name).symlink_to(models / "runs" / name / "model" / "adapter")
    reward = Morl(directory=str(tmp_path), principles=["helpfulness", "brevity"])
    reward.check()
    assert {Trained(str(tmp_path / name)).whole for name in PRINCIPLES} == {False}
    assert set(reward.inputs()) == {"reward_model_0", "reward_model_1", "reward_base_0", "reward_base_1"}
    whole = Morl(directory=str(models / "runs"), principles=["helpfulness", "brevity"])
    torch.testing.assert_close(scores(reward), scores(whole))
    one = Rm(model=str(tmp_path / "empathy"))
    one.check()
    torch.testing.assert_close(scores(one), scores(Rm(model=str(models / "runs" / "empathy"))), rtol=1e-4, atol=1e-5)


def test_adapters_whose_base_is_gone_are_read_from_the_merged_weights(models, tmp_path):
    import shutil

    shutil.copytree(models / "runs", tmp_path / "runs")
    for name in PRINCIPLES:
        config = tmp_path / "runs" / name / "model" / "adapter" / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "./not/there"}))
    expected = scores(Morl(directory=str(models / "runs")))
    torch.testing.assert_close(scores(Morl(directory=str(tmp_path / "runs"))), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(RhtoolError, match=r"adapts is not there at \./not/there"):
        Rm(model=str(tmp_path / "runs" / "empathy" / "model" / "adapter")).check()


def test_weights_multiply_scores_and_come_from_a_file_or_the_command_line(models, tmp_path):
    numbers = {"helpfulness": 2, "toxicity": 9.0, "empathy": -0.5, "brevity": 0.25}
    (tmp_path / "w.json").write_text(json.dumps(numbers))
    reward = Morl(directory=str(models / "runs"), weights_file=str(tmp_path / "w.json"))
    reward.check()
    table = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 0.5, 0.0]])
    assert reward.combined(table).tolist() == [0.25 - 1 + 6, -1 - 0.25]
    same = Morl(directory=str(models / "runs"), principles=["helpfulness", "empathy"], weights=[2, -0.5])
    assert same.combined(table[:, [2, 1]]).tolist() == [5, -0.25]
    assert Morl(directory=str(models / "runs"), combine="max_min").combined(table).tolist() == [1, -4]
    assert reward.inputs()["weights"] == str(tmp_path / "w.json")


@pytest.mark.parametrize("combine, options, value", [
    ("linear", [], 2.45), ("max_min", [], -0.25), ("soft_max_min", [], 0.2455586), ("lower_third", [], -0.025),
    ("uncertainty_weighted", [], 0.3269097), ("max_median", [], 0.25), ("max_median", ["reward.median=mid"], 0.375),
    ("bernoulli_nash", ["reward.transform=none", "reward.root=false"], -0.0046875), ("mean", [], 2.45 / 6),
])  # fmt: skip
def test_morlaifs_numbers_from_the_command_line(combine, options, value):
    names = "reward.principles=[a,b,c,d,e,f] reward.models=[a,b,c,d,e,f] reward.weights=[1,0.5,1,0.25,-0.2,1]"
    words = ["task=rlhf_ppo", "model=tiny", "data=toy", "reward=morl", f"reward.combine={combine}", *names.split()]
    reward = compose(*words, *options).reward
    assert reward.combined(torch.tensor([[1, -0.5, 0.25, 2, -1, 0.75]])).tolist() == pytest.approx([value], abs=1e-6)


def test_what_is_missing_is_named(models, tmp_path):
    def refuses(match: str, **options) -> None:
        with pytest.raises(RhtoolError, match=match):
            Morl(**{"directory": str(models / "runs")} | options).check()

    refuses("no models of principles", directory="")
    refuses("no reward models in", directory=str(tmp_path))
    refuses("'empaty' in.*\n.*\n.*did you mean 'empathy'", principles=["brevity", "empaty"])
    refuses("3 models for 0 principles", directory="", models=["a", "b", "c"])
    refuses("2 weights for 1 principles", principles=["brevity"], weights=[1, 2])
    refuses("given twice", principles=["brevity", "brevity"])
    refuses("both", principles=["brevity"], weights=[1], weights_file="w.json")
    refuses("cannot be read", weights_file=str(tmp_path / "none.json"))
    refuses("temperature", combine="soft_max_min", temperature=0)
    refuses("no reward model at ./none\n  where: reward.models.c", directory="", principles=["c"], models=["./none"])
    for text, match in {
        '{"brevity": 1, "empathy": 0}': "the principle 'helpfulness' has no weight",
        '{"brevity": "1"}': "'brevity' is '1'",
        '{"brevity": NaN}': "no finite number",
        "[1, 2]": "no object",
        "{": "no JSON",
    }.items():
        (tmp_path / "w.json").write_text(text)
        refuses(match, weights_file=str(tmp_path / "w.json"))
    with pytest.raises(ConfigError):
        compose("task=rlhf_ppo", "model=tiny", "data=toy", "reward=morl", "reward.combine=maxmin").reward.check()
