"""Every environment that ships: a file in conf/env, with its numbers."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from rhtool.config import CONF, register, subclasses
from rhtool.envs.base import Env
from rhtool.schema import option_name


def shipped() -> dict[str, Env]:
    """`{option: Env}` as `env=<option>` composes it."""
    register()
    classes = {option_name(cls): cls for cls in subclasses(Env)}
    found = {}
    for file in sorted((CONF / "env").glob("*.yaml")):
        numbers = OmegaConf.load(file)
        numbers.pop("defaults")
        found[file.stem] = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(classes[file.stem]), numbers))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "config" in metafunc.fixturenames:
        found = shipped()
        metafunc.parametrize("config", found.values(), ids=found.keys())
