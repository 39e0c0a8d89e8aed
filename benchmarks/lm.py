"""Tokens per second of RLHF and of reward models, ours against TRL's own trainers on the same model, data and batch.

    python benchmarks/lm.py [rounds=3] [repeats=5] [overrides of task=rlhf_ppo ...]
    python benchmarks/lm.py model=pretrained model.path=EleutherAI/pythia-70m model.template=oasst task.max_new_tokens=128

`task=rlhf_ppo` as GRPO (no value head) and as PPO (a head, or a value model of its own), with and without a divergence in the loss,
against GRPOTrainer with groups of two and, in the place of the divergence, its own KL term; both take rewards from one reward
model. `task=rm_train` against RewardTrainer. All of them take turns, `repeats` times, since no machine is quiet; shown are medians: the
rates (answer tokens in sampling, and times the epochs in learning; of reward models all tokens) with the ratio to TRL's in the same
turn, the peak of the process's memory in training, or of what was allocated on the GPU, and where a round's time goes. The first round
of each turn is not counted. On one thread of a CPU seconds are those of the process, which others on the machine do not take away; else
the clock's.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import dataclasses
import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

from rhtool.config import compose
from rhtool.data.base import TRAIN
from rhtool.divergences import NoDivergence, SqrtChi2
from rhtool.lm import loading, ppo, reward_model, text
from rhtool.lm.process import set_up
from rhtool.lm.training import arguments
from rhtool.models import Model

DEFAULTS = ["task=rlhf_ppo", "model=tiny", "data=toy", "reward=rm", "task.rollouts=64", "task.minibatch=32"]
DEFAULTS += ["task.max_new_tokens=48", "task.max_prompt=128", "task.group=2"]
DEFAULTS += ["data.n_prompts=512", "data.n_demonstrations=512", "data.n_preferences=512", "data.n_validation=8"]
OURS = {
    "no head": {"algo": "grpo"},
    "no head, divergence": {"algo": "grpo", "coeff": 0.1},
    "value head": {"algo": "ppo"},
    "value head, divergence": {"algo": "ppo", "coeff": 0.1},
    "value model, divergence": {"algo": "ppo", "coeff": 0.1, "value_model": "base"},
}


def now():
    """Seconds: of this process on one thread of a CPU, which others on the machine do not take away; else the clock's."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() if torch.cuda.is_available() or torch.get_num_threads() > 1 else time.process_time()


class Ends(TrainerCallback):
    """When each gradient step ended."""

    def __init__(self):
        self.at = []

    def on_step_end(self, *args, **kwargs):
        self.at.append(now())


class Timed:
    """Seconds of the parts of each round, and the answers' tokens."""

    @contextlib.contextmanager
    def lap(self, part):
        start = now()
        yield
        self.spent.setdefault(part, []).append(now() - start)

    def _generate_single_turn(self, *args, **kwargs):
        with self.lap("generation"):
            return super()._generate_single_turn(*args, **kwargs)

    def _calculate_rewards(self, *args, **kwargs):
        with self.lap("scoring"):
            return super()._calculate_rewards(*args, **kwargs)

    def _generate_and_score_completions(self, inputs):
        self.starts.append(now())
        with self.lap("rollout"):
            out = super()._generate_and_score_completions(inputs)
        self.tokens.append(int(out["completion_mask"].sum()))
        return out


class Ours(Timed, ppo.Ppo):
    """Ours."""


class Theirs(Timed, GRPOTrainer):
    """TRL's."""


def policy_trainer(run, tokenizer, name):
    """Ours by the name of its variant, or TRL's, with the same numbers."""
    rows = run.data.prompts(TRAIN)
    if name in OURS:
        coeff = OURS[name].get("coeff", 0.0)
        options = {key: value for key, value in OURS[name].items() if key != "coeff"}
        task = dataclasses.replace(run.task, **options)
        run = dataclasses.replace(run, task=task, coeff=coeff, divergence=SqrtChi2() if coeff else NoDivergence())
        made = Ours(run, task, loading.language_model(run.model, tokenizer, run.seed), tokenizer, rows)
        made.attach(run, {})
        return made
    task, form = run.task, text.Format(tokenizer, run.task.max_prompt + run.task.max_new_tokens)
    micro = min(task.microbatch or task.minibatch, task.minibatch)
    options = {
        "num_generations": task.group,
        "num_iterations": task.epochs,
        "epsilon": task.clip,
        "shuffle_dataset": False,
    }
    options |= {"steps_per_generation": task.rollouts // micro, "max_completion_length": task.max_new_tokens}
    options |= {
        "temperature": task.temperature,
        "top_p": task.top_p,
        "top_k": task.top_k,
        "remove_unused_columns": False,
    }
    options |= {"max_steps": task.iterations * ppo.Ppo.steps_of_round(task), "disable_dropout": not run.model.dropout}
    args = GRPOConfig(**arguments(run, task, micro, beta=0.05 if "divergence" in name else 0.0, **options))
    data = ppo.schedule(rows, form, task, task.group, run.seed)
    model = loading.language_model(run.model, tokenizer, run.seed)
    judge = loading.score_model(run.reward.model)
    judge_tokenizer = text.tokenizer_at(run.reward.model)
    made = Theirs(
        model=model,
        reward_funcs=judge,
        reward_processing_classes=judge_tokenizer,
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
    )
    made.remove_callback(PrinterCallback)
    return made


def policy_turn(run, tokenizer, name):
    """One training of `task.iterations` rounds: seconds a round of each part, tokens per second, peak memory."""
    made = policy_trainer(run, tokenizer, name)
    made.spent, made.starts, made.tokens, ends = {}, [], [], Ends()
    made.add_callback(ends)
    peak = peak_memory()
    made.train()
    rounds, tokens = len(made.starts) - 1, sum(made.tokens[1:])
    seconds = {part: sum(each[1:]) / rounds for part, each in made.spent.items()}
    whole = (ends.at[-1] - made.starts[1]) / rounds
    rollout, per_round = seconds.pop("rollout"), tokens / rounds
    parts = seconds | {"log-probs": rollout - sum(seconds.values()), "update": whole - rollout}
    rates = {
        "rollout": per_round / rollout,
        "update": per_round * run.task.epochs / (whole - rollout),
        "all": per_round / whole,
    }
    return {"rates": rates, "parts": {part: x / whole for part, x in parts.items()}, "peak": peak()}


def reward_turn(run, fit, tokenizer, name):
    """One training of a reward model: tokens per second and peak memory."""
    form = text.Format(tokenizer, fit.max_length)
    data = reward_model.tokens(run.data.preferences(TRAIN), form, False)
    if name == "TRL":
        args = RewardConfig(**arguments(run, fit, None, num_train_epochs=fit.passes, max_length=None))
        model = loading.reward_model(run.model, tokenizer, run.seed)
        made = RewardTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)
        made.remove_callback(PrinterCallback)
    else:
        made = reward_model.trainer(run, fit, tokenizer, 0.001, False, None, 0)
        made.renamed = {}
    ends = Ends()
    made.add_callback(ends)
    peak = peak_memory()
    made.train()
    tokens = sum(len(ids) for key in ("chosen_ids", "rejected_ids") for ids in data[key]) * fit.passes
    rate = tokens * (len(ends.at) - 1) / len(ends.at) / (ends.at[-1] - ends.at[0])
    return {"rates": {"all": rate}, "parts": {}, "peak": peak()}


def peak_memory():
    """A function that says how many MiB were in use at most since now."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return lambda: torch.cuda.max_memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # forgets the process's peak
    return lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def median(turns, *keys):
    """Over the turns, of what is at these keys."""
    return statistics.median(_at(turn, keys) for turn in turns)


def _at(turn, keys):
    for key in keys:
        turn = turn[key]
    return turn


def take_turns(names, turn, repeats):
    """`{name: its turns}`, every name once before any has another, each time in another order."""
    found = {name: [] for name in names}
    for i in range(repeats):
        for name in [*names[i % len(names) :], *names[: i % len(names)]]:
            found[name].append(turn(name))
    return found


def show(name, turns, against=None):
    """A line: rates with their ratios to TRL's of the same turns, shares of a round, memory."""
    said = []
    for key in turns[0]["rates"]:
        line = f"{key} {median(turns, 'rates', key):6,.0f}"
        if against:
            ratios = [a["rates"][key] / b["rates"][key] for a, b in zip(turns, against, strict=True)]
            line += f" ({statistics.median(ratios):.2f}x)"
        said.append(f"{line:{len(key) + 15}s}")
    shares = ", ".join(f"{part} {100 * median(turns, 'parts', part):.0f} %" for part in turns[0]["parts"])
    print(f"  {name:23s} {'  '.join(said)} {median(turns, 'peak'):6,.0f} MiB  {shares}".rstrip(), flush=True)


def main():
    words = dict(word.split("=", 1) for word in sys.argv[1:] if word.startswith(("rounds=", "repeats=")))
    overrides = [word for word in sys.argv[1:] if not word.startswith(("rounds=", "repeats="))]
    repeats, rounds = int(words.get("repeats", 5)), int(words.get("rounds", 3))
    set_up(int(os.environ["OMP_NUM_THREADS"]))
    with tempfile.TemporaryDirectory() as directory:
        run = compose(*DEFAULTS, *overrides, f"task.iterations={rounds + 1}", f"dir={directory}/run")
        tokenizer = text.tokenizer_of(run.model, text.corpus(run.data))
        if not run.model.path:
            loading.save(loading.language_model(run.model, tokenizer, 0), tokenizer, Path(directory) / "policy")
            run.model = Model(path=f"{directory}/policy")
        if not run.reward.model:
            run.reward.model = f"{directory}/judge"
            loading.save(loading.reward_model(run.model, tokenizer, 1), tokenizer, Path(run.reward.model))
        task, weights = run.task, sum(p.numel() for p in loading.language_model(run.model, tokenizer, 0).parameters())
        print(f"{weights / 1e6:.2f} M weights, {torch.get_num_threads()} threads, GPU: {torch.cuda.is_available()}")
        print(
            f"{task.rollouts} answers of up to {task.max_new_tokens} tokens a round, {task.epochs} epochs in {task.minibatch}s; tokens/s"
        )
        theirs = ["TRL", "TRL, divergence"]
        found = take_turns([*theirs, *OURS], lambda name: policy_turn(run, tokenizer, name), repeats)
        for name in theirs:
            show(name, found[name])
        for name in OURS:
            show(name, found[name], found[theirs["divergence" in name]])
        print("reward models, tokens/s")
        fit = dataclasses.replace(run.data.rm, minibatch=32, passes=2)
        found = take_turns(["TRL", "ours"], lambda name: reward_turn(run, fit, tokenizer, name), repeats)
        show("TRL", found["TRL"])
        show("ours", found["ours"], found["TRL"])


if __name__ == "__main__":
    main()
