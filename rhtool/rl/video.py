"""Episodes of a policy as GIFs, of every environment that can be drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from rhtool.envs.base import Env
from rhtool.errors import RhtoolError
from rhtool.rl.policy import Policy

FRAMES = 250
"""of an episode, at most: a longer one shows every second step, or third, ..."""
BAR = 16
"""pixels of the line under a picture"""


def drawable(env: Env) -> bool:
    """Whether an environment has pictures as arrays."""
    probe = env.make_vec(1)
    modes = probe.render_modes
    probe.close()
    return "rgb_array" in modes


def record(env: Env, policy: Policy, episodes: int, seed: int, directory: Path, explore: bool = True) -> list[Path]:
    """Write `episode_0.gif`, … of so many episodes: a picture of the state after each step, the step and both rewards so far
    under it. Actions are sampled, or the likeliest. Raises `RhtoolError` for an environment without pictures."""
    if not drawable(env):
        raise RhtoolError("the environment has no pictures", type(env).__name__, "leave out task.video")
    vec = env.make_vec(1, seed=seed, autoreset_mode="Disabled", render_mode="rgb_array")
    generator, every = torch.Generator().manual_seed(seed), -(-env.horizon // FRAMES)
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    try:
        for episode in range(episodes):
            obs, _ = vec.reset()
            frames, totals, step, done = [_frame(vec.render()[0], 0, 0.0, 0.0)], np.zeros(2), 0, False
            while not done:
                inputs = policy.dist_inputs(torch.as_tensor(obs, dtype=torch.float32).flatten(1))
                kind = policy.distribution
                action = kind.sample(inputs, generator) if explore else kind.mode(inputs)
                obs, _, terminated, truncated, info = vec.step(action.numpy())
                totals += info["proxy_reward"][0], info["true_reward"][0]
                step, done = step + 1, bool(terminated[0] | truncated[0])
                if done or step % every == 0:
                    frames.append(_frame(vec.render()[0], step, *totals))
            path = directory / f"episode_{episode}.gif"
            frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, loop=0)
            written.append(path)
    finally:
        vec.close()
    return written


def _frame(picture: np.ndarray, step: int, proxy: float, true: float) -> Image.Image:
    height, width, _ = picture.shape
    image = Image.new("RGB", (max(width, 190), height + BAR), "white")
    image.paste(Image.fromarray(picture), (0, 0))
    ImageDraw.Draw(image).text((3, height + 2), f"{step}  proxy {proxy:.5g}  true {true:.5g}", fill=(34, 34, 34))
    return image.quantize(64)
