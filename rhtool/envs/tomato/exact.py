"""The tomato environment as tables, enumerated by the very kernel that is sampled from.

On level 4 variant `orpo` has 11,180 states, since the order of watering decides which tomatoes skip drying, behind
1,280 observations; variant `corrected` has 924 of both.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.sparse import csr_array, eye_array, kron

from rhtool.envs.tabular import TabularMDP
from rhtool.envs.tomato import Tomato
from rhtool.envs.tomato.env import TomatoVectorEnv
from rhtool.errors import RhtoolError


def tabulate(config: Tomato, limit: int = 1_000_000) -> TabularMDP:
    """The states that can be reached from the start, found breadth first; state 0 is the start.

    `randomness_eps` mixes dynamics and expected rewards: (1 - eps) of the action's own, eps of the mean over all
    actions. Raises `RhtoolError` for a board with more than `limit` states.
    """
    certain = replace(config, randomness_eps=None)
    env = TomatoVectorEnv(certain, 1)
    observations = [env.reset()[0]]
    layer = {name: getattr(env, name) for name in env.state_names}
    number = {key: 0 for key in _keys(layer)}
    actions = int(env.single_action_space.n)
    after, proxy, true = [], [], []
    while count := len(layer["cell"]):
        env = TomatoVectorEnv(certain, count)
        place = env.get_state() | layer
        fresh = {name: [] for name in layer}
        for action in range(actions):
            env.set_state(place)
            seen, _, terminated, _, info = env.step(np.full(count, action))
            reached = {name: getattr(env, name) for name in layer}
            to, new = np.full(count, -1), []
            for lane, key in enumerate(_keys(reached)):
                if not terminated[lane]:
                    if key not in number:
                        number[key] = len(number)
                        new.append(lane)
                    to[lane] = number[key]
            after.append(to)
            proxy.append(info["proxy_reward"])
            true.append(info["true_reward"])
            observations.append(seen[new])
            for name, value in reached.items():
                fresh[name].append(value[new])
        if len(number) > limit:
            raise RhtoolError(f"the board has more than {limit:,} states", "Tomato.tabular", "use variant=corrected")
        layer = {name: np.concatenate(parts) for name, parts in fresh.items()}
    after, proxy, true = (_by_state(column, actions) for column in (after, proxy, true))
    size = len(after)
    rows = np.flatnonzero(after.ravel() >= 0)
    transitions = csr_array((np.ones(len(rows)), (rows, after.ravel()[rows])), shape=(size * actions, size))
    if eps := config.randomness_eps:
        mix = (1 - eps) * np.eye(actions) + eps / actions
        # A learned proxy is a function of the agent's action, not of the one in its place.
        proxy, true = proxy if config.reward_model else proxy @ mix, true @ mix
        transitions = csr_array(kron(eye_array(size), mix, format="csr") @ transitions)
    start = np.zeros(size)
    start[0] = 1.0
    seen = np.concatenate(observations)
    # Both rewards are of the state that is reached.
    cells, tomatoes = len(env.board.cells), env.board.tomatoes
    arrival = {"true": config.reward_factor * seen[:, cells : cells + tomatoes].sum(axis=1, dtype=np.float64)}
    if not config.reward_model:
        on_bucket = seen[:, env.board.bucket] > 0 if env.board.bucket >= 0 else np.zeros(size, bool)
        arrival["proxy"] = np.where(on_bucket, config.reward_factor * cells, arrival["true"])
    return TabularMDP(seen, transitions, proxy, true, start, config.horizon, arrival)


def _by_state(columns: list[np.ndarray], actions: int) -> np.ndarray:
    """(S, A) from the columns of each layer in turn, one for each action."""
    return np.concatenate([np.stack(columns[i : i + actions], axis=1) for i in range(0, len(columns), actions)])


def _keys(states: dict[str, np.ndarray]) -> list[bytes]:
    """A hashable key of each state."""
    rows = [np.ascontiguousarray(a).reshape(len(a), -1).view(np.uint8) for a in states.values() if a.size]
    return [row.tobytes() for row in np.concatenate(rows, axis=1)]
