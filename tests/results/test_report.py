"""`task=report` as a user calls it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread
from synthetic import paper_like, returns, write_run

from rhtool.errors import RhtoolError
from rhtool.run import Run
from rhtool.tasks.report import Report

FILES = ["curves.png", "divergence.png", "frontier.png", "table.csv", "table.md"]


def report(outputs: Path, **options) -> dict[str, float]:
    return Report(**options).run(Run(outputs=str(outputs)))


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def test_it_writes_the_same_bytes_every_time_and_prints_where(tmp_path, capsys):
    paper_like(tmp_path / "outputs", seeds=3)
    assert report(tmp_path / "outputs") == {}
    printed = capsys.readouterr().out
    to = tmp_path / "outputs/report"
    first = digests(to)
    assert list(first) == FILES
    assert all(str(to / name) in printed for name in FILES)
    assert "sqrt_chi2" in printed and "base policy" in printed
    report(tmp_path / "outputs")  # over its own files
    assert digests(to) == first
    report(tmp_path / "outputs", to=str(tmp_path / "tables"), plots=False)
    assert digests(tmp_path / "tables")["table.csv"] == first["table.csv"]
    for name in FILES[:3]:
        height, width, _ = imread(to / name).shape
        assert 800 <= width <= 3000 and 500 <= height <= 6000


def test_only_some_environments(tmp_path):
    write_run(tmp_path, env="tomato", metrics=returns(1, 2))
    write_run(tmp_path, env="glucose", metrics=returns(1, 2))
    report(tmp_path, env="glucose", plots=False)
    text = (tmp_path / "report/table.md").read_text()
    assert "glucose" in text and "tomato" not in text
    with pytest.raises(RhtoolError, match="did you mean 'tomato'"):
        report(tmp_path, env="tomatto")
    with pytest.raises(RhtoolError, match="did you mean 'true/return'"):
        report(tmp_path, true_metric="true/returns")


def test_nothing_to_report_says_what_to_do(tmp_path):
    for outputs in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RhtoolError, match="rhtool task=orpo env=tomato"):
            report(outputs)
    assert not (tmp_path / "report").exists()


def test_a_sweep_in_which_nothing_is_done_yet(tmp_path, capsys):
    write_run(tmp_path, status=None, curve=(3, 1, 2))
    write_run(tmp_path, seed=1, status="failed", reason="ValueError: no")
    report(tmp_path)
    printed = capsys.readouterr().out
    assert "interrupted (at step 9,000)" in printed and "failed (ValueError: no)" in printed


def test_from_the_command_line(tmp_path):
    write_run(tmp_path / "outputs", metrics=returns(1, 2))
    done = subprocess.run(
        [sys.executable, "-m", "rhtool", "task=report", "task.plots=false", f"outputs={tmp_path}/outputs"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs/report/table.csv").is_file()
    assert "1.000" in done.stdout and "\x1b" not in done.stdout
