"""Answers that were paid for, kept on disk: what was answered once is never asked again."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any


class Cache:
    """`{request: answer}` of JSON values, in an SQLite file that several processes may share; an answer is there or not there.

    Args:
        file: made if it is not there.
    """

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        self._base = sqlite3.connect(file, timeout=60, isolation_level=None)
        self._base.execute("pragma journal_mode=wal")
        self._base.execute(
            "create table if not exists answers (key text primary key, answer text not null) without rowid"
        )

    def get(self, request: Any) -> Any | None:
        """The answer, or None."""
        found = self._base.execute("select answer from answers where key = ?", [key(request)]).fetchone()
        return json.loads(found[0]) if found else None

    def put(self, request: Any, answer: Any) -> None:
        """Keep the answer: after this it survives the process."""
        self._base.execute("insert or replace into answers values (?, ?)", [key(request), json.dumps(answer)])

    def __len__(self) -> int:
        return self._base.execute("select count(*) from answers").fetchone()[0]

    def close(self) -> None:
        self._base.close()


def key(request: Any) -> str:
    """What a request is found by: SHA-256 of its JSON with sorted keys."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
