"""Checkpoints: nested state as safetensors and JSON, never a pickle; written whole or not at all, verified when read.

    checkpoints/000120/arrays.safetensors     every array and tensor, under the path of its keys ("policy/0.weight")
    checkpoints/000120/state.json             everything else, the SHA-256 of both, and which arrays were torch tensors

JSON has no arrays, tuples, integer keys, nan or inf: an object with one key that starts with `$` stands for each.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhtool.errors import RhtoolError, nearest

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

SCHEMA = 1
ARRAYS, STATE = "arrays.safetensors", "state.json"


class DamagedCheckpoint(RhtoolError):
    """A checkpoint that was cut short or changed after it was written."""


class Checkpoints:
    """The checkpoints of one directory, one subdirectory each, named by the number of iterations done."""

    def __init__(self, directory: Path | str, keep: int = 2):
        self.directory, self.keep = Path(directory), keep

    def save(self, iteration: int, state: dict[str, Any]) -> Path:
        """Write `state` and return its directory; the last `keep` checkpoints stay.

        `state` is nested dicts (keys: strings or integers), lists and tuples. Leaves: numpy arrays and scalars (any
        integer, float or bool dtype), torch tensors, integers of any size, floats (nan and inf too), strings, booleans,
        None. All come back exactly.

        Raises `RhtoolError` when the disk is full or not writable (earlier checkpoints are intact), `TypeError` for
        another leaf.
        """
        final = self.directory / f"{iteration:06d}"
        temporary = self.directory / f".tmp-{final.name}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for stale in self.directory.glob(".tmp-*"):  # of a process killed while it wrote
                shutil.rmtree(stale)
            temporary.mkdir()
            write(temporary, iteration, state)
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
            sync(self.directory)
            self._prune(iteration)
        except OSError as error:
            raise RhtoolError(
                f"the checkpoint of iteration {iteration} could not be written: {error.strerror or error}",
                str(self.directory),
                "free disk space or make the directory writable, then repeat the command: it resumes",
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return final

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """`(iteration, state)` of the newest checkpoint that is whole; a damaged one is passed over with a warning."""
        for directory in reversed(self._all()):
            try:
                return int(directory.name), load(directory)
            except DamagedCheckpoint as error:
                log.warning("%s; using the one before", error.what)
        return None

    def _all(self) -> list[Path]:
        if not self.directory.is_dir():
            return []
        return sorted((p for p in self.directory.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))

    def _prune(self, newest: int) -> None:
        """Keep the last `keep`. One newer than `newest` was damaged, or the run would have gone on from it."""
        kept = [p for p in self._all() if int(p.name) <= newest]
        for old in {*self._all()} - {*kept[-self.keep :]}:
            shutil.rmtree(old)


def read(path: Path | str, prefix: str = "") -> Any:
    """The state at `path`: a run's directory, its `checkpoints`, or one checkpoint; the newest whole one of several.

    `prefix` ("policy/network") gives that subtree alone, and copies only its arrays. Raises `RhtoolError` when there is
    none.
    """
    return load(find(path), prefix)


def find(path: Path | str) -> Path:
    """The directory of the one checkpoint that `read(path)` reads."""
    path = Path(path)
    if (path / STATE).is_file():
        return path
    for directory in reversed(Checkpoints(path / "checkpoints")._all() or Checkpoints(path)._all()):
        try:
            _verified(directory)
            return directory
        except DamagedCheckpoint as error:
            log.warning("%s; using the one before", error.what)
    raise RhtoolError("there is no whole checkpoint", str(path), "give the directory of a run that has written one")


# One checkpoint


def write(directory: Path, iteration: int, state: Any) -> None:
    """Write one checkpoint into an existing directory, synced to disk."""
    import safetensors.numpy

    arrays: dict[str, np.ndarray] = {}
    tree = _encode(state, "", arrays)
    blob = safetensors.numpy.save(arrays)
    header = {
        "schema": SCHEMA,
        "iteration": iteration,
        "sha256": {ARRAYS: hashlib.sha256(blob).hexdigest(), "state": _digest(tree)},
    }
    write_synced(directory / ARRAYS, blob)
    write_synced(directory / STATE, json.dumps({**header, "state": tree}, allow_nan=False).encode())
    sync(directory)


def load(directory: Path, prefix: str = "") -> Any:
    """The state (or the subtree `prefix`) of one checkpoint; `DamagedCheckpoint` if a byte is wrong or missing."""
    import safetensors.numpy

    tree, blob = _verified(directory)
    for key in filter(None, prefix.split("/")):
        if not isinstance(tree, dict) or key not in tree:
            known = tree if isinstance(tree, dict) else ()
            raise RhtoolError(f"the checkpoint has no '{prefix}'", str(directory), nearest(key, known))
        tree = tree[key]
    return _decode(tree, safetensors.numpy.load(blob))


def _verified(directory: Path) -> tuple[Any, bytes]:
    try:
        document = json.loads((directory / STATE).read_bytes())
        blob = (directory / ARRAYS).read_bytes()
        tree, sums = document["state"], document["sha256"]
        whole = sums == {ARRAYS: hashlib.sha256(blob).hexdigest(), "state": _digest(tree)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"the checkpoint {directory} is damaged ({type(error).__name__}: {error})") from error
    if not whole:
        raise DamagedCheckpoint(f"the checkpoint {directory} is damaged (its content does not match its SHA-256)")
    return tree, blob


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, allow_nan=False).encode()).hexdigest()


# State <-> JSON and arrays


def _encode(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    import numpy as np

    torch = sys.modules.get("torch")  # there can be no tensor before torch is imported
    if value is None or isinstance(value, bool | str):
        return value
    if type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _encode(item, f"{path}/{key}", arrays) for key, item in value.items()}
        if all(isinstance(key, str) or type(key) is int for key in value):
            return {"$dict": [[key, _encode(item, f"{path}/{key}", arrays)] for key, item in value.items()]}
        raise TypeError(f"a checkpoint's dict has keys that are neither strings nor integers at '{path}'")
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{path}/{i}", arrays) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        array = np.asarray(value)
        kind = "$array" if isinstance(value, np.ndarray) else "$scalar"
        return {kind: _store(array.astype(array.dtype.newbyteorder("=")), path, arrays)}
    if torch is not None and isinstance(value, torch.Tensor):
        tensor, dtype = value.detach().cpu().contiguous(), str(value.dtype).removeprefix("torch.")
        if not hasattr(np, dtype):  # bfloat16, float8: numpy carries their bits
            tensor = tensor.view(torch.uint8 if tensor.itemsize == 1 else torch.int16)
        return {"$tensor": [_store(tensor.numpy(), path, arrays), dtype]}
    raise TypeError(f"a checkpoint cannot hold a {type(value).__module__}.{type(value).__qualname__} at '{path}'")


def _store(array: np.ndarray, path: str, arrays: dict[str, np.ndarray]) -> str:
    import numpy as np

    name = path.lstrip("/") or "state"
    while name in arrays:  # {"a/b": x, "a": {"b": y}}
        name += "'"
    arrays[name] = np.array(array, order="C")
    return name


def _decode(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(tree, list):
        return [_decode(item, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    tag, content = next(iter(tree.items()), ("", None))
    if not tag.startswith("$"):
        return {key: _decode(item, arrays) for key, item in tree.items()}
    decoders: dict[str, Callable[[Any], Any]] = {
        "$float": float,
        "$tuple": lambda items: tuple(_decode(item, arrays) for item in items),
        "$dict": lambda pairs: {key: _decode(item, arrays) for key, item in pairs},
        "$array": lambda name: arrays[name].copy(),
        "$scalar": lambda name: arrays[name][()],
        "$tensor": lambda pair: _tensor(arrays[pair[0]].copy(), pair[1]),
    }
    return decoders[tag](content)


def _tensor(array: np.ndarray, dtype: str) -> Any:
    import torch

    tensor, dtype = torch.from_numpy(array), getattr(torch, dtype)
    return tensor if tensor.dtype == dtype else tensor.view(dtype)


# Files that are whole or not there


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by a file with this content: a reader sees the old one or the new one, never a part."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync(directory: Path) -> None:
    """Wait until a directory's entries are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def content_hash(path: Path | str) -> str:
    """SHA-256 of a file's bytes, or of a directory's file names and bytes; "missing" if there is neither.

    Of a run's directory it is that of its newest checkpoint alone: the rest tells the time of day. The README.md beside a
    model's config.json is its card, which changes no result.
    """
    path = Path(path)
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if Checkpoints(path / "checkpoints")._all() or Checkpoints(path)._all():
        path = find(path)
    if not path.exists():
        return "missing"
    files = [p for p in sorted(path.rglob("*")) if p.is_file() and not _is_card(p)]
    sums = [f"{p.relative_to(path)}\0{content_hash(p)}" for p in files]
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()


def _is_card(path: Path) -> bool:
    return path.name == "README.md" and (path.parent / "config.json").is_file()
