"""PPO, GRPO and RLOO on texts, regularised to the base policy, as a subclass of TRL's GRPOTrainer.

TRL generates, trains and distributes; the advantages, the losses and the divergence are ours (`ppo_math`). One round is

    sample `rollouts` texts; score them; log-probs under the policy and the base policy, values
    rewards of tokens: the shaped score at the last one, less coeff x the divergence's cost if `where` is reward
    advantages: GAE of a value head (ppo), or of a group of texts for one prompt (grpo, rloo)
    `epochs` passes of clipped policy loss + value loss, + coeff x divergence if `where` is loss

The base policy is the policy as it was before the first step: its trained weights are kept, and put in their place for the
passes that need it.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from datasets import Dataset
from torch import Tensor, nn
from trl import GRPOConfig, GRPOTrainer

from rhtool.data.base import Row
from rhtool.divergences import Divergence
from rhtool.lm import loading, parallel, ppo_math, values
from rhtool.lm.generation import generate
from rhtool.lm.text import Format
from rhtool.lm.training import InRun, arguments, check_scores
from rhtool.run import Run

NAMES = {"grad_norm": "ppo/gradient_norm", "learning_rate": "ppo/lr"}
"""what TRL calls it, and docs/metrics.md"""


class Ppo(InRun, GRPOTrainer):
    """A policy of texts in training; see the module. `task` is `rhtool.tasks.rlhf_ppo.RlhfPpo`."""

    def __init__(self, run: Run, task: Any, model: Any, form: Format, rows: list[Row]):
        self.task, self.form, self.rows = task, form, rows
        self.divergence: Divergence = run.divergence
        self.shaping = ppo_math.ScoreShaping(task.score_scale, task.score_clip, task.score_baseline, task.eos_penalty)
        if task.target_kl is None:
            self.coeff = ppo_math.FixedCoeff(float(run.coeff))
        else:
            self.coeff = ppo_math.AdaptiveCoeff(float(run.coeff), task.target_kl, task.kl_horizon)
        self.scores = run.reward.load()
        self.proxy = run.reward
        self.true = run.data.true_reward()
        self._values: list[Tensor] | None = None
        self._sampled: Any = None
        self._noted: dict[str, list[float]] = {}

        share = task.minibatch // parallel.ranks()
        micro = min(task.microbatch or share, share)
        group = task.group if task.algo != "ppo" else 1
        options = {
            "steps_per_generation": task.rollouts // parallel.ranks() // micro,
            "num_iterations": task.epochs,
            "num_generations": max(group, 2),
            "max_completion_length": task.max_new_tokens,
            "temperature": task.temperature,
            "top_p": task.top_p,
            "top_k": task.top_k,
            "beta": 0.0,
            "max_steps": task.iterations * self.steps_of_round(task),
            "shuffle_dataset": False,
            "remove_unused_columns": False,
            "disable_dropout": not run.model.dropout,
        }
        args = GRPOConfig(**arguments(run, task, micro, **options))
        args.num_generations = (
            group  # one text for a prompt: TRL asks for two, for its own advantages, which are not used
        )
        super().__init__(
            model=model,
            reward_funcs=[proxy],
            args=args,
            train_dataset=schedule(rows, self.form, task, group, run.seed),
            processing_class=form.tokenizer,
        )
        self.model.to(self.args.device)  # DeepSpeed would, when training begins
        if task.algo == "ppo":
            self._add_critic(run)
        self.base = {n: p.detach().clone() for n, p in self.policy_parameters()}

    @staticmethod
    def steps_of_round(task: Any) -> int:
        """Gradient steps of one round."""
        return task.rollouts // task.minibatch * task.epochs

    # Values

    def _add_critic(self, run: Run) -> None:
        if self.task.value_model == "none":
            width = self._causal().config.get_text_config().hidden_size
            name, made = values.HEAD, values.value_head(self.task.value_head, width, run.seed + 1)
        else:
            name, made = values.MODEL, values.value_model(run, self.form.tokenizer)
        setattr(self.model, name, made.to(self.args.device))
        self._causal().base_model.register_forward_hook(self._see, with_kwargs=True)

    def _see(self, module: nn.Module, args: Any, inputs: dict[str, Any], output: Any) -> None:
        """Values, while somebody listens: within the forward pass, so that DDP knows of what gives them."""
        if self._values is not None:
            policy = self.accelerator.unwrap_model(self.model)
            critic = getattr(policy, values.HEAD if self.task.value_model == "none" else values.MODEL)
            self._values.append(values.values(critic, inputs, output.last_hidden_state, self._keep))

    def _causal(self) -> Any:
        """The language model, without adapters around it."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def policy_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those that are trained, but for the value head's or model's."""
        for name, parameter in self.accelerator.unwrap_model(self.model).named_parameters():
            if parameter.requires_grad and name.partition(".")[0] not in (values.HEAD, values.MODEL):
                yield name, parameter

    @contextlib.contextmanager
    def as_base(self) -> Iterator[None]:
        """With the base policy's weights in the place of the policy's, which must be `parallel.whole`."""
        parameters = [(name, p, p.data) for name, p in self.policy_parameters()]
        try:
            for name, p, _ in parameters:
                p.data = self.base[name].to(p.dtype)
            yield
        finally:
            for _, p, data in parameters:
                p.data = data

    def log_probs(
        self, model: Any, ids: Tensor, mask: Tensor, keep: int, batch: int | None = None, valued: bool = False
    ) -> Any:
        """Log-probs of the last `keep` tokens, their values if `valued` and there are any, else None, and entropies: (B, keep)."""
        self._values, self._keep = [] if valued and self.task.algo == "ppo" else None, keep
        try:
            found = super()._get_per_token_logps_and_entropies(
                model, ids, mask, keep, batch_size=batch, compute_entropy=True
            )
            return found[0], torch.cat(self._values) if self._values else None, found[1]
        finally:
            self._values = None

    def _get_per_token_logps_and_entropies(
        self, model: Any, ids: Tensor, mask: Tensor, keep: int, **options: Any
    ) -> Any:
        """What TRL asks after sampling, where the policy takes several steps on the same texts; it is kept."""
        self._sampled = self.log_probs(model, ids, mask, keep, options.get("batch_size"), valued=True)
        return self._sampled[0], None, None

    # Sampling

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.form.ids(text)[-self.task.max_prompt :] for text in prompts], None, {}

    def _generate_single_turn(self, prompt_ids: list[list[int]], *rest: Any, **options: Any) -> tuple[Any, Any]:
        """This rank's answers of the round: those that one process would draw."""
        task, number = self.task, self._step // (self.args.steps_per_generation * self.num_iterations)
        seed = int(np.random.SeedSequence([self.run_.seed, 51, number]).generate_state(1)[0])
        sampling = {"temperature": task.temperature, "top_p": task.top_p, "top_k": task.top_k, "chunk": task.chunk}
        sampling |= {"max_new_tokens": task.max_new_tokens, "stop": task.stop}
        first = parallel.rank() * len(prompt_ids)
        model = self.accelerator.unwrap_model(self.model)
        parts = generate(model, self.form, prompt_ids, seed, first=first, **sampling)
        return [ids for _, part in parts for ids in part], None

    def judged(self, rows: list[Row], ids: list[list[int]]) -> tuple[list[str], Tensor, Tensor, Tensor]:
        """Of sampled tokens: the answers, which ended (B,), the judges' scores (B, K) and the proxy reward (B,)."""
        answers = self.form.tokenizer.batch_decode(ids, skip_special_tokens=True)
        finished = [bool(x) and x[-1] == self.form.tokenizer.eos_token_id for x in ids]
        scores = self.scores(rows, answers, finished)
        combined = self.proxy.combined(scores)
        check_scores(rows, answers, scores, combined, self.run_.path)
        return answers, torch.tensor(finished), scores, combined

    def _calculate_rewards(self, inputs: list[Row], prompts: Any, completions: Any, ids: list[list[int]]) -> Tensor:
        rows = [self.rows[x["row"]] | {"row": x["row"]} for x in inputs]
        answers, finished, scores, combined = self.judged(rows, ids)
        self._batch = {"finished": finished, "scores": scores, "proxy": combined}
        if self.true:
            self._batch["true"] = torch.tensor(self.true(rows, answers), dtype=torch.float64)
        return self.accelerator.gather(combined.unsqueeze(1).to(self.accelerator.device))

    def _generate_and_score_completions(self, inputs: list[Row]) -> dict[str, Any]:
        self.check_weights()
        out, found = self.texts(inputs)
        device, task = out["completion_ids"].device, self.task
        mask, logps, base = out["completion_mask"].bool(), out.pop("logps"), out.pop("base")
        valued = out.pop("values", None)
        ratio = torch.where(mask, logps - base, 0.0)
        finished = found["finished"].to(device)
        rewards = self.shaping(found["proxy"].to(device), finished)
        cost = torch.zeros_like(ratio)
        if task.where == "reward" and self.coeff.value:
            cost = self.coeff.value * ppo_math.divergence_cost(self.divergence, ratio, mask, task.level)
        if task.algo == "ppo":
            per_token = ppo_math.at_last_token(rewards, mask) - cost
            advantages, returns = ppo_math.gae(per_token, valued, mask, task.gamma, task.gae_lambda)
            self._note("ppo/explained_variance", ppo_math.explained_variance(valued, returns, mask))
            if task.whiten:
                advantages = ppo_math.whiten(advantages, mask)
            out |= {"advantages": advantages, "returns": returns, "old_values": valued}
        else:
            out["advantages"] = in_group(rewards - cost.sum(1), task.group, task.algo).unsqueeze(1).expand_as(ratio)
        out |= {"old_per_token_logps": logps, "base_logps": base, "valid": mask}

        for key in ("proxy", "true"):
            if key in found:
                self._note(f"{key}/return", float(found[key].double().mean()))
        self._note("proxy/std", float(found["proxy"].double().std()))
        self._note("reward/mean", float(rewards.mean()))
        if "true" in found:
            self._note("correlation", ppo_math.correlation(found["proxy"], found["true"]))
        for key, value in ppo_math.divergence_metrics(ratio, mask).items():
            self._note(f"divergence/{key}", value)
        self._note("text/length", float(mask.sum(1).float().mean()))
        self._note("text/finished", float(finished.float().mean()))
        self._note("penalty/coeff", self.coeff.value)
        self._kl = float(ratio.sum(1).mean())
        return out

    def texts(self, inputs: list[Row]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Sample. Of the whole round, in all ranks: the texts with their log-probs and values, as padded tensors, and what
        the judges say of them."""
        started, self._sampled = time.perf_counter(), None
        batch = self.args.per_device_train_batch_size
        with parallel.whole(self), torch.no_grad():
            out = super()._generate_and_score_completions(inputs)
            keep = out["completion_ids"].shape[1]
            ids = torch.cat([out["prompt_ids"], out["completion_ids"]], 1)
            attention = torch.cat([out["prompt_mask"], out["completion_mask"]], 1)
            self._note("time/sample_s", time.perf_counter() - started)
            logps, valued, _ = self._sampled or self.log_probs(self.model, ids, attention, keep, batch, valued=True)
            with self.as_base():
                base, _, _ = self.log_probs(self.model, ids, attention, keep, batch)
        n, pad = self.task.rollouts, self.form.tokenizer.pad_token_id
        keys = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        padded = {key: out[key] for key in keys} | {"logps": logps, "base": base}
        padded |= {} if valued is None else {"values": valued}
        return {
            key: parallel.gathered(parallel.widest(x, key.startswith("prompt"), pad if key.endswith("ids") else 0), n)
            for key, x in padded.items()
        }, {key: parallel.gathered(x, n) for key, x in self._batch.items()}

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """This rank's share of a minibatch, with the number of tokens that the minibatch has in all ranks. A round's texts are
        shuffled once; a minibatch is the same ones whatever the number of ranks."""
        task, args = self.task, self.args
        at = self._step % (args.steps_per_generation * self.num_iterations)
        if at == 0 or self._buffered_inputs is None:
            number = self._step // (args.steps_per_generation * self.num_iterations)
            made = self._generate_and_score_completions(generation_batch)
            order = torch.from_numpy(np.random.default_rng([self.run_.seed, 52, number]).permutation(task.rollouts))
            self._buffered_inputs = []
            for whole in order.to(made["valid"].device).split(task.minibatch):
                tokens = made["valid"][whole].sum()
                for part in whole.view(parallel.ranks(), -1)[parallel.rank()].split(args.per_device_train_batch_size):
                    self._buffered_inputs.append({key: x[part] for key, x in made.items()} | {"tokens": tokens})
        return self._buffered_inputs[self._step % args.steps_per_generation]

    def prepared(self, inputs: Any) -> dict[str, Any]:
        return self._buffered_inputs[(self._step - 1) % self.args.steps_per_generation]

    # Learning

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        task, mask = self.task, inputs["valid"]
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        logps, valued, entropies = self.log_probs(model, ids, attention, mask.shape[1], valued=True)
        # Means over the minibatch's tokens, however it is cut into shares: each counts with its share of the tokens.
        share = mask.sum() * parallel.ranks() / inputs["tokens"]
        count = float(mask.sum())
        part = 1 / self.current_gradient_accumulation_steps
        loss, clipped = ppo_math.policy_loss(
            logps, inputs["old_per_token_logps"], inputs["advantages"], mask, task.clip
        )
        self._note("ppo/policy_loss", loss.item(), count)
        self._note("ppo/clipfrac", clipped.item(), count)
        self._note("ppo/entropy", ppo_math.masked_mean(entropies, mask).item(), count)
        loss = loss * share
        if valued is not None:
            of_values, _ = ppo_math.value_loss(valued, inputs["old_values"], inputs["returns"], mask, task.value_clip)
            self._note("ppo/value_loss", of_values.item(), count)
            loss = loss + task.vf_coeff * of_values * share
        if task.where == "loss" and self.coeff.value:
            # Of the texts of all ranks: a root of a mean is no mean of roots.
            ratio = parallel.of_all(torch.where(mask, logps - inputs["base_logps"], 0.0))
            paid = ppo_math.divergence_loss(self.divergence, ratio, parallel.of_all(mask), task.level, task.gradient)
            self._note("penalty/mean", paid.item())
            loss = loss + self.coeff.value * paid * part
        return loss

    def _note(self, key: str, value: float, weight: float = 1.0) -> None:
        """Count a value in the row of its round, which has the mean of those that are numbers, over all ranks."""
        total = self._noted.setdefault(key, [0.0, 0.0])
        if not math.isnan(value):
            total[0] += value * weight
            total[1] += weight

    # In the run

    def row(self, logged: dict[str, float]) -> dict[str, float]:
        """What is written of a round, and the end of it: the coefficient adapts."""
        totals = parallel.summed([total for total in self._noted.values()])
        means = {key: sum_ / w if w else math.nan for key, (sum_, w) in zip(self._noted, totals, strict=True)}
        self._noted = {}
        self.coeff.update(self._kl, self.task.rollouts)
        return {**means, **logged}

    def extra_state(self) -> dict[str, Any]:
        return {"shaping": self.shaping.get_state(), "coeff": self.coeff.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.shaping.set_state(state["shaping"])
        self.coeff.set_state(state["coeff"])

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._step = state["step"] * self.args.gradient_accumulation_steps


def proxy(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    """Stands for the proxy reward in TRL's list of rewards; what is called is `Ppo._calculate_rewards`."""
    raise RuntimeError("TRL no longer asks _calculate_rewards for the rewards")


def schedule(rows: list[Row], form: Format, task: Any, group: int, seed: int) -> Dataset:
    """The prompts of all rounds in their order, as columns `prompt` (text) and `row`: passes over all rows, each in an order
    of its own that `seed` decides, so that a run taken up goes on with the prompts that were next."""
    wanted = task.iterations * task.rollouts // group
    generator = np.random.default_rng([seed, 50])
    order: list[int] = []
    while len(order) < wanted:
        order += generator.permutation(len(rows)).tolist()
    texts = [form.prompt(row["prompt"]) for row in rows]
    return Dataset.from_dict({"prompt": [texts[i] for i in order[:wanted]], "row": order[:wanted]})


def in_group(rewards: Tensor, group: int, algo: str) -> Tensor:
    """Advantages (B,) of texts by the others for the same prompt, `group` consecutive ones: grpo: standardised in the group
    (arXiv 2402.03300, eq. 1 ff.); rloo: less the mean of the others (arXiv 2402.14740, eq. 6)."""
    r = rewards.view(-1, group)
    if algo == "grpo":
        return ((r - r.mean(1, keepdim=True)) / (r.std(1, keepdim=True) + 1e-4)).flatten()
    return ((r - r.mean(1, keepdim=True)) * group / (group - 1)).flatten()


def save(work: Ppo, directory: Path) -> None:
    """The policy as an ordinary language model; in its folder its value head in `value_head/`, or its value model in
    `value_model/`, a sequence classifier, out of the way of programs that load every safetensors file beside config.json."""
    with parallel.exported(work) as first:
        if not first:
            return
        policy = copy.copy(work.accelerator.unwrap_model(work.model))
        policy._modules = dict(policy._modules)
        head, model = (policy._modules.pop(name, None) for name in (values.HEAD, values.MODEL))
        loading.save(policy, work.form.tokenizer, directory)
        if head is not None:
            (directory / values.HEAD).mkdir(exist_ok=True)
            safetensors.torch.save_file(head.state_dict(), directory / values.HEAD / "model.safetensors")
        if model is not None:
            loading.save(model, work.form.tokenizer, directory / values.MODEL)


# Evaluation
