"""Every environment that ships: a file in conf/env, with its numbers."""

from __future__ import annotations

import pytest

from rhtool.config import CONF, compose
from rhtool.envs.base import Env


def shipped() -> dict[str, Env]:
    """`{option: Env}` as `env=<option>` composes it."""
    return {name: compose(f"env={name}").env for name in sorted(file.stem for file in (CONF / "env").glob("*.yaml"))}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "config" in metafunc.fixturenames:
        found = shipped()
        metafunc.parametrize("config", found.values(), ids=found.keys())
