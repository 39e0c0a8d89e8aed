"""What the tests of vision share: transitions of random images, and a network with a planted reward."""

import numpy as np
import torch

from rhtool.interpret.nets import CnnReward
from rhtool.interpret.transitions import Transitions


def transitions(obs, actions=None, next_obs=None, **rest):
    """Of arrays (N, …); episodes of ten steps."""
    n = len(obs)
    actions = np.zeros(n, np.int64) if actions is None else actions
    fields = {"terminated": np.zeros(n, bool), "episode": np.arange(n) // 10, "step": np.arange(n) % 10} | rest
    return Transitions(obs, actions, obs if next_obs is None else next_obs, **fields)


def images(n, size=16, seed=0, channels=3):
    """uint8 (N, size, size, channels): noise of several scales, so that regions differ in colour."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(size=(n, 4, 4, channels)).repeat(size // 4, 1).repeat(size // 4, 2)
    return np.uint8(255 * np.clip(coarse + 0.15 * rng.normal(size=(n, size, size, channels)), 0, 1))


class Planted(CnnReward):
    """Red in the upper left quarter of s' pays, green in the lower half costs: mean red - mean green, per action times 1, 0.5, …"""

    def __init__(self, size=32, actions=3):
        super().__init__((size, size, 3), {"n": actions}, ("obs", "action", "next_obs"), hidden=())
        half = size // 2
        weight = torch.zeros(6, size, size)
        weight[3, :half, :half] = 1 / half**2
        weight[4, half:] = -1 / (half * size)
        self.cnn = torch.nn.Sequential()
        self.cnn.add_module("flatten", torch.nn.Flatten())
        self.cnn.add_module("dense_final", torch.nn.Linear(weight.numel(), actions, bias=False))
        with torch.no_grad():
            self.cnn.dense_final.weight.copy_(0.5 ** torch.arange(actions)[:, None] * weight.flatten())
