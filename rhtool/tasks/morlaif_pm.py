"""`task=morlaif_pm`: AI feedback by principles, a preference model of each, and the weights that explain what people prefer."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from rhtool.errors import ConfigError, RhtoolError
from rhtool.feedback.base import known, wordings
from rhtool.run import Run
from rhtool.schema import choice, incidental
from rhtool.tasks.base import Task, check_ranges, require_lm
from rhtool.tasks.rm_train import RmTrainTexts

READS = {
    "data": (),
    "generate": ("data/pairs.jsonl",),
    "feedback": ("generate/pairs.jsonl",),
    "train": ("generate/pairs.jsonl", "feedback/feedback.jsonl"),
    "eval": ("generate/pairs.jsonl", "train/preferences"),
    "weights": ("generate/pairs.jsonl", "feedback/feedback.jsonl", "eval/scores.parquet"),
    "agreement": ("generate/pairs.jsonl", "feedback/feedback.jsonl"),
}
"""{stage: what it reads that stages before it wrote}"""
STAGES = tuple(READS)
CONSTITUTION = "constitution"
"""what the one model is called that learns from all principles at once"""


@dataclass
class MorlaifPm(Task):
    """Preference models of principles from AI feedback (MORLAIF: Williams 2024, arXiv 2406.07295)."""

    extra: ClassVar[str] = "lm"

    uses: ClassVar[tuple[str, ...]] = ("model", "data", "feedback")

    stage: str = choice("all", *STAGES)
    """what to do: all stages in turn, or one, which reads what those before it wrote"""
    principles: list[str] = field(default_factory=list)
    """names of those that are asked for; empty: all that `principles_directory` or the toolkit has, or the data's program knows"""
    principles_directory: str = ""
    """of text files of your own, one a principle, a wording a line"""
    answers: str = choice("data", "sampled")
    """which answers are compared: those of the data's preferences, or two that the model draws for each prompt"""
    one_each: bool = False
    """a principle drawn for each pair, and one model of all of them, as in constitutional AI: the baseline"""
    n_train: int | None = None
    """pairs that preference models are trained on; null: all that the data have"""
    n_validation: int | None = None
    """pairs that they are measured on; null: all that the data have"""
    weights_from: str = choice("models", "feedback")
    """by what principles are weighted: differences of the models' scores, or the feedback's log-odds"""
    max_prompt: int = 384
    """tokens of a prompt; a longer one loses its beginning"""
    max_new_tokens: int = 128
    """tokens of an answer that is drawn"""
    temperature: float = 0.7
    """of drawing answers"""
    chunk: int = incidental(64)
    """answers that are drawn at once"""
    fit: RmTrainTexts = field(default_factory=lambda: RmTrainTexts(margin=True, l2=0.0))
    """how preference models are trained, as task=rm_train"""
    threads: int = 1
    """torch threads of this process"""

    def check(self, run: Run) -> None:
        """Are model, data, principles and who gives feedback there, and what an earlier stage wrote?"""
        require_lm()
        check_ranges(self)
        check_ranges(self.fit)
        run.model.check()
        run.data.check()
        for name in self.names(run):
            wordings(name, self.principles_directory)
        if self.stage in ("all", "feedback"):
            run.feedback.check(run.data)
        if self.answers == "sampled" and self.stage in ("all", "weights"):
            said = "nobody has judged the answers that the model draws"
            raise ConfigError(
                said, "task.answers=sampled", "choose another stage than all and weights, or task.answers=data"
            )
        if (number := STAGES.index(self.stage) if self.stage != "all" else 0) and not self.before(run, number):
            before = STAGES[number - 1]
            mend = f"do that first: the same command with task.stage={before}"
            raise RhtoolError(f"the stage '{before}' is not done", str(self.place(run, before)), mend)

    def before(self, run: Run, number: int) -> bool:
        """Whether the stage before is done."""
        from rhtool.records import result_of

        result = result_of(self.place(run, STAGES[number - 1]))
        return bool(result) and result["status"] == "done"

    def names(self, run: Run) -> list[str]:
        """The principles."""
        return list(self.principles) or sorted(run.data.principles()) or known(self.principles_directory)

    def place(self, run: Run, stage: str) -> Path:
        """Directory of a stage."""
        return (run.path if self.stage == "all" else run.path.parent) / stage

    def inputs(self, run: Run) -> dict[str, str]:
        """What the stages start from, or what those before this one wrote."""
        found = run.model.inputs() | run.data.inputs() | run.feedback.inputs()
        if self.principles_directory:
            found["principles"] = self.principles_directory
        home = run.path.parent
        return found | {name: str(home / name) for name in READS.get(self.stage, ()) if (home / name).exists()}

    def run(self, run: Run) -> dict[str, float]:
        """Do the stage, or all of them."""
        from rhtool.lm.process import set_up

        set_up(self.threads)
        if self.stage != "all":
            stages: dict[str, Callable[[Run], dict[str, float]]] = {name: getattr(self, f"_{name}") for name in STAGES}
            return stages[self.stage](run)
        metrics: dict[str, float] = {}
        for name in STAGES:
            result = self.part(run, dataclasses.replace(self, stage=name), run.path / name).execute()
            metrics |= {key: value for key, value in result["metrics"].items() if key != "steps" and value is not None}
        return metrics

    @staticmethod
    def part(run: Run, task: Task, path: Path, **changed: object) -> Run:
        """A run within the run."""
        made = dataclasses.replace(run, task=task, dir=str(path), fresh=False, **changed)
        made.options = {group: name for group, name in run.options.items() if group not in ("task", *changed)}
        made.config_dirs = run.config_dirs
        return made

    # The stages

    def _data(self, run: Run) -> dict[str, float]:
        """pairs.jsonl, with answers or without."""
        from rhtool.data.base import TRAIN, VALIDATION
        from rhtool.feedback import pairs

        found = []
        for split, number in ((TRAIN, self.n_train), (VALIDATION, self.n_validation)):
            if self.answers == "data":
                rows = run.data.preferences(split)[:number]
                found += pairs.of_preferences(rows, split, run.seed)
            else:
                found += pairs.of_prompts(run.data.prompts(split)[:number], split)
        pairs.write(run.path / pairs.PAIRS, found)
        return {"steps": len(found)}

    def _generate(self, run: Run) -> dict[str, float]:
        """pairs.jsonl, with two answers to each prompt."""
        from rhtool.feedback import pairs

        rows = pairs.read(self.place(run, "data") / pairs.PAIRS)
        if self.answers == "sampled":
            from rhtool.lm.pairs import Drawing

            work = Drawing(run, self, rows)
            for _ in run.loop(work, work.iterations):
                run.log(work.iteration())
            rows = work.pairs()
        pairs.write(run.path / pairs.PAIRS, rows)
        return {"steps": len(rows)}

    def _feedback(self, run: Run) -> dict[str, float]:
        """feedback.jsonl."""
        from rhtool.feedback import pairs

        rows = pairs.read(self.place(run, "generate") / pairs.PAIRS)
        judge = run.feedback.load(run.data, run.path / "answers" / "cache.sqlite")
        work = pairs.Asking(rows, self.names(run), judge, run.seed, self.one_each, self.principles_directory)
        with contextlib.closing(work):
            for _ in run.loop(work, work.iterations):
                run.log(work.iteration())
        pairs.write(run.path / pairs.FEEDBACK, work.answered())
        return {"steps": len(work.opinions), **work.metrics()}

    def _train(self, run: Run) -> dict[str, float]:
        """A run of task=rm_train for each principle, in a directory of its name."""
        from rhtool.data.base import TRAIN, VALIDATION
        from rhtool.data.jsonl import Jsonl
        from rhtool.feedback import pairs

        rows = pairs.read(self.place(run, "generate") / pairs.PAIRS)
        said = pairs.read(self.place(run, "feedback") / pairs.FEEDBACK)
        metrics = {}
        for name in [CONSTITUTION] if self.one_each else self.names(run):
            found = pairs.preferences(rows, said, None if self.one_each else name)
            files = {split: run.path / "preferences" / f"{name}_{split}.jsonl" for split in (TRAIN, VALIDATION)}
            for split, file in files.items():
                file.parent.mkdir(exist_ok=True)
                pairs.write(file, found[split])
            paths = {"path": str(files[TRAIN]), "validation_path": str(files[VALIDATION])}
            data = Jsonl(**paths, rm=run.data.rm, sft=run.data.sft)
            fit = dataclasses.replace(self.fit, threads=self.threads)
            result = self.part(run, fit, run.path / name, data=data).execute()
            metrics[f"morlaif/accuracy/{name}"] = result["metrics"]["rm/validation_accuracy"]
            held_out = [
                pairs.comparison(rows, line)
                for line in said
                if rows[line["pair"]]["split"] == VALIDATION and (self.one_each or line["principle"] == name)
            ]
            known = [run.feedback.reliability(run.data, one) for one in held_out]
            if known and None not in known:
                metrics[f"morlaif/ceiling/{name}"] = sum(known) / len(known)
        return metrics

    def _eval(self, run: Run) -> dict[str, float]:
        """scores.parquet: of both answers of each validation pair, by each model."""
        import numpy as np
        import pandas as pd

        from rhtool.data.base import VALIDATION
        from rhtool.feedback import pairs
        from rhtool.feedback.weights import right
        from rhtool.lm.judges import Judges
        from rhtool.models import Trained

        rows = [row for row in pairs.read(self.place(run, "generate") / pairs.PAIRS) if row["split"] == VALIDATION]
        names = [CONSTITUTION] if self.one_each else self.names(run)
        models = [Trained(str(self.place(run, "train") / name)) for name in names]
        judges = Judges(models, max_length=run.data.rm.max_length)
        scores = {side: judges([row["prompt"] for row in rows], [row[side] for row in rows]).numpy() for side in "ab"}
        columns = {f"{name}_{side}": scores[side][:, k] for k, name in enumerate(names) for side in "ab"}
        pd.DataFrame(columns).to_parquet(run.path / "scores.parquet")
        label = np.array([row["human"] == "a" for row in rows], float)
        if any(row["human"] is None for row in rows):
            return {"steps": len(rows)}
        differences = scores["a"] - scores["b"]
        return {"steps": len(rows)} | {
            f"morlaif/human_accuracy/{name}": right(differences[:, k], label) for k, name in enumerate(names)
        }

    def _weights(self, run: Run) -> dict[str, float]:
        """weights.json, weights.csv: which weights of principles explain what people prefer."""
        import json

        import numpy as np
        import pandas as pd

        from rhtool.checkpoints import write_atomic
        from rhtool.data.base import VALIDATION
        from rhtool.feedback import pairs
        from rhtool.feedback.weights import ablation

        every = pairs.read(self.place(run, "generate") / pairs.PAIRS)
        chosen = [number for number, row in enumerate(every) if row["split"] == VALIDATION]
        label = np.array([every[number]["human"] == "a" for number in chosen], float)
        names = [CONSTITUTION] if self.one_each else self.names(run)
        if self.weights_from == "models":
            scores = pd.read_parquet(self.place(run, "eval") / "scores.parquet")
            x = np.column_stack([scores[f"{name}_a"] - scores[f"{name}_b"] for name in names]).astype(float)
        else:
            said = pairs.read(self.place(run, "feedback") / pairs.FEEDBACK)
            x = np.nan_to_num(pairs.log_odds(said, every, names)[chosen])
        rows = ablation(x, label, names)
        pd.DataFrame(rows).to_csv(run.path / "weights.csv", index=False)
        weights = {str(row["principle"]): float(row["weight"]) for row in rows[1:]}
        write_atomic(run.path / "weights.json", (json.dumps(weights, indent=1) + "\n").encode())
        metrics = {f"morlaif/weight/{name}": weight for name, weight in weights.items()}
        return {"steps": len(chosen), "morlaif/accuracy_of_weights": float(rows[0]["accuracy"]), **metrics}

    def _agreement(self, run: Run) -> dict[str, float]:
        """agreement.csv and figures/agreement.png: how far principles, and people, prefer the same."""
        import numpy as np
        import pandas as pd

        from rhtool.data.base import VALIDATION
        from rhtool.feedback import pairs
        from rhtool.feedback.weights import agreement
        from rhtool.results.agreement_plot import picture
        from rhtool.results.plots import save

        every = pairs.read(self.place(run, "generate") / pairs.PAIRS)
        said, names = pairs.read(self.place(run, "feedback") / pairs.FEEDBACK), self.names(run)
        odds = pairs.log_odds(said, every, names)
        if all(row["human"] for row in every):
            people = np.array([1.0 if row["human"] == "a" else -1.0 for row in every])
            odds, names = np.column_stack([odds, people]), [*names, "people"]
        odds = odds[[number for number, row in enumerate(every) if row["split"] == VALIDATION]]
        found = agreement(odds)
        table = pd.DataFrame(
            [
                {"one": a, "other": b, **{key: matrix[i, j] for key, matrix in found.items()}}
                for i, a in enumerate(names)
                for j, b in enumerate(names)
            ]
        )
        table.to_csv(run.path / "agreement.csv", index=False)
        (run.path / "figures").mkdir(exist_ok=True)
        save(picture(names, found["agreement"], found["kappa"]), run.path / "figures" / "agreement.png")
        return {"steps": len(odds)}
