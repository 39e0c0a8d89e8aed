"""Questions to a server through its batch interface: files that a user hands in, and results that he puts beside them."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhtool.errors import RhtoolError
from rhtool.feedback.cache import Cache, key

if TYPE_CHECKING:
    from rhtool.feedback.base import Comparison, Opinion
    from rhtool.feedback.server import Server

log = logging.getLogger(__name__)


class Batches:
    """Files of requests for the server's batch interface, beside the cache; its results are read from there."""

    def __init__(self, server: Server, cache: Path):
        self.server, self.file = server, cache

    def __call__(self, comparisons: Iterable[Comparison]) -> Iterator[Opinion]:
        """Raises `RhtoolError` while results are missing; it names the files to hand in."""
        bodies = [self.server.body(comparison) for comparison in comparisons]
        requests = [{"url": self.server.base_url, "body": body} for body in bodies]
        cache = Cache(self.file)
        try:
            wanted = {key(request): request for request in requests}
            for number, line in self._results():
                try:
                    result = json.loads(line)
                    answer = self.server.read(result["response"]["body"])
                    if result["custom_id"] in wanted and cache.get(wanted[result["custom_id"]]) is None:
                        cache.put(wanted[result["custom_id"]], answer)
                except (ValueError, KeyError, TypeError) as error:
                    log.warning("%s is no result: %s", number, error)
            answers = [cache.get(request) for request in requests]
        finally:
            cache.close()
        missing = {key(request): request for request, answer in zip(requests, answers, strict=True) if answer is None}
        if missing:
            raise self._hand_in(missing)
        yield from map(self.server.opinion, answers)

    def _results(self) -> Iterator[tuple[str, str]]:
        for file in sorted(self.file.parent.glob("results*.jsonl")):
            for number, line in enumerate(file.read_text().splitlines(), 1):
                if line.strip():
                    yield f"{file}, line {number}", line

    def _hand_in(self, missing: dict[str, Any]) -> RhtoolError:
        for old in self.file.parent.glob("requests_*.jsonl"):
            old.unlink()
        files = []
        lines = iter(missing.items())
        while some := list(itertools.islice(lines, self.server.batch_size)):
            files.append(self.file.parent / f"requests_{len(files):04d}.jsonl")
            rows = (
                {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": request["body"]}
                for name, request in some
            )
            files[-1].write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        mend = "hand them in to the server's batch interface, put its output there as results_….jsonl, and repeat the command"
        return RhtoolError(f"{len(missing)} comparisons are to be answered", ", ".join(map(str, files)), mend)
