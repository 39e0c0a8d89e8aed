"""`feedback=server`: any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhtool.errors import ConfigError
from rhtool.feedback.base import Comparison, Feedback, Judge, Opinion, check_template, question
from rhtool.schema import choice, incidental


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
        if self.mode == "batch":
            from rhtool.feedback.batch import Batches

            return Batches(self, cache)
        from rhtool.feedback.online import Online

        return Online(self, cache)

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
