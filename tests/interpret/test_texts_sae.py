"""method=sae: planted features are found, saved autoencoders are the same, effects are those of taking a feature away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from rhtool.errors import ConfigError
from rhtool.interpret.sae import Sae
from rhtool.rewards.rm import Rm
from rhtool.run import Run
from rhtool.tasks.interpret import InterpretTexts
from tests.lm.small import Words

pytest.importorskip("trl")
import pandas as pd
import torch

from rhtool.interpret.sparse import SparseAutoencoder, fit

pytestmark = pytest.mark.lm


def planted(n=16_000, d=32, features=64, k=4, seed=0):
    """Sums of k of 64 directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(features, d, generator=generator), dim=1)
    which = torch.rand(n, features, generator=generator).topk(k, dim=1).indices
    sizes = torch.zeros(n, features).scatter(1, which, 0.5 + torch.rand(n, k, generator=generator))
    return directions, sizes @ directions


def test_planted_features_are_found_and_rewards_are_kept():
    directions, x = planted()
    found = fit(x, 128, 4, 1500, 512, 2e-3, 0)
    cosine = (directions @ torch.nn.functional.normalize(found.sae.decoder, dim=1).T).max(1).values
    assert cosine.mean() > 0.95 and found.explained > 0.85 and found.on == pytest.approx(4, rel=0.15)
    reward = x @ torch.randn(32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        spliced = found.sae(x) @ torch.randn(32, generator=torch.Generator().manual_seed(5))
    assert spearmanr(reward[:2000], spliced[:2000]).statistic > 0.9


def test_an_autoencoder_that_was_saved_is_the_same(tmp_path):
    _, x = planted(500)
    sae = fit(x + 3, 48, 4, 30, 64, 1e-3, 0).sae
    sae.save(tmp_path)
    assert torch.equal(SparseAutoencoder.load(tmp_path)(x), sae(x))
    assert torch.allclose(sae.decoder.norm(dim=1), torch.ones(48))
    again = fit(x + 3, 48, 4, 30, 64, 1e-3, 0).sae
    assert torch.equal(again(x), sae(x))
    z = sae.encode(x)
    with_one_more = z.clone()
    with_one_more[:, 7] += 1
    assert torch.allclose(sae.decode(with_one_more) - sae.decode(z), sae.direction(7).expand_as(x), atol=1e-5)


def make(to: Path, model: Path, **method) -> Run:
    options = {"width": 2, "k": 8, "steps": 300, "batch": 128, "ablated": 4, "shown": 2} | method
    return Run(
        task=InterpretTexts(prompts=8), method=Sae(**options), data=Words(), dir=str(to),
        reward=Rm(model=str(model), max_length=60),
    )  # fmt: skip


@pytest.mark.parametrize("tokens", ["answer", "last"])
def test_features_of_a_trained_model(reward_run, tmp_path, tokens):
    run = make(tmp_path / "run", reward_run, tokens=tokens, layer="-1")
    metrics = run.execute()["metrics"]
    assert metrics["sae/explained"] > 0.5 and metrics["sae/fidelity"] > 0.5
    table = pd.read_csv(tmp_path / "run/tables/features.csv")
    assert 0 < len(table) <= 4 and table.ablated.abs().is_monotonic_decreasing
    if tokens == "last":  # of the last block, the score's only path from there is through the norm
        assert np.sign(table.ablated).tolist() == np.sign(table.attributed).tolist()
    assert SparseAutoencoder.load(tmp_path / "run/sae").decoder.shape == (64, 32)
    page = (tmp_path / "run/report.html").read_text()
    assert "the reward by" in page and "Feature" in page


def test_an_earlier_layer_has_features_too_and_one_that_is_not_there_lists_those_that_are(reward_run, tmp_path):
    make(tmp_path / "a", reward_run, layer="gpt_neox.layers.0.mlp", steps=20).execute()
    with pytest.raises(ConfigError, match=r"gpt_neox\.layers\.0\.mlp"):
        make(tmp_path / "b", reward_run, layer="gpt_neox.layers.0.mpl").execute()
