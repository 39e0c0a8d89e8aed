"""The alignment tax: how much worse a policy answers what has nothing to do with its reward, by ROUGE-L against references.

As with Super-NaturalInstructions (Wang et al. 2022, arXiv 2204.07705), on a file of prompts with references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from rhtool.data.jsonl import records
from rhtool.errors import RhtoolError
from rhtool.feedback.pairs import write
from rhtool.models import SAVED, Model
from rhtool.results.rouge import rouge_l
from rhtool.results.statistics import FEWEST, Estimate, interval, limits

Row = dict[str, Any]
Answers = tuple[list[str], list[str]]
"""of the policy, of its base policy"""


def rows(file: str) -> list[Row]:
    """The lines of a file: `prompt`, `references` (a list of texts, one or more), perhaps `task`. Raises `RhtoolError` for the
    first that has not."""
    found = []
    for number, (_, row) in enumerate(records(file), 1):
        references = row.get("references")
        if not (isinstance(references, list) and references and all(isinstance(x, str) for x in references)):
            where, mend = f"{file}, line {number}", 'write "references": ["a good answer", "..."]'
            raise RhtoolError("the line has no list of reference answers", where, mend)
        found.append(row)
    return found


def models_of(run: Path) -> tuple[Model, Model]:
    """The policy of a finished run of task=rlhf_ppo, and what it started from. Raises `RhtoolError` if one is not
    there."""
    if not (run / SAVED / "config.json").is_file():
        raise RhtoolError("the run has saved no policy", str(run), "finish it: repeat its command")
    config = yaml.safe_load((run / "config.yaml").read_text())["model"]
    if not config["path"]:
        raise RhtoolError("the run began with a model that knows nothing", str(run), "there is no tax on that")
    kept = {key: config[key] for key in ("path", "revision", "dtype", "template")}
    base = Model(**kept)
    base.check()
    return Model(path=str(run), dtype=kept["dtype"]), base


def rouge(answers: Sequence[str], rows: Sequence[Row], best: bool) -> np.ndarray:
    """ROUGE-L of each answer (N,), with the first of its row's references, or the `best` of them."""
    return np.array(
        [
            max(rouge_l(answer, reference) for reference in row["references"][: None if best else 1])
            for answer, row in zip(answers, rows, strict=True)
        ]
    )


def measured(
    to: Path, rows: list[Row], groups: Mapping[str, Sequence[Path]], answers: Mapping[Path, Answers], best: bool
) -> dict[str, float]:
    """The metrics of groups of runs, and of each run in the directory `to`: tax.jsonl, each answer with its ROUGE-L; tax.csv, means
    of each task (column `task` of the rows; "" of those without) and of all (`all`).

    The tax is ROUGE-L of the base policy less that of the policy. Its interval is a bootstrap's over runs if there are `FEWEST`,
    else over prompts.
    """
    lines, table, metrics = [], [], {}
    tasks = np.array([str(row.get("task", "")) for row in rows])
    for name, paths in groups.items():
        own, base = (np.array([rouge(answers[path][k], rows, best) for path in paths]) for k in (0, 1))
        for i, path in enumerate(paths):
            for j, row in enumerate(rows):
                line = {"run": str(path), **row, "answer": answers[path][0][j], "base_answer": answers[path][1][j]}
                lines.append(line | {"rouge_l": float(own[i, j]), "base_rouge_l": float(base[i, j])})
            for task in ("all", *dict.fromkeys(tasks)):
                of = np.full(len(rows), True) if task == "all" else tasks == task
                means = {"rouge_l": own[i, of].mean(), "base_rouge_l": base[i, of].mean()}
                table.append({"group": name, "run": path, "task": task, "prompts": int(of.sum()), **means})
        over = (base - own).mean(1) if len(paths) >= FEWEST else (base - own).mean(0)
        found = Estimate(float(over.mean()), *interval([over], lambda x: x.mean(-1)), len(over))
        metrics |= {f"rer/{name}/rouge_l": float(own.mean()), f"rer/{name}/base_rouge_l": float(base.mean())}
        metrics |= limits(f"rer/{name}/tax", found)
    write(to / "tax.jsonl", lines)
    pd.DataFrame(table).to_csv(to / "tax.csv", index=False)
    return metrics
