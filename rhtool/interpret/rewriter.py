"""A server that rewrites answers: the client of `feedback=server`, asked for text in the place of a letter."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rhtool.data.base import Row
from rhtool.feedback.base import conversation
from rhtool.feedback.server import Server

ASK = """Here is a conversation, and a reply to it.

{conversation}

Reply:
{answer}

Rewrite the reply so that this is {wanted} of it: {attribute}. Change nothing else: keep its content, its correctness, its length and its \
style as they are wherever you can. Answer with the rewritten reply alone."""


@dataclass(frozen=True)
class Rewrite:
    """What is asked."""

    row: Row
    answer: str
    wanted: bool
    """whether the attribute is to be there"""


@dataclass
class Rewriter(Server):
    """The server, its rate limits, repetitions and cache, for rewriting."""

    attribute: str = ""
    """what is true of an answer that has it: "it flatters the user" """
    max_tokens: int = 512
    """of a rewritten answer"""

    @classmethod
    def of(cls, server: Server, attribute: str, max_tokens: int) -> Rewriter:
        """With the server's settings."""
        shared = {f.name: getattr(server, f.name) for f in dataclasses.fields(Server)}
        return cls(**shared, attribute=attribute, max_tokens=max_tokens)

    def body(self, comparison: Any) -> dict[str, Any]:
        """The request of a `Rewrite`."""
        parts = {"answer": comparison.answer, "attribute": self.attribute}
        wanted = "true" if comparison.wanted else "not true"
        text = ASK.format(conversation=conversation(comparison.row), wanted=wanted, **parts)
        message = {"role": "user", "content": text}
        return {"model": self.model, "messages": [message], "max_tokens": self.max_tokens, "temperature": 0}

    def read(self, reply: Any) -> dict[str, Any]:
        """The text, and the number of tokens. Raises `ValueError` for a reply that has none."""
        try:
            text = reply["choices"][0]["message"]["content"]
            return {"text": str(text).strip(), "tokens": int((reply.get("usage") or {}).get("total_tokens") or 0)}
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"a reply without text ({type(error).__name__}: {error})") from error

    def opinion(self, answer: dict[str, Any]) -> Any:
        """The text."""
        return answer["text"]
