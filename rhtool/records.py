"""What a run's directory says of the run: `provenance.json` and `result.json`, read whole or named as damaged."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rhtool.errors import RhtoolError
from rhtool.identity import changes, fingerprint
from rhtool.locks import LOCK

if TYPE_CHECKING:
    from rhtool.run import Run

SCHEMA = 1
"""the version of both files that is written and understood"""
PROVENANCE, RESULT = "provenance.json", "result.json"


LARGEST = 64 * 2**20
"""bytes of a file of a run that are read, unless another limit is given"""


class Damaged(RhtoolError):
    """A file that cannot be read as what it should be. They are written atomically, so a disk failed, or a copy."""


def provenance_of(directory: Path) -> dict[str, Any] | None:
    """The content of `provenance.json`; None if there is none. Raises `Damaged`."""
    mend = "put a copy of it back, or move the run aside with fresh=true"
    return _read(directory / PROVENANCE, {"identity": dict | None, "attempts": list}, mend)


def result_of(directory: Path) -> dict[str, Any] | None:
    """The content of `result.json`; None if there is none. Raises `Damaged`."""
    mend = "delete it, and the run goes on from its last checkpoint"
    kinds = {"status": str, "reason": str | None, "fingerprint": str | None, "metrics": dict}
    result = _read(directory / RESULT, kinds, mend)
    if result and result["status"] not in ("done", "failed"):
        raise Damaged(f"result.json is damaged: its status is '{result['status']}'", str(directory / RESULT), mend)
    return result


def opened(path: Path) -> BinaryIO:
    """A file that a run wrote, which may be a stranger's, for reading. Raises `OSError` as opening does, and `ValueError` for a link, a
    device or a pipe."""
    if path.is_symlink():
        raise ValueError("it is a link")
    file = open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")  # noqa: SIM115 (the caller closes it)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is no plain file")
    return file


def content(path: Path, largest: int = LARGEST) -> bytes:
    """What `opened` reads, whole; `ValueError` also for more than `largest` bytes."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise ValueError(f"it has {size / 2**20:,.0f} MiB, and up to {largest / 2**20:,.0f} are read")
        return file.read(largest)


def printable(text: str) -> str:
    """The text on one line, with `\ufffd` for each character that a terminal would obey instead of showing it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def _read(path: Path, kinds: dict[str, Any], mend: str) -> dict[str, Any] | None:
    """A JSON object with values of these kinds; None if there is no file."""
    try:
        found = json.loads(content(path))
        if not isinstance(found, dict):
            raise ValueError("not one that rhtool wrote")
        if found.get("schema") != SCHEMA:
            raise ValueError(f"schema {found.get('schema')}, and this version of rhtool reads {SCHEMA}")
        if wrong := [key for key, kind in kinds.items() if not isinstance(found.get(key), kind)]:
            raise ValueError(f"no {' and '.join(wrong)} in it")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{path.name} is damaged: {error}", str(path), mend) from error
    return found


def outcome(run: Run) -> str:
    """Why the directory of a run holds no result of it; empty if it does."""
    try:
        record, result = provenance_of(run.path), result_of(run.path)
    except Damaged as error:
        return error.what
    if result is None:
        return "has no result" + ("" if record else " and never began")
    known = record["identity"] if record else None
    other = changes(known, run) if known else result["fingerprint"] != fingerprint(run)
    if result["status"] == "done" and other:
        return "the directory holds a run of another configuration"
    return result["reason"] or ""


def set_aside(directory: Path) -> None:
    """Move what a run's directory holds to `.old/<n>` in it, so that nothing is lost."""
    content = [p for p in directory.iterdir() if p.name not in (LOCK, ".old")]
    ours = (PROVENANCE, RESULT, "events.jsonl", "checkpoints")
    if content and not any((directory / name).exists() for name in ours):
        raise RhtoolError(
            "the directory holds other things than a run, which fresh=true would move aside",
            str(directory),
            "give another dir=...",
        )
    if content:
        old = directory / ".old"
        target = old / str(1 + max((int(p.name) for p in old.glob("[0-9]*")), default=0))
        target.mkdir(parents=True)
        for path in content:
            path.rename(target / path.name)
