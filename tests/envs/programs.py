"""Programs for the tests of `ProgramVectorEnv`, good and bad. A module without the environment, so that workers start fast."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from rhtool.errors import RhtoolError


class Drift:
    """A random walk that is pushed; its controller pushes back."""

    def __init__(self, size: int = 3, end: float = 1e9, cut: float = 1e9):
        self.size, self.end, self.cut, self.closed = size, end, cut, False

    def reset(self, seed):
        self.rng = np.random.default_rng(seed)
        self.x = self.rng.normal(size=self.size)
        self.t = 0
        return self.x

    def step(self, action):
        self.t += 1
        self.x = self.x + action + 0.1 * self.rng.normal(size=self.size)
        far = float(np.abs(self.x).max())
        return self.x, self.x[0], -far, far > self.end, self.t >= self.cut, {"far": far, "t": self.t}

    def base_action(self):
        return np.clip(-self.x, -1, 1)

    def render(self, mode):
        return f"{self.x}" if mode == "ansi" else np.full((4, 5, 3), int(self.x[0] * 10) % 256, np.uint8)

    def close(self):
        assert not self.closed
        self.closed = True


class Aimless(Drift):
    """Has no controller."""

    def base_action(self):
        return None


class Moody(Drift):
    """Draws from a generator that nobody seeds."""

    def step(self, action):
        self.x = self.x + np.random.default_rng().normal()
        return super().step(action)


class Fragile(Drift):
    """Fails when pushed hard to the right, in the way that `how` says."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how

    def step(self, action):
        if action[0] == 1:
            self.x += 7  # half of a step is done
            self.fail()
        return super().step(action)

    def fail(self):
        if self.how == "raise":
            raise ValueError("too hard")
        if self.how == "mend":
            raise RhtoolError("the gear is broken", "gear 3", "oil it")
        if self.how == "sys.exit":
            sys.exit(4)
        if self.how == "exit 3":
            os._exit(3)
        if self.how == "hang":
            time.sleep(1000)
        os.kill(os.getpid(), getattr(signal, self.how))


class Reluctant(Drift):
    """Ends when pushed hard to the right, and begins no episode while the file is there."""

    def __init__(self, file: str):
        super().__init__()
        self.file = file

    def reset(self, seed):
        if os.path.exists(self.file):
            raise ValueError("not now")
        return super().reset(seed)

    def step(self, action):
        obs, proxy, true, _, truncated, metrics = super().step(action)
        return obs, proxy, true, action[0] == 1, truncated, metrics


class Stillborn(Drift):
    """Cannot be made."""

    def __init__(self):
        raise OSError("no engine")


class Liar(Drift):
    """Returns what it should not."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how

    def step(self, action):
        obs, proxy, true, terminated, truncated, metrics = super().step(action)
        if self.how == "shape":
            return obs[:2], proxy, true, terminated, truncated, metrics
        if self.how == "five":
            return obs, proxy, true, terminated, metrics
        if self.how == "nan":
            return obs, np.nan, true, terminated, truncated, metrics
        return obs, proxy, true, terminated, truncated, {"far": 0.0}


class Witness(Drift):
    """Writes a line to a file for each call."""

    def __init__(self, file: str):
        super().__init__()
        self.file = file
        self.note("made")

    def note(self, word):
        with open(self.file, "a") as file:
            file.write(word + "\n")

    def reset(self, seed):
        self.note("reset")
        return super().reset(seed)

    def step(self, action):
        self.note("step")
        return super().step(action)

    def close(self):
        self.note("closed")
        super().close()


class Push:
    """A policy: pushes at random, and hard to the right in its steps `hard` if its generator was seeded with `seed`."""

    def __init__(self, hard: tuple[int, ...] = (), seed: int = -1):
        self.hard, self.state = hard, np.random.default_rng(seed).bit_generator.state if seed >= 0 else None
        self.steps, self.chosen = 0, None

    def __call__(self, observation, generator):
        if self.chosen is None:
            self.chosen = generator.bit_generator.state == self.state
        action = (0.5 * np.tanh(observation) + generator.uniform(-0.4, 0.4, 3)).astype(np.float32)
        if self.chosen and self.steps in self.hard:
            action[0] = 1
        self.steps += 1
        return action
