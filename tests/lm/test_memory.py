"""What `rhtool.lm.memory` foretells is what torch's allocator gives to the run."""

from __future__ import annotations

import gc
import json

import pytest
import yaml

from rhtool.config import CONF, compose
from rhtool.models import SAVED
from tests.lm.small import small

pytest.importorskip("trl")
import torch
from torch.profiler import ProfilerActivity, profile

from rhtool.lm import loading, memory, needs, text

pytestmark = pytest.mark.lm
WITHIN = 0.05
"""of the measured peak, the estimate is right"""

DATA = ["data=toy", *(f"data.{name}=32" for name in ("n_prompts", "n_demonstrations", "n_preferences", "n_validation"))]
TINY = ["model.width=128", "model.layers=3"]
FIT = ["task.passes=1", "task.minibatch=16", "task.max_length=20"]  # shorter than the texts of the toy language
PPO = [
    "task=rlhf_ppo",
    *DATA,
    *TINY,
    "reward=python",
    "reward.function=tests.lm.test_memory:nothing",
    "task.max_prompt=8",
]
PPO += [
    "task.iterations=1",
    "task.epochs=2",
    "task.max_new_tokens=24",
    "divergence=kl",
    "coeff=0.1",
    "task.eval_prompts=8",
]
PPO += ["task.rollouts=32"]
RUNS = {
    "sft": ["task=sft", *DATA, *TINY, *FIT],
    "sft, top layer": ["task=sft", *DATA, *TINY, *FIT, "model.layers_unfrozen=1"],
    "sft, gpt2, in parts": ["task=sft", *DATA, *TINY, *FIT, "model.family=gpt2", "task.microbatch=4"],
    "sft, llama, eager": ["task=sft", *DATA, *TINY, *FIT, "model.family=llama", "model.attention=eager"],
    "sft, lora": ["task=sft", *DATA, *TINY, *FIT, "model.lora.r=4"],
    "sft, checkpointing": ["task=sft", *DATA, *TINY, *FIT, "model.gradient_checkpointing=true"],
    "rm_train": ["task=rm_train", *DATA, *TINY, *FIT],
    "ppo": [*PPO, "task.minibatch=16"],
    "ppo, value model": [*PPO, "task.minibatch=16", "task.value_model=base"],
    "ppo, in parts": [*PPO, "task.minibatch=16", "task.microbatch=4", "task.value_head=linear"],
    "grpo, top layer": [*PPO, "task.minibatch=16", "task.algo=grpo", "model.layers_unfrozen=1"],
    "ppo, all sampled at once": [*PPO, "task.minibatch=2", "task.rollouts=64", "task.epochs=1"],
}


def nothing(prompts, answers, columns):
    return [0.0] * len(answers)


def measured(words: list[str], directory) -> int:
    """The most bytes that torch's allocator has given at one time to the run of these words, above what it had before."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events:
        torch.empty(1)
        compose(*words, f"dir={directory}/run").execute()
    events.export_chrome_trace(str(directory / "trace.json"))
    found = [
        e for e in json.loads((directory / "trace.json").read_text())["traceEvents"] if e.get("name") == "[memory]"
    ]
    totals = [event["args"]["Total Allocated"] for event in sorted(found, key=lambda event: event["ts"])]
    return max(totals) - totals[0]


@pytest.mark.parametrize("name", RUNS)
def test_the_estimate_is_what_the_run_takes(name, tmp_path):
    run = compose(*RUNS[name])
    need, took = run.task.memory(run), measured(RUNS[name], tmp_path)
    assert need.peak == pytest.approx(took, rel=WITHIN), need


@pytest.mark.parametrize(
    ("option", "parameters"),  # counted by those who published them
    [
        ("gpt2", 124_439_808),
        ("gpt2_medium", 354_823_168),
        ("pythia_70m", 70_426_624),
        ("pythia_1_4b_sft", 1_414_647_808),
    ],
)
def test_published_shapes_are_the_models(option, parameters):
    need = memory.of_bon(compose("task=bon", f"model={option}", "task.max_prompt=8", "task.max_new_tokens=8"))
    assert need.held["weights"] == 4 * parameters


def test_every_shipped_model_of_the_hub_has_a_shape():
    paths = [yaml.safe_load(file.read_text()).get("path") for file in (CONF / "model").glob("*.yaml")]
    assert {path for path in paths if path} == {*json.loads(memory.SHAPES.read_text())}


def test_what_is_trained_is_what_takes_gradients_and_moments():
    words = ["experiment=correlated_proxies_rlhf", "task.max_prompt=32", "task.max_new_tokens=8", "task.rollouts=32"]
    need = memory.of_ppo(compose(*words))
    block, width = 12 * 2048**2 + 13 * 2048, 2048  # of GPT-NeoX: weights of attention and MLP; biases and norms
    head, last = 50304 * width, 2 * width
    value = 2 * width * (width + 1) + 2 * width + 1
    assert need.held["Adam"] == 8 * (2 * block + last + head + value)
    assert need.held["base policy"] == 4 * (2 * block + last + head)
    assert [*need.unknown] == ["outputs/rm_train/pythia_70m_sft/alpaca_farm/default/seed=0"]


def test_keys_and_values_are_kept_of_every_token():
    def sampling(*words: str) -> int:
        words = ("task=bon", "data=toy", "model.width=64", "model.layers=4", "model.context=2048", *words)
        return memory.of_bon(compose(*words)).passes["sampling"]

    one = sampling("task.prompts=16", "task.max_prompt=1", "task.max_new_tokens=1024")
    two = sampling("task.prompts=16", "task.max_prompt=1", "task.max_new_tokens=2047")
    kept = (
        2 * 16 * 1023 * 64 * 4
    )  # keys and values of 16 answers, 1023 more tokens, float32, in each of 4 layers and once more
    assert two - one == 5 * kept
    assert sampling("task.prompts=16", "task.chunk=4", "task.max_prompt=1", "task.max_new_tokens=1024") == one // 4


def test_reward_models_are_held_too(tmp_path):
    tokenizer = text.tokenizer_of(small(), ["say cat"])
    loading.save(loading.reward_model(small(), tokenizer, 0), tokenizer, tmp_path / SAVED)
    alone = memory.of_bon(compose("task=bon", "data=toy"))
    one = memory.of_bon(compose("task=bon", "data=toy", "reward=rm", f"reward.model={tmp_path}"))
    two = memory.of_bon(compose("task=bon", "data=toy", "reward=ensemble", f"reward.models=[{tmp_path},{tmp_path}]"))
    half = memory.of_bon(
        compose("task=bon", "data=toy", "reward=rm", f"reward.model={tmp_path}", "reward.dtype=bfloat16")
    )
    made = loading.score_model(str(tmp_path / SAVED))
    assert one.held["reward"] == sum(p.nbytes for p in made.parameters()) == two.held["reward"] // 2
    assert half.held["reward"] == one.held["reward"] // 2
    assert one.held["weights"] == alone.held["weights"] and one.passes["scoring"] > 0 and "scoring" not in alone.passes


def test_what_is_not_here_is_named_with_the_command_that_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it asks the hub again and again
    with pytest.raises(memory.Unknown, match=r"config.json is not here") as error:
        memory.of_sft(compose("task=sft", "data=toy", "model=pretrained", "model.path=nobody/nothing"))
    assert error.value.mend == "hf download nobody/nothing config.json"
    assert needs.model("model", "nobody/nothing") == (
        False, "model", "nobody/nothing, not in the hub's cache", "hf download nobody/nothing",
    )  # fmt: skip
    assert needs.model("model", str(tmp_path / "none"))[0] is False
    (tmp_path / "config.json").write_text("{}")
    assert needs.model("model", str(tmp_path))[0] is True
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    run = compose("task=rm_train", "data=hh_rlhf")
    ((there, _, _, mend),) = needs.data(run)
    assert not there and mend.startswith("hf download Anthropic/hh-rlhf --repo-type dataset")
    (tmp_path / "Anthropic___hh-rlhf" / "default" / "0.0.0" / "a1").mkdir(parents=True)
    assert [line[0] for line in needs.data(run)] == [True]
    assert [line[0] for line in needs.data(compose("task=sft", "data=hh_rlhf", f"data.path={tmp_path}"))] == [True]


def test_doctor_says_what_the_papers_setting_needs(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    compose("task=doctor", "task.of='experiment=correlated_proxies_rlhf task.max_prompt=64'").execute()
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "make one: rhtool task=rm_train",
        "hf download tlc4418/pythia_1.4b_sft_policy",
        "hf download tatsu-lab/alpaca_farm --repo-type dataset",
        "memory per GPU",
        "with prompts of 64 tokens, answers of 256",
        "base policy 0.8 GB",
    ):
        assert words in said, said
    assert not [*tmp_path.iterdir()]  # nothing was made
    compose("task=doctor", "task.of=task=orpo").execute()
    assert "it could start" in capsys.readouterr().out
