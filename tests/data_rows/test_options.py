"""Every option of the group `data`: its YAML fits its schema, and what is chosen without numbers is the same."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rhtool.data.base import Data
from rhtool.schema import check_choices, check_numbers, field_docs, option_name
from tests.conftest import ROOT

FILES = sorted(file for file in (ROOT / "conf" / "data").glob("*.yaml") if file.stem != "none")


def live(file: Path) -> Data:
    numbers = OmegaConf.load(file)
    schema = numbers.pop("defaults")[0]["/schema/data@_here_"]
    importlib.import_module(f"rhtool.data.{schema}")
    cls = next(cls for cls in Data.__subclasses__() if option_name(cls) == schema)
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), numbers))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_numbers_fit_the_schema(file):
    data = live(file)
    check_choices(data)
    check_numbers(data)
    own = {field.name for field in dataclasses.fields(data)}
    assert own <= field_docs(type(data)).keys()
    if option_name(type(data)) == file.stem:  # what Python gets without the YAML is what the YAML says
        plain = type(data)()
        assert {k: getattr(data, k) for k in own - {"sft", "rm"}} == {k: getattr(plain, k) for k in own - {"sft", "rm"}}


def test_there_are_these():
    assert {file.stem for file in FILES} >= {"toy", "jsonl", "alpaca_farm", "coste", "hh_rlhf"}
