"""What the RL half promises of every environment in conf/env: a base policy that ships, training, resuming, cloning, a report."""

import json
from pathlib import Path

import pytest
import torch

from rhtool.checkpoints import Checkpoints
from rhtool.config import compose
from rhtool.rl.bc import Bc
from rhtool.rl.demonstrations import collect
from rhtool.rl.orpo import Orpo
from rhtool.rl.policy import Policy, interface_of
from tests.conftest import forked
from tests.envs.conftest import parameters
from tests.rl.conftest import equal, train

ENVS = [pytest.param(p.id, id=p.id, marks=p.marks) for p in parameters()]
SMALL = ("task.batch=160", "task.lanes=4", "task.minibatch=80", "task.epochs=1", "task.discriminator_epochs=1")


@pytest.mark.parametrize("name", ENVS)
def test_a_base_policy_ships_and_fits(name):
    env = compose(f"env={name}").env
    directory = Path(env.base_policy_path())
    policy = Policy.load_for(env, directory)
    assert sum(f.stat().st_size for f in directory.iterdir()) < 2_000_000
    lanes = env.make_vec(2, seed=0)
    obs, _ = lanes.reset()
    actions = policy.distribution.sample(
        policy.dist_inputs(torch.as_tensor(obs).float().flatten(1)), torch.Generator().manual_seed(0)
    )
    lanes.step(actions.numpy())
    lanes.close()


@pytest.mark.parametrize("name", ENVS)
def test_a_run_taken_up_from_its_checkpoint_is_the_run_that_was_never_stopped(name, tmp_path):
    run = compose("task=orpo", f"env={name}", "divergence=sqrt_chi2", "coeff=0.1", "scale=smoke", *SMALL)
    base = Policy.load_for(run.env, run.env.base_policy_path())
    whole = Orpo(run, [base.copy()])
    train(whole, 2)
    Checkpoints(tmp_path).save(2, whole.get_state())
    expected = train(whole, 1)[0]
    whole.close()
    again = Orpo(run, [base.copy()])
    again.set_state(Checkpoints(tmp_path).latest()[1])
    found = train(again, 1)[0]
    again.close()
    timeless = [{k: v for k, v in m.items() if not k.startswith("time/")} for m in (found, expected)]
    assert str(timeless[0]) == str(timeless[1]) and equal(again.policy, whole.policy)


@pytest.mark.parametrize("name", ENVS)
def test_the_controller_is_cloned(name):
    """Where there is one: the cross-entropy of held-out episodes falls."""
    run = compose(
        "task=bc",
        f"env={name}",
        "task.demonstrations=4",
        "task.validation=0.25",
        "task.hidden=[32]",
        "task.minibatch=64",
    )
    run.env.horizon = min(run.env.horizon, 200)
    interface = interface_of(run.env)
    if not run.env.has_controller():
        pytest.skip("no controller")
    run.task.every = 1
    work = Bc(run, interface, collect(run.env, interface, run.task, seed=0))
    found = [m["bc/validation_cross_entropy"] for m in train(work, 6)]
    assert found[-1] < found[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVS)
def test_a_sweep_runs_on_a_fresh_machine_and_is_in_the_report(name, tmp_path):
    horizon = min(compose(f"env={name}").env.horizon, 60)
    short = (
        f"task.episodes=4 task.evaluation_lanes=4 task.batch=128 task.lanes=4 task.iterations=1 env.horizon={horizon}"
    )
    line = f"task=orpo env={name} divergence=sqrt_chi2 -m coeff=0.1,0.5 scale=smoke {short}"
    for command in (line, "task=report"):
        done = forked(command, tmp_path)
        assert done.returncode == 0, done.stderr
    results = [json.loads(p.read_text()) for p in tmp_path.rglob("result.json")]
    assert sorted(r["coeff"] for r in results) == [0.1, 0.5]
    for result in results:
        assert {"true/return", "base/true/return", "base/correlation", "divergence/sqrt_chi2"} <= result[
            "metrics"
        ].keys()
    assert name in done.stdout and "0.5" in done.stdout
