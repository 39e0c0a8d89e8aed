"""What the discriminators of one run see, and their scores in this process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rhtool.rl.distributions import ActionDistribution
from rhtool.rl.modules import DiscriminatorModule
from rhtool.rl.policy import Interface
from rhtool.rl.runner import Rollout


class Features:
    """Features of a transition: what is shown of the observation, and the encoded action unless `over` is "state".

    Args:
        over: "state_action" or "state".
        distribution: encodes the actions.
        interface: of the env; observations are normalised as networks see them.
        shown: "all" of an observation, or the columns that describe its "latest" state.
    """

    def __init__(self, over: str, distribution: ActionDistribution, interface: Interface, shown: str = "all"):
        self.over, self.distribution = over, distribution
        self.columns = torch.as_tensor(interface.latest) if shown == "latest" else torch.arange(interface.offset.size)
        self.offset, self.scale = (torch.as_tensor(x)[self.columns] for x in (interface.offset, interface.scale))
        self.everything = len(self.columns) == interface.offset.size
        self.size = len(self.columns) + (distribution.encoded if over == "state_action" else 0)

    def __call__(self, rollout: Rollout) -> Tensor:
        """(T * B, size) float32."""
        return self.join(rollout.flat(rollout.obs), rollout.flat(rollout.actions))

    def join(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Features (N, size) of observations (N, D) and actions (N, …)."""
        seen = obs if self.everything else obs[:, self.columns]
        seen = (seen - self.offset) * self.scale
        return torch.cat([seen, self.distribution.encode(actions)], -1) if self.over == "state_action" else seen


class Scores:
    """A copy of a discriminator in this process, for scoring rollouts."""

    def __init__(self, spaces: tuple[Any, Any], features: int, hidden: list[int]):
        config = {"inputs": features, "hidden": hidden}
        self.module = DiscriminatorModule(
            observation_space=spaces[0], action_space=spaces[1], model_config=config
        ).eval()

    def to(self, device: torch.device) -> Scores:
        """Itself, computing on this device from now on."""
        self.module.to(device)
        return self

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """d = log(mu_pi / mu_base), estimated, (N,) float32, for features (N, F); both on the CPU."""
        device = next(self.module.parameters()).device
        return torch.cat([self.module.score(part.to(device)).cpu() for part in inputs.split(65_536)])


def pairs(current: Tensor, base: Tensor) -> dict[str, Tensor]:
    """The columns on which a discriminator trains: features of both policies, and which row is the current policy's."""
    flags = torch.zeros(len(current) + len(base), dtype=torch.bool)
    flags[: len(current)] = True
    return {"inputs": torch.cat([current, base]), "current": flags}
