"""`feedback=server`: any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import os
import random
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhtool.errors import ConfigError, RhtoolError
from rhtool.feedback.base import Comparison, Feedback, Judge, Opinion, check_template, question
from rhtool.feedback.cache import Cache, key
from rhtool.feedback.pace import Pace
from rhtool.schema import choice, incidental

log = logging.getLogger(__name__)
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529)
"""statuses after which a request is worth repeating"""
LONGEST_WAIT = 60.0
"""seconds before a repetition, if the server does not ask for more"""


@dataclass
class Server(Feedback):
    """A model behind an HTTP server: OpenAI, or vLLM, llama.cpp, Ollama and others with its interface."""

    base_url: str = "https://api.openai.com/v1"
    """the address, up to `/chat/completions`"""
    model: str = "gpt-4o-mini"
    """the model's name there"""
    key_variable: str = incidental("OPENAI_API_KEY")
    """environment variable that holds the key; empty: none is needed"""
    requests_per_minute: float | None = incidental(500.0)
    """limit of the rate, kept evenly; null: none"""
    tokens_per_minute: float | None = incidental(160_000.0)
    """likewise of tokens, those of the question and of the answer"""
    at_once: int = incidental(32)
    """requests under way at the same time"""
    timeout: float = incidental(60.0)
    """seconds after which a request counts as failed"""
    attempts: int = incidental(6)
    """times that a question is put, with growing pauses, until it counts as unanswered"""
    mode: str = choice("online", "batch")
    """ask at once; or write files for the server's batch interface and read its results"""
    batch_size: int = incidental(20_000)
    """requests of a batch file"""
    top_logprobs: int = 5
    """most likely tokens that are asked for, with their log-probabilities"""
    absent: float = -10.0
    """log-probability, in nats, of a letter that is not among them"""
    template: str = ""
    """Jinja file of the question; empty: rhtool/feedback/comparison.jinja"""

    def check(self, data: Any) -> None:
        """Is there a key, and do the numbers make sense?"""
        if self.key_variable and self.mode == "online" and not os.environ.get(self.key_variable):
            mend = f"export {self.key_variable}=…, or feedback.key_variable= for a server without keys"
            raise ConfigError("there is no key for the server", f"environment variable {self.key_variable}", mend)
        if not self.base_url.startswith(("http://", "https://")):
            mend = "give one: feedback.base_url=http://localhost:8000/v1"
            raise ConfigError(f"'{self.base_url}' is no address", "feedback.base_url", mend)
        for name in ("requests_per_minute", "tokens_per_minute", "at_once", "timeout", "attempts", "batch_size"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"{value} is not above 0", f"feedback.{name}", "give a number above 0")
        check_template(self.template)
        if not 1 <= self.top_logprobs <= 20:
            raise ConfigError(f"{self.top_logprobs} tokens", "feedback.top_logprobs", "servers give 1 to 20")

    def inputs(self) -> dict[str, str]:
        """The template, if it is one of your own."""
        return {"template": self.template} if self.template else {}

    def load(self, data: Any, cache: Path) -> Judge:
        """Asks; what is in the cache is not asked."""
        return _Batches(self, cache) if self.mode == "batch" else _Online(self, cache)

    def body(self, comparison: Comparison) -> dict[str, Any]:
        """The request."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": question(comparison, self.template)}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": self.top_logprobs,
        }

    def read(self, reply: Any) -> dict[str, Any]:
        """What is kept of a reply: `read`."""
        return read(reply)

    def opinion(self, answer: dict[str, Any]) -> Opinion:
        """Of an answer as `read` gives it. "A" and " A" are one letter."""
        found = []
        for letter in "AB":
            some = [value for token, value in answer["top"] if token.strip() == letter]
            found.append(max(some) + math.log(sum(math.exp(x - max(some)) for x in some)) if some else self.absent)
        return found[0], found[1]


def read(reply: Any) -> dict[str, Any]:
    """What is kept of a reply: `top`, [[token, log-probability], …] of the first token, and `tokens`, of question and answer.

    Raises `ValueError` for a reply that is not what was asked for.
    """
    try:
        first = reply["choices"][0]["logprobs"]["content"][0]
        listed = first.get("top_logprobs") or [first]
        top = [[str(x["token"]), float(x["logprob"])] for x in listed]
        usage = reply.get("usage") or {}
        return {"top": top, "tokens": int(usage.get("total_tokens") or 0)}
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"a reply without log-probabilities ({type(error).__name__}: {error})") from error


class _Refused(Exception):
    """What no repetition would change."""


class _Online:
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
        except _Refused as error:
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
                        raise _Refused(f"status {reply.status_code}: {reply.text[:300]}")
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
        raise _Refused(f"{reason}, {self.server.attempts} times")


def _seconds(header: str | None) -> float:
    """Of a Retry-After header; 0 where there is none, or a date."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0


class _Batches:
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
                    answer = read(result["response"]["body"])
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
