"""The mathematics of PPO over columns: advantages and loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numba import njit
from torch import Tensor

from rhtool.divergences import Divergence
from rhtool.rl.distributions import ActionDistribution
from rhtool.rl.runner import Rollout


def advantages(
    rewards: Tensor,
    values: Tensor,
    last_values: Tensor,
    final_values: Tensor,
    rollout: Rollout,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and value targets, both (T, B) float32.

    A_t = sum_k (gamma lam)^k delta_{t+k} within the episode, delta_t = r_t + gamma V(s_{t+1}) - V(s_t), where V(s_{t+1}) is 0 after a
    termination and the value of the observation in which the episode was cut after a truncation (Schulman et al. 2016, eq. 16).

    Args:
        rewards: (T, B), the divergence already charged.
        values: (T, B), V(s_t).
        last_values: (B,), value of the observation after the last step.
        final_values: (K,), values of `rollout.final_obs`.
    """
    following = torch.cat([values[1:], last_values[None]])
    following[rollout.truncated] = final_values
    following[rollout.terminated] = 0.0
    result = rewards + gamma * following - values
    keep = gamma * lam * (~(rollout.terminated | rollout.truncated)).to(result.dtype)
    _add_later(result.numpy(), keep.numpy())
    return result, result + values


@njit(cache=True)
def _add_later(x, keep):
    """x[t] += keep[t] x[t + 1], from the end on; both (T, B)."""
    for t in range(len(x) - 2, -1, -1):
        for b in range(x.shape[1]):
            x[t, b] += keep[t, b] * x[t + 1, b]


@dataclass
class Loss:
    """PPO's loss of a minibatch, the form of RLlib 2.7 that the paper trains with.

    L = mean( -min(A rho, A clip(rho, 1 - clip, 1 + clip)) + vf_coeff min((V - target)^2, vf_clip) - entropy H )
        + kl_coeff mean KL(old || new) + action_coeff mean D(new(.|s) || base(.|s)),

    rho = new(a|s) / old(a|s). The last term regularises action distributions (`divergence.over = action`); its D is a closed form.
    """

    distribution: ActionDistribution
    clip: float
    vf_coeff: float
    vf_clip: float | None
    divergence: Divergence | None = None
    """the D of the last term"""

    def __call__(
        self,
        inputs: Tensor,
        values: Tensor,
        batch: dict[str, Tensor],
        entropy: float,
        kl_coeff: float,
        action_coeff: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts, each a scalar.

        Args:
            inputs: (M, inputs), of the new action distribution.
            values: (M,), V(s).
            batch: columns `actions`, `dist_inputs`, `log_prob` (old), `advantages`, `targets`; `base_inputs` if `action_coeff` is not 0.
        """
        log_prob = self.distribution.log_prob(inputs, batch["actions"])
        ratio, advantage = (log_prob - batch["log_prob"]).exp(), batch["advantages"]
        surrogate = torch.min(advantage * ratio, advantage * ratio.clamp(1 - self.clip, 1 + self.clip)).mean()
        error = (values - batch["targets"]).square()
        value_loss = (error if self.vf_clip is None else error.clamp(max=self.vf_clip)).mean()
        new, old = self.distribution(inputs), self.distribution(batch["dist_inputs"])
        kl, bonus = torch.distributions.kl_divergence(old, new).mean(), new.entropy().mean()
        loss = -surrogate + self.vf_coeff * value_loss - entropy * bonus
        if kl_coeff:
            loss = loss + kl_coeff * kl
        parts = {
            "ppo/policy_loss": -surrogate,
            "ppo/value_loss": value_loss,
            "ppo/entropy": bonus,
            "ppo/kl": kl,
            "ppo/clipfrac": ((ratio - 1).abs() > self.clip).float().mean(),
        }
        if action_coeff:
            spent = self.divergence.between(new, self.distribution(batch["base_inputs"])).mean()
            loss = loss + action_coeff * spent
            parts["penalty/action"] = action_coeff * spent
        return loss, parts
