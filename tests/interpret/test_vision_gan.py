"""The generator: a Gaussian's moments, files, and rewards climbed in its latents."""

import numpy as np
import pytest
import torch

from rhtool.interpret import gan
from rhtool.interpret import visualise as v
from tests.interpret.vision import Planted


@pytest.mark.slow
def test_mean_and_covariance_of_a_gaussian_are_learned():
    torch.manual_seed(0)
    mixing = torch.tensor([[1.0, 0.0], [0.6, 0.5]])
    data = torch.randn(4000, 2) @ mixing.T + torch.tensor([1.0, -2.0])
    torch.manual_seed(1)
    made = gan.Generator((2,), latents=4, width=32)
    gaps = list(gan.train(data, made, 700, batch=256, critic_steps=5, penalty=0.3, lr=5e-3))
    samples = made.sample(20_000, torch.Generator().manual_seed(1)).detach()
    spread = data.std(0).norm()
    assert (samples.mean(0) - data.mean(0)).norm() < 0.1 * spread
    assert (samples.T.cov() - data.T.cov()).norm() < 0.1 * data.T.cov().norm()
    assert abs(np.mean(gaps[-50:])) < 0.2 * max(gaps)


@pytest.mark.parametrize("image", [(3, 32, 32), (6, 20, 28), (1, 9, 9), (5,)], ids=str)
def test_what_is_generated_has_the_shape_and_comes_back_from_its_files(image, tmp_path):
    made = gan.Generator(image, latents=7, width=4)
    made.save(tmp_path / "generator")
    found = gan.load(tmp_path)
    z = torch.randn(3, 7)
    assert made(z).shape == (3, *image) and torch.equal(found(z), made(z))
    assert gan.critic_for(image, 4)(made(z)).shape == (3, 1)
    if len(image) == 3:
        assert made(z).min() >= 0 and made(z).max() <= 1


def test_latents_are_climbed_beyond_the_samples_and_stay_bounded():
    torch.manual_seed(0)
    net, made = Planted(16), gan.Generator((6, 16, 16), 8, 4)
    with torch.no_grad():  # as varied as those of a generator that has learned something
        for parameter in made.parameters():
            parameter *= 3
    made.requires_grad_(False)
    rng = torch.Generator().manual_seed(0)
    samples = v.rewards_by_action(net, made.sample(500, rng))
    images = v.Latent(made, 0.01 * torch.randn(2, 8, generator=rng))
    penalty = v.Objective(lambda seen: 1e-4 * (images.z**2).sum(1))
    found = v.maximise(net, v.reward() - penalty, images, steps=200)
    assert (v.rewards_by_action(net, found.images).max(1) > np.quantile(samples, 0.95)).all()
    assert found.extra["z"].norm(dim=1).max() < 40 and all(p.grad is None for p in made.parameters())
