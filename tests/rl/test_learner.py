"""The learner: exact restoration, one stream per module, and remote learners that take the step of one."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from rhtool.divergences import KL
from rhtool.rl.distributions import Categorical
from rhtool.rl.learner import OrpoConfig, Updater
from rhtool.rl.ppo import Loss
from tests.sockets import LOOPBACK, listening

SPACES = (gym.spaces.Box(0, 1, (6,), np.float32), gym.spaces.Discrete(3))
COEFFICIENTS = {"entropy": 0.01, "kl_coeff": 0.2, "action_coeff": 0.0}


def updater(seed=0, **options):
    config = OrpoConfig()
    config.seed_, config.divergence, config.grad_clip = seed, KL(), 1.0
    config.loss = Loss(Categorical(SPACES[1]), clip=0.2, vf_coeff=0.5, vf_clip=None)
    return Updater(SPACES, {"hidden": [16], "share_value": False}, config, 1, 9, [16], **options)


def columns(rows=96):
    g = torch.Generator().manual_seed(1)
    inputs = torch.randn(rows, 3, generator=g)
    actions = torch.randint(3, (rows,), generator=g)
    return {
        "obs": torch.rand(rows, 6, generator=g),
        "actions": actions,
        "dist_inputs": inputs,
        "log_prob": torch.log_softmax(inputs, -1).gather(1, actions[:, None])[:, 0],
        "advantages": torch.randn(rows, generator=g),
        "targets": torch.randn(rows, generator=g),
    }


def pairs(rows=96):
    g = torch.Generator().manual_seed(2)
    return {"inputs": torch.rand(rows, 9, generator=g), "current": torch.arange(rows) < rows // 2}


def close(a, b, **tolerance):
    return all(torch.allclose(a[k], b[k], **tolerance) for k in a)


def test_a_restored_learner_takes_the_same_steps():
    one, two = updater(), updater(seed=1)
    for u in (one,):
        u.update("policy", columns(), num_epochs=2, minibatch_size=16, lr=1e-2, coefficients=COEFFICIENTS)
        u.update("discriminator_0", pairs(), num_epochs=2, minibatch_size=16, lr=1e-2)
    two.set_state(one.get_state())
    for u in (one, two):
        u.update("policy", columns(), num_epochs=2, minibatch_size=16, lr=1e-2, coefficients=COEFFICIENTS)
        u.update("discriminator_0", pairs(), num_epochs=2, minibatch_size=16, lr=1e-2)
    for name in ("policy", "discriminator_0"):
        assert close(one.weights(name), two.weights(name), atol=0, rtol=0)


def test_training_the_discriminator_leaves_the_policy_alone():
    one, two = updater(), updater()
    before = one.weights("policy")
    one.update("discriminator_0", pairs(), num_epochs=3, minibatch_size=16, lr=1e-2)
    assert close(before, one.weights("policy"), atol=0, rtol=0)
    for u in (one, two):
        u.update("policy", columns(), num_epochs=2, minibatch_size=16, lr=1e-2, coefficients=COEFFICIENTS)
    assert close(one.weights("policy"), two.weights("policy"), atol=0, rtol=0)


def test_the_discriminator_learns_the_log_ratio():
    """Two cells with odds 3 : 1 and 1 : 3: the scores tend to log 3 and -log 3."""
    u = updater()
    cell = torch.eye(9)[:2]
    inputs = torch.cat([cell[0].expand(300, 9), cell[1].expand(100, 9), cell[0].expand(100, 9), cell[1].expand(300, 9)])
    batch = {"inputs": inputs, "current": torch.arange(800) < 400}
    for _ in range(30):
        u.update("discriminator_0", batch, num_epochs=5, minibatch_size=800, lr=1e-2)
    state = u.weights("discriminator_0")
    from rhtool.rl.discriminator import Scores

    scores = Scores(SPACES, 9, [16])
    scores.module.load_state_dict(state)
    np.testing.assert_allclose(scores(cell).numpy(), [np.log(3), -np.log(3)], atol=0.02)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_remote_learners_take_the_step_of_one_and_listen_on_localhost_only():
    import ray

    here, remote = updater(), updater(learners=2)
    try:
        start = here.weights("policy")
        for u in (here, remote):
            # Each shard in one minibatch: the mean of the shards' gradients is the gradient of the whole.
            u.update("policy", columns(), num_epochs=3, minibatch_size=96, lr=1e-2, coefficients=COEFFICIENTS)
        assert close(here.weights("policy"), remote.weights("policy"), atol=1e-3)
        assert not close(start, here.weights("policy"), atol=1e-2)
        assert listening() and listening() <= set(LOOPBACK)
        # Shares of 49 and 48 rows, in three minibatches each: nobody waits for a minibatch that does not come.
        uneven = remote.update("discriminator_0", pairs(97), num_epochs=1, minibatch_size=33, lr=1e-3)
        assert uneven["discriminator/loss"] == pytest.approx(2 * np.log(2), abs=0.05)
        # States travel both ways.
        there = remote.get_state()
        remote.set_state(updater(seed=5).get_state())
        here.set_state(there)
        assert close(remote.weights("policy"), updater(seed=5).weights("policy"), atol=0, rtol=0)
        assert not close(remote.weights("policy"), here.weights("policy"), atol=1e-2)
        for name, weights in there["weights"].items():
            assert close(here.weights(name), weights, atol=0, rtol=0)
    finally:
        remote.close()
        ray.shutdown()
