"""`task=sft`: fine-tune a language model on demonstrations: the base policy of RLHF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rhtool.data.base import Fit
from rhtool.models import SAVED
from rhtool.run import Run
from rhtool.tasks.base import Task, check_ranges, require_lm

if TYPE_CHECKING:
    from rhtool.lm.memory import Need


@dataclass
class Fitting(Fit, Task):
    """What tasks share that fit a language model to data."""

    extra: ClassVar[str] = "lm"

    uses: ClassVar[tuple[str, ...]] = ("model", "data")

    parallel: ClassVar[bool] = True

    microbatch: int | None = None
    """rows (for preferences: pairs) of one forward pass; null: all of the minibatch"""
    every: int = 50
    """gradient steps from one evaluation on held-out rows to the next"""
    threads: int = 1
    """torch threads of this process"""

    def check(self, run: Run) -> None:
        """Are model and data there?"""
        require_lm()
        check_ranges(self)
        run.model.check()
        run.data.check()

    def inputs(self, run: Run) -> dict[str, str]:
        """The model it starts from, and the files of the data."""
        return run.model.inputs() | run.data.inputs()


@dataclass
class Sft(Fitting):
    """Supervised fine-tuning of a language model on demonstrations, for base policies."""

    def memory(self, run: Run) -> Need:
        """Of weights, optimiser and the largest of its passes."""
        from rhtool.lm import memory

        return memory.of_sft(run)

    def run(self, run: Run) -> dict[str, float]:
        """Fit, evaluate, save."""
        from rhtool.lm.process import set_up

        set_up(self.threads)
        from rhtool.lm import card, loading, parallel, sft, text
        from rhtool.lm.training import steps_of

        tokenizer = text.tokenizer_of(run.model, text.corpus(run.data))
        work = sft.trainer(run, self, tokenizer, self.microbatch, self.every)
        work.fit(steps_of(work))
        metrics = {"steps": work.state.global_step, **sft.evaluate(work)}
        with parallel.exported(work) as first:
            if first:
                loading.save(work.model, tokenizer, run.path / SAVED)
                card.write(run.path, metrics)
        return metrics
