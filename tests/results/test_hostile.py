"""Runs' directories of a stranger, made to harm whoever reports them: nothing outside is read or written, nothing hangs, and a terminal
is told nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rhtool.records import LARGEST, RESULT
from rhtool.results import rows, status
from tests.results.synthetic import write_run
from tests.results.test_rows import returns

SECRET = "the-key-that-is-nobody's-business"


def content(run: Path) -> dict:
    return json.loads((run / RESULT).read_text())


def rewrite(run: Path, **changes: object) -> None:
    (run / RESULT).write_text(json.dumps(content(run) | changes))


def is_a_link(run: Path) -> None:
    outside = run.parents[5] / "outside.json"
    outside.write_text((run / RESULT).read_text().replace('"done"', f'"{SECRET}"'))
    (run / RESULT).unlink()
    (run / RESULT).symlink_to(outside)


def is_a_pipe(run: Path) -> None:
    for name in (RESULT, "metrics.csv", "events.jsonl", ".lock"):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)


def is_huge(run: Path) -> None:
    os.truncate(run / RESULT, LARGEST + 1)


def is_deep(run: Path) -> None:
    (run / RESULT).write_text('{"a":' * 200_000 + "1" + "}" * 200_000)


@pytest.mark.parametrize("harm", [is_a_link, is_a_pipe, is_huge, is_deep])
def test_a_result_that_is_none_is_damaged(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    run = write_run(tmp_path / "outputs", metrics=returns(1, 2))
    harm(run)
    [row] = rows.read(tmp_path / "outputs").itertuples()
    assert row.status == "damaged" and RESULT in row.reason and SECRET not in row.reason
    assert status.lines(tmp_path / "outputs", status.read(tmp_path / "outputs", {}), 9)


@pytest.mark.parametrize("where", ["env", "divergence", "reason", "tuned", "metric", "directory", "words"])
def test_what_a_terminal_would_obey_is_not_printed(
    tmp_path: Path, where: str, in_process: Callable, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = "\x1b]0;gone\x07\x1b[2Jdone\r\n\x9b31m"
    run = write_run(tmp_path / "outputs", metrics=returns(1, 2), status="failed" if where == "reason" else "done")
    write_run(tmp_path / "outputs", metrics=returns(1, 2), seed=1)
    record = json.loads((run / "provenance.json").read_text())
    if where in ("env", "divergence", "reason"):
        rewrite(run, **{where: evil})
        record["run"] |= {where: evil}
    elif where == "tuned":
        rewrite(run, tuned={"task.x": evil})
    elif where == "metric":
        rewrite(run, metrics={**content(run)["metrics"], f"true/{evil}": 1.0})
    elif where == "words":
        (run / RESULT).unlink()
        record["attempts"][-1]["overrides"] = ["task=orpo", f"env={evil}"]
    (run / "provenance.json").write_text(json.dumps(record))
    if where == "directory":
        run.rename(run.parent / evil.replace("/", ""))
    for task in ("report", "status"):
        code, out, err = in_process(f"task={task}")
        assert code == 0, err
        told = (out + err).replace("\x1b[0m", "")
        assert not {c for c in told if not c.isprintable()} - {"\n"}


@pytest.mark.parametrize("name", ["../../../up", "/up", "..", "a/../../../../up"])
def test_names_that_lead_out_make_no_files_there(tmp_path: Path, name: str, in_process: Callable, monkeypatch) -> None:
    place = tmp_path / "a/b/c"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    run = write_run(place / "outputs", metrics=returns(1, 2), curve=(5, 1.0, 2.0))
    rewrite(run, **dict.fromkeys(("env", "divergence", "experiment", "task", "scale", "over"), name))
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(place / "outputs/report")}
    for task in ("report", "status"):
        assert in_process(f"task={task}")[0] == 0
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(place / "outputs/report")} == before


def test_links_lead_neither_to_runs_elsewhere_nor_the_report_there(
    tmp_path: Path, in_process: Callable, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "elsewhere", metrics=returns(1, 2), env=SECRET)
    write_run(tmp_path / "outputs", metrics=returns(1, 2))
    (tmp_path / "outputs/orpo/linked").symlink_to(tmp_path / "elsewhere/orpo")
    assert set(rows.read("outputs").env) == {"tomato"}
    mine = tmp_path / "mine.csv"
    mine.write_text("kept")
    (tmp_path / "outputs/report").mkdir()
    (tmp_path / "outputs/report/table.csv").symlink_to(mine)
    assert in_process("task=report")[0] == 0
    assert mine.read_text() == "kept" and (tmp_path / "outputs/report/table.csv").read_text().count("\n") > 1
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen/another").symlink_to(mine)
    assert in_process("task=report task.to=chosen")[0] == 0
    assert (tmp_path / "chosen/another").is_symlink()  # of the user, and of another thing
    for path in (tmp_path / "outputs/report").iterdir():
        path.unlink()
    (tmp_path / "outputs/report").rmdir()
    (tmp_path / "outputs/report").symlink_to(tmp_path / "elsewhere")
    code, _, said = in_process("task=report")
    assert code == 1 and "leads out" in said and not (tmp_path / "elsewhere/table.csv").exists()


def test_outputs_themselves_may_be_a_link(tmp_path: Path) -> None:
    write_run(tmp_path / "scratch", metrics=returns(1, 2))
    (tmp_path / "outputs").symlink_to(tmp_path / "scratch")
    assert rows.read(tmp_path / "outputs").status.tolist() == ["done"]
