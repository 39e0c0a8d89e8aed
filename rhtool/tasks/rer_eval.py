"""`task=rer_eval`: of policies of texts, whether the true reward went where the proxy went, win rates, the alignment tax."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rhtool.data.base import VALIDATION, Data
from rhtool.errors import ConfigError, RhtoolError
from rhtool.feedback.base import wordings
from rhtool.rewards.base import Reward
from rhtool.run import Run
from rhtool.schema import choice, incidental
from rhtool.tasks.base import Task, check_ranges, require_lm

if TYPE_CHECKING:
    from rhtool.results.evaluations import Evaluations, Score

BASE, REFERENCE = "base", "reference"
"""what answers are compared with, besides those of a run"""

Found = dict[str, float]


@dataclass
class RerEval(Task):
    """Monotonicity of the true reward in the proxy over a run's evaluations, win rates, alignment tax (arXiv 2402.03469)."""

    extra: ClassVar[str] = "lm"

    uses: ClassVar[tuple[str, ...]] = ("data", "reward", "feedback")

    path: str = ""
    """directory of a run of task=rlhf_ppo, or one above several, or a pattern with *; directories seed=<n> beside each other are
    seeds of one"""
    monotonicity: bool = True
    """whether the means of proxy and true reward over the evaluations are compared"""
    from_step: int = 0
    """evaluations before this round do not count for that"""
    against: str = ""
    """what the last answers are compared with, for the win rate: base (those of the first evaluation), reference (the data's good
    answers), or a run (its last answers); empty: with nothing"""
    judged_by: str = choice("feedback", "true")
    """who compares: the group `feedback`, or the true reward"""
    principle: str = "helpfulness"
    """by which feedback compares"""
    principles_directory: str = ""
    """of text files of your own, one a principle, a wording a line"""
    tax: str = ""
    """a file of JSON lines with `prompt` and `references`, to which policy and base policy answer, for the alignment tax; empty: none"""
    references: str = choice("first", "max")
    """which of a prompt's references counts: the first, or for each answer the one that is most like it"""
    max_prompt: int = 512
    """tokens of such a prompt; a longer one loses its beginning"""
    max_new_tokens: int = 128
    """tokens of such an answer"""
    chunk: int = incidental(32)
    """such answers that are generated at once"""
    threads: int = 1
    """torch threads of this process"""

    def check(self, run: Run) -> None:
        """Are there evaluations, and who judges?"""
        from rhtool.results import comparisons, evaluations

        require_lm()
        check_ranges(self)
        if not self.path:
            raise ConfigError("no run is named", "task.path", "give the directory of a run: outputs/rlhf_ppo/…/seed=0")
        runs = evaluations.runs_at(self.path, "task.path")
        if not (self.monotonicity or self.against or self.tax):
            raise ConfigError("there is nothing to do", "task", "give task.against, task.tax or task.monotonicity=true")
        for path in runs if self.monotonicity else ():
            evaluations.read(path, self.from_step)
        run.data.check()
        run.data.true_by.check()
        if self._rescored(run):
            run.reward.check()
        if self.against not in ("", BASE, REFERENCE):
            comparisons.opponents(runs, self.against)
        if self.against and self.judged_by == "feedback":
            wordings(self.principle, self.principles_directory)
            run.feedback.check(run.data)
        if self.against == REFERENCE and self.judged_by == "true" and run.data.true_reward() is None:
            raise RhtoolError(
                "nobody gives references a true reward", "data.true_by", "name who does, or take data=toy"
            )
        if self.tax:
            from rhtool.results.tax import models_of, rows

            rows(self.tax)
            for path in runs:
                models_of(path)

    def inputs(self, run: Run) -> dict[str, str]:
        """The evaluations, what judges, the file of the tax and the policies that answer to it."""
        from rhtool.results.evaluations import runs_at

        runs = runs_at(self.path, "task.path") if self.path else []
        found = {f"evaluations of {path}": str(path / "eval") for path in runs}
        if self.against not in ("", BASE, REFERENCE):
            found |= {f"evaluations of {path}": str(path / "eval") for path in runs_at(self.against, "task.against")}
        found |= run.data.inputs() | run.data.true_by.inputs()
        if self._rescored(run):
            found |= run.reward.inputs()
        if self.against and self.judged_by == "feedback":
            found |= run.feedback.inputs()
            if self.principles_directory:
                found["principles"] = self.principles_directory
        if self.tax:
            from rhtool.results.tax import models_of

            found["tax"] = self.tax
            for path in runs:
                for name, model in zip(("policy", "base policy"), models_of(path), strict=True):
                    found |= {f"{name} of {path}": file for file in model.inputs().values()}
        return found

    def run(self, run: Run) -> Found:
        """Judge anew and compare what is to be, then measure."""
        from rhtool.lm.process import set_up
        from rhtool.results import comparisons, evaluations, monotonicity

        set_up(self.threads)
        runs = evaluations.runs_at(self.path, "task.path")
        fewest = evaluations.FEWEST if self.monotonicity else 1
        read = {path: evaluations.read(path, self.from_step, fewest) for path in runs}
        known = self._known(run, list(read.values()))
        others = self._others(run, read, known) if self.against else {}
        by_true = bool(self.against) and self.judged_by == "true"
        judged = list(read.values()) if self.monotonicity else []
        if by_true:
            judged += [found.last() for found in ([] if self.monotonicity else read.values())]
            judged += {id(found): found for found in others.values()}.values()
        rescoring = evaluations.Rescoring(judged, self._judges(run) if judged else {}, known)
        pairs = comparisons.pairs(read, others, known)
        asking = None if by_true else self._asking(run, [pair for pair in pairs if pair["a"] != pair["b"]])
        with contextlib.closing(asking) if asking else contextlib.nullcontext():
            work = evaluations.InTurn(rescoring, *([asking] if asking else []))
            for _ in run.loop(work, work.iterations):
                run.log(work.iteration())
        if by_true:
            for found in [*read.values(), *others.values()]:
                found.last().scores("true")  # or say that there is none
        groups = evaluations.groups(runs)
        metrics: Found = {"steps": sum(len(part) for found in read.values() for part in found.lines)}
        if self.monotonicity:
            chosen = {name: [read[path].since(self.from_step) for path in paths] for name, paths in groups.items()}
            metrics |= monotonicity.measured(run.path, chosen)
        if self.against:
            metrics |= asking.metrics() if asking else {}
            outcome = comparisons.by_feedback(asking.answered() if asking else ())
            outcome = comparisons.by_true if by_true else outcome
            metrics |= comparisons.measured(run.path, groups, pairs, outcome)
        if self.tax:
            metrics |= self._tax(run, groups)
        return metrics

    def _rescored(self, run: Run) -> bool:
        return type(run.reward) is not Reward

    def _judges(self, run: Run) -> dict[str, Score]:
        """`{"proxy", "true": who gives it}` where it is not to be that of training."""
        found: dict[str, Score] = {}
        if self._rescored(run):
            scores = run.reward.load()
            found["proxy"] = lambda rows, answers, finished: run.reward.combined(
                scores(rows, answers, finished)
            ).tolist()
        if true := run.data.true_reward():
            found["true"] = lambda rows, answers, finished: true(rows, answers)
        return found

    def _known(self, run: Run, read: list[Evaluations]) -> dict[str, dict[str, Any]]:
        """The data's rows, by their conversations, if data are chosen: rewards may read their columns."""
        from rhtool.results.evaluations import check_known, key

        if type(run.data) is Data:
            return {}
        rows = {key(row["prompt"]): row for row in run.data.prompts(VALIDATION)}
        check_known(read, rows)
        return rows

    def _others(self, run: Run, read: dict[Path, Evaluations], known: dict[str, Any]) -> dict[Path, Evaluations]:
        """`{run: the one evaluation that its last one is compared with}`."""
        from rhtool.results import comparisons
        from rhtool.results.evaluations import key

        if self.against == BASE:
            return {path: found.first() for path, found in read.items()}
        if self.against != REFERENCE:
            return comparisons.of_runs_against([*read], self.against)
        answers = {name: row["reference"] for name, row in known.items() if "reference" in row}
        if not answers and known:
            for row in run.data.demonstrations(VALIDATION):
                answers.setdefault(key(row["prompt"]), row["answer"])
        return comparisons.of_references(read, answers)

    def _asking(self, run: Run, pairs: list[Any]) -> Any:
        """The comparisons of pairs by feedback; None where there are none."""
        from rhtool.feedback.pairs import Asking

        if not pairs:
            return None
        judge = run.feedback.load(run.data, run.path / "answers" / "cache.sqlite")
        return Asking(pairs, [self.principle], judge, run.seed, directory=self.principles_directory)

    def _tax(self, run: Run, groups: dict[str, list[Path]]) -> Found:
        """tax.jsonl, tax.csv."""
        from rhtool.lm.tax import answered
        from rhtool.results import tax

        rows = tax.rows(self.tax)
        options = {"max_prompt": self.max_prompt, "max_new_tokens": self.max_new_tokens, "chunk": self.chunk}
        answers = {path: answered(path, rows, **options) for paths in groups.values() for path in paths}
        return tax.measured(run.path, rows, groups, answers, best=self.references == "max")
