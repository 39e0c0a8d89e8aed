"""Datasets of the Hugging Face hub, or local folders of the same layout, as rows."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rhtool.data.base import Row
from rhtool.errors import MissingExtra, RhtoolError

CONVERTED = "refs/convert/parquet"
"""the branch on which the hub keeps its own conversion of a dataset, as <config>/<split>/*.parquet: the way to the datasets that
are a program, which the library `datasets` does not run since version 4"""

REFUSALS = Path(__file__).with_name("refusals.txt")
"""phrases of a model that talks about itself instead of answering, one a line"""

log = logging.getLogger(__name__)


def needs_datasets() -> None:
    """Raise `MissingExtra` where the library is not installed."""
    from importlib.util import find_spec

    if find_spec("datasets") is None:
        raise MissingExtra("lm", "datasets")


def load(path: str, config: str, split: str, revision: str | None, field: str) -> list[dict[str, Any]]:
    """The records of one split, by `datasets.load_dataset`.

    `path` is a name on the hub or a local folder; in a folder that has a folder <config>/<split>, as the hub's conversions have,
    its files are taken. Raises `RhtoolError` for `data.<field>` if that cannot be loaded.
    """
    needs_datasets()
    from datasets import load_dataset

    folder, where = Path(path).expanduser(), " ".join(filter(None, (path, config, split)))
    inside, options = "/".join(filter(None, (config, split))), {}
    if folder.is_dir():
        path, revision = str(folder), None
    if (folder / inside).is_dir() or revision == CONVERTED:
        options = {"data_files": {split: f"{inside}/*"}}
    elif config:
        options = {"name": config}
    try:
        return load_dataset(path, split=split, revision=revision, **options).to_list()
    except Exception as error:  # of connections, files, formats, names: the library raises a dozen classes
        said = " ".join(str(error).split())
        raise RhtoolError(
            f"{where} cannot be loaded: {said[:300]}",
            f"data.{field}",
            f"name a dataset of the hub, or a local folder of its files: data.{field}=my/folder",
        ) from error


def held_out(number: int, validation: int, seed: int) -> tuple[list[int], list[int]]:
    """(training, validation) row numbers as `torch.utils.data.random_split` with a generator of this seed draws them, in its
    order."""
    import torch

    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed)).tolist()
    return order[: number - validation], order[number - validation :]


@functools.cache
def refusals() -> re.Pattern[str]:
    """The phrases of `REFUSALS`, whatever their case and between words whatever the space."""
    lines = (line.strip() for line in REFUSALS.read_text().splitlines())
    phrases = [r"\s+".join(map(re.escape, line.split())) for line in lines if line and not line.startswith("#")]
    return re.compile(rf"\b(?:{'|'.join(phrases)})\b", re.IGNORECASE)


def refused(row: Row) -> bool:
    """Whether the user's last message, the answer or the reference of a row has a phrase of `REFUSALS`."""
    texts = [row["prompt"][-1]["content"], *(row.get(key) or "" for key in ("answer", "reference"))]
    return any(refusals().search(text) for text in texts)


def rows(records: Iterable[Any], read: Callable[[Any, str], Row], where: str) -> list[Row]:
    """The rows that `read` makes of the records. Those of which it can make none are left out, and a warning names them by
    number; raises `RhtoolError` if all are."""
    found, wrong, first = [], [], None
    for number, record in enumerate(records):
        try:
            found.append(read(record, f"{where}, row {number}"))
        except RhtoolError as error:
            wrong.append(number)
            first = first or error
    if first is not None:
        if not found:
            raise first
        some = ", ".join(map(str, wrong[:10])) + (", ..." if len(wrong) > 10 else "")
        log.warning("%s: %d of %d rows left out: %s (%s)", where, len(wrong), len(wrong) + len(found), some, first.what)
    return found
