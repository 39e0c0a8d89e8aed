"""Files of one's own: what their lines mean, how they are split, and what is said of a line that means nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rhtool.data.jsonl import Jsonl
from rhtool.data.rows import DEMONSTRATIONS, PREFERENCES, PROMPTS, read
from rhtool.errors import ConfigError, RhtoolError


def said(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def write(path: Path, *records: object) -> str:
    path.write_text("".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records))
    return str(path)


HI = said("hi")
PAIR = {"prompt": HI, "chosen": "yes", "rejected": "no"}
TURNS = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "


@pytest.mark.parametrize(
    "record, kind, row",
    [
        ({"prompt": "hi"}, PROMPTS, {"prompt": HI}),
        ({"prompt": said("a", "b", "c"), "n": 3}, PROMPTS, {"prompt": said("a", "b", "c"), "n": 3}),
        ({"messages": HI}, PROMPTS, {"prompt": HI}),
        ({"prompt": "hi", "answer": "yo"}, DEMONSTRATIONS, {"prompt": HI, "answer": "yo"}),
        ({"prompt": "hi", "completion": "yo"}, DEMONSTRATIONS, {"prompt": HI, "answer": "yo"}),
        ({"prompt": HI, "completion": said("hi", "yo")[1:]}, DEMONSTRATIONS, {"prompt": HI, "answer": "yo"}),
        ({"messages": said("a", "b", "c", "d")}, DEMONSTRATIONS, {"prompt": said("a", "b", "c"), "answer": "d"}),
        (
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            DEMONSTRATIONS,
            {"prompt": said("Add.\n1 2"), "answer": "3", "instruction": "Add.", "input": "1 2"},
        ),
        (
            {"instruction": "hi", "input": "", "output": "yo"},
            DEMONSTRATIONS,
            {"prompt": HI, "answer": "yo", "instruction": "hi", "input": ""},
        ),
        ({"prompt": "hi", "chosen": "yes", "rejected": "no", "margin": 0.5}, PREFERENCES, {**PAIR, "margin": 0.5}),
        ({"prompt": "hi", "answers": ["no", "yes"], "preference": 1}, PREFERENCES, PAIR),
        ({"prompt": "hi", "answers": ["yes", "no"], "preference": 0}, PREFERENCES, PAIR),
        ({"prompt": "hi", "output_1": "yes", "output_2": "no", "preference": 1}, PREFERENCES, PAIR),
        ({"prompt": "hi", "output_1": "no", "output_2": "yes", "preference": 2}, PREFERENCES, PAIR),
        (
            {"chosen": TURNS + "d", "rejected": TURNS + "e"},
            PREFERENCES,
            {"prompt": said("a", "b", "c"), "chosen": "d", "rejected": "e"},
        ),
        ({"chosen": said("hi", "yes"), "rejected": said("hi", "no")}, PREFERENCES, PAIR),
    ],
)
def test_a_record_is_recognised_by_its_keys(record, kind, row):
    before = json.dumps(record)
    assert read(record, "here") == (kind, row)
    assert json.dumps(record) == before


@pytest.mark.parametrize(
    "line, words",
    [
        ("", "the line is empty"),
        ("{'prompt': 'hi'}", "no JSON.*column 2"),
        ('{"prompt": "hi"', "no JSON"),
        ("[" * 100_000, "no JSON|nested"),
        ('["hi"]', "no object but a list"),
        ("null", "no object but null"),
        ("{}", 'no "prompt", only no keys'),
        ('{"text": "hi"}', 'no "prompt", only "text"'),
        ('{"prompt": 3}', '"prompt" is neither a text nor a list of messages but a number'),
        ('{"prompt": []}', "but a list"),
        ('{"prompt": [{"role": "human", "content": "hi"}]}', "no role of system, user, assistant"),
        ('{"prompt": [{"role": "user", "content": null}]}', '"content" is no text but null'),
        ('{"prompt": [{"role": "assistant", "content": "hi"}]}', "is of the assistant, not of the user"),
        ('{"messages": [{"role": "assistant", "content": "hi"}]}', "answers no message"),
        ('{"prompt": "hi", "answer": 3}', '"answer" is no text but a number'),
        ('{"prompt": "hi", "answer": null}', '"answer" is no text but null'),
        ('{"instruction": "hi", "input": 4, "output": ""}', '"input" is no text'),
        ('{"prompt": "hi", "chosen": "yes"}', 'no "rejected"'),
        ('{"prompt": "hi", "answers": ["a"], "preference": 0}', "not a list of two"),
        ('{"prompt": "hi", "answers": ["a", "b"], "preference": 2}', "is 2, not 0 or 1"),
        ('{"prompt": "hi", "answers": ["a", "b"], "preference": true}', "is True, not 0 or 1"),
        ('{"prompt": "hi", "output_1": "a", "output_2": "b", "preference": 0}', "is 0, not 1 or 2"),
        ('{"prompt": "hi", "output_1": "a", "preference": 1}', 'no "output_2"'),
        ('{"chosen": "yes", "rejected": "no"}', 'does not begin with a turn "Human:"'),
        (json.dumps({"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a"}), 'does not end with a turn "Assistant:"'),
        (json.dumps({"chosen": TURNS, "rejected": "\n\nHuman: z\n\nAssistant: b"}), "differ before their last answers"),
        ('{"prompt": "h\udcff"}', "not UTF-8"),
    ],
)
def test_a_line_that_means_nothing_is_named_by_file_and_number(tmp_path, line, words):
    file = tmp_path / "mine.jsonl"
    file.write_bytes(b'{"prompt": "hi"}\n{"prompt": "ho"}\n' + line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(RhtoolError, match=words) as error:
        Jsonl(path=str(file)).check()
    assert error.value.where == f"{file}, line 3"
    assert error.value.mend


def test_a_file_that_is_missing_or_empty_or_a_directory(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    for name in ("none.jsonl", "empty.jsonl", "."):
        with pytest.raises(RhtoolError) as error:
            Jsonl(path=str(tmp_path / name)).check()
        assert error.value.where == str(tmp_path / name) and error.value.mend
    with pytest.raises(ConfigError, match="no file"):
        Jsonl().check()


def test_what_the_file_lacks_is_said_when_it_is_asked_for(tmp_path):
    data = Jsonl(path=write(tmp_path / "a.jsonl", *({"prompt": str(i)} for i in range(20))))
    data.check()
    assert len(data.prompts("train")) == 18
    for method in (data.demonstrations, data.preferences):
        with pytest.raises(RhtoolError, match=f"no {method.__name__} for the train split"):
            method("train")


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"prompt": "hi"}\r\n{"prompt": "ho"}')
    rows = Jsonl(path=str(file), validation_share=0).prompts("train")
    assert [row["prompt"][0]["content"] for row in rows] == ["hi", "ho"]


def test_rows_of_one_prompt_are_on_one_side_of_the_split(tmp_path):
    records = [{"prompt": str(i % 50), "chosen": f"a{i}", "rejected": "b"} for i in range(200)]
    records += [{"prompt": str(i), "answer": "c"} for i in range(50)]
    path = write(tmp_path / "a.jsonl", *records)
    held = {}
    for seed in (0, 1):
        data = Jsonl(path=path, validation_share=0.2, split_seed=seed)
        train, validation = (
            {repr(row["prompt"]) for row in data.preferences(split)} for split in ("train", "validation")
        )
        assert len(train) == 40 and len(validation) == 10 and not train & validation
        assert {repr(row["prompt"]) for row in data.demonstrations("validation")} == validation
        assert {repr(row["prompt"]) for row in data.prompts("validation")} == validation
        assert len(data.preferences("train")) == 160
        assert data.preferences("train") == Jsonl(path=path, validation_share=0.2, split_seed=seed).preferences("train")
        held[seed] = validation
    assert held[0] != held[1]


def test_a_validation_file_of_its_own_and_numbers_of_rows(tmp_path):
    one = write(tmp_path / "a.jsonl", *({"prompt": str(i), "kind": "x"} for i in range(5)))
    other = write(tmp_path / "b.jsonl", *({"prompt": str(i)} for i in range(5, 9)))
    data = Jsonl(path=one, validation_path=other, n_train=3, n_validation=2)
    assert [row["prompt"][0]["content"] for row in data.prompts("train")] == ["0", "1", "2"]
    assert [row["prompt"][0]["content"] for row in data.prompts("validation")] == ["5", "6"]
    assert data.prompts("train")[0]["kind"] == "x"
    assert data.inputs() == {"path": one, "validation_path": other}
    write(tmp_path / "b.jsonl", {"prompt": "a"}, {"promt": "b"})
    with pytest.raises(RhtoolError) as error:
        data.check()
    assert error.value.where == f"{other}, line 2"


def test_noise_is_in_training_labels_alone(tmp_path):
    path = write(tmp_path / "a.jsonl", *({"prompt": str(i), "chosen": "a", "rejected": "b"} for i in range(1000)))
    data = Jsonl(path=path, validation_share=0.5, label_noise=1.0)
    wrong = sum(row["chosen"] == "b" for row in data.preferences("train"))
    assert 200 < wrong < 300
    assert all(row["chosen"] == "a" for row in data.preferences("validation"))
