"""What `rhtool.lm.memory` foretells is what torch's allocator gives to the run."""

from __future__ import annotations

import gc
import json

import pytest

from rhtool.config import compose

pytest.importorskip("trl")
import torch
from torch.profiler import ProfilerActivity, profile

pytestmark = pytest.mark.lm
WITHIN = 0.1
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
    print(name, took / 1e6, need.peak / 1e6, need.peak / took, need)
    assert need.peak == pytest.approx(took, rel=WITHIN), need
