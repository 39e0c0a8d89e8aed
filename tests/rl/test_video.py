"""Episodes as GIFs: of every environment, as many frames as there were steps."""

import numpy as np
import pytest

from rhtool.config import compose
from rhtool.rl.policy import Policy
from rhtool.rl.video import FRAMES, record
from tests.envs.conftest import parameters

Image = pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("name", [pytest.param(p.id, id=p.id, marks=p.marks) for p in parameters()])
def test_every_environment_is_drawn(name, tmp_path):
    env = compose(f"env={name}").env
    env.horizon = 6
    (path,) = record(env, Policy.load_for(env, env.base_policy_path()), 1, 0, tmp_path)
    with Image.open(path) as gif:
        assert gif.n_frames <= 7 and (gif.info["duration"] > 0)
        first = np.asarray(gif.convert("RGB"))
    assert first.std() > 5  # a picture, not a blank


def test_a_long_episode_skips_frames_and_the_command_writes_what_it_is_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    words = ["task=evaluate", "env=maze", "env.horizon=600", "scale=smoke", "task.episodes=2", "task.video=2"]
    compose(*words, "task.rollouts=false", "dir=run").execute()
    assert sorted(p.name for p in (tmp_path / "run" / "video").iterdir()) == ["episode_0.gif", "episode_1.gif"]
    assert not (tmp_path / "run" / "rollouts.parquet").exists()
    with Image.open(tmp_path / "run" / "video" / "episode_0.gif") as gif:
        assert 1 < gif.n_frames <= FRAMES
