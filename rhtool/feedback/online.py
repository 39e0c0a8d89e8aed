"""Questions to a server, put at once: paced, repeated after a failure, kept in the cache."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhtool.errors import RhtoolError
from rhtool.feedback.cache import Cache, key
from rhtool.feedback.pace import Pace

if TYPE_CHECKING:
    from rhtool.feedback.base import Comparison, Opinion
    from rhtool.feedback.server import Server

log = logging.getLogger(__name__)
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529)
"""statuses after which a request is worth repeating"""
LONGEST_WAIT = 60.0
"""seconds before a repetition, if the server does not ask for more"""


class Refused(Exception):
    """What no repetition would change."""


class Online:
    """Keeps `at_once` requests under way, in a thread of its own, and hands out opinions in order."""

    def __init__(self, server: Server, cache: Path):
        self.server, self.file = server, cache
        self._key = os.environ.get(server.key_variable, "") if server.key_variable else ""
        self._requests, self._tokens = Pace(server.requests_per_minute), Pace(server.tokens_per_minute)
        self._per_letter = 1 / 3
        """tokens of a letter, of what has been seen so far"""
        self.asked = 0

    def __call__(self, comparisons: Iterable[Comparison]) -> Iterator[Opinion]:
        """Raises `RhtoolError` at the first comparison that stays without an answer; those under way are waited for."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        under_way: deque[Future] = deque()
        opened = asyncio.run_coroutine_threadsafe(self._open(), loop).result()
        bodies = map(self.server.body, comparisons)
        try:
            for body in bodies:
                under_way.append(asyncio.run_coroutine_threadsafe(self._answer(opened, body), loop))
                if len(under_way) >= 2 * self.server.at_once:
                    yield self._opinion(under_way.popleft())
            while under_way:
                yield self._opinion(under_way.popleft())
        finally:
            asyncio.run_coroutine_threadsafe(self._close(opened), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _opinion(self, future: Future) -> Opinion:
        try:
            return self.server.opinion(future.result())
        except Refused as error:
            said = str(error).replace(self._key, "…") if self._key else str(error)
            mend = "what was answered is kept: mend it and repeat the command"
            raise RhtoolError(f"a comparison has no answer: {said}", self.server.base_url, mend) from None

    async def _open(self) -> dict[str, Any]:
        import httpx

        logging.getLogger("httpx").setLevel(logging.WARNING)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=self.server.at_once)
        return {
            "client": httpx.AsyncClient(headers=headers, timeout=self.server.timeout, limits=limits),
            "cache": Cache(self.file),
            "room": asyncio.Semaphore(self.server.at_once),
            "twins": {},
            "sent": set(),
            "closing": False,
        }

    async def _close(self, opened: dict[str, Any]) -> None:
        """What was sent is waited for, as it is paid for; the rest is not sent."""
        opened["closing"] = True
        tasks = list(opened["twins"].values())
        for task in tasks:
            if task not in opened["sent"]:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await opened["client"].aclose()
        opened["cache"].close()

    async def _answer(self, opened: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        """From the cache, or asked for. A question that is under way already is not put twice."""
        request = {"url": self.server.base_url, "body": body}
        if (answer := opened["cache"].get(request)) is not None:
            return answer
        twins, name = opened["twins"], key(request)
        if name not in twins:
            twins[name] = asyncio.ensure_future(self._ask(opened, body, request))
            twins[name].add_done_callback(lambda task: twins.pop(name))
        return await asyncio.shield(twins[name])

    async def _ask(self, opened: dict[str, Any], body: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        import httpx

        letters = len(body["messages"][0]["content"])
        url = f"{self.server.base_url.rstrip('/')}/chat/completions"
        reason = ""
        async with opened["room"]:
            for attempt in range(self.server.attempts):
                await self._requests.wait()
                await self._tokens.wait(self._per_letter * letters + body["max_tokens"])
                self.asked += 1
                opened["sent"].add(asyncio.current_task())
                wait = min(LONGEST_WAIT, 2.0**attempt) * random.uniform(0.5, 1.0)
                try:
                    reply = await opened["client"].post(url, json=body)
                    if reply.status_code not in (200, *AGAIN):
                        raise Refused(f"status {reply.status_code}: {reply.text[:300]}")
                    if reply.status_code == 200:
                        answer = self.server.read(reply.json())
                        opened["cache"].put(request, answer)
                        self._per_letter = max(self._per_letter, answer["tokens"] / max(letters, 1))
                        return answer
                    reason = f"status {reply.status_code}"
                    wait = max(wait, _seconds(reply.headers.get("Retry-After")))
                    if reply.status_code == 429:
                        self._requests.pause(wait)
                except (httpx.TransportError, httpx.DecodingError, ValueError) as error:  # so are JSON's errors
                    reason = f"{type(error).__name__}: {error}"
                finally:
                    opened["sent"].discard(asyncio.current_task())
                if opened["closing"]:
                    break
                log.info("attempt %d: %s; again in %.1f s", attempt + 1, reason, wait)
                await asyncio.sleep(wait)
        raise Refused(f"{reason}, {self.server.attempts} times")


def _seconds(header: str | None) -> float:
    """Of a Retry-After header; 0 where there is none, or a date."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
