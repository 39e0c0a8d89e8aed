"""PPO on texts: it resumes to the same result, the divergence is charged where it should be, and TRL is as we know it."""

from __future__ import annotations

import inspect
import json
import math
import shutil

import pytest

from rhtool.divergences import KL, Chi2, NoDivergence, SqrtChi2
from rhtool.errors import ConfigError, RhtoolError
from rhtool.models import SAVED, Lora, Model
from rhtool.rewards.python import Python
from rhtool.rewards.rm import Rm
from rhtool.run import Run
from rhtool.tasks.rlhf_ppo import RlhfPpo
from tests.lm.small import Words, interrupted

pytest.importorskip("trl")
import pandas as pd
import torch
from safetensors.torch import load_file
from trl import GRPOTrainer

from rhtool.lm import ppo, ppo_math

pytestmark = pytest.mark.lm
TINY = {"iterations": 3, "rollouts": 16, "minibatch": 8, "epochs": 2, "max_new_tokens": 8, "max_prompt": 32, "lr": 3e-3}
TINY |= {"eval_every": 2, "eval_prompts": 16}


def cows(prompts, answers, columns):
    """A reward that a policy can hack: how often it says cow."""
    return [float(answer.split().count("cow")) for answer in answers]


def make(path, sft_run, divergence=None, coeff=0.0, model=None, function="tests.lm.test_rlhf_ppo:cows", **task) -> Run:
    return Run(
        task=RlhfPpo(**TINY | task),
        model=Model(path=str(sft_run), **(model or {})),
        data=Words(),
        reward=Python(function=function),
        divergence=divergence or NoDivergence(),
        coeff=coeff,
        dir=str(path),
        seed=3,
        checkpoint_every=0.0,
    )


def outcome(path):
    metrics = json.loads((path / "result.json").read_text())["metrics"]
    rows = pd.read_csv(path / "metrics.csv")
    rows = rows.drop(columns=[name for name in rows if name.startswith("time/")])
    return metrics, rows, load_file(path / SAVED / "model.safetensors")


def same(one, other):
    (metrics, rows, weights), (metrics_2, rows_2, weights_2) = outcome(one), outcome(other)
    assert metrics == metrics_2
    pd.testing.assert_frame_equal(rows, rows_2)
    assert all(torch.equal(weights[name], weights_2[name]) for name in weights)


@pytest.mark.parametrize(
    ("model", "value_model"),
    [
        ({}, "none"),
        ({"lora": Lora(r=2)}, "none"),
        ({"layers_unfrozen": 1}, "none"),
        ({}, "base"),
        ({"lora": Lora(r=2)}, "base"),
    ],
    ids=["full", "lora", "top", "value_model", "lora_value_model"],
)
def test_a_killed_run_ends_as_one_that_was_not(model, value_model, sft_run, tmp_path, monkeypatch):
    options = {"divergence": SqrtChi2(), "coeff": 0.1, "score_scale": "running", "target_kl": 1.0, "kl_horizon": 100.0}
    options["value_model"] = value_model
    make(tmp_path / "whole", sft_run, model=model, **options).execute()
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        interrupted(patch, 1)
        make(tmp_path / "killed", sft_run, model=model, **options).execute()
    make(tmp_path / "killed", sft_run, model=model, **options).execute()
    same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("value_model", ["none", "base"])
def test_only_a_value_model_keeps_the_value_loss_from_the_policy(value_model, sft_run, tmp_path):
    """After a round of two gradient steps the policy is the same to the last bit, however much the value loss weighs."""
    options = {"value_model": value_model, "iterations": 1, "epochs": 1, "grad_clip": None, "eval_every": 9}
    for weight in (0.0, 5.0):
        make(tmp_path / str(weight), sft_run, vf_coeff=weight, **options).execute()
    one, other = (load_file(tmp_path / str(weight) / SAVED / "model.safetensors") for weight in (0.0, 5.0))
    assert all(torch.equal(one[name], other[name]) for name in one) == (value_model == "base")


def first_animals(prompts, answers, columns):
    """A reward that the prompt alone decides: what there is to learn is its value."""
    return [2.0 * (prompt[-1]["content"].split()[1] in ["ant", "bee", "cat", "cow", "dog"]) - 1 for prompt in prompts]


def test_a_value_model_learns_and_is_saved_as_an_ordinary_classifier(sft_run, tmp_path):
    from transformers import AutoModelForSequenceClassification

    options = {"value_model": "base", "iterations": 12, "rollouts": 32, "lr": 2e-3, "eval_every": 99}
    options |= {"function": "tests.lm.test_rlhf_ppo:first_animals"}
    make(tmp_path / "run", sft_run, **options).execute()
    rows = outcome(tmp_path / "run")[1]
    loss, explained = rows["ppo/value_loss"], rows["ppo/explained_variance"]
    assert loss[-3:].mean() < 0.3 * loss[:3].mean() and explained[-3:].mean() > 0.7
    saved = tmp_path / "run" / SAVED / "value_model"
    plain, info = AutoModelForSequenceClassification.from_pretrained(saved, output_loading_info=True)
    assert plain.config.num_labels == 1 and not info["missing_keys"] and not info["unexpected_keys"]


def test_a_value_model_may_start_as_the_reward_model(reward_run, sft_run, tmp_path):
    """At the end of a text its value is the score, as long as it has not learnt."""
    from rhtool.lm import loading
    from rhtool.lm.generation import answering

    run = make(tmp_path / "run", sft_run, value_model="reward")
    run.reward = Rm(model=str(reward_run))
    run.check()
    rows = Words().prompts("train")
    model, form = answering(run.model, rows, 0, max_prompt=run.task.max_prompt, max_new_tokens=run.task.max_new_tokens)
    work = ppo.Ppo(run, run.task, model, form, rows)
    ids = form.tokenizer(["cat dog bee", "cow cow cow"], return_tensors="pt", padding=True)
    ids, mask = ids["input_ids"], ids["attention_mask"]
    more = torch.cat([ids, ids[:, -1:]], 1), torch.cat([mask, mask[:, -1:]], 1)
    with torch.no_grad():
        found = work.log_probs(work.model, *more, 1, valued=True)[1]
        scored = loading.score_model(str(reward_run / SAVED))(ids, attention_mask=mask).logits
    torch.testing.assert_close(found, scored)


def test_a_value_model_reads_what_the_policy_reads(reward_run, sft_run, tmp_path):
    from transformers import AutoTokenizer

    run = make(tmp_path / "run", sft_run, value_model="reward")
    with pytest.raises(ConfigError, match="not one learned model"):
        run.check()
    shutil.copytree(reward_run / SAVED, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "other")
    tokenizer.add_tokens(["moo"])
    tokenizer.save_pretrained(tmp_path / "other")
    run.reward = Rm(model=str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="reads other tokens"):
        run.execute()


@pytest.mark.parametrize("where", ["loss", "reward"])
def test_coefficient_zero_is_no_divergence(where, sft_run, tmp_path):
    make(tmp_path / "none", sft_run, where=where).execute()
    make(tmp_path / "zero", sft_run, SqrtChi2(), 0.0, where=where).execute()
    same(tmp_path / "none", tmp_path / "zero")


@pytest.mark.parametrize("algo", ["ppo", "grpo", "rloo"])
def test_the_reward_rises_and_a_large_coefficient_holds_the_divergence_down(algo, sft_run, tmp_path):
    found = {}
    for name, divergence, coeff in (("none", None, 0.0), ("sqrt_chi2", SqrtChi2(), 3.0)):
        more = {"algo": algo, "iterations": 16, "rollouts": 32, "lr": 2e-3, "eval_every": 16}
        make(tmp_path / name, sft_run, divergence, coeff, **more).execute()
        found[name] = outcome(tmp_path / name)[0]
    base = found["none"]["base/proxy/return"]
    assert found["none"]["proxy/return"] > base + 0.3
    assert found["sqrt_chi2"]["divergence/kl"] < 0.3 * found["none"]["divergence/kl"]


@pytest.mark.parametrize(
    ("divergence", "where", "level"),
    [(KL(), "reward", "token"), (KL(), "reward", "sequence"), (Chi2(), "loss", "sequence"), (KL(), "loss", "token")],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_where_the_divergence_is_charged(divergence, where, level, sft_run, tmp_path, monkeypatch):
    """In the reward: what advantages are made of differs by coeff x cost. In the loss: they are the scores alone."""
    seen = []
    gae = ppo_math.gae

    def watched(rewards, values, mask, *args):
        seen.append((rewards, mask))
        return gae(rewards, values, mask, *args)

    monkeypatch.setattr(ppo_math, "gae", watched)
    make(tmp_path / "run", sft_run, divergence, 0.5, where=where, level=level, iterations=2, eval_every=9).execute()
    lines = [json.loads(line) for line in (tmp_path / "run" / "eval" / "step_000000.jsonl").read_text().splitlines()]
    assert {line["proxy"] for line in lines} <= {0.0, 1.0, 2.0, 3.0, 4.0}
    rewards, mask = seen[1]  # of the second round, when policy and base policy differ
    last = mask & (mask.long().flip(1).cumsum(1).flip(1) == 1)
    whole = rewards[last] == rewards[last].round()
    inside = rewards[mask & ~last]
    if where == "loss":
        assert whole.all() and not inside.any()
    else:
        assert not whole.all() and bool(inside.any()) == (level == "token")


def test_the_score_is_at_the_last_real_token_and_padding_changes_nothing(sft_run, tmp_path, monkeypatch):
    checked = []
    loss = ppo.Ppo._compute_loss

    def padded(self, model, inputs):
        ids, mask = inputs["completion_ids"], inputs["completion_mask"].bool()
        assert ((ids == self.form.tokenizer.eos_token_id).sum(1) <= 1).all()
        for row, valid in zip(ids, mask, strict=True):
            ended = (row == self.form.tokenizer.eos_token_id).nonzero()
            assert not len(ended) or int(valid.sum()) == int(ended[0]) + 1
        expected = loss(self, model, inputs)
        worse = dict(inputs)
        for key in ("advantages", "returns", "old_values", "old_per_token_logps", "base_logps"):
            worse[key] = torch.where(mask, inputs[key], 1e3)
        worse["completion_ids"] = torch.where(mask, ids, 7)
        torch.testing.assert_close(loss(self, model, worse), expected, rtol=0, atol=0)
        checked.append(not mask.all())
        return expected

    monkeypatch.setattr(ppo.Ppo, "_compute_loss", padded)
    make(tmp_path / "run", sft_run, SqrtChi2(), 0.1).execute()
    assert any(checked)


def test_the_first_log_ratios_are_zero_and_the_base_policy_stays(sft_run, tmp_path):
    make(tmp_path / "run", sft_run, KL(), 0.1).execute()
    metrics, rows, _ = outcome(tmp_path / "run")
    assert rows["divergence/kl"].iloc[0] == pytest.approx(0, abs=1e-5)
    assert abs(rows["divergence/kl"].iloc[-1]) > 1e-3
    lines = [json.loads(line) for line in (tmp_path / "run" / "eval" / "step_000000.jsonl").read_text().splitlines()]
    assert max(abs(line["log_ratio"]) for line in lines) < 1e-4
    assert metrics["base/proxy/return"] == pytest.approx(sum(line["proxy"] for line in lines) / len(lines))


def test_the_policy_that_is_saved_is_an_ordinary_model(sft_run, tmp_path):
    from transformers import AutoModelForCausalLM

    make(tmp_path / "run", sft_run).execute()
    plain, info = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / SAVED, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    before = AutoModelForCausalLM.from_pretrained(sft_run / SAVED)
    assert not all(torch.equal(a, b) for a, b in zip(plain.parameters(), before.parameters(), strict=True))


def test_answers_end_before_a_stop_string(sft_run, tmp_path):
    make(tmp_path / "run", sft_run, stop=[" dog", " cat", " ant"], iterations=1, eval_prompts=16).execute()
    for file in sorted((tmp_path / "run" / "eval").glob("*.jsonl")):
        for line in map(json.loads, file.read_text().splitlines()):
            assert not any(stop in line["answer"] for stop in (" dog", " cat", " ant"))


def nothing(prompts, answers, columns):
    return [float("nan")] * len(answers)


def test_a_reward_that_is_not_finite_ends_the_run_and_keeps_the_scores(sft_run, tmp_path):
    with pytest.raises(RhtoolError, match="not finite"):
        make(tmp_path / "run", sft_run, function="tests.lm.test_rlhf_ppo:nothing").execute()
    kept = [json.loads(line) for line in (tmp_path / "run" / "bad_scores.jsonl").read_text().splitlines()]
    assert len(kept) == 16 and all(math.isnan(line["proxy"]) and line["prompt"] for line in kept)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_batch(sft_run, tmp_path):
    with pytest.raises(RhtoolError, match="the loss of step 2 is nan"):
        make(tmp_path / "run", sft_run, lr=1e30, grad_clip=None).execute()
    kept = load_file(tmp_path / "run" / "bad_batch.safetensors")
    assert kept["completion_ids"].shape == kept["advantages"].shape and len(kept["completion_ids"]) == 8


def test_weights_that_are_not_finite_end_the_run_before_anything_is_sampled_from_them(sft_run, tmp_path):
    with pytest.raises(RhtoolError, match=r"after step 1 .* weights are not finite"):
        make(tmp_path / "run", sft_run, lr=1e39, grad_clip=None, epochs=1, rollouts=8).execute()


@pytest.mark.parametrize(
    "task", [{"rollouts": 20}, {"microbatch": 3}, {"algo": "grpo", "group": 5}, {"algo": "rloo", "group": 1}]
)
def test_numbers_that_do_not_fit(task, sft_run, tmp_path):
    with pytest.raises(ConfigError):
        make(tmp_path / "run", sft_run, **task).check()


def test_advantages_in_a_group():
    rewards = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0])
    rloo = ppo.in_group(rewards, 3, "rloo")
    assert rloo.tolist() == pytest.approx([1 - 4, 2 - 3.5, 6 - 1.5, 0, 0, 0])
    grpo = ppo.in_group(rewards, 3, "grpo")
    std = math.sqrt(7)
    assert grpo.tolist() == pytest.approx([-2 / (std + 1e-4), -1 / (std + 1e-4), 3 / (std + 1e-4), 0, 0, 0])


PRIVATE = {
    "_get_per_token_logps_and_entropies": [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
    ],
    "_tokenize_prompts": ["self", "prompts"],
    "_generate_single_turn": ["self", "prompt_ids", "images", "multimodal_fields", "num_generations"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_prepare_inputs": ["self", "generation_batch"],
    "_compute_loss": ["self", "model", "inputs"],
}


@pytest.mark.parametrize("name", PRIVATE)
def test_the_private_methods_of_trl_that_are_built_on(name):
    """Where this fails TRL has moved: read the method anew before raising the pin."""
    parameters = [*inspect.signature(getattr(GRPOTrainer, name)).parameters]
    assert parameters[: len(PRIVATE[name])] == PRIVATE[name]
