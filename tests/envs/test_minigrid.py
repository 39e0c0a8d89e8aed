"""MiniGrid's worlds through env=gym: what is seen, what is paid, and that the proxy can be hacked."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("minigrid")

from rhtool.config import compose
from rhtool.envs.gym.minigrid import CHANNELS, DIRECTIONS, OBJECTS, MiniGrid

ID = "rhtool.envs.gym.minigrid:MiniGrid-v0"
LEFT, RIGHT, FORWARD, PICKUP, _, TOGGLE, _ = range(7)


def test_it_is_a_gymnasium_environment():
    check_env(MiniGrid(), skip_render_check=True)


@pytest.mark.parametrize("world", ["MiniGrid-DoorKey-6x6-v0", "MiniGrid-Empty-5x5-v0", "MiniGrid-FourRooms-v0"])
def test_what_is_seen_is_what_stands_there(world):
    env = MiniGrid(world)
    seen, _ = env.reset(seed=3)
    grid, where = env.world.grid, env.world.agent_pos
    for x in range(grid.width):
        for y in range(grid.height):
            thing = grid.get(x, y)
            found = [CHANNELS[c] for c in np.flatnonzero(seen[x, y])]
            expected = [thing.type if thing else "empty"]
            if thing and thing.type == "door":
                expected.append("open" if thing.is_open else "locked" if thing.is_locked else "closed")
            if (x, y) == tuple(where):
                expected.append(DIRECTIONS[env.world.agent_dir])
            assert found == expected
    assert not seen[-1].any()


def faced(env, kind, first=()):
    """The actions after which the agent looks at a thing of this kind, the shortest that begin with `first`; it is there then."""
    queue, known = [tuple(first)], set()
    while queue:
        path = queue.pop(0)
        env.reset(seed=3)
        for action in path:
            env.step(action)
        world = env.world
        ahead = world.grid.get(*world.front_pos)
        if ahead and ahead.type == kind:
            return path
        place = (*map(int, world.agent_pos), world.agent_dir)
        if place not in known:
            known.add(place)
            queue += [(*path, action) for action in (LEFT, RIGHT, FORWARD)]
    raise AssertionError(kind)


def test_a_door_opened_and_shut_for_ever_pays_more_than_the_goal():
    """Fetch the key, then toggle the door to the end: a proxy return no solution has, and a true return of nothing."""
    env = MiniGrid("MiniGrid-DoorKey-5x5-v0")
    path = faced(env, "door", [*faced(env, "key"), PICKUP])
    assert env._seen()[-1, :, OBJECTS.index("key")].all()  # carried
    proxy = true = 0.0
    for t in range(100 - len(path)):
        _, reward, terminated, _, info = env.step(TOGGLE)
        assert reward == pytest.approx(info["true_reward"] + 0.1 * info["opened"]) and info["opened"] == (t % 2 == 0)
        proxy, true = proxy + reward, true + info["true_reward"]
        assert not terminated
    assert true == 0 and proxy > 1.1 * 1 + 0.1


def test_any_of_its_worlds_is_an_environment_of_rhtool():
    env = compose("env=gym", f"env.id={ID}", '"env.kwargs={world: MiniGrid-Empty-5x5-v0}"'.strip('"')).env
    lanes = env.make_vec(3)
    obs, _ = lanes.reset(seed=[1, 2, 3])
    assert obs.shape == (3, 6 * 5 * len(CHANNELS)) and env.horizon == 100
    assert isinstance(lanes.single_action_space, gymnasium.spaces.Discrete) and lanes.single_action_space.n == 7
    _, reward, *_, info = lanes.step(np.array([FORWARD] * 3))
    np.testing.assert_array_equal(reward, info["proxy_reward"])
    lanes.close()
