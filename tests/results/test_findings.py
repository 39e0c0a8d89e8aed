"""What task=rer_eval and task=morlaif_pm found, in the tables of a report."""

from __future__ import annotations

import re

import pytest
from synthetic import returns, write_run

from rhtool.errors import RhtoolError
from rhtool.run import Run
from rhtool.tasks.report import Report

FOUND = {
    "rer_eval": {
        "steps": 10,
        "rer/long_answers/spearman": -0.987,
        "rer/long_answers/spearman_low": -1.0,
        "rer/long_answers/spearman_high": -0.9,
        "rer/long_answers/win_rate": 0.25,
        "rer/short/spearman": None,
        "rer/short/true": 0.5,
    },
    "morlaif_pm": {
        "morlaif/accuracy/empathy": 0.7,
        "morlaif/weight/empathy": -0.31,
        "morlaif/accuracy_of_weights": 0.8,
    },
}


def report(outputs, **options) -> str:
    Report(**options).run(Run(outputs=str(outputs)))
    return (outputs / "report/table.md").read_text()


def cells(text: str, first: str) -> list[str]:
    line = re.search(rf"^\| {first} +\|.*$", text, re.M)
    return [cell.strip() for cell in line.group().strip("|").split("|")]


@pytest.mark.parametrize("others", [False, True])
def test_a_row_for_each_name_and_a_column_for_each_measure_that_is_there(tmp_path, capsys, others):
    if others:
        write_run(tmp_path, metrics=returns(1, 2))
    picture = write_run(tmp_path, group="rer_eval", metrics=FOUND["rer_eval"]) / "figures/monotonicity.png"
    picture.parent.mkdir()
    picture.write_bytes(b"a picture")
    write_run(tmp_path, group="morlaif_pm", metrics=FOUND["morlaif_pm"])
    text = report(tmp_path)
    assert cells(text, "runs") == ["runs", "Spearman", "true", "win rate"]
    assert cells(text, "long_answers") == ["long_answers", "-0.99 [-1.00, -0.90]", "-", "0.25"]
    assert cells(text, "short") == ["short", "-", "0.50", "-"]
    assert cells(text, "principle") == ["principle", "accuracy", "weight"]
    assert cells(text, "empathy") == ["empathy", "0.70", "-0.31"]
    assert f"(../{picture.relative_to(tmp_path)})" in text and str(picture) in capsys.readouterr().out
    assert ("base policy" in text) == others == ("hacked?" in text)


def test_runs_that_found_nothing_are_nothing_to_show(tmp_path):
    write_run(tmp_path, group="rer_eval", metrics={"steps": 1})
    assert "rer_eval" not in report(tmp_path)
    with pytest.raises(RhtoolError, match="no run has the group"):
        report(tmp_path, group="morlaif_pm")
