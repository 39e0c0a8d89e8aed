"""Action distributions: from a network's outputs to actions, their log-probabilities and their encoding.

Sampling takes an explicit `torch.Generator`, whose state a checkpoint can carry; `torch.distributions` objects are the common currency
with `rhtool.divergences`.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch import distributions as td
from torch.nn import functional as F

from rhtool.errors import ConfigError


class Categorical:
    """Discrete actions from logits.

    Shapes: inputs (…, n) float32, actions (…,) int64, encoded actions (…, n) float32 one-hot.
    """

    def __init__(self, space: gym.spaces.Discrete):
        self.inputs = self.encoded = int(space.n)
        self.action_shape, self.dtype = (), torch.int64

    def __call__(self, inputs: Tensor) -> td.Categorical:
        """The distribution with batch shape (…,)."""
        return td.Categorical(logits=inputs, validate_args=False)

    def sample(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """One action per row of `inputs` (B, n)."""
        return torch.multinomial(torch.softmax(inputs, -1), 1, replacement=True, generator=generator).squeeze(-1)

    def mode(self, inputs: Tensor) -> Tensor:
        """The likeliest action."""
        return inputs.argmax(-1)

    def log_prob(self, inputs: Tensor, actions: Tensor) -> Tensor:
        """Log-probability (…,) of each action."""
        return torch.log_softmax(inputs, -1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def encode(self, actions: Tensor) -> Tensor:
        """What the discriminator sees of an action: its one-hot."""
        return F.one_hot(actions, self.encoded).float()


class _Box:
    """What the continuous distributions share: d dimensions between `low` and `high`; actions (…, d) float32 in env units."""

    def __init__(self, space: gym.spaces.Box):
        self.low = torch.as_tensor(np.ravel(space.low), dtype=torch.float32)
        self.high = torch.as_tensor(np.ravel(space.high), dtype=torch.float32)
        self.inputs, self.encoded = 2 * self.low.numel(), self.low.numel()
        self.action_shape, self.dtype = space.shape, torch.float32

    def encode(self, actions: Tensor) -> Tensor:
        """What the discriminator sees of an action: the action, in env units."""
        return actions.flatten(-max(len(self.action_shape), 1))


class Beta(_Box):
    """Bounded actions x = low + (high - low) y with y ~ Beta(softplus(z1) + 1, softplus(z2) + 1), independent dimensions.

    Densities are those of y, a constant factor away from those of x; y is kept `margin` away from 0 and 1 in `log_prob`.
    Source: cassidylaidlaw/orpo, `UnclampedBeta` (glucose keeps a hundredth of the range away, traffic a third of one).
    """

    def __init__(self, space: gym.spaces.Box, margin: float = 0.01):
        super().__init__(space)
        self.margin = margin

    def __call__(self, inputs: Tensor) -> td.Independent:
        """The distribution of y on the unit interval, batch shape (…,), event shape (d,)."""
        alpha, beta = (F.softplus(inputs) + 1).chunk(2, -1)
        return td.Independent(td.Beta(alpha, beta, validate_args=False), 1, validate_args=False)

    def sample(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """One action per row of `inputs` (B, 2d)."""
        gammas = torch._standard_gamma(F.softplus(inputs) + 1, generator=generator)
        first, second = gammas.chunk(2, -1)
        return self._to_env(first / (first + second))

    def mode(self, inputs: Tensor) -> Tensor:
        """The mean action, which the paper executes when it does not explore."""
        return self._to_env(self(inputs).mean)

    def log_prob(self, inputs: Tensor, actions: Tensor) -> Tensor:
        """Log-density (…,) of y at each action."""
        low, high = self.low.to(actions.device), self.high.to(actions.device)
        y = (self.encode(actions) - low) / (high - low)
        return self(inputs).log_prob(y.clamp(self.margin, 1 - self.margin))

    def _to_env(self, y: Tensor) -> Tensor:
        # float32 can round above `high`, where the env would refuse the action.
        x = (self.low + (self.high - self.low) * y).clamp(self.low, self.high)
        return x.unflatten(-1, self.action_shape or (1,))


class Gaussian(_Box):
    """Unbounded actions from mean and log standard deviation, independent dimensions."""

    def __call__(self, inputs: Tensor) -> td.Independent:
        """The distribution, batch shape (…,), event shape (d,)."""
        mean, log_std = inputs.chunk(2, -1)
        return td.Independent(td.Normal(mean, log_std.exp(), validate_args=False), 1, validate_args=False)

    def sample(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """One action per row of `inputs` (B, 2d)."""
        mean, log_std = inputs.chunk(2, -1)
        noise = torch.randn(mean.shape, generator=generator)
        return (mean + log_std.exp() * noise).unflatten(-1, self.action_shape or (1,))

    def mode(self, inputs: Tensor) -> Tensor:
        """The mean action."""
        return inputs.chunk(2, -1)[0].unflatten(-1, self.action_shape or (1,))

    def log_prob(self, inputs: Tensor, actions: Tensor) -> Tensor:
        """Log-density (…,) of each action."""
        return self(inputs).log_prob(self.encode(actions))


ActionDistribution = Categorical | Beta | Gaussian


def action_distribution(space: gym.Space, margin: float = 0.01) -> ActionDistribution:
    """Categorical for `Discrete`, Beta with its `margin` for a bounded `Box`, Gaussian for an unbounded one.

    Raises:
        ConfigError: for any other space.
    """
    if isinstance(space, gym.spaces.Discrete) and space.start == 0:
        return Categorical(space)
    if isinstance(space, gym.spaces.Box):
        if space.is_bounded():
            return Beta(space, margin)
        if not (np.isfinite(space.low).any() or np.isfinite(space.high).any()):
            return Gaussian(space)
        raise ConfigError(
            f"{space} is bounded on some sides only",
            "env",
            "bound it on all (gymnasium.wrappers.RescaleAction) or on none",
        )
    raise ConfigError(f"no action distribution for {space}", "env", "use a Discrete or Box action space")
