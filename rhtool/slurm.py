"""What SLURM says of the sweeps below a directory: which of their jobs wait, run, or are gone."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhtool.launchers import JOBS, SWEEPS, said
from rhtool.records import content

DEFAULT_ARRAY = 1000
"""tasks of an array, where SLURM does not say how many it takes"""
POLL = 10.0
"""seconds between two questions to SLURM"""
OURS = "rhtool:"
"""comments of our arrays begin with it; the directory of the submission follows"""


@dataclass(frozen=True)
class Task:
    """A task of an array that is in the queue."""

    folder: Path
    """of the submission"""
    index: int
    id: str
    """as scancel takes it: 17_3"""
    state: str
    """as SLURM says: PENDING, RUNNING, COMPLETING…"""
    reason: str
    """why it waits"""


def tasks() -> list[Task]:
    """Those of this user's sweeps that are in the queue; none without SLURM. Raises `RhtoolError` if it does not answer."""
    if shutil.which("squeue") is None:
        return []
    found = []
    for line in said(["squeue", "--me", "--noheader", "--array", "--format=%F|%K|%T|%r|%k"]).splitlines():
        array, index, state, reason, comment = line.split("|", 4)
        if comment.startswith(OURS) and index.isdigit():
            folder = Path(comment.removeprefix(OURS))
            found.append(Task(folder, int(index), f"{array}_{index}", state, reason))
    return found


def jobs(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The jobs of a submission, and how many of them a task does; none if it is not one that `launchers` wrote."""
    try:
        written = json.loads(content(folder / JOBS))
        found, pack = written["jobs"], written["pack"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return [], 1
    text = {"dir": str, "cwd": str, "plugins": str}
    whole = isinstance(found, list) and type(pack) is int and pack > 0
    for job in found if whole else ():
        whole &= isinstance(job, dict) and all(isinstance(job.get(key), kind) for key, kind in text.items())
        for key in ("words", "config_dirs"):
            whole = whole and isinstance(job.get(key), list) and all(isinstance(word, str) for word in job[key])
    return (found, pack) if whole else ([], 1)


def by_directory(outputs: Path) -> dict[str, Task]:
    """`{real path of a run's directory: the task that has it}` of the sweeps submitted from `outputs`."""
    root, found, known = (outputs / SWEEPS).resolve(), {}, {}
    for task in tasks():
        if task.folder.parent != root:
            continue
        if task.folder not in known:
            known[task.folder] = jobs(task.folder)
        these, pack = known[task.folder]
        for job in these[task.index * pack : (task.index + 1) * pack]:
            found[os.path.realpath(job["dir"])] = task
    return found


def directories(outputs: Path) -> set[str]:
    """The real paths of the runs that are in the queue."""
    return set(by_directory(outputs))


def largest_array() -> int:
    """How many tasks an array may have."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", said(["scontrol", "show", "config"]), re.MULTILINE)
    return max(int(found[1]) - 1, 1) if found else DEFAULT_ARRAY


def wait(folders: list[Path], directories: list[str]) -> None:
    """Wait until none of the submissions has a task in the queue, and say how far they are."""
    said_last = ""
    while True:
        left = [task for task in tasks() if task.folder in folders]
        done = sum((Path(directory) / "result.json").exists() for directory in directories)
        running = sum(task.state == "RUNNING" for task in left)
        line = f"{done} of {len(directories)} ended, {running} tasks run, {len(left) - running} wait"
        if line != said_last:
            print(line, file=sys.stderr, flush=True)
            said_last = line
        if not left:
            return
        time.sleep(POLL if len(left) > 1 else 1)
