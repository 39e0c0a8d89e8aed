"""`divergence=gail` without the environment's reward: imitation."""

import numpy as np
import pytest

from rhtool.config import compose
from rhtool.divergences import Gail
from rhtool.errors import ConfigError
from tests.rl.conftest import train, uniform
from tests.rl.test_evaluation import changed
from tests.rl.test_orpo import LEARNING


def apart(work):
    mdp = work.run.env.tabular()
    return mdp.divergence(Gail(), *(mdp.policy_table(p.probabilities) for p in (work.policy, work.bases[0])))


def test_imitation_approaches_the_base_policy(make):
    """Its occupancy measure, exactly, from a start far away."""
    expert = changed(uniform(make("divergence=none").run.env), noise=2.0, seed=1)
    work = make("divergence=gail", "coeff=1", "task.reward_weight=0", *LEARNING, bases=[expert])
    before = apart(work)
    train(work, 12)
    assert before > 0.5 and apart(work) < before / 6, (before, apart(work))


def test_without_its_reward_the_environment_does_not_matter(make):
    """Only what it shows does: the same policy on the proxy and on the true reward."""
    works = [
        make("divergence=gail", "coeff=1", "task.reward_weight=0", f"env.reward_fun={fun}", "task.epochs=2")
        for fun in ("proxy", "true")
    ]
    for work in works:
        train(work, 2)
    first, second = (w.policy.weights for w in works)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_neither_reward_nor_penalty_is_refused(tmp_path):
    run = compose("task=orpo", "env=tomato", "divergence=gail", "coeff=0", "task.reward_weight=0", f"dir={tmp_path}")
    with pytest.raises(ConfigError, match="nothing is left"):
        run.task.check(run)
