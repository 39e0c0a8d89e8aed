"""Comparisons of a run's last answers with others to the same prompts, and the win rates that come of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rhtool.data.base import VALIDATION
from rhtool.errors import ConfigError, RhtoolError
from rhtool.feedback.pairs import write
from rhtool.results import statistics
from rhtool.results.evaluations import Evaluations, Line, key, read, rows_of, runs_at
from rhtool.results.winrate import of_runs, wilson, wins

COMPARISONS = "comparisons.jsonl"


def opponents(runs: Sequence[Path], against: str) -> dict[Path, Path]:
    """`{run: the run that it is compared with}`: one for all, or as many as there are runs, in the order of their names. A run is
    not compared with itself. Raises `RhtoolError` for another number, or one without an evaluation."""
    found = runs_at(against, "task.against")
    if len(found) not in (1, len(runs)):
        said = f"{len(runs)} runs against {len(found)}"
        raise ConfigError(said, "task.against", "give one run, or as many as task.path has")
    for path in found:
        read(path, fewest=1)
    both = zip(runs, found * len(runs) if len(found) == 1 else found, strict=True)
    if not (others := {run: other for run, other in both if run.resolve() != other.resolve()}):
        raise ConfigError("every run would be compared with itself", "task.against", "give another run")
    return others


def of_runs_against(runs: Sequence[Path], against: str) -> dict[Path, Evaluations]:
    """`{run: the last evaluation of the run that it is compared with}`."""
    pairs = opponents(runs, against)
    last = {path: read(path, fewest=1).last() for path in set(pairs.values())}
    return {run: last[other] for run, other in pairs.items()}


def of_references(runs: Mapping[Path, Evaluations], answers: Mapping[str, str]) -> dict[Path, Evaluations]:
    """`{run: the reference answers to the prompts of its last evaluation}`, of `{key of a conversation: answer}`. Raises
    `RhtoolError` where there are none."""
    found = {}
    for path, own in runs.items():
        lines = [line for line in own.lines[-1] if key(line["prompt"]) in answers]
        if not lines:
            mend = "give the run's data=..., with references or demonstrations"
            raise RhtoolError("these data have no reference answers", "task.against=reference", mend)
        made = [{"prompt": line["prompt"], "answer": answers[key(line["prompt"])]} for line in lines]
        found[path] = Evaluations(path, np.zeros(1, np.int64), [made])
    return found


def pairs(
    runs: Mapping[Path, Evaluations], others: Mapping[Path, Evaluations], known: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Rows as of `rhtool.feedback.pairs`: a is the run's last answer, b the other's to the same prompt; and `lines`, both
    lines of the evaluations, whose true rewards are to come. Raises `RhtoolError` for a run that has no prompt of the other's."""
    found = []
    for path, other in others.items():
        theirs = {key(line["prompt"]): line for line in reversed(other.lines[0])}
        before, mine = len(found), runs[path].lines[-1]
        for row, line in zip(rows_of(mine, known), mine, strict=True):
            if b := theirs.get(key(line["prompt"])):
                answers = {"a": line["answer"], "b": b["answer"], "human": None}
                found.append(row | answers | {"split": VALIDATION, "run": path, "lines": (line, b)})
        if len(found) == before:
            raise RhtoolError(f"{path} has no prompt in common with {other.path}", "task.against", "give another run")
    return found


def by_true(pair: Mapping[str, Any]) -> Line:
    """Who won by the true reward."""
    a, b = (line["true"] for line in pair["lines"])
    return {"true_a": a, "true_b": b, "win": float(wins(a - b))}


def by_feedback(answered: Iterable[Line]) -> Callable[[Mapping[str, Any]], Line]:
    """Who won by what was `answered` of the pairs whose answers differ, in their order; equal ones are a tie."""
    rest = iter(answered)

    def outcome(pair: Mapping[str, Any]) -> Line:
        if pair["a"] == pair["b"]:
            return {"win": 0.5}
        said = next(rest)
        kept = {name: said[name] for name in ("principle", "wording", "first", "log_prob_a", "log_prob_b")}
        return kept | {"win": float(wins(said["log_prob_a"] - said["log_prob_b"]))}

    return outcome


def measured(
    to: Path,
    groups: Mapping[str, Sequence[Path]],
    compared: Sequence[Mapping[str, Any]],
    outcome: Callable[[Mapping[str, Any]], Line],
) -> dict[str, float]:
    """The win rates of groups of runs; and in the directory `to` comparisons.jsonl, a line a pair, and win_rates.csv, a row a run."""
    names = ("row", "prompt", "a", "b")
    lines = [{"run": str(pair["run"]), **{name: pair[name] for name in names}, **outcome(pair)} for pair in compared]
    write(to / COMPARISONS, lines)
    outcomes: dict[str, list[float]] = {}
    for line in lines:
        outcomes.setdefault(line["run"], []).append(line["win"])
    rows, metrics = [], {}
    for name, paths in groups.items():
        won = {path: np.array(outcomes[str(path)]) for path in paths if str(path) in outcomes}
        for path, x in won.items():
            found = wilson(float(x.mean()), len(x))
            row = {"group": name, "run": path, "win_rate": found.value, "low": found.low, "high": found.high}
            rows.append(row | {"prompts": found.n, "ties": float((x == 0.5).mean())})
        if won:
            metrics |= statistics.limits(f"rer/{name}/win_rate", of_runs([*won.values()]))
    pd.DataFrame(rows).to_csv(to / "win_rates.csv", index=False)
    return metrics
