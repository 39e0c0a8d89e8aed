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
COMPARISONS = "comparisons.jsonl"

Found = dict[str, float]
Groups = dict[str, list[Any]]


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
        from rhtool.results import evaluations

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
            self._opponents(runs)
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
        """Rescore and compare what is to be, then measure."""
        from rhtool.lm.process import set_up
        from rhtool.results import evaluations

        set_up(self.threads)
        runs = evaluations.runs_at(self.path, "task.path")
        fewest = evaluations.FEWEST if self.monotonicity else 1
        read = {path: evaluations.read(path, self.from_step, fewest) for path in runs}
        known = self._known(run, list(read.values()))
        others = self._others(run, read, known) if self.against else {}
        judged = list(read.values()) if self.monotonicity else []
        if self.against and self.judged_by == "true":
            judged += [found.last() for found in ([] if self.monotonicity else read.values())]
            judged += {id(found): found for found in others.values()}.values()
        rescoring = evaluations.Rescoring(judged, self._judges(run) if judged else {}, known)
        pairs = self._pairs(read, others, known)
        asking = self._asking(run, [pair for pair in pairs if pair["a"] != pair["b"]])
        with contextlib.closing(asking) if asking else contextlib.nullcontext():
            work = evaluations.InTurn(rescoring, *([asking] if asking else []))
            for _ in run.loop(work, work.iterations):
                run.log(work.iteration())
        if self.against and self.judged_by == "true":
            for found in [*read.values(), *others.values()]:
                found.last().scores("true")  # or say that there is none
        groups = evaluations.groups(runs)
        metrics: Found = {"steps": sum(len(part) for found in read.values() for part in found.lines)}
        if self.monotonicity:
            metrics |= self._monotonicity(run, {name: [read[path] for path in paths] for name, paths in groups.items()})
        if self.against:
            metrics |= asking.metrics() if asking else {}
            metrics |= self._win_rates(run, groups, pairs, asking)
        if self.tax:
            metrics |= self._tax(run, groups)
        return metrics

    # Judging anew

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
        from rhtool.results.evaluations import key

        if type(run.data) is Data:
            return {}
        rows = {key(row["prompt"]): row for row in run.data.prompts(VALIDATION)}
        for found in read:
            if strange := sum(key(line["prompt"]) not in rows for line in found.lines[0]):
                said = f"{strange} of {len(found.lines[0])} prompts of {found.path} are none of these data"
                raise RhtoolError(said, "data", "give the data that the run was trained on, with the same options")
        return rows

    # The win rate

    def _opponents(self, runs: list[Path]) -> dict[Path, Path]:
        """`{run: the run that it is compared with}`: one for all, or as many as there are runs, in the order of their names."""
        from rhtool.results.evaluations import read, runs_at

        against = runs_at(self.against, "task.against")
        if len(against) not in (1, len(runs)):
            said = f"{len(runs)} runs against {len(against)}"
            raise ConfigError(said, "task.against", "give one run, or as many as task.path has")
        for path in against:
            read(path, fewest=1)
        return dict(zip(runs, against * len(runs) if len(against) == 1 else against, strict=True))

    def _others(self, run: Run, read: dict[Path, Evaluations], known: dict[str, Any]) -> dict[Path, Evaluations]:
        """`{run: the one evaluation that its last one is compared with}`."""
        import numpy as np

        from rhtool.results import evaluations

        if self.against == BASE:
            return {path: evaluations.Evaluations(path, e.steps[:1], e.lines[:1]) for path, e in read.items()}
        if self.against != REFERENCE:
            other = {path: evaluations.read(path, fewest=1).last() for path in set(self._opponents([*read]).values())}
            return {path: other[against] for path, against in self._opponents([*read]).items()}
        answers = {key: row["reference"] for key, row in known.items() if "reference" in row}
        if not answers and known:
            for row in run.data.demonstrations(VALIDATION):
                answers.setdefault(evaluations.key(row["prompt"]), row["answer"])
        found = {}
        for path, e in read.items():
            lines = [line for line in e.lines[-1] if evaluations.key(line["prompt"]) in answers]
            if not lines:
                said, mend = (
                    "these data have no reference answers",
                    "give the run's data=..., with references or demonstrations",
                )
                raise RhtoolError(said, "task.against=reference", mend)
            made = [{"prompt": line["prompt"], "answer": answers[evaluations.key(line["prompt"])]} for line in lines]
            found[path] = evaluations.Evaluations(path, np.zeros(1, np.int64), [made])
        return found

    def _pairs(
        self, read: dict[Path, Evaluations], others: dict[Path, Evaluations], known: dict[str, Any]
    ) -> list[Any]:
        """Rows as of `rhtool.feedback.pairs`: a is the run's last answer, b the other's to the same prompt; and `lines`, both
        lines of the evaluations, whose true rewards are to come."""
        from rhtool.results.evaluations import key, rows_of

        found = []
        for path, other in others.items():
            theirs = {key(line["prompt"]): line for line in reversed(other.lines[0])}
            before = len(found)
            mine = read[path].lines[-1]
            for row, line in zip(rows_of(mine, known), mine, strict=True):
                if b := theirs.get(key(line["prompt"])):
                    answers = {"a": line["answer"], "b": b["answer"], "human": None}
                    found.append(row | answers | {"split": VALIDATION, "run": path, "lines": (line, b)})
            if len(found) == before:
                raise RhtoolError(
                    f"{path} has no prompt in common with {other.path}", "task.against", "give another run"
                )
        return found

    def _asking(self, run: Run, pairs: list[Any]) -> Any:
        """The comparisons of answers that are not equal; None where feedback is not asked."""
        from rhtool.feedback.pairs import Asking

        if self.judged_by != "feedback" or not pairs:
            return None
        judge = run.feedback.load(run.data, run.path / "answers" / "cache.sqlite")
        return Asking(pairs, [self.principle], judge, run.seed, directory=self.principles_directory)

    def _win_rates(self, run: Run, groups: dict[str, list[Path]], pairs: list[Any], asking: Any) -> Found:
        """comparisons.jsonl, win_rates.csv."""
        import numpy as np
        import pandas as pd

        from rhtool.feedback.pairs import write
        from rhtool.results import statistics
        from rhtool.results.winrate import of_runs, wilson, wins

        answered = iter(asking.answered() if asking else ())
        lines: list[dict[str, Any]] = []
        for pair in pairs:
            line = {"run": str(pair["run"]), "row": pair["row"], **{k: pair[k] for k in ("prompt", "a", "b")}}
            if self.judged_by == "true":
                line |= {"true_a": pair["lines"][0]["true"], "true_b": pair["lines"][1]["true"]}
                line["win"] = float(wins(line["true_a"] - line["true_b"]))
            elif pair["a"] == pair["b"]:
                line["win"] = 0.5
            else:
                said = next(answered)
                line |= {key: said[key] for key in ("principle", "wording", "first", "log_prob_a", "log_prob_b")}
                line["win"] = float(wins(said["log_prob_a"] - said["log_prob_b"]))
            lines.append(line)
        write(run.path / COMPARISONS, lines)
        rows, metrics = [], {}
        for name, paths in groups.items():
            outcomes = [np.array([x["win"] for x in lines if x["run"] == str(path)]) for path in paths]
            for path, won in zip(paths, outcomes, strict=True):
                found = wilson(float(won.mean()), len(won))
                row = {"group": name, "run": path, "win_rate": found.value, "low": found.low, "high": found.high}
                rows.append(row | {"prompts": found.n, "ties": float((won == 0.5).mean())})
            metrics |= statistics.limits(f"rer/{name}/win_rate", of_runs(outcomes))
        pd.DataFrame(rows).to_csv(run.path / "win_rates.csv", index=False)
        return metrics

    # The rest

    def _monotonicity(self, run: Run, groups: Groups) -> Found:
        """evaluations.csv, monotonicity.csv, figures/monotonicity.png."""
        import pandas as pd

        from rhtool.results import monotonicity, monotonicity_plot, statistics
        from rhtool.results.plots import save

        courses, found, metrics = {}, {}, {}
        for name, members in groups.items():
            chosen = [e.since(self.from_step) for e in members]
            courses[name] = [monotonicity.Course(e.steps, e.scores("proxy"), e.scores("true")) for e in chosen]
            found[name] = monotonicity.monotonicity(courses[name])
            for measure, estimate in found[name].items():
                metrics |= statistics.limits(f"rer/{name}/{measure}", estimate)
        means = [
            {"group": name, "run": e.path, "step": step, "proxy": proxy, "true": true}
            for name, members in groups.items()
            for e, course in zip(members, courses[name], strict=True)
            for step, proxy, true in zip(course.steps, course.proxy.mean(1), course.true.mean(1), strict=True)
        ]
        pd.DataFrame(means).to_csv(run.path / "evaluations.csv", index=False)
        monotonicity.table(courses, found).to_csv(run.path / "monotonicity.csv", index=False)
        (run.path / "figures").mkdir(exist_ok=True)
        spearman = {name: estimates["spearman"] for name, estimates in found.items()}
        save(monotonicity_plot.picture(courses, spearman), run.path / "figures" / "monotonicity.png")
        return metrics

    def _tax(self, run: Run, groups: dict[str, list[Path]]) -> Found:
        """tax.jsonl, tax.csv."""
        from rhtool.lm.tax import answered
        from rhtool.results import tax

        rows = tax.rows(self.tax)
        options = {"max_prompt": self.max_prompt, "max_new_tokens": self.max_new_tokens, "chunk": self.chunk}
        answers = {path: answered(path, rows, **options) for paths in groups.values() for path in paths}
        return tax.measured(run.path, rows, groups, answers, best=self.references == "max")
