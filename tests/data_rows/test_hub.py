"""The papers' datasets, from local folders in the formats in which the hub has them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from rhtool.data.alpaca_farm import AlpacaFarm
from rhtool.data.base import Data
from rhtool.data.hh_rlhf import HhRlhf
from rhtool.errors import ConfigError, RhtoolError

pytest.importorskip("datasets")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.lm


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, and no network."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def parquet(path: Path, records: list[dict]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)


def lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def instruction(i: int, **more: str) -> dict[str, str]:
    return {"instruction": f"Do {i}.", "input": f"with {i}" if i % 2 else "", "output": f"Done {i}.", **more}


PAIRS = [{**instruction(i), "output_1": "a", "output_2": "b", "preference": 1 + i % 2} for i in range(40)]


@pytest.fixture
def farm(tmp_path: Path) -> AlpacaFarm:
    folder = tmp_path / "alpaca_farm"  # as the hub's conversion has it
    for name, numbers in {"sft": range(6), "unlabeled": range(6, 16), "val": range(16, 20)}.items():
        records = [instruction(i) for i in numbers]
        records[0]["output"] = "I'm sorry, but as an AI  Language\nmodel I would not."
        records[1]["instruction"] = "Write as an airline would."
        parquet(folder / "alpaca_instructions" / name / "0000.parquet", records)
    for part in range(2):
        parquet(folder / f"alpaca_human_preference/preference/000{part}.parquet", PAIRS[part * 20 : part * 20 + 20])
    return AlpacaFarm(path=str(folder), preference_path=str(folder), n_validation_pairs=10)


def asked(rows: list[dict]) -> list[str]:
    return [row["prompt"][-1]["content"] for row in rows]


def test_alpaca_farm_instructions(farm):
    farm.check()
    rows = farm.demonstrations("train")
    assert asked(rows) == ["Write as an airline would.\nwith 1", "Do 2.", "Do 3.\nwith 3", "Do 4.", "Do 5.\nwith 5"]
    assert [row["answer"] for row in rows] == [f"Done {i}." for i in range(1, 6)]
    assert asked(farm.demonstrations("validation")) == asked(farm.prompts("validation"))
    assert [row["reference"] for row in farm.prompts("train")] == [f"Done {i}." for i in range(7, 16)]
    assert {"answer", "output"}.isdisjoint(farm.prompts("train")[0])
    farm.n_prompts = 3
    assert len(farm.prompts("train")) == 3 == len(farm.prompts("validation"))


def test_answers_that_speak_of_the_model_are_left_out_unless_asked_for(farm):
    farm.filter_refusals = False
    assert len(farm.demonstrations("train")) == 6
    assert len(farm.prompts("train")) == 10


def test_alpaca_farm_pairs_are_held_out_as_torch_draws_them(farm):
    train, validation = torch.utils.data.random_split(
        PAIRS, [30, 10], generator=torch.Generator().manual_seed(287631038922)
    )
    for split, records in (("train", train), ("validation", validation)):
        rows = farm.preferences(split)
        assert [row["instruction"] for row in rows] == [record["instruction"] for record in records]
        assert all(
            row["chosen"] == ("a" if record["preference"] == 1 else "b")
            for row, record in zip(rows, records, strict=True)
        )
    farm.label_noise = 1.0
    assert farm.preferences("train") != [*train] and farm.preferences("validation") == rows
    farm.n_validation_pairs = 40
    with pytest.raises(ConfigError, match="40 of 40 pairs"):
        farm.preferences("train")


def test_coste_pairs_have_splits_of_their_own(farm, tmp_path):
    records = [{**instruction(i), "answers": ["a", "b"], "preference": i % 2} for i in range(9)]
    lines(tmp_path / "gold" / "train.jsonl", records)
    lines(tmp_path / "gold" / "validation.jsonl", records[:4])
    farm.preference_path, farm.preference_config = str(tmp_path / "gold"), ""
    farm.preference_split, farm.preference_validation_split = "train", "validation"
    farm.n_pairs, farm.n_validation_pairs = 5, 3
    assert [row["chosen"] for row in farm.preferences("train")] == ["a", "b", "a", "b", "a"]
    assert [row["chosen"] for row in farm.preferences("validation")] == ["a", "b", "a"]


def dialogue(*turns: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {turn}" for i, turn in enumerate(turns))


def test_hh_rlhf(tmp_path, caplog):
    start = ("Hello", "I am an Assistant: ask", "What is 2 + 2?")
    records = [
        {"chosen": dialogue(*start, "4"), "rejected": dialogue(*start, "5")},
        {"chosen": "no marker", "rejected": dialogue("a", "b")},
        {"chosen": dialogue("a", "b"), "rejected": dialogue("z", "c")},
        {"chosen": dialogue("a", "b") + "\n\nHuman: more", "rejected": dialogue("a", "b")},
        {"chosen": "\n\nHuman: a\n\nHuman: b\n\nAssistant:\n\nAssistant: c", "rejected": dialogue("a\n\nb", "")},
    ]
    lines(tmp_path / "hh" / "train.jsonl", records)
    lines(tmp_path / "hh" / "test.jsonl", records[:1])
    data = HhRlhf(path=str(tmp_path / "hh"))
    data.check()
    with caplog.at_level(logging.WARNING):
        rows = data.preferences("train")
    assert "3 of 5 rows left out: 1, 2, 3" in caplog.text
    assert rows[0]["prompt"] == [
        {"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), start, strict=True)
    ]
    assert (rows[0]["chosen"], rows[0]["rejected"]) == ("4", "5")
    assert len(data.prompts("train")) == 2
    assert [row["answer"] for row in data.demonstrations("validation")] == ["4"]
    lines(tmp_path / "hh" / "test.jsonl", records[1:2])
    with pytest.raises(RhtoolError, match="does not begin") as error:
        data.preferences("validation")
    assert error.value.where.endswith("test, row 0")


@pytest.mark.parametrize("data", [AlpacaFarm(), HhRlhf()], ids=["alpaca_farm", "hh_rlhf"])
def test_what_cannot_be_loaded_is_named_with_the_field(data: Data, tmp_path):
    for path in ("nobody/nothing-at-all", str(tmp_path)):
        data.path = path
        with pytest.raises(RhtoolError, match=f"{path}.* cannot be loaded") as error:
            data.prompts("train")
        assert error.value.where == "data.path" and "local folder" in error.value.mend


def test_a_split_that_is_not_there(farm):
    farm.sft_split = "sftt"
    with pytest.raises(RhtoolError, match="sftt cannot be loaded"):
        farm.demonstrations("train")
