"""How far sweeps are: the runs on disk and the queue of SLURM together."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pandas as pd

from rhtool import slurm
from rhtool.launchers import SWEEPS
from rhtool.progress import duration
from rhtool.records import opened
from rhtool.results.commands import AUTO, Command, commands
from rhtool.results.rows import TAIL
from rhtool.results.rows import read as read_rows

STATES = ("running", "pending", "failed", "interrupted", "missing", "damaged", "done")
"""in the order in which they are shown"""
UNFINISHED = ("failed", "interrupted", "missing")
"""what a repeated command would do"""


def read(outputs: str | Path, queued: dict[str, slurm.Task]) -> pd.DataFrame:
    """`rows.read`, with a row for every job that was submitted, and the columns `task_id` and `waits_for`.

    `status` is that of `rows.read`, but `pending` for what is in the queue (`slurm.by_directory`) and not running, be it new or to
    go on.
    """
    root = Path(outputs)
    rows = read_rows(root)
    known = {os.path.realpath(root / path): i for i, path in enumerate(rows.path) if path}
    rows["task_id"], rows["waits_for"] = "", ""
    statuses, ids, reasons = rows.status.tolist(), rows.task_id.tolist(), rows.waits_for.tolist()
    for directory, i in known.items():
        if task := queued.get(directory):
            ids[i] = task.id
            if statuses[i] != "running" and statuses[i] != "done":
                statuses[i], reasons[i] = "pending", task.reason
    rows["status"], rows["task_id"], rows["waits_for"] = statuses, ids, reasons
    new = [row for row in _submitted(root, queued) if row.pop("real") not in known]
    missing = {(row["command"].words, row["seed"]) for row in new}
    told = [c is not None and (c.words, s) in missing for c, s in zip(rows.command, rows.seed, strict=True)]
    rows = rows[~((rows.status == "missing") & pd.Series(told, index=rows.index, dtype=bool))]
    return pd.concat([rows, pd.DataFrame(new)], ignore_index=True) if new else rows


def _submitted(root: Path, queued: dict[str, slurm.Task]) -> list[dict[str, Any]]:
    """A row for each job of the submissions from `root`, of several of one directory the last one's."""
    found: dict[str, dict[str, Any]] = {}
    for folder in sorted((root / SWEEPS).glob("[0-9]*")):
        for job in () if folder.is_symlink() else slurm.jobs(folder)[0]:
            if not json.dumps(job, ensure_ascii=False).isprintable():
                continue
            real = os.path.realpath(job["dir"])
            words = dict(word.partition("=")[::2] for word in job["words"])
            auto = words.get("coeff") == "auto"
            here = os.path.realpath(job["cwd"]) == os.getcwd()
            cd = "" if here else job["cwd"]
            task = queued.get(real)
            found[real] = {
                "real": real,
                "path": os.path.relpath(job["dir"], root.resolve()),
                "status": "pending" if task else "missing",
                "reason": "",
                "tuned": (AUTO,) if auto else (),
                "coeff": 0.0 if auto else _number(words.get("coeff", "0")),
                "seed": _number(words.get("seed", "0")),
                "task_id": task.id if task else "",
                "waits_for": task.reason if task else "",
                "command": Command(tuple(job["words"]), cd, tuple(job["config_dirs"]), job["plugins"]),
            }
    return list(found.values())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def iterations(directory: Path) -> int | None:
    """How many iterations a run will have, as its last attempt said; None if it has not."""
    try:
        with opened(directory / "events.jsonl") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().splitlines()
    except (OSError, ValueError):
        return None
    for line in reversed(lines):
        if b'"loop"' in line:
            try:
                return int(json.loads(line)["iterations"]) or None
            except (ValueError, KeyError, TypeError):
                continue
    return None


def progress(root: Path, row: Any) -> str:
    """Of a running row: `12/500  0.65 it/s  0:12:30 left`."""
    if not math.isfinite(row.iteration):
        return "begins"
    done, total = int(row.iteration) + 1, iterations(root / row.path)
    speed = done / row.seconds if math.isfinite(row.seconds) and row.seconds > 0 else math.nan
    words = [f"{done}/{total}" if total else str(done)]
    if math.isfinite(speed):
        words.append(f"{speed:.3g} it/s")
        if total:
            words.append(f"{duration(max(total - done, 0) / speed)} left")
    return "  ".join(words)


def lines(root: Path, rows: pd.DataFrame, shown: int) -> list[str]:
    """What to say: how many are in which state, then of each state but done the runs, at most `shown` of each."""
    counts = rows.status.value_counts()
    text = [", ".join(f"{counts[state]} {state}" for state in STATES if state in counts) or "no runs"]
    for state in STATES[:-1]:
        these = rows[rows.status == state]
        if these.empty:
            continue
        text += ["", f"{state}:"]
        for row in these.head(shown).itertuples():
            about = {"running": lambda row: progress(root, row), "pending": lambda row: str(row.waits_for or "")}
            said = about.get(state, lambda row: str(row.reason or ""))(row)
            text.append("  ".join(filter(None, (f"  {row.path or _name(row)}", said, row.task_id or ""))))
        if len(these) > shown:
            text.append(f"  and {len(these) - shown} more")
    if lost := commands(rows[rows.status.isin(UNFINISHED)]):
        text += ["", "to do what is failed, interrupted or missing:", *(f"  {line}" for line in lost)]
    return text


def _name(row: Any) -> str:
    return f"coeff={row.coeff:g} seed={row.seed:.0f}"
