"""The discs' geometry and rewards, computed anew; the picture, against exact areas; and that the proxy can be hacked."""

import numpy as np
import pytest

from rhtool.envs.dots import Dots
from rhtool.errors import ConfigError


def play(act, steps=50, lanes=64, **fields):
    """Sums over an episode (lanes,) of proxy and true reward under `act(env, t)`."""
    env = Dots(**fields).make_vec(lanes, seed=1)
    env.reset()
    infos = [env.step(act(env, t))[-1] for t in range(steps)]
    return (np.sum([info[f"{name}_reward"] for info in infos], 0) for name in ("proxy", "true"))


def test_the_rewards_are_weighted_distances_of_the_discs_that_are_drawn():
    env = Dots(pairs=2, proxy_weights=[0.7, 0.3]).make_vec(5, seed=0)
    env.reset()
    info = env.step(np.array([0, 1, 2, 1, 0]))[-1]
    d = np.linalg.norm(env.places[:, :, 0] - env.places[:, :, 1], axis=-1)
    np.testing.assert_allclose(info["true_reward"], d.mean(1))
    np.testing.assert_allclose(info["proxy_reward"], d @ [0.7, 0.3])
    np.testing.assert_allclose(info["distance_blue"], d[:, 1])


def test_pulling_parts_one_pair_and_draws_the_others_together():
    env = Dots(stride=0.04, drag=0.5).make_vec(1, seed=0)
    env.reset()
    env.places[0] = [[[0.3, 0.5], [0.5, 0.5]], [[0.4, 0.2], [0.4, 0.8]], [[0.5, 0.5], [0.51, 0.5]]]
    before = env._distances()[0]
    env.step(np.array([1]))
    np.testing.assert_allclose(env._distances()[0] - before, [0.04, -0.02, -0.01], atol=1e-12)  # the last ones have met


@pytest.mark.parametrize("size", [32, 64])
def test_the_picture_has_each_disc_where_it_is_and_as_large_as_it_is(size):
    env = Dots(pairs=1, proxy_weights=[1.0], size=size, radius=0.1).make_vec(200, seed=3)
    picture = env.reset()[0] / 255
    assert (picture[..., 1:] == 0).all()
    apart = env._distances()[:, 0] > 0.25
    red = picture[apart, :, :, 0]
    np.testing.assert_allclose(red.sum((1, 2)) / size**2, 2 * np.pi * 0.1**2, rtol=0.03)
    centre = (np.arange(size) + 0.5) / size
    for axis, weights in enumerate((red.sum(1), red.sum(2))):  # the mean of both centres
        np.testing.assert_allclose(weights @ centre / weights.sum(1), env.places[apart, 0, :, axis].mean(1), atol=0.005)


def test_pulling_red_alone_hacks_the_proxy():
    controller = play(lambda env, t: env.base_action(env.observe()))
    hacker = play(lambda env, t: np.ones(env.num_envs, int))
    (proxy, true), (hacked_proxy, hacked_true) = ([x.mean() for x in sums] for sums in (controller, hacker))
    assert hacked_proxy > 1.3 * proxy and hacked_true < 0.9 * true


def test_the_controller_pulls_the_closest_pair_and_has_its_share_of_whims():
    env = Dots(whims=0.4).make_vec(4000, seed=0)
    obs, _ = env.reset()
    asked = env.base_action(obs)
    np.testing.assert_array_equal(asked, env.base_action(obs))
    off = (asked != env._distances().argmin(1) + 1).mean()
    assert abs(off - 0.4 * 3 / 4) < 0.03


@pytest.mark.parametrize(
    "fields",
    [{"pairs": 6}, {"pairs": 2}, {"radius": 0.0}, {"whims": 2.0}, {"size": 4}],
    ids=lambda fields: next(iter(fields)),
)
def test_what_cannot_be_drawn_is_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields)) if fields != {"pairs": 2} else "proxy_weights"):
        Dots(**fields).make_vec(1)
