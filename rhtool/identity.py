"""What a run is: all that decides its result, as `{key: value}`, and the hash of that."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

from rhtool.checkpoints import content_hash
from rhtool.schema import option_name

if TYPE_CHECKING:
    from rhtool.run import Run


def groups(run: Run) -> list[str]:
    """The groups of a run that decide its result: its task, those the task uses, and the scale."""
    return ["task", *(g for g in run.task.uses if g != "task"), "scale"]


def identity(run: Run) -> dict[str, Any]:
    """`{key: value}` of all that decides the run's result: its configuration, resolved, and the hashes of its inputs.

    Left out: incidental fields, the logger, the directories, and the groups that the task does not use (without the
    group `divergence` there is no coeff either).
    """
    flat: dict[str, Any] = {"seed": run.seed}
    if "divergence" in run.task.uses:
        flat["coeff"] = run.coeff
    for group in groups(run):
        flat[group] = option_name(type(getattr(run, group)))
        flatten(getattr(run, group), group, flat)
    flat |= {f"input {name}": content_hash(path) for name, path in inputs(run).items()}
    return json.loads(json.dumps(flat, default=str))


def inputs(run: Run) -> dict[str, str]:
    """`{name: path}` of the files and directories whose content decides the run's result."""
    env = run.env.inputs() if "env" in run.task.uses else {}
    if "env" in run.task.uses and run.env.reward_model:
        env |= {"reward_model": run.env.reward_model_path()}
    return env | run.task.inputs(run)


def fingerprint(run: Run) -> str:
    """SHA-256 of `identity(run)`."""
    return digest(identity(run))


def digest(identity: dict[str, Any]) -> str:
    """SHA-256 of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """`(key, old, new)` of the keys in which two identities differ; "-" where one has no such key."""
    keys = dict.fromkeys([*old, *new])
    return [(k, old.get(k, "-"), new.get(k, "-")) for k in keys if old.get(k, "-") != new.get(k, "-")]


def changes(old: dict[str, Any], run: Run) -> list[tuple[str, Any, Any]]:
    """`differences` of a recorded identity from a run's. A field that the record lacks had its default: an older version
    did not know it."""
    defaults: dict[str, Any] = {}
    for group in groups(run):
        flatten(type(getattr(run, group))(), group, defaults)
    return differences(json.loads(json.dumps(defaults, default=str)) | old, identity(run))


def flatten(value: Any, path: str, flat: dict[str, Any]) -> None:
    """Add to `flat` the value, or of a dataclass, at any depth, its fields under their paths, but for incidental ones."""
    if not dataclasses.is_dataclass(value):
        flat[path] = value
        return
    for f in dataclasses.fields(value):
        if not f.metadata.get("incidental"):
            flatten(getattr(value, f.name), f"{path}.{f.name}", flat)
