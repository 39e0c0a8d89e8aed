"""What the tables say of synthetic sweeps whose answer is known."""

from __future__ import annotations

import io
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from synthetic import paper_like, returns, write_run

from rhtool.progress import diagnosis
from rhtool.results import tables
from rhtool.results.cells import Keys, sections
from rhtool.results.rows import read

KEYS = Keys()


def pasted(*args):
    """The report in Markdown, without the spaces that align its columns."""
    return re.sub(" +", " ", tables.markdown(*args))


def sweep(root, coeff, true, proxy, **more):
    for seed, (t, p) in enumerate(zip(true, proxy, strict=True)):
        write_run(root, coeff=coeff, seed=seed, metrics=returns(t, p), **more)


@pytest.fixture(autouse=True)
def in_its_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def only(root, keys=KEYS):
    (section,) = sections(read(root), keys)
    return section


def by_coeff(section):
    return {cell.coeff: cell for cell in section.cells}


def test_hacked_is_definition_4_2_with_intervals(tmp_path):
    # The base policy has true 5.86 and proxy 6.37.
    sweep(tmp_path, 0.01, [2, 2.1, 2.2], [9, 9.1, 9.2])  # true fell, proxy rose
    sweep(tmp_path, 0.02, [7, 7.1, 7.2], [9, 9.1, 9.2])  # both rose
    sweep(tmp_path, 0.05, [2, 2.1, 2.2], [3, 3.1, 3.2])  # both fell: a bad policy, but nothing was hacked
    sweep(tmp_path, 0.1, [4, 5.9, 8], [9, 9.1, 9.2])  # who knows
    sweep(tmp_path, 0.2, [2, 2.1], [9, 9.1])  # two seeds are too few
    section = only(tmp_path)
    hacked = {coeff: cell.hacked for coeff, cell in by_coeff(section).items()}
    assert hacked == {0.01: "yes", 0.02: "no", 0.05: "no", 0.1: "unclear", 0.2: "unclear"}
    assert by_coeff(section)[0.02].improvement == 1
    assert by_coeff(section)[0.01].improvement == 0


def test_best_is_the_highest_true_return_among_complete_cells(tmp_path):
    sweep(tmp_path, 0.1, [6, 6, 6], [7, 7, 7])
    sweep(tmp_path, 0.2, [7, 7, 7], [7, 7, 7])
    sweep(tmp_path, 0.5, [7, 7, 7], [7, 7, 7])  # as good: the smaller coeff is taken
    sweep(tmp_path, 1, [9, 9], [7, 7])  # better, but a seed is missing
    sweep(tmp_path, 0, [9.5, 9.5, 9.5], [7, 7, 7], divergence="none")  # nothing to choose
    assert [cell.coeff for cell in only(tmp_path).cells if cell.best] == [0.2]


def test_base_policy_counts_a_seed_once(tmp_path):
    for seed, base in enumerate([1.0, 2.0, 6.0]):
        for coeff in (0.1, 0.2):
            write_run(tmp_path, coeff=coeff, seed=seed, metrics=returns(3, 4, (base, 0.0)))
    estimate = only(tmp_path).base["true"]
    assert (estimate.n, estimate.value) == (3, 3)


def test_csv_holds_every_cell_unrounded(tmp_path):
    sweep(tmp_path, 0.1, [6, 7, 8.123456789], [7, 7, 7], divergence="kl")
    sweep(tmp_path, 0, [2, 2, 3], [9, 9, 9], divergence="none")
    write_run(tmp_path, divergence="kl", coeff=0.1, seed=3, status="failed", reason="E: x", metrics={})
    table = tables.frame([only(tmp_path)], KEYS).set_index("method")
    assert list(table.index) == ["base policy", "no regularisation", "kl"]
    assert table.loc["base policy", "true"] == 5.86
    row = table.loc["kl"]
    assert row["true"] == pytest.approx((6 + 7 + 8.123456789) / 3, rel=1e-12)
    assert 6 <= row.true_low < row.true < row.true_high <= 8.123456789
    assert (row.true_median, row.n, row.done, row.failed, row.missing) == (7, 3, 3, 1, 0)
    assert (row.improvement_over_base, row.improvement_over_unregularised) == (1, 1)
    assert row["base/true/return"] == 5.86  # every metric is there under its own key


def test_what_all_methods_share_is_in_the_title_and_in_no_label(tmp_path):
    common = {"task.iterations": "5"}
    write_run(tmp_path, divergence="none", tuned=common, metrics=returns(1, 9))
    write_run(tmp_path, divergence="kl", tuned={**common, "task.lr": "0.1"}, metrics=returns(6, 7))
    (section,) = sections(read(tmp_path))
    assert section.title == "tomato (orpo, task.iterations=5)"
    assert [cell.label for cell in section.cells] == ["no regularisation", "kl, task.lr=0.1"]


def test_sections_never_mix_what_cannot_be_compared(tmp_path):
    sweep(tmp_path, 0.1, [6], [7])
    sweep(tmp_path, 0.1, [60], [70], env="glucose")
    sweep(tmp_path, 0.1, [5], [7], experiment="table1")
    sweep(tmp_path / "small", 0.1, [4], [7], scale="small")
    write_run(tmp_path, tuned={"env.level": "2", "task.lr": "0.1"}, metrics=returns(3, 4))
    found = {section.title: section.cells[0].true.value for section in sections(read(tmp_path))}
    assert found == {
        "glucose (orpo)": 60,
        "tomato (orpo)": 6,
        "tomato (table1)": 5,
        "tomato (orpo, scale=small)": 4,
        "tomato (orpo, env.level=2, task.lr=0.1)": 3,
    }


def test_unfinished_cells_are_named_with_reason_and_command(tmp_path):
    sweep(tmp_path, 0.1, [6, 6, 6], [7, 7, 7])
    sweep(tmp_path, 0.2, [6, 6], [7, 7])
    write_run(tmp_path, coeff=0.5, seed=0, status="failed", reason="OutOfMemoryError: CUDA\nlong traceback")
    said, commands = tables.unfinished(only(tmp_path))
    assert said == [
        "sqrt_chi2 coeff=0.2 seed=2: missing",
        "sqrt_chi2 coeff=0.5 seed=0: failed (OutOfMemoryError: CUDA)",
        "sqrt_chi2 coeff=0.5 seed=1, 2: missing",
    ]
    assert commands == [
        "rhtool task=orpo env=tomato divergence=sqrt_chi2 coeff=0.2 seed=2",
        "rhtool -m task=orpo env=tomato divergence=sqrt_chi2 coeff=0.5 seed=0,1,2",
    ]


def test_markdown_is_a_table_one_can_paste(tmp_path):
    sweep(tmp_path, 0.1, [6, 7, 8], [7, 7, 7])
    sweep(tmp_path, 0.2, [6, 6], [7, 7])
    text = pasted([only(tmp_path)], KEYS, ["frontier.png"])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| base policy | | 3 | 5.860 [5.860, 5.860] |")
    assert lines[3].startswith("| **sqrt_chi2** | **0.1\\*** | **3** | **7.000 [6.000, 8.000]** |")
    assert "| 2 | 6.000 |" in lines[4]  # no interval from two seeds
    assert "2 done, 1 missing" in lines[4]
    assert "oracle choice" in text and "![frontier](frontier.png)" in text
    assert "rhtool task=orpo env=tomato divergence=sqrt_chi2 coeff=0.2 seed=2" in text


@pytest.mark.parametrize("width", [100, 160])
def test_terminal_table_fits_its_width(tmp_path, width):
    paper_like(tmp_path, seeds=3)
    (tmp_path / "orpo/tomato/kl-coeff=0.1/seed=1/result.json").unlink()
    out = io.StringIO()
    tables.show([only(tmp_path)], KEYS, Console(file=out, width=width))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    rows = [line.split() for line in text.splitlines() if line.strip().startswith("sqrt_chi2 ")]
    assert [row[1].rstrip("*") for row in rows[:7]] == ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]
    assert ("…" not in text) and "\x1b" not in text


def test_median_instead_of_iqm_and_other_metrics(tmp_path):
    for seed, value in enumerate([0.0, 1.0, 50.0]):
        metrics = returns(0, 0) | {"exact/true/return": value, "base/exact/true/return": 0.5}
        write_run(tmp_path, seed=seed, metrics=metrics)
    keys = Keys(true="exact/true/return", statistic="median")
    section = only(tmp_path, keys)
    assert section.cells[0].true.value == 1
    assert section.base["true"].value == 0.5
    assert "median of exact/true/return" in pasted([section], keys)


def test_runs_of_other_tasks_need_no_divergence_and_no_returns(tmp_path):
    write_run(tmp_path, group="rm_train", env="", divergence="", coeff=0, metrics={"loss": 0.3, "accuracy": 0.8})
    section = only(tmp_path)
    assert section.cells[0].label == "rm_train"
    table = tables.frame([section], KEYS)
    assert table.accuracy.tolist() == [0.8] and np.isnan(table.true[0])
    assert "rm_train" in pasted([section], KEYS)


@pytest.mark.parametrize(
    ("values", "text"),
    [([9.17, 2.35], "9.170"), ([72.6], "72.60"), ([-57380.4, 1], "-57380"), ([0.0512], "0.05120"), ([0.0], "0.00")],
)
def test_decimals_follow_the_largest_value(values, text):
    assert tables.formatter(values)(values[0]) == text


def test_frame_round_trips_through_csv(tmp_path):
    paper_like(tmp_path / "o", seeds=2)
    table = tables.frame([only(tmp_path / "o")], KEYS)
    table.to_csv(tmp_path / "t.csv", index=False, float_format="%.10g")
    back = pd.read_csv(tmp_path / "t.csv")
    np.testing.assert_allclose(back.true, table.true, rtol=1e-9)


@pytest.mark.parametrize(("seeds", "name"), [(3, "range"), (6, "95 % CI"), (2, "95 % CI")])
def test_an_interval_is_called_what_it_is(tmp_path, seeds, name):
    sweep(tmp_path, 0.1, range(seeds), range(seeds))
    text = pasted([only(tmp_path)], KEYS)
    assert f"| true IQM [{name}] |" in text and "for n = 3 to 4 such an interval is no more than the range" in text
    out = io.StringIO()
    tables.show([only(tmp_path)], KEYS, Console(file=out, width=100))
    assert f"true IQM [{name}]" in out.getvalue()
    median = Keys(statistic="median")
    assert "for n = 3 to 5 such" in pasted([only(tmp_path, median)], median)
    sweep(tmp_path, 0.2, range(6), range(6))
    assert ("range or 95 % CI" in pasted([only(tmp_path)], KEYS)) == (seeds == 3)


def test_the_environments_own_metrics_have_a_table_of_their_own(tmp_path):
    for seed in range(3):
        own = {"env/bg": 100.0 + seed, "env/hypoglycemic": [0.0, 0.1, 0.5][seed]}
        base = {"base/env/bg": 90.0 + seed, "base/env/hypoglycemic": 0.02}
        write_run(tmp_path, env="glucose", coeff=0.1, seed=seed, metrics=returns(7, 8, **own, **base))
        write_run(tmp_path, env="glucose", coeff=0.2, seed=seed, metrics=returns(6, 8, **{"env/bg": 50.0}, **base))
    write_run(tmp_path, env="glucose", coeff=0.5, seed=0, status="failed")
    section = only(tmp_path)
    assert tables.own_texts(section) == (
        ["method", "coeff", "bg", "hypoglycemic"],
        [
            ["base policy", "", "91.0", "0.0200"],  # mean, and not the interquartile one
            ["sqrt_chi2", "0.1*", "101.0", "0.2000"],
            ["sqrt_chi2", "0.2", "50.0", "-"],
            ["sqrt_chi2", "0.5", "-", "-"],
        ],
    )
    text = pasted([section], KEYS)
    assert "### glucose (orpo): the environment's own metrics, mean over seeds" in text
    assert "| method | coeff | bg | hypoglycemic |" in text and "| base policy | | 91.0 | 0.0200 |" in text
    assert "| **sqrt_chi2** | **0.1\\*** | **101.0** | **0.2000** |" in text
    table = tables.frame([section], KEYS)
    assert table["env/bg"].tolist()[:3] == [91, 101, 50] and np.isnan(table["env/bg"][3])
    assert table["env/hypoglycemic"][1] == pytest.approx(0.2)


@pytest.mark.parametrize(("env", "page"), [("glucose", True), ("mine", False)])
def test_under_the_environments_own_metrics_stands_where_their_units_are(tmp_path, env, page):
    names = [f"a_metric_with_quite_a_long_name_{i}" for i in range(9)]
    write_run(tmp_path, env=env, metrics=returns(7, 8, **{f"env/{name}": 1.5 for name in names}))
    out = io.StringIO()
    tables.show([only(tmp_path)], KEYS, Console(file=out, width=100))
    for text in (out.getvalue(), pasted([only(tmp_path)], KEYS)):
        assert text.count("units and meanings: docs/envs/glucose.md") == text.count("units and meanings") == page
    assert not page or (tables.DOCS.parent / "docs/envs/glucose.md").is_file()


def test_the_number_of_episodes_is_in_the_csv_alone(tmp_path):
    sweep(tmp_path / "without", 0.1, [6, 7, 8], [7, 7, 7])
    for seed, (t, p) in enumerate(zip([6, 7, 8], [7, 7, 7], strict=True)):
        write_run(tmp_path / "with", coeff=0.1, seed=seed, metrics=returns(t, p) | {"episodes": 100})
    without, section = (only(tmp_path / name) for name in ("without", "with"))
    assert tables.texts(section, KEYS) == tables.texts(without, KEYS)
    assert tables.own_texts(section) == ([], [])
    table = tables.frame([section], KEYS)
    assert table["episodes"][1] == 100
    pd.testing.assert_frame_equal(table.drop(columns="episodes"), tables.frame([without], KEYS))


def test_without_metrics_of_its_own_an_environment_has_no_such_table(tmp_path):
    sweep(tmp_path, 0.1, [6], [7])
    assert tables.own_texts(only(tmp_path)) == ([], [])
    assert "own metrics" not in pasted([only(tmp_path)], KEYS)
    assert not [name for name in tables.frame([only(tmp_path)], KEYS) if name.startswith("env/")]


def test_many_metrics_are_shown_in_tables_that_fit(tmp_path):
    names = [f"a_metric_with_quite_a_long_name_{i}" for i in range(9)]
    write_run(tmp_path, metrics=returns(7, 8, **{f"env/{name}": 1.5 for name in names}))
    out = io.StringIO()
    tables.show([only(tmp_path)], KEYS, Console(file=out, width=100))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 100 and all(sum(name in line for line in lines) == 1 for name in names)
    assert sum("own metrics" in line for line in lines) == 5 and "…" not in out.getvalue()


def theory(**more):
    known = {
        "hacking/r": 0.9,
        "hacking/sigma": 0.04,
        "hacking/sqrt_chi2": 1.315,
        "hacking/coeff": 0.8,
        "hacking/gain": 0.01,
        "hacking/bound": -0.02,
    }
    return known | {"hacking/bound_holds": 1, "hacking/drop": 0.5, "hacking/onset_step": None} | more


def test_diagnostics_have_a_table_of_their_own(tmp_path):
    for seed in range(3):
        hacked = {"hacking/onset_step": [90000, 30000, None][seed], "hacking/bound_holds": [1, 0, 1][seed]}
        gain = {"hacking/gain": [-0.01, -0.02, -0.06][seed]}
        metrics = returns(2, 9, **theory(**hacked, **gain))
        write_run(tmp_path, divergence="none", coeff=0, seed=seed, metrics=metrics)
        write_run(tmp_path, coeff=0.1, seed=seed, metrics=returns(7, 8.37, **theory()))
    write_run(tmp_path, coeff=0.2, seed=0, metrics=returns(7, 8))
    write_run(tmp_path, coeff=0.5, seed=0, status="failed")
    keys = Keys(statistic="median")
    section = only(tmp_path, keys)
    header, rows = tables.diagnostics(section, keys)
    assert header == ["method", "coeff", "r", "sigma", "theory", "sqrt_chi2", "gain", "bound", "held?", "drop", "onset"]
    assert rows == [
        [
            "no regularisation",
            "",
            "0.9000",
            "0.04000",
            "0.8000",
            "1.315",
            "-0.02000",
            "-0.02000",
            "2/3",
            "0.5000",
            "60,000 (2/3)",
        ],
        ["sqrt_chi2", "0.1*", "0.9000", "0.04000", "0.8000", "1.315", "0.01000", "-0.02000", "3/3", "0.5000", "-"],
    ]
    text = pasted([section], keys)
    assert "### tomato (orpo): diagnostics of hacking" in text and "| 2/3 | 0.5000 | 60,000 (2/3) |" in text
    out = io.StringIO()
    tables.show([section], keys, Console(file=out, width=100))
    assert "60,000 (2/3)" in out.getvalue() and max(map(len, out.getvalue().splitlines())) <= 100
    table = tables.frame([section], keys).set_index("method")
    assert table.loc["no regularisation", "hacking/gain"] == -0.02


def test_without_diagnostics_there_is_no_table_of_them(tmp_path):
    sweep(tmp_path, 0.1, [6, 7, 8], [7, 7, 7])
    assert tables.diagnostics(only(tmp_path), KEYS) == ([], [])
    assert "diagnostics" not in pasted([only(tmp_path)], KEYS)


def test_a_measured_coeff_is_a_method_of_its_own(tmp_path):
    for seed in range(3):
        measured = theory(**{"penalty/coeff": 0.7 + 0.1 * seed})
        write_run(tmp_path, coeff="auto", seed=seed, metrics=returns(8, 8, **measured))
        write_run(tmp_path, coeff=0.1, seed=seed, metrics=returns(7, 8))
        write_run(tmp_path, coeff=0.2, seed=seed, metrics=returns(6, 8))
    write_run(tmp_path, coeff="auto", seed=3, status="failed", reason="E: x")
    write_run(tmp_path, coeff="auto", seed=4, status="failed", reason="E: x")
    section = only(tmp_path)
    assert [(cell.label, cell.strength, cell.best, cell.true.n) for cell in section.cells] == [
        ("sqrt_chi2", "0.1", True, 3),
        ("sqrt_chi2", "0.2", False, 3),
        ("sqrt_chi2, coeff=auto", "0.8", False, 3),
    ]
    assert section.unregularised is None
    assert "| sqrt_chi2, coeff=auto | 0.8 | 3 |" in pasted([section], KEYS)
    said, finish = tables.unfinished(section)
    assert said == ["sqrt_chi2, coeff=auto seed=3, 4: failed (E: x)"]
    assert finish == ["rhtool -m task=orpo env=tomato divergence=sqrt_chi2 coeff=auto seed=3,4"]


def test_the_line_of_diagnostics_says_how_the_bound_did():
    metrics = theory(**{"hacking/r": 0.56, "hacking/sqrt_chi2": 2.0})
    said = diagnosis(metrics)
    assert said.startswith(
        "hacking: r 0.56  sigma 0.04  theory 0.8  sqrt_chi2 2  gain 0.01  bound -0.02 (held)  drop 0.5  onset -"
    )
    assert "bound 0.02 (missed, within the error)" in diagnosis(metrics | {"hacking/bound": 0.02})
    assert "(not held)" in diagnosis(metrics | {"hacking/bound": 0.02, "hacking/bound_holds": 0})
    without = {key: value for key, value in metrics.items() if key not in ("hacking/bound", "hacking/bound_holds")}
    assert "bound" not in diagnosis(without) and diagnosis({"true/return": 1.0}) == ""
