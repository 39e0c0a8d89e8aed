"""What evaluations of runs found that have no return of their own, as tables and pictures of a report: `task=rer_eval` by groups of
runs, `task=morlaif_pm` by principles."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd

from rhtool.results.cells import Table, metrics
from rhtool.results.statistics import Estimate
from rhtool.results.tables import with_interval

COLUMNS = {
    "rer_eval": (
        re.compile(r"rer/(?P<name>[^/]+)/(?P<measure>\w+)"),
        "runs",
        {
            "spearman": "Spearman",
            "true": "true",
            "win_rate": "win rate",
            "true_gain": "true gained",
            "proxy_gain": "proxy gained",
            "lost": "lost",
            "tax": "tax",
        },
    ),
    "morlaif_pm": (
        re.compile(r"morlaif/(?P<measure>\w+)/(?P<name>[^/]+)"),
        "principle",
        {
            "accuracy": "accuracy",
            "ceiling": "ceiling",
            "human_accuracy": "accuracy for people",
            "weight": "weight",
        },
    ),
}
"""of each task: its metrics, what they are of, and the columns of those that are shown"""
NOTES = {
    "rer_eval": "Spearman: of the means of proxy and true reward over a run's evaluations; true: at the last; win rate: of the last "
    "answers against those that were named; gained: from the first to the last; lost: of the true reward since its peak; tax: "
    "ROUGE-L lost on other prompts. In brackets 95 % intervals, over three runs or more, else over prompts (docs/tasks/rer_eval.md).",
    "morlaif_pm": "accuracy: of a principle's model for held-out feedback; ceiling: what the feedback's noise allows; weight: of its "
    "score in what people prefer (docs/tasks/morlaif_pm.md).",
}
PICTURES = {
    "rer_eval": ["figures/monotonicity.png"],
    "morlaif_pm": ["agreement/figures/agreement.png", "figures/agreement.png"],
}


def tables(rows: pd.DataFrame) -> list[Table]:
    """A table for each finished run of these tasks among the rows that `rows.read` gives."""
    found = []
    for _, run in rows[(rows.status == "done") & rows.task.isin([*COLUMNS])].iterrows():
        header, lines = _texts(run)
        if lines:
            found.append((f"{run.task}: {run.path}", (header, lines), NOTES[run.task]))
    return found


def pictures(rows: pd.DataFrame, outputs: Path) -> list[Path]:
    """The pictures that these runs have drawn."""
    done = rows[rows.status == "done"]
    paths = [outputs / run.path / name for _, run in done.iterrows() for name in PICTURES.get(run.task, ())]
    return [path for path in paths if path.is_file() and path.resolve().is_relative_to(outputs.resolve())]


def _texts(run: pd.Series) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a run's table, without columns that would be empty."""
    pattern, of, titles = COLUMNS[run.task]
    values: dict[str, dict[str, float]] = {}
    for key in metrics(run.to_frame().T):
        if (match := pattern.fullmatch(key)) and not pd.isna(run[key]):
            values.setdefault(match["name"], {})[match["measure"]] = float(run[key])
    columns = {of: [*values]}
    for measure, title in titles.items():
        column = [_estimate(value, measure) for value in values.values()]
        if any(math.isfinite(estimate.value) for estimate in column):
            columns[title] = [with_interval(e, "{:.2f}".format) if math.isfinite(e.value) else "-" for e in column]
    return list(columns), [list(line) for line in zip(*columns.values(), strict=True)]


def _estimate(values: dict[str, float], measure: str) -> Estimate:
    low, high = (values.get(f"{measure}_{end}", math.nan) for end in ("low", "high"))
    return Estimate(values.get(measure, math.nan), low, high, 1)
