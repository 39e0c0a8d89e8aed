"""The methods of vision as runs: what they write, and what they refuse before they start."""

import json
import re

import matplotlib.image
import numpy as np
import pytest

from rhtool.config import compose
from rhtool.errors import ConfigError
from rhtool.interpret.nets import CnnReward, MlpReward
from rhtool.interpret.networks import short

COMMON = ("task=interpret", "task.policies=[random]", "task.episodes=4", "method.transitions=120")
IMAGES = (*COMMON, "env=dots", "env.horizon=12")
METHODS = {
    "feature_visualisation": ("method.steps=4", "method.noise=1"),
    "examples": ("method.layer=act0", "method.factors=2", "method.side=2"),
    "attribution": (
        "method.explained=6",
        "method.shown=2",
        "method.steps=2",
        "method.permutations=2",
        "method.patch=16",
    ),
    "probe": (),
    "generator": ("method.steps=2", "method.batch=4", "method.width=4"),
}


@pytest.fixture
def rewards(tmp_path, monkeypatch):
    """Untrained networks in `a` and `b`, of pictures, and `v`, of tomato's vectors."""
    monkeypatch.chdir(tmp_path)
    net = CnnReward((32, 32, 3), {"n": 4}, ["obs", "action", "next_obs"], hidden=(4, 4), stride=2)
    for i, name in enumerate("ab"):
        net.fresh(i).save(tmp_path / name / "reward_model")
    space = compose("env=tomato").env.make_vec(1).single_observation_space
    for i, name in enumerate("vw"):
        MlpReward(space.shape, {"n": 4}, hidden=(8,)).fresh(i).save(tmp_path / name)
    return tmp_path


def run(*words):
    return compose(*words, "dir=out").execute()["metrics"]


@pytest.mark.parametrize("name", METHODS)
def test_a_run_writes_a_report_with_its_figures_and_tables(name, rewards):
    pytest.importorskip("sklearn")
    metrics = run(*IMAGES, f"method={name}", "task.rewards=[a,true]", *METHODS[name])
    page = (rewards / "out" / "report.html").read_text()
    figures = {f.stem for f in (rewards / "out" / "figures").glob("*.png")}
    assert figures and page.count("<img ") == len({f for f in figures if not f.endswith("obs")}) >= 1
    assert 'src="http' not in page and list((rewards / "out" / "tables").glob("*.csv"))
    assert all(np.isfinite(v) for v in metrics.values() if v is not None) and len(metrics) > 1


@pytest.mark.parametrize("name", ["attribution", "probe"])
def test_vectors_too(name, rewards):
    words = (*COMMON, "env=tomato", f"method={name}", "task.rewards=[v,w]")
    metrics = run(*words, *(METHODS[name][:1]))
    page = (rewards / "out" / "report.html").read_text()
    assert len(metrics) > 1 and ("of its attributions" in page) == (name == "attribution")
    if name == "attribution":
        table = (rewards / "out" / "tables" / "compared.csv").read_text().splitlines()
        assert table[0] == "feature,v,w,difference"


@pytest.mark.parametrize("init", ["pixel", "dataset", "images", "gan"])
def test_every_beginning_of_a_visualisation(init, rewards):
    for case in ("one", "two"):
        for part in ("obs", "next_obs"):
            (rewards / "drawn" / case).mkdir(parents=True, exist_ok=True)
            matplotlib.image.imsave(
                rewards / "drawn" / case / f"{part}.png", np.random.default_rng(0).random((32, 32, 3))
            )
    extra = {"images": ["method.folder=drawn"], "gan": ["method.generator=made"]}.get(init, [])
    if init == "gan":
        compose(*IMAGES, "method=generator", "task.rewards=[a]", *METHODS["generator"], "dir=made").execute()
    metrics = run(
        *IMAGES, "method=feature_visualisation", f"method.init={init}", "task.rewards=[a]", "method.steps=4", *extra
    )
    assert np.isfinite(metrics["visualisation/reward"])
    images = sorted(f.name for f in (rewards / "out" / "figures").glob("*_obs.png"))
    assert len(images) == 2 * (2 if init == "images" else 4)


def test_what_one_network_pays_and_another_does_not(rewards):
    metrics = run(*IMAGES, "method=feature_visualisation", "task.rewards=[a,b]", "method.minus=b", "method.steps=30")
    assert metrics["visualisation/objective"] > 0
    page = (rewards / "out" / "report.html").read_text()
    assert re.findall("<h2>(.*?)</h2>", page) == ["a"]


def test_factors_need_not_be_as_many_as_actions(rewards):
    pytest.importorskip("sklearn")
    words = (
        "method=feature_visualisation",
        "task.rewards=[a]",
        "method.layer=act1",
        "method.factors=3",
        "method.steps=3",
    )
    run(*IMAGES, *words)
    table = (rewards / "out" / "tables" / "rewards_a.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in table[1:4]] == ["factor 0", "factor 1", "factor 2"]
    assert table[0] == "image,action 0,action 1,action 2,action 3"


def test_the_same_seed_gives_the_same_pictures(rewards):
    words = (*IMAGES, "method=feature_visualisation", "task.rewards=[a]", "method.steps=5")
    for directory in ("one", "two"):
        compose(*words, f"dir={directory}").execute()
    for file in (rewards / "one" / "figures").glob("*.png"):
        assert file.read_bytes() == (rewards / "two" / "figures" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method=feature_visualisation", "task.rewards=[proxy,true]"), "labels=rewards"),
        (("method=feature_visualisation", "task.rewards=[a]", "method.layer=conv9"), "cnn.conv1"),
        (("method=examples", "task.rewards=[a]", "method.layer=conv9"), "cnn.conv1"),
        (("method=probe", "task.rewards=[a]", "method.layers=[conv9]"), "cnn.conv1"),
        (("method=feature_visualisation", "task.rewards=[a]", "method.init=images"), "method.folder"),
        (("method=feature_visualisation", "task.rewards=[a]", "method.minus=c"), "method.minus"),
        (("method=attribution", "task.rewards=[a]", "method.methods=[salience]"), "saliency"),
        (("method=attribution", "task.rewards=[a]", "method.steps=0"), "method.steps"),
        (("method=probe", "task.rewards=[a]", "method.held_out=1.0"), "method.held_out"),
        (("method=generator", "task.rewards=[a]", "method.steps=0"), "method.steps"),
        (("method=attribution", "task.rewards=[nowhere]"), "no reward function"),
    ],
    ids=lambda x: "" if isinstance(x, str) else "-".join(x[:1] + x[2:]),
)
def test_what_cannot_be_done_is_refused_before_anything_is_done(words, said, rewards):
    with pytest.raises(ConfigError, match=re.escape(said)):
        made = compose(*IMAGES, *words)
        made.task.check(made)


def test_a_network_of_vectors_has_no_pictures(rewards):
    made = compose(*COMMON, "env=tomato", "method=examples", "task.rewards=[v]")
    with pytest.raises(ConfigError, match="does not look at images"):
        made.task.check(made)


def test_targets_that_do_not_exist_list_the_nearest(rewards):
    with pytest.raises(ConfigError, match="distance_red"):
        run(*IMAGES, "method=probe", "task.rewards=[a]", "method.targets=[distance_rad]")


def test_names_are_as_short_as_they_differ():
    assert short(["outputs/rm_train/dots/a/seed=0", "outputs/rm_train/dots/b/seed=0"]) == {
        "outputs/rm_train/dots/a/seed=0": "a/seed=0",
        "outputs/rm_train/dots/b/seed=0": "b/seed=0",
    }
    assert short(["x/y/z"]) == {"x/y/z": "y/z"} and json.dumps(short([])) == "{}"
