"""Rows out of records: what the keys of a file's line, or of a row on the hub, mean.

Raises `RhtoolError` with what is wrong, where, and what is expected; `where` names the file and the line.
"""

from __future__ import annotations

import re
from typing import Any

from rhtool.data.base import Message, Row
from rhtool.errors import RhtoolError

PROMPTS, DEMONSTRATIONS, PREFERENCES = "prompts", "demonstrations", "preferences"
ROLES = ("system", "user", "assistant")
ANSWERS = ("answer", "output", "completion", "response")
"""keys under which a demonstration's answer may be"""
EXPECTED = """one of
    {"prompt": "..."}
    {"prompt": "...", "answer": "..."}
    {"prompt": "...", "chosen": "...", "rejected": "..."}
  where, in the place of "prompt": "instruction" and perhaps "input"; or a list of {"role": ..., "content": ...}
  in the place of "answer": "output", "completion" or "response"; or the last message of "messages"
  in the place of "chosen" and "rejected": "answers": [two] and "preference": 0 or 1; or "output_1", "output_2" and "preference":
  1 or 2; or whole dialogues, "\\n\\nHuman: ...\\n\\nAssistant: ...", without a prompt"""

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def read(record: Any, where: str) -> tuple[str, Row]:
    """(`PROMPTS`, `DEMONSTRATIONS` or `PREFERENCES`, the row) that a record means, by its keys; other keys stay as columns."""
    if not isinstance(record, dict):
        raise _wrong(f"this is no object but {_named(record)}", where)
    rest = dict(record)
    if {"chosen", "rejected"} & rest.keys():
        both = [_take(rest, key, where) for key in ("chosen", "rejected")]
        if "prompt" not in rest and "instruction" not in rest:
            (prompt, chosen), (other, rejected) = (dialogue(text, where) for text in both)
            if prompt != other:
                raise _wrong("the dialogues differ before their last answers", where)
            return PREFERENCES, {"prompt": prompt, "chosen": chosen, "rejected": rejected, **rest}
        answers, better = (
            [_answer(answer, key, where) for answer, key in zip(both, ("chosen", "rejected"), strict=True)],
            0,
        )
    elif "preference" in rest:
        answers, better = _compared(rest, where)
    else:
        return _without_preference(rest, where)
    pair = {"chosen": answers[better], "rejected": answers[1 - better]}
    return PREFERENCES, {"prompt": _prompt(rest, where), **pair, **rest}


def read_as(kind: str | None, record: Any, where: str) -> Row:
    """The row of a record that must be of one kind (None: of any)."""
    found, row = read(record, where)
    if kind not in (found, None):
        raise _wrong(f"this row is one of {found}, not of {kind}", where)
    return row


def dialogue(text: Any, where: str) -> tuple[list[Message], str]:
    """(the conversation, the answer) of a list of messages, or of a text of turns "Human: ..." and "Assistant: ...", split at the
    last "Assistant:" that begins a turn. Turns of one speaker in a row are one message; spaces around a turn are not part of
    it."""
    if not isinstance(text, str):
        said = _messages(text, "chosen, rejected", where, last=("assistant",))
        if len(said) < 2 or said[-2]["role"] != "user":
            raise _wrong("the last message answers no message of the user", where)
        return said[:-1], said[-1]["content"]
    begin, *turns = _TURN.split(text)
    if begin.strip() or not turns:
        raise _wrong('the dialogue does not begin with a turn "Human:"', where)
    said: list[Message] = []
    for speaker, content in zip(turns[::2], turns[1::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        if said and said[-1]["role"] == role:
            said[-1]["content"] += f"\n\n{content.strip()}"
        else:
            said.append({"role": role, "content": content.strip()})
    if len(said) < 2 or said[-1]["role"] != "assistant":
        raise _wrong('the dialogue does not end with a turn "Assistant:" after one of "Human:"', where)
    return said[:-1], said[-1]["content"]


def _without_preference(rest: dict[str, Any], where: str) -> tuple[str, Row]:
    if "messages" in rest and "prompt" not in rest:
        said = _messages(rest.pop("messages"), "messages", where, last=("user", "assistant"))
        if said[-1]["role"] == "user":
            return PROMPTS, {"prompt": said, **rest}
        prompt, answer = dialogue(said, where)
        return DEMONSTRATIONS, {"prompt": prompt, "answer": answer, **rest}
    prompt = _prompt(rest, where)
    for key in ANSWERS:
        if key in rest:
            return DEMONSTRATIONS, {"prompt": prompt, "answer": _answer(rest.pop(key), key, where), **rest}
    return PROMPTS, {"prompt": prompt, **rest}


def _compared(rest: dict[str, Any], where: str) -> tuple[list[str], int]:
    """The two answers and which of them, 0 or 1, is the better one; taken out of the record."""
    preference = rest.pop("preference")
    if "answers" in rest:
        answers, first = rest.pop("answers"), 0
        if not isinstance(answers, list | tuple) or len(answers) != 2:
            raise _wrong('"answers" is not a list of two', where)
    else:
        answers, first = [_take(rest, key, where) for key in ("output_1", "output_2")], 1
    if isinstance(preference, bool) or preference not in (first, first + 1):
        raise _wrong(f'"preference" is {preference!r}, not {first} or {first + 1}', where)
    return [_text(answer, "answers", where) for answer in answers], int(preference) - first


def _prompt(rest: dict[str, Any], where: str) -> list[Message]:
    """The conversation; `prompt` is taken out of the record, `instruction` and `input` stay as columns."""
    if "prompt" in rest:
        prompt = rest.pop("prompt")
        if isinstance(prompt, str):
            return [{"role": "user", "content": prompt}]
        return _messages(prompt, "prompt", where, last=("user",))
    instruction = _text(_take({**rest}, "instruction", where, instead="prompt"), "instruction", where)
    more = _text(rest.get("input") or "", "input", where)
    return [{"role": "user", "content": f"{instruction}\n{more}" if more else instruction}]


def _messages(said: Any, key: str, where: str, last: tuple[str, ...]) -> list[Message]:
    if not isinstance(said, list | tuple) or not said:
        raise _wrong(f'"{key}" is neither a text nor a list of messages but {_named(said)}', where)
    for message in said:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise _wrong(f'a message of "{key}" has no role of {", ".join(ROLES)}', where)
        _text(message.get("content"), "content", where)
    if said[-1]["role"] not in last:
        raise _wrong(f'the last message of "{key}" is of the {said[-1]["role"]}, not of the {" or ".join(last)}', where)
    return [{"role": message["role"], "content": message["content"]} for message in said]


def _take(rest: dict[str, Any], key: str, where: str, instead: str = "") -> Any:
    if key not in rest:
        has = ", ".join(f'"{name}"' for name in rest) or "no keys"
        raise _wrong(f'there is no "{instead or key}", only {has}', where)
    return rest.pop(key)


def _answer(value: Any, key: str, where: str) -> str:
    """A text, or the last of a list of messages."""
    return (
        _messages(value, key, where, last=("assistant",))[-1]["content"]
        if isinstance(value, list)
        else _text(value, key, where)
    )


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(f'"{key}" is no text but {_named(value)}', where)
    return value


def _named(value: Any) -> str:
    kinds = {
        dict: "an object",
        list: "a list",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
    }
    return "null" if value is None else kinds.get(type(value), type(value).__name__)


def _wrong(what: str, where: str) -> RhtoolError:
    return RhtoolError(what, where, f"write {EXPECTED}")
