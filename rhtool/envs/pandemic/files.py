"""How the YAML files of towns and regulations are read: field by field, so that an error knows where it is."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rhtool.errors import ConfigError, nearest

WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def read(cls: type, path: Path) -> Any:
    """The file as an instance of the dataclass `cls`. Raises `ConfigError`, naming file and field, for one that does not
    fit."""
    try:
        given = OmegaConf.load(path)
    except yaml.YAMLError as error:
        mark, what = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        what = f"not a YAML file: {what or str(error).splitlines()[0]}"
        raise ConfigError(what, where, "see the files in rhtool/envs/pandemic") from error
    except (OSError, UnicodeDecodeError, OmegaConfBaseException) as error:
        what = f"the file cannot be read: {str(error).splitlines()[0]}"
        raise ConfigError(what, str(path), "see the files in rhtool/envs/pandemic") from error
    plain = OmegaConf.to_container(given) if isinstance(given, DictConfig) else []
    return _fit(cls, plain, str(path), "")


def _fit(kind: Any, value: Any, path: str, at: str) -> Any:
    """`value`, which stands at the place `at` in the file, as a `kind`: a dataclass, a list or dict of such, or plain."""
    if dataclasses.is_dataclass(kind):
        return _structured(kind, value, path, at)
    inner = get_args(kind)
    if get_origin(kind) is dict and isinstance(value, dict):
        return {str(name): _fit(inner[1], each, path, f"{at}.{name}") for name, each in value.items()}
    if get_origin(kind) is list and dataclasses.is_dataclass(inner[0]) and isinstance(value, list):
        return [_fit(inner[0], each, path, f"{at}[{i}]") for i, each in enumerate(value)]
    if not _is(kind, value):
        raise ConfigError(f"{_shown(value)} does not fit", f"{path}, {at}", f"it takes {_article(_words(kind))}")
    return _plain(kind, value)


def _structured(cls: type, value: Any, path: str, at: str) -> Any:
    fields, kinds = cls.__dataclass_fields__, get_type_hints(cls)
    here = f"{path}, {at}" if at else path
    if not isinstance(value, dict):
        what = _shown(value) if at else "the file"
        raise ConfigError(f"{what} is not a mapping", here, f"it takes {', '.join(fields)}")
    for key in value:
        if key not in fields:
            raise ConfigError(f"'{key}' is not a field", here, nearest(str(key), fields))
    out, missing = {}, []
    for name, field in fields.items():
        inside = f"{at}.{name}" if at else name
        if name in value:
            out[name] = _fit(kinds[name], value[name], path, inside)
        elif dataclasses.is_dataclass(kinds[name]):
            raise ConfigError(f"'{inside}' is missing", path, f"add {', '.join(kinds[name].__dataclass_fields__)}")
        elif isinstance(field.default, str) and field.default == MISSING:
            missing.append(inside)
    if missing:
        raise ConfigError(f"'{missing[0]}' is missing", path, f"add {', '.join(missing)}")
    return cls(**out)


def _is(kind: Any, value: Any) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_is(each, value) for each in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is(get_args(kind)[0], each) for each in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return get_origin(kind) is None and isinstance(value, kind)


def _plain(kind: Any, value: Any) -> Any:
    """`value` with whole numbers made float where `kind` says so."""
    if isinstance(value, list):
        kinds = get_args(kind) if isinstance(kind, types.UnionType) else [kind]
        inner = next(get_args(each)[0] for each in kinds if get_origin(each) is list)
        return [_plain(inner, each) for each in value]
    try:
        return float(value) if kind is float else value
    except OverflowError:
        return float("inf")


def _words(kind: Any, many: bool = False) -> str:
    """What a kind of value is called."""
    if isinstance(kind, types.UnionType):
        return " or ".join(_words(each) for each in get_args(kind))
    if get_origin(kind) in (list, dict):
        inner = get_args(kind)[-1]
        name = inner.__name__.lower() + "s" if dataclasses.is_dataclass(inner) else _words(inner, True)
        return f"{'list' if get_origin(kind) is list else 'mapping'}{'s' if many else ''} of {name}"
    return "null" if kind is type(None) else WORDS[kind] + ("s" if many else "")


def _article(words: str) -> str:
    return words if words == WORDS[bool] else f"a {words}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
