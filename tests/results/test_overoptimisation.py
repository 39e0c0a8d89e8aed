"""Overoptimisation against planted curves: what was put in is found, and nothing is found where nothing is."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from synthetic import write_run

from rhtool.errors import RhtoolError
from rhtool.hacking import course
from rhtool.results import overoptimisation as over
from rhtool.results.cells import Keys
from rhtool.results.overoptimisation_plot import picture
from rhtool.results.plots import save
from rhtool.results.rows import curve
from rhtool.results.scaling_laws import FORMS, choose, fit
from rhtool.results.tables import table_of_methods

# The formulas of the paper once more, written differently.
R = {
    "best-of-n": lambda d, alpha, beta: alpha * d - beta * d**2,
    "RL": lambda d, alpha, beta: alpha * d - beta * d * np.log(d),
}
PLANTED = {"best-of-n": (1.5, 0.25), "RL": (1.0, 0.5)}
PEAKS = {"best-of-n": (1.5 / (2 * 0.25), 1.5**2 / (4 * 0.25)), "RL": (math.exp(1.0 / 0.5 - 1), 0.5 * math.exp(1.0))}
D = np.linspace(0.2, 6, 30)
BASE = (3.0, -1.0)


def rows(form, d=D, noise=0.0, rng=None, base=BASE, at=None, before=False):
    """A run's metrics.csv: the planted curve upon the base policy's return, a proxy that goes on rising."""
    alpha, beta = PLANTED[form] if at is None else at
    true = base[0] + R[form](d, alpha, beta)
    proxy = base[1] + 2 * d
    if before:
        d, true, proxy = np.append(0, d), np.append(base[0], true), np.append(base[1], proxy)
    true = true + (noise * rng.normal(size=len(d)) if noise else 0)
    steps = 100.0 * np.arange(len(d))
    return pd.DataFrame({"steps": steps, "divergence/kl": d**2, "true/return": true, "proxy/return": proxy})


def table(form, runs=1, base=BASE, **how):
    return over.points({f"seed={i}": rows(form, **how) for i in range(runs)}, "kl", base)


# Fits


@pytest.mark.parametrize("form", FORMS)
def test_planted_parameters_and_peak_are_found_exactly(form):
    found = fit(table(form), form)
    assert (found.alpha.value, found.beta.value) == pytest.approx(PLANTED[form], abs=1e-12)
    assert found.r2 == pytest.approx(1)
    d, gain = found.peak
    assert (d.value, gain.value) == pytest.approx(PEAKS[form])
    assert (d.low, d.high) == pytest.approx((d.value, d.value))
    top = minimize_scalar(lambda d: -R[form](d, *PLANTED[form]), bounds=(0.01, 10), method="bounded")
    assert (d.value, gain.value) == pytest.approx((top.x, -top.fun), rel=1e-5)
    assert found(D) == pytest.approx(R[form](D, *PLANTED[form]))
    assert found(0.0) == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("unit", [1e-3, 1e6])
def test_units_of_the_distance_do_not_matter(form, unit):
    found = fit(table(form, d=D * unit, at=(1.0 / unit, 0.25 / unit ** (1 + (form == "best-of-n")))), form)
    wanted = 1.0 / unit, 0.25 / unit ** (1 + (form == "best-of-n"))
    assert (found.alpha.value, found.beta.value) == pytest.approx(wanted, rel=1e-6)


def coverage(form, make, repetitions):
    """How often alpha, beta, the peak's distance and its gain are within their intervals."""
    truth, hits = (*PLANTED[form], *PEAKS[form]), []
    for i in range(repetitions):
        found = fit(make(np.random.default_rng(i)), form, resamples=400, seed=i)
        hits.append([e.low <= x <= e.high for e, x in zip((found.alpha, found.beta, *found.peak), truth, strict=True)])
    return np.mean(hits, axis=0)


@pytest.mark.parametrize("form", FORMS)
def test_intervals_over_points_hold_the_truth_about_as_often_as_they_say(form):
    points = table(form)
    held = coverage(form, lambda rng: points.assign(true=points.true + 0.3 * rng.normal(size=len(points))), 200)
    # 95 % of 200 have a standard error of 1.5 %.
    assert np.all((held > 0.89) & (held < 0.99)), held


def varied(form, rng, points):
    """The table of points with runs that differ in their parameters too, by a tenth."""
    at = np.array(PLANTED[form]) * (1 + 0.1 * rng.normal(size=(points.run.nunique(), 2)))
    true = [R[form](run.d, *own) for own, (_, run) in zip(at, points.groupby("run"), strict=True)]
    return points.assign(true=np.concatenate(true) + 0.1 * rng.normal(size=len(points)))


@pytest.mark.parametrize("form, runs", [("best-of-n", 3), ("RL", 3), ("RL", 5)])
def test_intervals_over_runs_hold_the_mean_run(form, runs):
    points = table(form, runs=runs)
    held = coverage(form, lambda rng: varied(form, rng, points), 200)[:2]
    # 95 % of 200 have a standard error of 1.5 %.
    assert np.all((held > 0.89) & (held < 0.99)), held


def test_many_points_of_few_runs_are_no_many_measurements():
    def width(n, one):
        points = varied("RL", np.random.default_rng(0), table("RL", runs=3, d=np.linspace(0.2, 6, n)))
        found = fit(points.assign(run="one") if one else points, "RL")
        assert found.resampled == ("points" if one else "runs")
        return found.alpha.high - found.alpha.low

    assert width(1000, True) < 0.4 * width(50, True)
    assert width(1000, False) > 0.8 * width(50, False)


def test_noise_of_a_measured_base_policy_is_in_the_intervals():
    points = table("best-of-n", base=None, before=True)

    def make(rng):
        noise = 0.3 * rng.normal(size=len(points))
        return points.assign(true=points.true + noise - noise[0])

    assert np.all(coverage("best-of-n", make, 150) > 0.89)
    # It is the same noise in every point: the interval is wider than if the base policy's return were known.
    noisy = make(np.random.default_rng(0))
    known, measured = (fit(frame, "best-of-n").alpha for frame in (noisy.assign(is_base=False), noisy))
    assert measured.high - measured.low > 1.3 * (known.high - known.low)


def test_standard_errors_are_weights():
    exact, wrong = rows("RL"), rows("RL")
    wrong["true/return"] += np.where(np.arange(len(D)) % 2, 5.0, 0.0)
    wrong["true/return_se"] = np.where(np.arange(len(D)) % 2, 1e6, 0.1)
    found = [fit(over.points({"a": frame}, "kl", BASE), "RL").alpha.value for frame in (exact, wrong)]
    assert found[1] == pytest.approx(found[0], abs=1e-6)
    unweighted = fit(over.points({"a": wrong.drop(columns="true/return_se")}, "kl", BASE), "RL").alpha.value
    assert abs(unweighted - found[0]) > 0.5
    for bad in (0.0, -1.0, math.nan):
        wrong.loc[3, "true/return_se"] = bad
        with pytest.raises(RhtoolError, match="1 of 30 standard errors"):
            fit(over.points({"a": wrong}, "kl", BASE), "RL")


def test_what_is_resampled_depends_on_the_number_of_runs_and_points():
    rng = np.random.default_rng(0)
    for runs, n, wanted in ((3, 30, "runs"), (2, 30, "points"), (1, 5, "points"), (1, 4, "")):
        found = fit(table("RL", runs=runs, d=D[:n], noise=0.1, rng=rng), "RL")
        assert found.resampled == wanted
        assert math.isnan(found.alpha.low) == math.isnan(found.peak[0].low) == (not wanted)
        assert np.isnan(found.band(D)[0]).all() == (not wanted)
    found = fit(table("RL", noise=0.1, rng=rng), "RL")
    low, high = found.band(D)
    assert np.all((low <= found(D)) & (found(D) <= high))


# Choice


@pytest.mark.parametrize("form", FORMS)
def test_the_form_is_told_where_it_can_be(form):
    def choice(**how):
        return choose(table(form, rng=np.random.default_rng(1), **how))

    for found in (choice(), choice(noise=0.02), choice(noise=0.1, runs=4)):
        assert found.better == form and found.clear
    # Under noise, or without the bend, the forms are alike.
    assert not choice(noise=2.0).clear
    assert not choice(d=D[:4]).clear


def test_noise_is_seldom_taken_for_a_form():
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(100):
        found = choose(table("RL", d=D[:12], noise=0.2, rng=rng))
        wrong += found.clear and found.better != "RL"
    assert wrong <= 8


def test_aic_is_that_of_a_gaussian_likelihood():
    points = table("RL", noise=0.3, rng=np.random.default_rng(3))
    fits = {name: fit(points, name, resamples=0) for name in FORMS}
    rss = {name: np.sum((points.true - found(points.d)) ** 2) for name, found in fits.items()}
    found = choose(points)
    assert found.aic.value == pytest.approx(len(points) * math.log(rss[found.other] / rss[found.better]))


# The peak


def inside_of(points):
    return {name: over.inside(points, fit(points, name)) for name in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_a_peak_among_the_data_is_inside(form):
    rng = np.random.default_rng(0)
    assert inside_of(table(form))[form] == "yes"
    assert inside_of(table(form, runs=3, noise=0.05, rng=rng))[form] == "yes"


@pytest.mark.parametrize(
    "rise",
    [lambda d: d, lambda d: d**2, lambda d: np.log1p(d), lambda d: 1 - np.exp(-d), lambda d: np.sqrt(d)],
    ids=["linear", "quadratic", "log", "saturating", "root"],
)
def test_monotone_data_have_no_peak_inside(rise):
    frame = rows("RL").assign(**{"true/return": rise(D)})
    points = over.points({"a": frame}, "kl", (0.0, 0.0))
    assert set(inside_of(points).values()) == {"no"}
    noisy = [
        frame.assign(**{"true/return": rise(D) + np.random.default_rng(i).normal(0, 0.05, len(D))}) for i in range(3)
    ]
    assert "yes" not in inside_of(over.points(dict(enumerate(noisy)), "kl", (0.0, 0.0))).values()


def test_a_return_that_falls_from_the_start_peaks_at_the_base_policy():
    points = table("best-of-n", at=(-0.5, 0.25))
    d, gain = fit(points, "best-of-n").peak
    assert (d.value, gain.value) == (0, 0)
    assert over.inside(points, fit(points, "best-of-n")) == "yes"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_peaks_of_all_signs_are_numbers_or_infinite(form):
    values = [-1.0, -1e-320, 0.0, 1e-320, 1.0, 1e300]
    alpha, beta = np.meshgrid(values, values)
    d, gain = form.peak(alpha, beta)
    assert not np.isnan(d).any() and not np.isnan(gain).any()
    assert np.all(np.isinf(d[(beta < 0) | ((beta == 0) & (alpha > 0))]))
    assert np.all(d >= 0)


def test_peak_beyond_the_data_is_not_inside():
    points = table("RL", d=np.linspace(0.1, 1.5, 30))  # the peak is at e
    assert inside_of(points)["RL"] == "no"
    header, lines = over.fit_texts({"a": over.analyse(points)})
    assert {line[header.index("peak inside?")] for line in lines} == {"no"}


# Stopping


def test_stop_and_what_follows_by_hand():
    frame = pd.DataFrame(
        {
            "steps": [0, 10, 20, 30, 40],
            "divergence/kl": [0.0, 1.0, 4.0, 9.0, 16.0],
            "true/return": [5.0, 6.0, 7.5, 4.0, 1.0],
            "proxy/return": [0.0, 1.0, 2.0, 3.0, 5.0],
        }
    )
    found = over.stop(over.points({"a": frame}))
    assert (found.step, found.x, found.d, found.gain) == (20, 4, 2, 2.5)
    assert (found.lost, found.proxy_after, found.drop) == (6.5, 3, 6.5)
    assert (found.onset_step, found.onset_d) == (30, 3)
    ends_well = over.stop(over.points({"a": frame.iloc[:3]}))
    assert ends_well.lost == ends_well.proxy_after == 0 and math.isnan(ends_well.onset_step)


def test_drop_and_onset_are_those_of_the_diagnostics():
    frame = rows("best-of-n", d=np.linspace(0, 7, 200), noise=0.3, rng=np.random.default_rng(0))
    found = over.stop(over.points({"a": frame}, "kl", BASE))
    columns = (frame[name].to_numpy() for name in ("steps", "true/return", "proxy/return"))
    drop, onset = course(*columns, *BASE)
    assert (found.drop, found.onset_step) == (pytest.approx(drop), onset)
    assert found.onset_d == pytest.approx(frame.loc[frame.steps == onset, "divergence/kl"].item() ** 0.5)


# The table of points


def test_points_are_above_the_base_policy_of_their_run():
    curves = {i: rows("RL", base=(float(i), 2.0 * i), before=True) for i in range(3)}
    curves[2] = curves[2].iloc[1:]  # not evaluated before its first step: the mean of the others'
    points = over.points(curves)
    assert points.groupby("run").is_base.sum().tolist() == [1, 1, 0]
    for run, base in (("0", 0.0), ("1", 1.0), ("2", 0.5)):
        part = points[(points.run == run) & (points.d > 0)]
        shift = float(run) - base
        assert part.true.to_numpy() == pytest.approx(R["RL"](D, *PLANTED["RL"]) + shift)
    given = over.points(curves, "kl", {i: (float(i), 2.0 * i) for i in curves})
    assert given.groupby("run").true.max().to_numpy() == pytest.approx([R["RL"](D, *PLANTED["RL"]).max()] * 3)
    with pytest.raises(RhtoolError, match="run 2"):
        over.points(curves, "kl", {0: BASE, 1: BASE})


def test_missing_values_are_left_out_and_counted():
    frame = rows("RL", before=True)
    frame.loc[[3, 4], "true/return"] = math.nan
    frame.loc[5, "proxy/return"] = math.inf
    frame.loc[6, "divergence/kl"] = math.nan
    frame.loc[7, "divergence/kl"] = -0.01  # an estimate below zero: near the base policy, but not it
    points = over.points({"a": frame})
    assert points.attrs["dropped"] == 4 and len(points) == len(frame) - 4
    assert points[points.d == 0].is_base.tolist() == [True, False]
    found = fit(points, "RL")
    assert (found.alpha.value, found.beta.value) == pytest.approx(PLANTED["RL"])
    assert any("4 rows" in note for note in over.notes({"a": over.analyse(points)}))


def test_every_measure_has_its_distance():
    n = np.array([1, 2, 4, 16, 60000])
    assert over.best_of_n_kl(n)[[0, 1]] == pytest.approx([0, math.log(2) - 0.5])
    # Of a uniform score: the density of the largest of n is n u^(n-1), its KL from 1 by quadrature.
    u = (np.arange(400000) + 0.5) / 400000
    density = 16 * u**15
    assert over.best_of_n_kl(16) == pytest.approx(np.mean(density * np.log(density)), rel=1e-4)
    returns = {"true/return": np.arange(5.0), "proxy/return": np.arange(5.0)}
    frame = pd.DataFrame({"n": n, "divergence/chi2": n - 1.0, "steps": n - 1, "exact/divergence/kl": n - 1.0} | returns)
    distances = {measure: over.points({"a": frame}, measure).d.to_numpy() for measure in ("n", "chi2", "steps")}
    assert distances["n"][-1] == pytest.approx(math.sqrt(math.log(60000) - 1 + 1 / 60000))
    assert distances["chi2"].tolist() == np.sqrt(n - 1).tolist()
    assert distances["steps"].tolist() == (n - 1).tolist()
    exact = over.points({"a": frame}, "kl", column="exact/divergence/kl")
    assert exact.d.tolist() == distances["chi2"].tolist()
    with pytest.raises(RhtoolError, match="at least 1"):
        over.points({"a": frame.assign(n=[1, 2, 0.5, 3, 4])}, "n")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda curves: over.points(curves, "kll"), "kll.*\n.*\n.*did you mean 'kl'"),
        (lambda curves: over.points(curves, "chi2"), "no column divergence/chi2"),
        (lambda curves: over.points(curves), "base policy's returns are not known"),
        (lambda curves: over.points(curves, "kl", (math.nan, 0.0)), "no numbers"),
        (lambda curves: over.points({}), "no point has a distance"),
        (lambda curves: over.points({"a": curves["a"].assign(**{"true/return": math.nan})}), "no point has a distance"),
        (lambda curves: over.points({"a": curves["a"].iloc[:0]}), "no point has a distance"),
    ],
)
def test_tables_that_cannot_be_made_say_why(change, message):
    with pytest.raises(RhtoolError, match=message):
        change({"a": rows("RL")})


# All of it


FEW = {
    "one point": lambda: table("RL", d=D[:1]),
    "two points": lambda: table("RL", d=D[:2]),
    "the base policy alone": lambda: over.points({"a": rows("RL", before=True).iloc[:1]}),
    "constant": lambda: over.points({"a": rows("RL").assign(**{"true/return": 2.0})}, "kl", BASE),
    "one distance": lambda: table("RL", d=np.full(20, 2.0), noise=0.1, rng=np.random.default_rng(0)),
    "three runs of a point": lambda: over.points({i: rows("RL", d=D[[9 * i]]) for i in range(3)}, "kl", BASE),
    "steps": lambda: over.points({"a": rows("RL")}, "steps", BASE),
    "one run": lambda: table("RL", noise=0.1, rng=np.random.default_rng(0)),
    "three runs": lambda: table("best-of-n", runs=3, noise=0.1, rng=np.random.default_rng(0)),
}
UNFITTED = {"one point", "two points", "the base policy alone", "constant", "one distance", "steps"}


@pytest.mark.parametrize("name", FEW)
def test_whatever_there_is_gives_tables_and_a_picture_and_says_what_is_missing(name, tmp_path):
    analysis = over.analyse(FEW[name](), resamples=200)
    assert (not analysis.fits.get("true")) == (name in UNFITTED) == bool(analysis.why)
    found = {name: analysis}
    for header, lines in (over.fit_texts(found), over.fit_texts(found, "proxy"), over.stop_texts(found)):
        assert all(len(line) == len(header) for line in lines)
        text = table_of_methods(header, lines) if lines else ""
        assert "nan" not in text.lower()
    assert len(over.fit_texts(found)[1]) == (0 if name in UNFITTED else 2)
    assert any(note.startswith(f"{name}: no fit") for note in over.notes(found)) == (name in UNFITTED)
    save(picture(found), tmp_path / "over.png")
    assert (tmp_path / "over.png").stat().st_size > 5000


def test_the_picture_shows_what_was_found():
    found = {
        "hacked": over.analyse(table("RL", runs=3, noise=0.1, rng=np.random.default_rng(0))),
        "short": over.analyse(table("RL", d=D[:6])),
    }
    figure = picture(found)
    assert [axes.get_title(loc="left").split("\n")[0] for axes in figure.axes[:2]] == [*found]
    assert {axes.get_xlabel() for axes in figure.axes[2:]} == {"sqrt(KL) to the base policy, nats^1/2"}
    for axes, analysis in zip(figure.axes[:2], found.values(), strict=True):
        by = {gid: [line for line in axes.lines if line.get_gid() == gid] for gid in ("run", "fit", "peak", "best")}
        assert len(by["run"]) == len(by["best"]) == len(analysis.stops)
        assert len({line.get_marker() for line in by["run"]}) == len(by["run"])  # told apart without colours
        (line,) = by["fit"]
        shown = analysis.fits["true"][analysis.choice.better]
        assert line.get_ydata() == pytest.approx(shown(line.get_xdata()))
        assert len(by["peak"]) == (shown.peak[0].value <= analysis.points.d.max())
        assert any(np.ravel(line.get_ydata()).tolist() == [0, 0] for line in axes.lines)  # the base policy
    assert [bool(axes.get_xlim() == figure.axes[0].get_xlim()) for axes in figure.axes] == [True] * 4
    names = {text.get_text() for text in figure.legends[0].get_texts()}
    assert names >= {"base policy", "peak of the fit", "best evaluation of a run", "95 % band"}
    assert picture({}) is None
    with pytest.raises(RhtoolError, match="training steps"):
        picture(found | {"other": over.analyse(FEW["steps"]())})


def test_runs_are_analysed_as_they_lie_on_disk(tmp_path):
    keys = Keys()
    for seed in range(3):
        path = write_run(tmp_path, seed=seed, metrics={})
        rows("best-of-n", noise=0.05, rng=np.random.default_rng(seed), before=True).to_csv(
            path / "metrics.csv", index=False
        )
    paths = sorted(tmp_path.glob("*/*/*/seed=*"))
    curves = {path.name: curve(path, ["divergence/kl", keys.true, keys.proxy]) for path in paths}
    analysis = over.analyse(over.points(curves, keys=keys))
    assert list(analysis.stops) == ["seed=0", "seed=1", "seed=2"]
    assert analysis.choice.better == "best-of-n"
    header, (first, _) = over.fit_texts({"sqrt_chi2": analysis})
    assert first[:2] == ["sqrt_chi2", "best-of-n"] and first[header.index("peak inside?")] == "yes"
    assert float(first[header.index("peak at d [95 % CI]")].split()[0]) == pytest.approx(3, abs=0.2)
