"""A server on localhost that speaks chat completions, and misbehaves in every way that real ones do."""

from __future__ import annotations

import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAILURES = ("429", "500", "timeout", "malformed", "no_logprobs", "disconnect")


class Misbehaving(ThreadingHTTPServer):
    """Answers A with the log-probability -0.1 x (letters of option A), B likewise, after some failures of each question.

    `share` of the requests fail, at random, in turn by `failures`. `arrivals`: when each request came; `answered`:
    {question: how often it was answered properly}.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, share: float = 0.3, failures: tuple[str, ...] = FAILURES, key: str = "", patience: float = 0.5):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.share, self.failures, self.key, self.patience = share, failures, key, patience
        self.arrivals: list[float] = []
        self.answered: dict[str, int] = {}
        self.failed: dict[str, int] = dict.fromkeys(failures, 0)
        self._lock, self._rng = threading.Lock(), random.Random(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> Misbehaving:
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def fate(self, question: str) -> str:
        with self._lock:
            self.arrivals.append(time.monotonic())
            if self.failures and self._rng.random() < self.share:
                kind = self._rng.choice(self.failures)
                self.failed[kind] += 1
                return kind
            self.answered[question] = self.answered.get(question, 0) + 1
            return "ok"

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are expected."""


def opinion(question: str) -> tuple[float, float]:
    """What the server thinks of the question of `rhtool/feedback/comparison.jinja`."""
    a, b = (question.split(f"Option {letter}:\n")[1].split("\n")[0] for letter in "AB")
    return -0.1 * len(a), -0.1 * len(b)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Misbehaving

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            return self._send(401, {"error": {"message": f"wrong key: {self.headers.get('Authorization')}"}})
        question = body["messages"][0]["content"]
        match self.server.fate(question):
            case "429":
                return self._send(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.05"})
            case "500":
                return self._send(500, {"error": {"message": "oops"}})
            case "timeout":
                time.sleep(self.server.patience)
                return self._send(200, {"late": True})
            case "malformed":
                return self._write(200, b'{"choices": [{"logp')
            case "no_logprobs":
                return self._send(200, {"choices": [{"message": {"content": "A"}, "logprobs": None}]})
            case "disconnect":
                self.close_connection = True
                return self.connection.close()
        a, b = opinion(question)
        top = [{"token": " A", "logprob": a}, {"token": "B", "logprob": b}, {"token": "The", "logprob": -9.0}]
        first = {**top[0], "top_logprobs": top}
        usage = {"total_tokens": len(question) // 3}
        self._send(200, {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [first]}}], "usage": usage})

    def _send(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        self._write(status, json.dumps(content).encode(), headers)

    def _write(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""
