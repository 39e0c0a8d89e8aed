"""`outputs/` as a table: one row per run, whatever state it is in.

Disk is the truth: nothing here asks a running process anything, keeps a lock, or writes into a run's directory. A
damaged file becomes a row that says so.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from rhtool.locks import under_way
from rhtool.records import Damaged, content, opened, printable, provenance_of, result_of
from rhtool.results.commands import AUTO, Command

PROBLEM = ["env", "data", "model"]
"""what is trained on: an environment, or data and the language model that starts on them; empty where it does not apply"""
METHOD = ["group", *PROBLEM, "scale", "reward", "divergence", "over", "tuned"]
"""what runs of one method in one setting have in common"""
CELL = [*METHOD, "coeff"]
"""what the seeds of one cell of a table have in common"""
TEXT = [*PROBLEM, "reward", "divergence", "over", "scale", "task", "experiment"]
"""what a run is called by, as `result.json` has it"""
COLUMNS = [*CELL, "seed", "task", "experiment", "status", "reason", "steps", "iteration", "seconds", "path", "command"]
"""the columns of `read` that are not metrics; `command` is a `commands.Command` or None"""
MOST_METRICS = 256 * 2**20
"""bytes of a metrics.csv that is read"""
TAIL = 2**16
"""bytes of a file of which the last lines are wanted"""
STATUSES = ("done", "running", "interrupted", "failed", "missing", "damaged")


def read(outputs: str | Path) -> pd.DataFrame:
    """All runs below `outputs`, sorted: a row per run, the columns `COLUMNS` and a float column per metric.

    `group` is the experiment, or the task of a run outside an experiment; `tuned` a tuple of overrides
    (`"task.lr=0.001"`, and `AUTO`). `status` is one of

    - `done`, `failed`: as `result.json` says, with its `reason`;
    - `running`: another process holds the lock; `steps`, `iteration` and `seconds` say how far it is;
    - `interrupted`: no result and nobody at work on it;
    - `missing`: no directory, but the same method has this seed at another coeff;
    - `damaged`: `reason` names the file and what is wrong with it, or the run of which this one is a copy.

    A directory is a run when it holds `config.yaml` or `provenance.json`. The metrics of an unfinished run are NaN.
    """
    root = Path(outputs)
    runs = [_read_run(root, path) for path in directories(root)]
    _mark_copies(runs)
    runs += _missing(runs)
    frame = pd.DataFrame([run["identity"] | run["metrics"] for run in runs])
    frame = frame.reindex(columns=[*COLUMNS, *sorted(set(frame.columns) - set(COLUMNS))])
    return frame.sort_values([*CELL, "seed", "path"], ignore_index=True)


def curve(directory: str | Path, keys: Iterable[str]) -> pd.DataFrame:
    """`steps` and the given keys of a run's `metrics.csv`, by ascending `steps`; of equal `steps` the last written row.

    Of a key that the run also measured on held-out rows (`validation/<key>`) it is that measurement. Absent keys are NaN; so is
    what is not a number. A last line without its newline (a write under way) is left out.
    A file that is absent, or none that `records.content` reads, is an empty table.
    """
    wanted = ["steps", *keys]
    try:
        text = content(Path(directory) / "metrics.csv", MOST_METRICS).replace(b"\0", b"")
    except (OSError, ValueError):
        text = b""
    whole = text[: text.rfind(b"\n") + 1].decode(errors="replace")
    if not whole.strip():
        return pd.DataFrame(columns=wanted, dtype=float)
    header = set(whole.partition("\n")[0].strip().split(","))
    names = {f"validation/{key}" if f"validation/{key}" in header else key: key for key in wanted}
    frame = pd.read_csv(io.StringIO(whole), usecols=lambda c: c in names, on_bad_lines="skip", dtype=str)
    frame = frame.rename(columns=names)
    frame = frame.reindex(columns=wanted).apply(pd.to_numeric, errors="coerce")
    frame = frame.dropna(subset="steps").drop_duplicates("steps", keep="last")
    return frame.sort_values("steps", ignore_index=True)


def directories(root: Path) -> Iterator[Path]:
    """The runs' directories below `root`, not those inside them. Links are followed, but not in circles, and not out of `root`."""
    seen, top = set(), Path(root).resolve()
    for directory, children, files in os.walk(root, followlinks=True):
        real = os.path.realpath(directory)
        if not Path(real).is_relative_to(top):
            children.clear()
            continue
        if {"config.yaml", "provenance.json"} & {*files} and real not in seen and Path(directory) != root:
            yield Path(directory)
            children.clear()
        elif real in seen:
            children.clear()
        children[:] = sorted(child for child in children if not child.startswith("."))
        seen.add(real)


def _read_run(root: Path, path: Path) -> dict[str, Any]:
    """`{"identity": {column: value}, "metrics": {key: float}}`."""
    relative = path.relative_to(root)
    identity: dict[str, Any] = dict.fromkeys([*TEXT, "reason"], "")
    identity |= {"group": relative.parts[0], "tuned": (), "coeff": 0.0, "seed": math.nan, "path": relative.as_posix()}
    identity |= {"status": "damaged", "command": None}
    metrics: dict[str, float] = {}
    if not relative.as_posix().isprintable():
        named = {key: printable(identity[key]) for key in ("group", "path")}
        reason = "its path has characters that cannot be shown, and is not read"
        return {"identity": identity | named | {"reason": reason}, "metrics": metrics}
    try:
        record = _provenance(path)
        if not isinstance(record, Damaged):
            identity |= _identity(record["run"], identity["group"])
            identity["command"] = Command.of(record["attempts"][-1], path)
        if result := result_of(path):
            identity |= _identity(result, identity["group"])
        elif isinstance(record, Damaged):
            raise record
        if result is None or (result["status"] == "failed" and under_way(path)):
            identity["status"] = "running" if under_way(path) else "interrupted"
            identity |= _progress(path)
        else:
            identity |= {
                "status": result["status"],
                "reason": "\n".join(map(printable, (result["reason"] or "").splitlines())),
            }
            numbers = {key: _number(result.get(key)) for key in ("steps", "seconds")}
            identity |= {key: value for key, value in numbers.items() if value is not None}
            if result["status"] == "done":
                named = {
                    key: value for key, value in result["metrics"].items() if key not in COLUMNS and key.isprintable()
                }
                numbers = {key: _number(value) for key, value in named.items()}
                metrics = {key: value for key, value in numbers.items() if value is not None}
    except Damaged as error:
        identity["reason"] = "\n".join(map(printable, error.what.splitlines()))
    return {"identity": identity, "metrics": metrics}


def _provenance(path: Path) -> dict[str, Any] | Damaged:
    """The content of provenance.json, or why it can't be read: result.json alone says enough of a run that has ended."""
    try:
        record = provenance_of(path)
    except Damaged as error:
        return error
    if not record or not isinstance(record.get("run"), dict) or not record["attempts"]:
        return Damaged("provenance.json does not say which run this is" if record else "there is no provenance.json")
    return record


def _identity(run: dict[str, Any], group: str) -> dict[str, Any]:
    """What provenance.json (under `run`) and result.json call the run, as columns."""
    text = {key: printable(str(run.get(key) or "")) for key in TEXT}
    if text["divergence"] in ("", "none"):
        text["over"] = ""
    seed, coeff = _number(run.get("seed")), _number(run.get("coeff"))
    tuned = run["tuned"].items() if isinstance(run.get("tuned"), dict) else ()
    # What has a column of its own is not said twice.
    words = [printable(f"{k}={_word(v)}") for k, v in tuned if k not in ("divergence.over", "scale")]
    words += [AUTO] if run.get("coeff") == "auto" else []
    return text | {
        "group": text["experiment"] or text["task"] or group,
        "tuned": tuple(sorted(words)),
        "seed": math.nan if seed is None else seed,
        "coeff": 0.0 if coeff is None or math.isnan(coeff) else coeff,
    }


def _word(value: Any) -> str:
    """A value as the command line spells it."""
    return value if isinstance(value, str) else json.dumps(value).replace('"', "").replace(" ", "")


def _number(value: Any) -> float | None:
    """A JSON value as a float, the strings nan, inf, -inf included; null is NaN; None for what is no number."""
    if value is None:
        return float("nan")
    try:
        return None if isinstance(value, list | dict) else float(value)
    except (ValueError, OverflowError):
        return None


def _progress(path: Path) -> dict[str, float]:
    """`steps`, `iteration` and `seconds` of the last whole line of metrics.csv, from its first and its last few kilobytes."""
    try:
        with opened(path / "metrics.csv") as file:
            header = file.readline(TAIL)
            start = file.tell()
            file.seek(max(start, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().split(b"\n")[:-1]
    except (OSError, ValueError):
        return {}
    names = header.decode(errors="replace").strip().split(",")
    for line in reversed(lines):
        values = line.decode(errors="replace").strip().split(",")
        if len(values) == len(names):
            row = dict(zip(names, values, strict=True))
            named = {"steps": "steps", "iteration": "iteration", "seconds": "time/seconds"}
            found = {column: _number(row.get(key)) for column, key in named.items()}
            return {column: number for column, number in found.items() if number is not None}
    return {}


def _mark_copies(runs: list[dict[str, Any]]) -> None:
    """Let one run speak for its seed: a copied directory is not another measurement."""
    first: dict[tuple, str] = {}
    for run in sorted(runs, key=lambda run: run["identity"]["path"]):
        identity = run["identity"]
        if identity["status"] == "done":
            path = first.setdefault(tuple(identity[key] for key in [*CELL, "task", "seed"]), identity["path"])
            if path != identity["path"]:
                run["metrics"] = {}
                identity |= {"status": "damaged", "reason": f"the same run as {path}"}


def _missing(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each cell, the seeds that the other cells of its method have and it lacks."""
    methods: dict[tuple, dict[float, dict[float, dict[str, Any]]]] = {}
    for run in runs:
        identity = run["identity"]
        if not math.isnan(identity["seed"]):
            cells = methods.setdefault(tuple(identity[key] for key in METHOD), {})
            cells.setdefault(identity["coeff"], {})[identity["seed"]] = identity
    absent = []
    for cells in methods.values():
        seeds = set(itertools.chain.from_iterable(cells.values()))
        for cell in cells.values():
            like = next(iter(cell.values()))
            blank = {"status": "missing", "reason": "", "path": "", "steps": float("nan")}
            blank |= {"iteration": float("nan"), "seconds": float("nan")}
            for seed in sorted(seeds - cell.keys()):
                command = like["command"].of_seed(seed) if like["command"] else None
                absent.append({"identity": like | blank | {"seed": seed, "command": command}, "metrics": {}})
    return absent
