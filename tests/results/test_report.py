"""`task=report` as a user calls it."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
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


def test_texts_are_in_the_tables_and_pictures_of_control_with_their_overoptimisation(tmp_path, capsys):
    paper_like(tmp_path, seeds=3)
    base, text = (0.3, 0.2), {"data": "toy", "model": "pretrained", "reward": "rm"}
    for seed in range(3):
        for divergence, coeff, far in (("none", 0, 6.0), ("sqrt_chi2", 0.3, 3.0)):
            d = np.linspace(0.1, far, 30) + 0.01 * np.random.default_rng(seed).normal(size=30)
            curve = pd.DataFrame({"steps": np.arange(30) * 8, "divergence/kl": d**2})
            curve["true/return"], curve["proxy/return"] = base[0] + d * (0.4 - 0.1 * d), base[1] + 0.3 * d  # peaks at 2
            last = curve.iloc[-1]
            metrics = returns(last["true/return"], last["proxy/return"], base)
            options = {"group": "rlhf_ppo", "divergence": divergence, "coeff": coeff, "seed": seed, "text": text}
            curve.to_csv(write_run(tmp_path, metrics=metrics, **options) / "metrics.csv", index=False)
    report(tmp_path)
    table = (tmp_path / "report/table.md").read_text()
    texts = table[table.index("## toy (rlhf_ppo, model=pretrained, reward=rm)") :]
    assert table.index("## tomato") < table.index("## toy") and "sqrt_chi2" in texts
    assert re.search(r"\| no regularisation +\| +\| +3 \|.*\| yes ", texts)
    fit = re.search(r"\| no regularisation +\| best-of-n +\|.*", texts).group()
    assert "| yes " in fit and re.search(r"2\.00\d* \[(1\.9|2\.0)\d*, 2\.0\d*\]", fit)
    assert (
        "when to stop" in table[: table.index("## toy")] and "overoptimisation\n" not in table[: table.index("## toy")]
    )
    assert (tmp_path / "report/overoptimisation.png").is_file()

    # Another reward of the same policies: one table, in which the proxies are not mistaken for each other.
    options["text"] = text | {"reward": "ensemble"}
    write_run(tmp_path, metrics=returns(0.5, 9.0, (base[0], 8.0)), **options | {"seed": 0})
    report(tmp_path, group="rlhf_ppo", plots=False)
    table = (tmp_path / "report/table.md").read_text()
    assert "## toy (rlhf_ppo, model=pretrained)" in table and "sqrt_chi2, reward=ensemble" in table
    assert re.search(r"\| base policy .*\| +- \| +- \| +0\.0+ ", table)


def test_paths_that_tell_no_methods_apart_are_not_in_their_names(tmp_path):
    text = {"data": "toy", "model": "pretrained"}
    for combine in ("linear", "max_min"):
        tuned = {"reward.combine": combine, "reward.directory": "outputs/long/path"}
        write_run(tmp_path, text=text | {"reward": "morl"}, tuned=tuned, metrics=returns(1, 2), divergence="kl")
    write_run(
        tmp_path, text=text | {"reward": "rm"}, tuned={"reward.model": "a/b"}, metrics=returns(1, 2), divergence="kl"
    )
    report(tmp_path, plots=False)
    table = (tmp_path / "report/table.md").read_text()
    assert (
        "| kl, reward=morl, reward.combine=linear " in table
        and "| kl, reward=rm " in table
        and "long/path" not in table
    )


def test_rewards_that_differ_in_their_name_alone_are_drawn(tmp_path):
    for reward in ("rm", "par"):
        text = {"data": "toy", "model": "pretrained", "reward": reward}
        for seed in range(2):
            options = {"text": text, "tuned": {"reward.model": "a/b"}, "divergence": "none", "seed": seed}
            write_run(tmp_path, metrics=returns(1, 2, (0.5, 1.0)), **options)
    report(tmp_path)
    assert (tmp_path / "report/frontier.png").is_file()


def test_other_options_of_a_reward_are_another_proxy(tmp_path):
    """Their mean under the base policy is that of nothing."""
    text = {"data": "toy", "model": "pretrained", "reward": "rer"}
    for number, tuned in enumerate([{"reward.length": False}, {"reward.length": False, "coeff_of": 1}, {}]):
        write_run(tmp_path, text=text, tuned=tuned, metrics=returns(1, 2, (0.5, float(number))), divergence="none")
        report(tmp_path, plots=False)
        table = (tmp_path / "report/table.md").read_text()
        base = re.search(r"\| base policy .*", table).group()
        assert (base.count(" - ") == 0) == (number < 2), table


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
