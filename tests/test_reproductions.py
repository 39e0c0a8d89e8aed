"""docs/reproductions.md says what the stored runs say, and nothing that only the machine's owner should know is stored."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rhtool.results.rows import read
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "results"))
from synthetic import returns, write_run


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / "reproduce" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


store, tables = script("store"), script("tables")
PAGE = "# Title\n\n<!-- made from the stored runs: tomato -->\nold\n<!-- end -->\n\nwhy\n"


def unpadded(text: str) -> str:
    """Without the spaces that align the columns of tables."""
    return re.sub(" +", " ", text)


EXPERIMENT = "correlated_proxies_tomato"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A store with a sweep of three seeds, whose numbers the tests know."""
    outputs = tmp_path / "outputs"
    for seed in range(3):
        more = {"experiment": EXPERIMENT, "seed": seed}
        write_run(outputs, divergence="none", coeff=0, metrics=returns(2 + seed, 20), **more)
        write_run(outputs, coeff=0.1, metrics=returns([7, 8, 12][seed], 9), **more)
        write_run(outputs, coeff=0.2, metrics=returns(6, 7), **more)
        write_run(outputs, coeff=0.1, over="action", metrics=returns(5.5, 7), **more)
    write_run(outputs, coeff=0.5, seed=0, status="failed", experiment=EXPERIMENT)
    for file in outputs.rglob("provenance.json"):
        record = json.loads(file.read_text())
        record["fingerprint"] = "0" * 64
        record["attempts"][-1] |= {"host": "secret-host", "cpus": 2, "threads": 1, "gpus": [], "platform": "secret-os"}
        record["attempts"][-1] |= {"git": {"commit": "abcdef0123"}, "versions": {"torch": "9.9"}, "command": ["secret"]}
        file.write_text(json.dumps(record))
    to = tmp_path / "store"
    assert store.store(outputs / EXPERIMENT, to) == 12
    assert store.store(outputs, to) == 12  # again, and from further up: the same places
    (to / "paper.csv").write_bytes((tables.STORE / "paper.csv").read_bytes())
    return to


def test_the_page_is_what_the_script_makes_of_the_stored_runs() -> None:
    text = tables.PAGE.read_text()
    assert tables.page(text) == text
    for env in ("tomato", "pandemic", "glucose", "traffic"):
        assert f"<!-- made from the stored runs: {env} -->" in text


def test_no_stored_file_names_a_machine_or_a_directory() -> None:
    for file in tables.STORE.rglob("provenance.json"):
        for attempt in json.loads(file.read_text())["attempts"]:
            assert attempt.keys() <= set(store.KEPT)


def test_what_is_stored_reads_as_the_runs_did_without_their_machine(stored: Path, tmp_path: Path) -> None:
    columns = ["group", "env", "divergence", "over", "coeff", "seed", "true/return", "base/true/return", "seconds"]
    before, after = read(tmp_path / "outputs"), read(stored)
    before = before[before.status == "done"].reset_index(drop=True)
    assert after[after.status == "done"][columns].reset_index(drop=True).equals(before[columns])
    for file in stored.rglob("*.json"):
        assert "secret" not in file.read_text() and str(tmp_path) not in file.read_text()


def test_a_row_has_the_papers_number_and_ours(stored: Path) -> None:
    page = tables.page(PAGE, stored)
    text = unpadded(page)
    assert text.startswith("# Title\n") and text.endswith("<!-- end -->\n\nwhy\n") and "\nold\n" not in text
    assert "12 finished runs, each on 1 thread of 2 CPUs" in text and "torch 9.9; commit abcdef0" in text
    assert f"`rhtool experiment={EXPERIMENT} -m`" in text
    std = statistics.stdev([7, 8, 12])
    assert f"| sqrt_chi2 | 9.17 | 9.10 ± 0.11 | 8.00 ± {std:.2f} | 3 | 0.1 | no | 0.00 |" in text
    assert "| base policy | 5.86 | 5.96 | 5.86 ± 0.00 | 3 |" in text
    assert "| kl | 6.86 | | | | | | |" in text  # of which we have no run
    assert tables.page(page, stored) == page


def test_the_order_is_checked_link_by_link(stored: Path) -> None:
    text = unpadded(tables.page(PAGE, stored))
    assert "1 of 3 comparisons disagree" in text
    assert "- no regularisation < base policy: holds (3 and 5.86, as in the paper: 2.35 and 5.86)" in text
    assert "- base policy < sqrt_chi2 over action: **does not hold** (5.86 and 5.5, **the paper disagrees**" in text
    assert "- sqrt_chi2 over action < sqrt_chi2: holds (5.5 and 8, as in the paper: 6.24 and 9.17)" in text


def as_stored(path: Path, **attempt: object) -> None:
    """Make the provenance of a run that the tests wrote what `store.py` keeps of one."""
    record = json.loads((path / "provenance.json").read_text()) | {"fingerprint": None}
    record["attempts"] = [{"cpus": 2, "threads": 1, "gpus": [], "git": None, "versions": {}} | attempt]
    (path / "provenance.json").write_text(json.dumps(record))


def test_the_objective_prefers_whose_proxy_less_penalty_is_highest(tmp_path: Path) -> None:
    (tmp_path / "paper.csv").write_bytes((tables.STORE / "paper.csv").read_bytes())
    for divergence, coeff, proxy, spent in [
        ("none", 0.0, 0.5, 10.0),
        ("sqrt_chi2", 0.2, 0.1, 2.0),  # lambda = 0.01, half of what makes up for the other's reward
        ("sqrt_chi2", 1.0, 0.08, 1.0),  # lambda = 0.05
        ("sqrt_chi2", 5.0, 0.07, 0.0),
    ]:
        numbers = {"mean/proxy": proxy, "base/mean/proxy": 0.06, "divergence/sqrt_chi2": spent}
        run = {"experiment": EXPERIMENT, "divergence": divergence, "coeff": coeff}
        as_stored(write_run(tmp_path, metrics=returns(6, 7) | numbers, **run))
    text = unpadded(tables.page(PAGE, tmp_path))
    assert "| sqrt_chi2 | 0.2 | 0.080 | 0.060 | 0.400 | no regularisation |" in text
    assert "| sqrt_chi2 | 1 | 0.030 | 0.060 | 0.000 | base policy |" in text
    assert "| sqrt_chi2 | 5 | 0.070 | 0.060 | -2.000 | this policy |" in text


def test_without_runs_it_says_so_and_keeps_the_papers_numbers(tmp_path: Path) -> None:
    (tmp_path / "paper.csv").write_bytes((tables.STORE / "paper.csv").read_bytes())
    text = unpadded(tables.page(PAGE.replace("tomato", "glucose"), tmp_path))
    assert "No run is stored yet." in text and "| method | paper, x1,000 | re-run, x1,000 | ours, x1,000 |" in text
    assert "| base policy | -72.6 | -79.7 |" in text


def test_a_shorter_run_is_labelled_and_still_beside_the_paper(tmp_path: Path) -> None:
    (tmp_path / "paper.csv").write_bytes((tables.STORE / "paper.csv").read_bytes())
    short = {"task.iterations": 5}
    for env, tuned in (("traffic", short), ("traffic", short | {"env.reward_fun": "true"})):
        path = write_run(
            tmp_path, env=env, divergence="none", coeff=0, tuned=tuned, metrics=returns(-30000, 9),
            experiment="correlated_proxies_traffic",
        )  # fmt: skip
        as_stored(path, cpus=8, threads=2, gpus=["H200"])
    text = unpadded(tables.page(PAGE.replace("tomato", "traffic"), tmp_path))
    assert "**traffic (correlated_proxies_traffic, task.iterations=5)**, 2 finished runs" in text
    assert "`rhtool experiment=correlated_proxies_traffic -m task.iterations=5`" in text and "8 CPUs and H200" in text
    assert "| no regularisation | -57.38 | | -30.00 | 1 |" in text
    assert "| PPO on the true reward | -0.93 | | -30.00 | 1 |" in text


@pytest.mark.parametrize("early", [True, False])
def test_sums_over_episodes_of_different_lengths_are_told_from_others(tmp_path: Path, early: bool) -> None:
    (tmp_path / "paper.csv").write_bytes((tables.STORE / "paper.csv").read_bytes())
    for divergence, length, true in [("none", 100.0, -9.0), ("sqrt_chi2", 40.0 if early else 100.0, -6.0)]:
        numbers = {"episode/length": length, "mean/true": true / length}
        numbers |= {"base/episode/length": 100.0, "base/mean/true": -0.08}
        metrics = returns(true, 7, (-8.0, 6.0)) | numbers
        as_stored(write_run(tmp_path, experiment=EXPERIMENT, divergence=divergence, coeff=0.1, metrics=metrics))
    text = unpadded(tables.page(PAGE, tmp_path))
    assert "medians: all 2 comparisons agree." in text
    link = "- base policy < sqrt_chi2: holds (-8 and -6, as in the paper: 5.86 and 9.17"
    if early:
        assert f"{link}; **over 100 and 40 steps**, of -0.08 and -0.15 each)" in text
        assert "hours a run | steps | true of a step |" in text and "| 40 | -0.15 |" in text
        assert "- no regularisation < base policy: holds (-9 and -8, as in the paper: 2.35 and 5.86)" in text
    else:
        assert f"{link})" in text and "steps |" not in text


SCRIPT = [
    "bash",
    str(ROOT / "scripts" / "reproduce" / "correlated_proxies.sh"),
    "tomato",
    "2",
    "divergence=none",
    "seed=0",
]


def environment() -> dict[str, str]:
    bin_of_this_python = str(Path(sys.executable).parent)
    return os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{bin_of_this_python}:{os.environ['PATH']}"}


@pytest.mark.slow
def test_the_shell_script_shares_an_experiment_between_processes_and_reports_it(tmp_path: Path) -> None:
    command = [*SCRIPT, "scale=smoke", "task.iterations=1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outputs = tmp_path / "outputs" / EXPERIMENT
    both = done.stderr + (outputs / "process-2.log").read_text()
    assert both.count(f"done  {EXPERIMENT}/tomato/none-coeff=0") == 2
    table = (outputs / "report" / "table.md").read_text()
    assert all(method in table for method in ("no regularisation", "PPO on the true reward", "true median"))


@pytest.mark.slow
def test_the_shell_script_stops_all_its_processes(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs" / EXPERIMENT
    with (tmp_path / "log").open("w") as log:
        command = [*SCRIPT, "scale=smoke", "task.iterations=100000"]
        script = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=log, stderr=log)
        deadline = time.monotonic() + 300
        while len(list(outputs.rglob("metrics.csv"))) < 2 and script.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        script.send_signal(signal.SIGTERM)
        assert script.wait(120) == 143
    said = (tmp_path / "log").read_text() + (outputs / "process-2.log").read_text()
    assert said.count("stopped by SIGTERM") == 2 and "repeat the command to go on" in said, said
    assert len({path.parent for path in outputs.rglob("checkpoints")}) == 2
