"""`outputs/` as a table: one row per run, whatever state it is in.

Disk is the truth: nothing here asks a running process anything, keeps a lock, or writes into a run's directory. A
damaged file becomes a row that says so.
"""

from __future__ import annotations

import fcntl
import io
import itertools
import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

SCHEMA = 1
"""the version of result.json that is understood"""
METHOD = ["group", "env", "scale", "divergence", "over", "tuned"]
"""what runs of one method in one setting have in common"""
CELL = [*METHOD, "coeff"]
"""what the seeds of one cell of a table have in common"""
COLUMNS = [*CELL, "seed", "task", "experiment", "status", "reason", "steps", "iteration", "seconds", "path"]
"""the columns of `read` that are not metrics"""
STATUSES = ("done", "running", "interrupted", "failed", "missing", "damaged")

_CELL_NAME = re.compile(r"(?P<divergence>\w+)-coeff=(?P<coeff>-?[\d.]+(?:e[+-]?\d+)?)(?:-(?P<tuned>.+))?")


class Damaged(Exception):
    """A file of a run that can't be read as what it should be."""


def read(outputs: str | Path) -> pd.DataFrame:
    """All runs below `outputs`, sorted: a row per run, the columns `COLUMNS` and a float column per metric.

    `group` is the experiment, or the task of a run outside an experiment; `tuned` a tuple of overrides
    (`"task.lr=0.001"`). `status` is one of

    - `done`, `failed`: as `result.json` says, with its `reason`;
    - `running`: another process holds the lock; `steps` and `iteration` say how far it is;
    - `interrupted`: no result and nobody at work on it;
    - `missing`: no directory, but the same method has this seed at another coeff;
    - `damaged`: `reason` names the file and what is wrong with it, or the run of which this one is a copy.

    A directory is a run when it holds `config.yaml`. The metrics of an unfinished run are NaN.
    """
    root = Path(outputs)
    runs = [_read_run(root, path) for path in _directories(root)]
    _share_identities(runs)
    _mark_copies(runs)
    runs += _missing(runs)
    frame = pd.DataFrame([run["identity"] | run["metrics"] for run in runs])
    frame = frame.reindex(columns=[*COLUMNS, *sorted(set(frame.columns) - set(COLUMNS))])
    return frame.sort_values([*CELL, "seed", "path"], ignore_index=True)


def curve(directory: str | Path, keys: Iterable[str]) -> pd.DataFrame:
    """`steps` and the given keys of a run's `metrics.csv`, by ascending `steps`; of equal `steps` the last written row.

    Absent keys are NaN; so is what is not a number. A last line without its newline (a write under way) is left out.
    An absent file is an empty table.
    """
    wanted = ["steps", *keys]
    try:
        text = (Path(directory) / "metrics.csv").read_bytes().replace(b"\0", b"")
    except OSError:
        text = b""
    whole = text[: text.rfind(b"\n") + 1].decode(errors="replace")
    if not whole.strip():
        return pd.DataFrame(columns=wanted, dtype=float)
    frame = pd.read_csv(io.StringIO(whole), usecols=lambda c: c in wanted, on_bad_lines="skip", dtype=str)
    frame = frame.reindex(columns=wanted).apply(pd.to_numeric, errors="coerce")
    frame = frame.dropna(subset="steps").drop_duplicates("steps", keep="last")
    return frame.sort_values("steps", ignore_index=True)


def command(rows: pd.DataFrame, outputs: str | Path) -> str:
    """The command that finishes the given rows of one method: a repeated command leaves alone what is done."""
    first = rows.iloc[0]
    words = [f"experiment={first.experiment}"] if first.experiment else [f"task={first.task or first.group}"]
    words += [f"{key}={first[key]}" for key in ("env", "divergence") if first[key]]
    words += [f"divergence.over={first.over}"] if first.over not in ("", "state_action") else []
    words += [f"scale={first.scale}"] if first.scale not in ("", "paper") else []
    words += [word for word in first.tuned if not word.startswith("scale=")]
    words += [f"outputs={outputs}"] if Path(outputs) != Path("outputs") else []
    coeffs = [f"{coeff:g}" for coeff in sorted(set(rows.coeff))]
    seeds = [f"{seed:g}" for seed in sorted(set(rows.seed.dropna()))]
    # With divergence=none the coeff means nothing and its default, 0, need not be said.
    words += ["coeff=" + ",".join(coeffs)] if coeffs != ["0"] or first.divergence not in ("", "none") else []
    words += ["seed=" + ",".join(seeds)] if seeds else []
    many = "-m " if len(coeffs) > 1 or len(seeds) > 1 or first.experiment else ""
    return f"rhtool {many}" + " ".join(map(shlex.quote, words))


def _directories(root: Path) -> Iterator[Path]:
    """The directories below `root` that hold config.yaml, not those inside them. Links are followed, loops are not."""
    seen = set()
    for directory, children, files in os.walk(root, followlinks=True):
        real = os.path.realpath(directory)
        if "config.yaml" in files and real not in seen and Path(directory) != root:
            yield Path(directory)
            children.clear()
        elif real in seen:
            children.clear()
        children[:] = sorted(child for child in children if not child.startswith("."))
        seen.add(real)


def _read_run(root: Path, path: Path) -> dict[str, Any]:
    """`{"identity": {column: value}, "metrics": {key: float}, "known": whether result.json gave the identity}`."""
    identity = _identity_from_names(path.relative_to(root))
    metrics: dict[str, float] = {}
    known = False
    try:
        try:
            result = _result(path)
        except FileNotFoundError:
            _take_config(identity, path)
            identity["status"] = "running" if _locked(path) else "interrupted"
            identity |= _progress(path)
        else:
            identity |= _identity_from_result(result, identity)
            known = True
            if identity["status"] == "failed" and _locked(path):
                identity |= {"status": "running", "reason": ""} | _progress(path)
            elif identity["status"] == "done":
                numbers = {key: _number(value) for key, value in result["metrics"].items() if key not in COLUMNS}
                metrics = {key: value for key, value in numbers.items() if value is not None}
    except Damaged as error:
        identity |= {"status": "damaged", "reason": str(error)}
    if identity["divergence"] in ("", "none"):
        identity["over"] = ""
    said = f"divergence.over={identity['over']}", f"scale={identity['scale']}"
    identity["tuned"] = tuple(word for word in identity["tuned"] if word not in said)
    return {"identity": identity, "metrics": metrics, "known": known}


def _identity_from_names(relative: Path) -> dict[str, Any]:
    """What the directory's names say: `<experiment or task>/<env>/<divergence>-coeff=<c>[-key=value…]/seed=<n>`.

    A task without a divergence leaves that part out. Names are shortened and have `+` between the items of a list.
    """
    *above, last = relative.parts
    seed = re.fullmatch(r"seed=(\d+)", last)
    cell = _CELL_NAME.fullmatch(above[-1]) if above else None
    words = cell["tuned"] if cell else above[-1] if above else ""
    tuned = [_spelled(word) for word in re.split(r"-(?=[A-Za-z_][\w.]*=)", words or "") if "=" in word]
    return {
        "group": relative.parts[0],
        "env": "/".join(above[1:-1]),
        "scale": next((word.partition("=")[2] for word in tuned if word.startswith("scale=")), ""),
        "divergence": cell["divergence"] if cell else "",
        "over": next((word.partition("=")[2] for word in tuned if word.startswith("divergence.over=")), ""),
        "tuned": tuple(sorted(tuned)),
        "coeff": float(cell["coeff"]) if cell else 0.0,
        "seed": float(seed[1]) if seed else float("nan"),
        "task": "",
        "experiment": "",
        "status": "",
        "reason": "",
        "path": relative.as_posix(),
    }


def _spelled(word: str) -> str:
    """`task.hidden=8+8` as the command line spells it, `task.hidden=[8,8]`; `env.reward_fun=True` as `true`."""
    key, _, value = word.partition("=")
    if value in ("True", "False"):
        return f"{key}={value.lower()}"
    if value.startswith("["):
        return word
    items = re.sub(r"e\+(?=\d)", "e", value).split("+")
    return f"{key}=[{','.join(items)}]" if len(items) > 1 else word


def _take_config(identity: dict[str, Any], path: Path) -> None:
    """Let config.yaml say what the names may have rounded or left out. Its first line is `# task=… env=… scale=…`."""
    try:
        text = (path / "config.yaml").read_text()
        config = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Damaged(f"config.yaml: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict) or not {"seed", "coeff"} <= config.keys():
        raise Damaged("config.yaml: not one that rhtool wrote (no seed and coeff)")
    for key in ("seed", "coeff"):
        value = _number(config[key])
        identity[key] = identity[key] if value is None or math.isnan(value) else value
    options = dict(re.findall(r"(\w+)=(\S+)", text.splitlines()[0]) if text.startswith("#") else [])
    identity |= {key: options[key] for key in ("task", "scale") if key in options}
    if identity["task"] and identity["task"] != identity["group"]:
        identity["experiment"] = identity["group"]
    divergence = config.get("divergence")
    if isinstance(divergence, dict) and isinstance(divergence.get("over"), str):
        identity["over"] = divergence["over"]


def _result(path: Path) -> dict[str, Any]:
    """The content of result.json. Raises `FileNotFoundError` if there is none and `Damaged` if it can't be one."""
    try:
        result = json.loads((path / "result.json").read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise Damaged(f"result.json: {error}") from error
    if not isinstance(result, dict) or "schema" not in result:
        raise Damaged("result.json: not one that rhtool wrote")
    if result["schema"] != SCHEMA:
        raise Damaged(f"result.json: schema {result['schema']}, this version reads {SCHEMA}")
    if result.get("status") not in ("done", "failed") or not isinstance(result.get("metrics") or {}, dict):
        raise Damaged("result.json: no status and metrics in it")
    result["metrics"] = result.get("metrics") or {}
    return result


def _identity_from_result(result: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    """The identity that result.json gives; what it leaves out stays as the directory's names have it."""
    text = {key: str(result[key]) for key in ("env", "divergence", "over", "scale", "task") if result.get(key)}
    numbers = {key: _number(result.get(key)) for key in ("coeff", "seed", "steps", "seconds")}
    tuned = result.get("tuned")
    experiment = str(result.get("experiment") or "")
    return (
        text
        | {key: value for key, value in numbers.items() if value is not None and not math.isnan(value)}
        | (
            {"tuned": tuple(sorted(_spelled(f"{k}={_word(v)}") for k, v in tuned.items()))}
            if isinstance(tuned, dict)
            else {}
        )
        | {"experiment": experiment, "group": experiment or text.get("task", named["group"])}
        | {"status": result["status"], "reason": str(result.get("reason") or "")}
    )


def _word(value: Any) -> str:
    """A value as the command line spells it."""
    return value if isinstance(value, str) else json.dumps(value).replace('"', "").replace(" ", "")


def _number(value: Any) -> float | None:
    """A JSON value as a float, the strings nan, inf, -inf included; null is NaN; None for what is no number."""
    if value is None:
        return float("nan")
    try:
        return None if isinstance(value, list | dict) else float(value)
    except ValueError:
        return None


def _locked(path: Path) -> bool:
    """Whether a process holds the run's lock. The shared lock tried here is given back at once and never waited for."""
    try:
        with open(path / ".lock", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _progress(path: Path) -> dict[str, float]:
    """`steps` and `iteration` of the last whole line of metrics.csv, from its first and its last few kilobytes."""
    try:
        with open(path / "metrics.csv", "rb") as file:
            header = file.readline()
            start = file.tell()
            file.seek(max(start, file.seek(0, os.SEEK_END) - 2**16))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return {}
    names = header.decode(errors="replace").strip().split(",")
    for line in reversed(lines):
        values = line.decode(errors="replace").strip().split(",")
        if len(values) == len(names):
            row = dict(zip(names, values, strict=True))
            return {key: number for key in ("steps", "iteration") if (number := _number(row.get(key))) is not None}
    return {}


def _share_identities(runs: list[dict[str, Any]]) -> None:
    """Give the runs without result.json the names that only it holds, from a run of the same cell or setting."""
    known: dict[tuple, dict[str, Any]] = {}
    for run in runs:
        if run["known"]:
            for key in _relatives(run["identity"]["path"]):
                known.setdefault(key, run["identity"])
    for run in runs:
        if not run["known"]:
            identity = run["identity"]
            kin = [known[key] for key in _relatives(identity["path"]) if key in known]
            if kin:
                same_cell = Path(kin[0]["path"]).parent == Path(identity["path"]).parent
                keys = ["divergence", "over", "tuned", "coeff"] if same_cell else []
                for key in ["group", "env", "task", "experiment", "scale", *keys]:
                    identity[key] = kin[0][key] if key in keys else identity[key] or kin[0][key]


def _mark_copies(runs: list[dict[str, Any]]) -> None:
    """Let one run speak for its seed: a copied directory is not another measurement."""
    first: dict[tuple, str] = {}
    for run in sorted(runs, key=lambda run: run["identity"]["path"]):
        identity = run["identity"]
        if run["known"] and identity["status"] == "done":
            path = first.setdefault(tuple(identity[key] for key in [*CELL, "task", "seed"]), identity["path"])
            if path != identity["path"]:
                run["metrics"] = {}
                identity |= {"status": "damaged", "reason": f"the same run as {path}"}


def _relatives(path: str) -> list[tuple]:
    """The directories that a run shares with its kin, the nearest first: the cell, then the setting (group and env)."""
    parents = Path(path).parents
    return [tuple(parent.parts) for parent in list(parents)[:2] if parent.parts]


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
            absent += [
                {"identity": like | blank | {"seed": seed}, "metrics": {}} for seed in sorted(seeds - cell.keys())
            ]
    return absent
