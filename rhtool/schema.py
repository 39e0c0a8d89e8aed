"""Fields of the configuration dataclasses: choices, what counts for a run's identity, and their documentation."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import math
import os
import re
import reprlib
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import field
from functools import cache
from numbers import Integral, Real
from typing import Any

from rhtool.errors import ConfigError, nearest

PLAIN = {"int": Integral, "float": Real, "bool": bool, "str": str | os.PathLike, "None": type(None)}
"""types that are checked: `{annotation: class}`; numpy's numbers are numbers too"""


def choice(default: str, *others: str) -> Any:
    """A string field that takes one of the given values; the first is the default."""
    return field(default=default, metadata={"choices": (default, *others)})


def incidental(default: Any) -> Any:
    """A field that cannot change a run's result (workers, how often to save): no part of its name and fingerprint."""
    factory = {"default_factory": lambda: default} if isinstance(default, list | dict) else {"default": default}
    return field(metadata={"incidental": True}, **factory)


def incidental_choice(default: str, *others: str) -> Any:
    """A `choice` that is `incidental`."""
    return field(default=default, metadata={"choices": (default, *others), "incidental": True})


def option_name(cls: type) -> str:
    """`SqrtChi2` -> `sqrt_chi2`: the option, the file, the papers' word. A class attribute `name` says otherwise."""
    return cls.__dict__.get("name") or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


def check_choices(obj: Any, path: str = "") -> None:
    """Raise `ConfigError` for a `choice` field, here or in a nested dataclass, whose value is none of its choices, and
    for a field of a plain type (numbers, strings, lists of them) with a value of another one."""
    for f in dataclasses.fields(obj):
        value, where = getattr(obj, f.name), f"{path}.{f.name}".lstrip(".")
        if dataclasses.is_dataclass(value):
            check_choices(value, where)
        elif choices := f.metadata.get("choices"):
            # `env.reward_fun=true` reaches us as the boolean's name, because `true` is a boolean in YAML.
            value = str(value).lower() if str(value).lower() in choices else value
            if value not in choices:
                raise ConfigError(f"'{value}' is not a value of {where}", where, nearest(str(value), choices))
            setattr(obj, f.name, value)
        elif not _fits(value, kind := f.type if isinstance(f.type, str) else getattr(f.type, "__name__", "")):
            said = " ".join(reprlib.repr(value).split())
            raise ConfigError(f"{said} is of another type than {where}", where, f"it takes a value of type {kind}")


def _fits(value: Any, kind: str) -> bool:
    """Whether the value is of the type that an annotation names; of those that are not plain, any value is."""
    if " | " in kind:
        return any(_fits(value, part) for part in kind.split(" | "))
    if kind.startswith("list[") and kind.endswith("]"):
        many = isinstance(value, Iterable) and not isinstance(value, str | dict)
        return many and all(_fits(item, kind[5:-1]) for item in value)
    if kind in ("int", "float") and isinstance(value, bool):
        return False
    return kind not in PLAIN or isinstance(value, PLAIN[kind])


def check_numbers(obj: Any) -> None:
    """Raise `ConfigError` for the fields, here or in nested dataclasses, lists and dicts, that are nan or infinite."""
    if wrong := list(_not_finite(obj)):
        values = sorted({str(value) for _, value in wrong})
        where = ", ".join(dict.fromkeys(path for path, _ in wrong))
        raise ConfigError(f"{' and '.join(values)} is not a finite number", where, "give a number, like 0.1")


def _not_finite(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            yield from _not_finite(getattr(value, f.name), f"{path}.{f.name}".lstrip("."))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _not_finite(item, path)
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, value


@cache
def field_docs(cls: type) -> dict[str, str]:
    """`{field: docstring}` from the string literals under the fields of a dataclass and of its bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base) or base is object:
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        except (OSError, TypeError):
            continue
        for node, following in itertools.pairwise(body):
            literal = following.value if isinstance(following, ast.Expr) else None
            if isinstance(node, ast.AnnAssign) and isinstance(literal, ast.Constant) and isinstance(literal.value, str):
                docs[node.target.id] = inspect.cleandoc(literal.value)
    return docs


def see_working_directory() -> None:
    """Look for modules in the working directory too, last: the command `rhtool` does not by itself. It stays on the path,
    for a module may import others later, and other processes get the same one."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
