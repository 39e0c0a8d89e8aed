"""Every environment that ships: a file in conf/env, with its numbers."""

from __future__ import annotations

import pytest

from rhtool.config import CONF, compose
from rhtool.envs.base import Env
from rhtool.tasks.ls import installed


def shipped() -> dict[str, Env]:
    """`{option: Env}` as `env=<option>` composes it."""
    return {name: compose(f"env={name}").env for name in sorted(file.stem for file in (CONF / "env").glob("*.yaml"))}


def parameters() -> list:
    """The shipped environments as parameters of a test; those whose extra is not installed are skipped, saying so."""
    found = []
    for name, config in shipped().items():
        marks = [pytest.mark.sumo] if config.extra == "traffic" else []
        if config.extra and not installed(config.extra):
            marks.append(pytest.mark.skip(reason=f"needs pip install 'rhtool[{config.extra}]'"))
        found.append(pytest.param(config, id=name, marks=marks))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "config" in metafunc.fixturenames:
        metafunc.parametrize("config", parameters())
