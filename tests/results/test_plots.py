"""The pictures: what is drawn is what was measured, and nothing covers anything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from synthetic import paper_like, returns, write_run

from rhtool.results import curves_plot, frontier_plot, plots
from rhtool.results.cells import Keys, sections
from rhtool.results.rows import read

KEYS = Keys()
FRONTIERS = (frontier_plot.frontier, frontier_plot.divergence)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("outputs")
    paper_like(root, seeds=3)
    paper_like(root, env="glucose", base=(-72.6, -117.0), unit=12.0, worst=-43.0, seeds=3)
    return root


@pytest.fixture(scope="module")
def found(outputs):
    return sections(read(outputs))


def labels(axes):
    return [text for text in axes.texts if text.get_gid() == "label"]


def test_frontier_draws_a_curve_per_divergence_through_its_cells(found):
    figure = frontier_plot.frontier(found, KEYS)
    assert len(figure.axes) == 2
    for axes, section in zip(figure.axes, found, strict=True):
        for cells in section.methods.values():
            path = np.array([[cell.proxy.value, cell.true.value] for cell in cells])
            same = [line for line in axes.lines if np.array_equal(np.column_stack(line.get_data()), path)]
            assert len(same) == 1, cells[0].label
        star = [line for line in axes.lines if line.get_marker() == "*"]
        assert np.ravel(star[0].get_data()).tolist() == [section.base["proxy"].value, section.base["true"].value]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:3] == ["kl", "chi2", "sqrt_chi2"]


@pytest.mark.parametrize("draw", FRONTIERS)
def test_no_label_covers_another_or_is_clipped(found, draw):
    figure = draw(found, KEYS)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes:
        placed = [text for text in axes.texts if text.get_gid() in ("label", "quadrant")]
        assert {text.get_text() for text in placed} >= {"base policy", "no regularisation", "0.1", "1"}
        boxes = [text.get_window_extent(renderer) for text in placed]
        for (a, first), (b, second) in itertools.combinations(zip(boxes, placed, strict=True), 2):
            # Two pixels: the blank margin of a text's own box.
            meet = min(a.x1, b.x1) - max(a.x0, b.x0) > 2 and min(a.y1, b.y1) - max(a.y0, b.y0) > 2
            assert not meet, (first.get_text(), second.get_text())
        frame = axes.get_window_extent(renderer)
        assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)
    inside = figure.bbox
    texts = [t for axes in figure.axes for t in (axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label)]
    for box in [t.get_window_extent(renderer) for t in texts if t.get_text()] + [
        legend.get_window_extent(renderer) for legend in figure.legends
    ]:
        assert inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1


def test_a_far_outlier_does_not_flatten_the_rest(found):
    figure = frontier_plot.frontier(found, KEYS)
    glucose = figure.axes[[section.env for section in found].index("glucose")]
    section = next(section for section in found if section.env == "glucose")
    transform = glucose.transData.transform
    heights = [transform((cell.proxy.value, cell.true.value))[1] for cell in section.cells if cell.coeff >= 0.1]
    assert np.ptp(heights) > 0.1 * glucose.get_window_extent().height
    assert "asinh" in glucose.get_ylabel()  # and says so
    assert all(np.diff(glucose.get_yticks()) > 0)


def test_curves_show_the_chosen_cells_and_the_unregularised_behind_them(found, outputs):
    figure = curves_plot.curves(found, KEYS, outputs)
    assert len(figure.axes) == 2 * sum(len(section.chosen()) for section in found)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert any(title.startswith("sqrt_chi2\ncoeff ") and title.endswith("n = 3") for title in titles)
    best = next(cell for cell in found[-1].cells if cell.best and cell.divergence == "sqrt_chi2")
    steps, values, _ = curves_plot.learning(best, KEYS, outputs)
    median = np.median(values["true"], axis=0)
    drawn = [line for axes in figure.axes for line in axes.lines if len(line.get_ydata()) == len(steps)]
    assert any(np.array_equal(line.get_ydata(), median) for line in drawn)


def test_learning_keeps_to_steps_that_all_seeds_have(tmp_path):
    for seed, n in enumerate((10, 6, 8)):
        write_run(tmp_path, seed=seed, metrics=returns(1, 2), curve=(n, 5, 6))
    write_run(tmp_path, seed=3, status=None, curve=(2, 5, 6))
    ((cell,),) = [section.cells for section in sections(read(tmp_path))]
    steps, values, unfinished = curves_plot.learning(cell, KEYS, tmp_path)
    assert steps.tolist() == [3000.0 * i for i in range(1, 7)]
    assert values["true"].shape == (3, 6) and unfinished == 0


def test_mid_sweep_there_are_curves_but_no_frontier_yet(tmp_path):
    write_run(tmp_path, status=None, curve=(5, 1, 2))
    found = sections(read(tmp_path))
    assert frontier_plot.frontier(found, KEYS) is None and frontier_plot.divergence(found, KEYS) is None
    figure = curves_plot.curves(found, KEYS, tmp_path)
    assert "n = 1, unfinished" in figure.axes[0].get_title(loc="left")


def test_long_titles_and_large_returns_stay_inside_the_curves(tmp_path):
    tuned = {"task.batch": "40000", "task.iterations": "60", "task.kl_target": "0.005", "task.vf_clip": "1e4"}
    for coeff, true in ((0.0, -533000.0), (0.2, -81000.0)):
        run = {"divergence": "sqrt_chi2" if coeff else "none", "coeff": coeff, "tuned": tuned}
        write_run(tmp_path, metrics=returns(true, -40, (-54000.0, -88.0)), curve=(9, true, -40), **run)
    figure = curves_plot.curves(sections(read(tmp_path)), KEYS, tmp_path)
    figure.canvas.draw()
    (title,) = [text for text in figure.texts if text.get_text().startswith("tomato")]
    names = [axes.yaxis.label for axes in figure.axes if axes.yaxis.label.get_text()]
    assert len(names) == 2
    for text in (title, *names):
        box = text.get_window_extent()
        assert box.x0 > 0 and box.x1 < figure.bbox.x1, text.get_text()


def test_a_method_is_drawn_as_a_variant_only_for_what_the_others_lack(tmp_path):
    for divergence, tuned in (("kl", {}), ("sqrt_chi2", {"task.lr": "0.1"})):
        common = {"task.iterations": "5"}
        write_run(tmp_path, divergence=divergence, tuned=common | tuned, metrics=returns(6, 7, (5.0, 5.0)))
    figure = frontier_plot.frontier(sections(read(tmp_path)), KEYS)
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.texts]
    faces = dict(zip(names, (handle.get_markerfacecolor() for handle in legend.legend_handles), strict=True))
    assert faces["kl"] == plots.colour("kl") and faces["sqrt_chi2, task.lr=0.1"] == "white"


@pytest.mark.parametrize(("length", "said"), [(5760.0, True), (3300.0, False)])
def test_sums_over_different_lengths_are_said_to_be_such(tmp_path, length, said):
    lengths = {"episode/length": length, "base/episode/length": 3213.0}
    write_run(tmp_path, metrics=returns(-81_000, -40, (-54_000, -88)) | lengths)
    for draw in FRONTIERS:
        (axes,) = draw(sections(read(tmp_path)), KEYS).axes
        assert ("sums over 3,213 to 5,760 steps" in axes.get_xlabel()) == said


@pytest.mark.parametrize("values", [[3.0, 3.0, 3.0], [0.0, 0.0, 0.0], [1e-9, 2e-9, 1e9]])
def test_ties_and_extremes_can_be_drawn(tmp_path, values):
    for seed, value in enumerate(values):
        write_run(tmp_path / "o", seed=seed, metrics=returns(value, value, (3.0, 3.0)), curve=(4, value, value))
    found = sections(read(tmp_path / "o"))
    for figure in (*(draw(found, KEYS) for draw in FRONTIERS), curves_plot.curves(found, KEYS, tmp_path / "o")):
        plots.save(figure, tmp_path / "picture.png")
        assert (tmp_path / "picture.png").stat().st_size > 5000


def test_divergences_have_distinct_colours():
    names = [*plots.DIVERGENCES]
    assert len({plots.colour(name) for name in names}) == len(names)
    assert plots.colour("renyi") == plots.colour("renyi")


@pytest.mark.parametrize("side", ["right", "above", "below", "all but left", "far right"])
def test_a_quadrants_name_is_in_its_quadrant_however_narrow(tmp_path, side):
    base = {"right": (5.0, 9.95), "above": (9.98, 5.0), "below": (0.02, 5.0)}.get(side, (5.0, 10.0))
    far = -3000.0 if side == "far right" else 0.0  # on an asinh scale
    for seed, (true, proxy) in enumerate([(0.0, far), (3.0, 4.0), (10.0, 9.9 if base[1] > 9 else 10.0)]):
        for coeff in (0.1, 0.2):
            write_run(tmp_path, coeff=coeff, seed=seed, metrics=returns(true, proxy + coeff / 10, base))
    figure = frontier_plot.frontier(sections(read(tmp_path)), KEYS)
    figure.canvas.draw()
    (axes,) = figure.axes
    x, y = axes.transData.transform(base[::-1])
    boxes = {t.get_text(): t.get_window_extent() for t in axes.texts if t.get_gid() == "quadrant"}
    assert boxes["improved"].x0 > x + 2 and boxes["reward hacking"].x0 > x + 2
    assert boxes["improved"].y0 > y + 2 and boxes["reward hacking"].y1 < y - 2
    seeds = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) == 3]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for line in seeds:  # nothing was lost by it
        assert left < min(line.get_xdata()) and max(line.get_xdata()) < right
        assert bottom < min(line.get_ydata()) and max(line.get_ydata()) < top
    assert len(seeds) == 2


def test_seeds_can_be_seen_on_paper(found):
    from matplotlib.colors import to_rgb

    figure = frontier_plot.frontier(found, KEYS)
    (dots,) = [h for h in figure.legends[0].legend_handles if h.get_linestyle() == "None" and h.get_marker() == "o"]
    for line in figure.axes[0].lines:
        if line.get_linestyle() == "None" and line.get_marker() == "o" and line.get_alpha():
            on_white = 1 - line.get_alpha() * (1 - np.array(to_rgb(line.get_color())))
            assert line.get_markersize() >= 3 and on_white.mean() < 0.75  # of 1, white
            assert (line.get_markersize(), line.get_alpha()) == (dots.get_markersize(), dots.get_alpha())


@pytest.mark.parametrize(("seeds", "name"), [(3, "range"), (5, "95 % CI"), (2, None)])
def test_the_legend_says_what_the_intervals_are(tmp_path, seeds, name):
    for seed in range(seeds):
        write_run(tmp_path, seed=seed, metrics=returns(seed, seed))
    figure = frontier_plot.frontier(sections(read(tmp_path)), KEYS)
    names = {text.get_text() for text in figure.legends[0].get_texts()}
    assert names & {"range", "95 % CI", "95 % interval"} == ({name} if name else set())
