"""Monotonicity: the coefficients are scipy's, resample by resample; the intervals cover; what is asked of files is checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rhtool.errors import RhtoolError
from rhtool.results import evaluations, monotonicity
from rhtool.results.monotonicity import COEFFICIENTS, Course, measures
from rhtool.results.monotonicity_plot import picture

SCIPY = {"spearman": stats.spearmanr, "kendall": stats.kendalltau, "pearson": stats.pearsonr}


def course(proxy, true, prompts: int = 5, noise: float = 0.0, seed: int = 0) -> Course:
    """A run whose means are these, but for noise of the prompts."""
    rng = np.random.default_rng(seed)
    spread = noise * rng.standard_normal((2, len(proxy), prompts))
    return Course(10 * np.arange(len(proxy)), np.c_[proxy] + spread[0], np.c_[true] + spread[1])


@pytest.mark.parametrize("name", COEFFICIENTS)
@pytest.mark.parametrize("ties", [False, True])
def test_a_coefficient_is_scipys_also_of_many_resamples_at_once(name, ties, monkeypatch):
    monkeypatch.setattr(monotonicity, "CHUNK", 50)  # so that there are several chunks
    draw = np.random.default_rng(1)
    x, y = draw.standard_normal((2, 7, 11))
    if ties:
        x, y = x.round(), y.round()
    expected = [SCIPY[name](a, b).statistic for a, b in zip(x, y, strict=True)]
    assert COEFFICIENTS[name](x, y) == pytest.approx(expected, abs=1e-12)
    assert float(COEFFICIENTS[name](x[0], y[0])) == pytest.approx(expected[0])


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_a_constant_reward_has_no_coefficient(name):
    assert np.isnan(COEFFICIENTS[name](np.full(5, 0.1), np.arange(5.0)))
    found = monotonicity.monotonicity([course(np.arange(5.0), np.full(5, 0.1))], 20)[name]
    assert np.isnan([found.value, found.low, found.high]).all()


def test_what_a_run_gained_and_lost():
    found = measures(np.array([0, 4, 8, 12]), np.array([1.0, 2, 3, 5]), np.array([0.0, 2, 2, -1]))
    assert (found["peak_step"], found["lost"], found["proxy_gain"], found["true_gain"]) == (4, 3, 4, -1)


def test_without_noise_between_prompts_the_interval_is_the_value():
    found = monotonicity.monotonicity([course([0, 1, 2, 3.5], [0, 2, 1, 3.0])], 50)
    for name, estimate in found.items():
        assert estimate.low == pytest.approx(estimate.value) == estimate.high, name
    assert found["spearman"].value == pytest.approx(0.8) and found["spearman"].n == 5


@pytest.mark.parametrize("true", [range(8), [0, 2, 4, 5, 5.5, 4, 2, 0]], ids=["rising", "hacked"])
@pytest.mark.parametrize("noise", [1.0, 8.0])
@pytest.mark.parametrize("name", ["spearman", "pearson"])
def test_the_interval_over_prompts_covers_what_all_prompts_would_show(name, noise, true):
    proxy, true = np.arange(8.0), np.array(true, float)
    target = float(COEFFICIENTS[name](proxy, true))
    inside = 0
    for seed in range(60):  # at noise 8 a mean of 64 prompts is as uncertain as evaluations are apart
        found = monotonicity.monotonicity([course(proxy, true, 64, noise, seed)], 200, seed)[name]
        inside += found.low - 1e-12 <= target <= found.high + 1e-12
    assert inside >= 53


def test_of_three_runs_the_interval_is_over_runs():
    trues = [[0, 1, 2, 3.0], [0, 1, 3, 2.0], [3, 2, 1, 0.0]]
    runs = [course([0, 1, 2, 3.0], true, noise=1e-9) for true in trues]
    found = monotonicity.monotonicity(runs)["spearman"]
    assert (found.value, found.n) == (pytest.approx((1 + 0.8 - 1) / 3), 3)
    assert found.low == pytest.approx(-1) and found.high == pytest.approx(1)
    both = monotonicity.monotonicity(runs[:2])["spearman"]
    assert (both.value, both.n) == (pytest.approx(0.9), 5)


def test_the_picture_has_a_column_per_group_and_marks_the_peak():
    true = [0, 3, 1, 0.5]
    courses = {
        "one": [course([0, 1, 2, 3.0], true, noise=0.1)],
        "three": [course(range(4), true, 9, 0.1, s) for s in range(3)],
    }
    found = {name: monotonicity.monotonicity(runs, 50)["spearman"] for name, runs in courses.items()}
    axes = picture(courses, found).axes
    assert len(axes) == 4 and "Spearman" in axes[0].get_title(loc="left")
    for column, runs in zip(axes, courses.values(), strict=False):
        lines = {}
        for line in column.lines:
            lines.setdefault(line.get_gid(), []).append(line)
        assert len(lines["run"]) == len(runs) and ("mean" in lines) == (len(runs) > 1)
        assert lines["peak"][0].get_xdata()[0] == 10


# Files


def write(run: Path, steps=(0, 4, 8), prompts: int = 3, **more) -> Path:
    (run / "eval").mkdir(parents=True)
    for step in steps:
        lines = [
            {"step": step, "row": i, "prompt": [{"role": "user", "content": f"q{i}"}], "answer": f"{step} {i}"}
            | {"finished": True, "proxy": step + i / 10, "true": -step * 1.0}
            | more
            for i in range(prompts)
        ]
        (run / f"eval/step_{step:06d}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_evaluations_are_in_the_order_of_their_steps(tmp_path):
    found = evaluations.read(write(tmp_path / "run", (0, 900, 1_000_000, 70)))
    assert found.steps.tolist() == [0, 70, 900, 1_000_000]
    assert found.scores("proxy")[:, 1] == pytest.approx(found.steps + 0.1)
    assert found.since(70).steps.tolist() == [70, 900, 1_000_000] and found.last().steps.tolist() == [1_000_000]


def test_too_few_evaluations_say_so(tmp_path):
    run = write(tmp_path / "run")
    assert len(evaluations.read(run).steps) == 3
    with pytest.raises(RhtoolError, match="2 evaluations from step 1 on"):
        evaluations.read(run, from_step=1)
    assert len(evaluations.read(run, from_step=8, fewest=1).steps) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 8}', '{"step": 8, "prompt": [], "answer": "", "proxy": 1}'])
def test_files_that_are_no_evaluation_of_these_prompts_are_named(tmp_path, text):
    run = write(tmp_path / "run")
    (run / "eval/step_000012.jsonl").write_text(text)
    with pytest.raises(RhtoolError) as error:
        evaluations.read(run)
    assert "step_000012" in str(error.value) or "other prompts" in str(error.value)


def test_runs_are_found_above_them_and_by_a_pattern_and_grouped_by_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [
        write(Path(f"outputs/rer/{name}")) for name in ("length/seed=0", "length/seed=1", "all-of-it/seed=0", "alone")
    ]
    write(Path("outputs/rer/alone/.old/0"))
    assert evaluations.runs_at("outputs", "x") == sorted(paths)
    assert evaluations.runs_at("outputs/rer/length/seed=1", "x") == paths[1:2]
    assert evaluations.runs_at("outputs/rer/*/seed=0", "x") == [paths[2], paths[0]]
    groups = evaluations.groups(paths)
    assert groups == {"length": paths[:2], "all_of_it": paths[2:3], "alone": paths[3:]}
    assert [*evaluations.groups(paths[:2])] == ["length"]
    variants = [Path(f"x/kl-coeff={c}-reward.relevance=true/seed=0") for c in (0.1, 0.2)]
    assert [*evaluations.groups(variants)] == ["coeff_0_1", "coeff_0_2"]
    with pytest.raises(RhtoolError, match="no evaluations"):
        evaluations.runs_at("outputs/none", "task.path")


def test_directories_named_after_options_are_called_by_those_whatever_was_cut(tmp_path):
    """Names of directories are cut where they are long, and paths in them say nothing."""
    runs = []
    for number, (reward, tuned) in enumerate(
        [("rm", {"reward.model": "a/b"}), ("morl", {"reward.directory": "a/c"})]
        + [("morl", {"reward.combine": name, "reward.directory": "a/c"}) for name in ("max_min", "max_median")]
    ):
        run = write(tmp_path / reward / f"kl-coeff=0.1-reward.dir-{number}" / "seed=0")
        about = {"reward": reward, "divergence": "kl", "coeff": 0.1, "tuned": tuned}
        (run / "provenance.json").write_text(json.dumps({"schema": 1, "run": about, "attempts": []}))
        runs.append(run)
    assert [*evaluations.groups(runs)] == ["rm", "morl", "morl_combine_max_min", "morl_combine_max_median"]
    assert [*evaluations.groups(runs[1:])] == ["morl", "combine_max_min", "combine_max_median"]
    about = {"reward": "rm", "divergence": "kl", "coeff": 0.1, "tuned": {"reward.model": "elsewhere/c"}}
    other = write(tmp_path / "rm" / "kl-coeff=0.1-x" / "seed=0")
    (other / "provenance.json").write_text(json.dumps({"schema": 1, "run": about, "attempts": []}))
    assert [*evaluations.groups([runs[0], other, runs[1]])] == ["rm_model_b", "rm_model_c", "morl"]
    (runs[2] / "provenance.json").write_text("{")  # what cannot be read is called by its directory
    assert "max_min" not in str([*evaluations.groups(runs)])


def test_rescoring_is_the_same_when_it_is_stopped_and_resumed(tmp_path):
    run = write(tmp_path / "run")
    known = {evaluations.key([{"role": "user", "content": f"q{i}"}]): {"prompt": "known", "worth": i} for i in range(2)}

    def worth(rows, answers, finished):
        return [len(answer) + 10 * row.get("worth", 7) for row, answer in zip(rows, answers, strict=True)]

    def made():
        return evaluations.Rescoring([evaluations.read(run)], {"true": worth}, known)

    one, other = made(), made()
    for _ in range(one.iterations):
        one.iteration()
    assert one.runs[0].scores("true").tolist() == [[3, 13, 73]] * 3  # of the third prompt the data know nothing
    assert one.runs[0].scores("proxy").tolist() == evaluations.read(run).scores("proxy").tolist()
    half = made()
    half.iteration()
    other.set_state(half.get_state())
    while len(other.done) < other.iterations:
        other.iteration()
    assert (other.runs[0].scores("true") == one.runs[0].scores("true")).all()
