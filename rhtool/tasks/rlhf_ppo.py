"""`task=rlhf_ppo`: train a language model on a reward of its answers, regularised to where it started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from rhtool.data.base import Optimiser
from rhtool.errors import ConfigError
from rhtool.models import SAVED
from rhtool.rewards.rm import Learned
from rhtool.run import AUTO, Run
from rhtool.schema import choice, incidental
from rhtool.tasks.base import Task, check_ranges, require_lm

if TYPE_CHECKING:
    from rhtool.lm.memory import Need


@dataclass
class RlhfPpo(Optimiser, Task):
    """PPO, GRPO or RLOO on a reward of texts, regularised by a divergence from the base policy."""

    extra: ClassVar[str] = "lm"

    uses: ClassVar[tuple[str, ...]] = ("model", "data", "reward", "divergence")

    finite: ClassVar[bool] = True

    parallel: ClassVar[bool] = True

    algo: str = choice("ppo", "grpo", "rloo")
    """advantages: of a value head (ppo), or by the other answers to the same prompt (grpo, rloo)"""
    where: str = choice("loss", "reward")
    """where the divergence is charged: as a term of the loss, or in the reward"""
    level: str = choice("sequence", "token")
    """of what the divergence is: of whole answers, or of the next token's distribution"""
    gradient: str = choice("pathwise", "reinforce")
    """of the divergence in the loss: through the log-ratio alone, as in the paper's code, or the divergence's own"""
    target_kl: float | None = None
    """the coefficient adapts so as to hold the KL of answers there (Ziegler et al. 2019); null: it stays"""
    kl_horizon: float = 10_000.0
    """answers over which an adaptive coefficient changes by at most a fifth or so"""
    iterations: int = 94
    """rounds of sampling and learning"""
    rollouts: int = 256
    """answers of a round"""
    microbatch: int | None = None
    """answers of one forward pass of a process; null: all of its share of the minibatch"""
    epochs: int = 4
    """passes over a round's answers"""
    group: int = 4
    """answers to each prompt of a round, for grpo and rloo"""
    lr: float = 1e-6
    """learning rate of AdamW after the warm-up"""
    schedule: str = choice("constant", "linear", "cosine")
    """of the learning rate after the warm-up: stays, or falls to zero linearly or as a cosine"""
    weight_decay: float = 1e-6
    """of AdamW"""
    gamma: float = 1.0
    """discount of a token's reward"""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation"""
    clip: float = 0.4
    """clip of the probability ratio"""
    value_clip: float = 0.4
    """clip of the values' change"""
    vf_coeff: float = 1.0
    """weight of the value loss"""
    value_head: str = choice("mlp", "linear")
    """on the policy's last hidden state: two layers with ReLU, the inner one twice as wide, or one layer"""
    value_model: str = choice("none", "base", "reward")
    """base, reward: values are those of a model of its own, with a linear head, that starts from the policy's base, or from the
    reward model; none: of a head on the policy's hidden states"""
    whiten: bool = True
    """advantages of a round have mean 0 and variance 1 over its tokens"""
    score_scale: str = choice("none", "running", "norm", "ref")
    """scores over their running standard deviation, less their running mean too, or over the base policy's"""
    score_clip: float | None = 10.0
    """bound of a scaled score's size"""
    score_baseline: float = 0.0
    """subtracted from scores"""
    eos_penalty: float = 0.0
    """subtracted from the score of an answer that was cut off before it ended"""
    max_prompt: int = 1776
    """tokens of a prompt; a longer one loses its beginning"""
    max_new_tokens: int = 256
    """tokens of an answer"""
    temperature: float = 1.0
    """of sampling"""
    top_p: float = 1.0
    """share of probability that is sampled from"""
    top_k: int = 0
    """tokens that are sampled from; 0: all"""
    stop: list[str] = field(default_factory=list)
    """an answer ends before the first of these strings"""
    chunk: int | None = incidental(None)
    """answers that are generated at once; null: all of a round's"""
    eval_every: int = 4
    """rounds from one evaluation on held-out prompts to the next"""
    eval_prompts: int = 256
    """held-out prompts of an evaluation"""
    eval_temperature: float = 1.0
    """of sampling in evaluations; with another one than 1, or `eval_top_p` below 1, divergences are not estimated there"""
    eval_top_p: float = 1.0
    """as `top_p`, in evaluations"""
    eval_seed: int = 0
    """of sampling in evaluations: the same for all runs"""
    threads: int = 1
    """torch threads of this process"""

    def check(self, run: Run) -> None:
        """Are model, data and reward there, and do the numbers fit together?"""
        require_lm()
        check_ranges(self)
        run.model.check()
        run.data.check()
        run.data.true_by.check()
        run.reward.check()
        if run.coeff == AUTO:
            raise ConfigError("it is not known of texts before the first round", "coeff=auto", "give a number")
        if self.rollouts % self.minibatch:
            mend = "choose a multiple of task.minibatch"
            raise ConfigError(f"{self.rollouts} answers in minibatches of {self.minibatch}", "task.rollouts", mend)
        share = self.minibatch // run.accelerate.processes()
        if share % min(self.microbatch or share, share):
            mend = "choose a divisor of task.minibatch over the number of processes"
            raise ConfigError(f"a minibatch of {share} in parts of {self.microbatch}", "task.microbatch", mend)
        if self.value_model == "reward" and not (isinstance(run.reward, Learned) and len(run.reward.trained()) == 1):
            mend = "take task.value_model=base, or reward=rm"
            raise ConfigError("the reward is not one learned model", "task.value_model=reward", mend)
        if self.algo != "ppo" and (self.group < 2 or self.rollouts % self.group):
            mend = "choose 2 or more, a divisor of task.rollouts"
            raise ConfigError(f"{self.rollouts} answers in groups of {self.group}", "task.group", mend)

    def inputs(self, run: Run) -> dict[str, str]:
        """The model it starts from, the reward's models, the files of the data."""
        return run.model.inputs() | run.data.inputs() | run.data.true_by.inputs() | run.reward.inputs()

    def memory(self, run: Run) -> Need:
        """Of weights, optimiser and the largest of its passes."""
        from rhtool.lm import memory

        return memory.of_ppo(run)

    def run(self, run: Run) -> dict[str, float]:
        """Train, evaluate, save."""
        from rhtool.lm.process import set_up

        set_up(self.threads)
        from rhtool.data.base import TRAIN, VALIDATION
        from rhtool.lm import card, evaluation, parallel, ppo
        from rhtool.lm.generation import answering
        from rhtool.lm.text import corpus
        from rhtool.results.overoptimisation import hacking_along

        rows, held_out = run.data.prompts(TRAIN), run.data.prompts(VALIDATION)[: self.eval_prompts]
        room = {"max_prompt": self.max_prompt, "max_new_tokens": self.max_new_tokens}
        model, form = answering(run.model, rows + held_out, run.seed, texts=corpus(run.data), **room)
        work = ppo.Ppo(run, self, model, form, rows)
        work.attach(run, ppo.NAMES, lambda step: evaluation.validation(work, held_out, step), self.eval_every)
        base = evaluation.evaluate_base(work, held_out)
        work.fit(self.iterations, work.steps_of_round(self))
        metrics = {"steps": work.state.global_step, **evaluation.final(work, held_out, base)}
        ppo.save(work, run.path / SAVED)
        metrics |= hacking_along(run.path, metrics)
        if parallel.rank() == 0:
            card.write(run.path, metrics)
        return metrics
