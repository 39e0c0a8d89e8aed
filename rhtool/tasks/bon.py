"""`task=bon`: best-of-n of a language model's answers by a proxy, and softer selections: what they gain, and where they turn."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from rhtool.checkpoints import write_atomic
from rhtool.errors import ConfigError, RhtoolError
from rhtool.run import Run
from rhtool.schema import incidental
from rhtool.tasks.base import Task, check_ranges, require_lm

if TYPE_CHECKING:
    from rhtool.lm.memory import Need


@dataclass
class Bon(Task):
    """Best-of-n by a proxy without bias, with soft best-of-n, best-of-Poisson and HedgeTune."""

    extra: ClassVar[str] = "lm"

    uses: ClassVar[tuple[str, ...]] = ("model", "data", "reward")

    answers: int = 128
    """answers to each prompt, N: n goes up to it"""
    prompts: int = 128
    """held-out prompts"""
    rates: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
    """of best-of-Poisson, whose n is 1 + a Poisson number of this rate"""
    soft_n: int = 16
    """n of soft best-of-n"""
    temperatures: list[float] = field(default_factory=lambda: [0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0])
    """of soft best-of-n, in standard deviations of the proxy"""
    uwo_weight: float = 0.5
    """of the variance, where an ensemble's combinations are compared (Coste et al. 2024)"""
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
    """answers that are generated at once; null: one to each prompt"""
    threads: int = 1
    """torch threads of this process"""

    def check(self, run: Run) -> None:
        """Are model, data and reward there, and is there a true reward?"""
        require_lm()
        check_ranges(self)
        for name in ("answers", "prompts", "soft_n"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is too small", f"task.{name}", "choose 1 or more")
        for part in (run.model, run.data, run.data.true_by, run.reward):
            part.check()
        if run.data.true_reward() is None:
            mend = "name a reward model, data.true_by.model=..., or a function, data.true_by.function=...; data=toy has one"
            raise RhtoolError("these data have no true reward to compare with", "data.true_by", mend)

    def inputs(self, run: Run) -> dict[str, str]:
        """The model, the reward's models, the files of the data."""
        return run.model.inputs() | run.data.inputs() | run.data.true_by.inputs() | run.reward.inputs()

    def memory(self, run: Run) -> Need:
        """Of weights, optimiser and the largest of its passes."""
        from rhtool.lm import memory

        return memory.of_bon(run)

    def run(self, run: Run) -> dict[str, float]:
        """Sample and score, select, draw."""
        from rhtool.lm.process import set_up

        set_up(self.threads)
        import numpy as np
        import pandas as pd

        from rhtool.data.base import VALIDATION
        from rhtool.lm import best_of
        from rhtool.lm.generation import answering
        from rhtool.lm.originals import PROMPTS
        from rhtool.lm.pool import Pool
        from rhtool.lm.text import corpus
        from rhtool.results import overoptimisation_plot
        from rhtool.results.overoptimisation import analyse
        from rhtool.results.plots import save

        rows = run.data.prompts(VALIDATION)[: self.prompts]
        room = {"max_prompt": self.max_prompt, "max_new_tokens": self.max_new_tokens}
        model, form = answering(run.model, rows, run.seed, texts=corpus(run.data), **room)
        work = Pool(run, model, form, rows)
        for i in run.loop(work, self.answers):
            run.log({"steps": (i + 1) * len(work.rows), **work.iteration()})
        work.table().to_parquet(run.path / "answers.parquet")
        prompts = [json.dumps({"row": i, "prompt": row["prompt"]}) for i, row in enumerate(work.rows)]
        write_atomic(run.path / PROMPTS, ("\n".join(prompts) + "\n").encode())
        true, tables = np.stack(work.true), []
        for name, proxy in best_of.proxies(np.stack(work.scores), work.proxy, {"uwo": self.uwo_weight}).items():
            found = best_of.curves(proxy, true, list(self.rates), self.soft_n, list(self.temperatures))
            tables.append(found.assign(proxy_name=name))
        table = pd.concat(tables, ignore_index=True)
        table.to_csv(run.path / "selection.csv", index=False)
        own = table[table.proxy_name == "proxy"]
        metrics = best_of.summary(own, work.proxy, true)
        analysis = analyse(best_of.gao_table(own, (metrics["base/true/return"], metrics["base/proxy/return"])))
        if figure := overoptimisation_plot.picture({"best-of-n": analysis}):
            (run.path / "figures").mkdir(exist_ok=True)
            save(figure, run.path / "figures" / "best_of_n.png")
        return {"steps": self.answers * len(work.rows), **metrics}
