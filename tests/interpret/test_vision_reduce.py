"""Factors of activations that were planted, and the pieces of images that belong to them."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from rhtool.errors import RhtoolError
from rhtool.interpret import reduce


def planted(n=50, channels=6, size=4, factors=2, seed=0):
    """Activations (N, C, H, W) of rank `factors` in the channels; their directions."""
    rng = np.random.default_rng(seed)
    directions = np.zeros((factors, channels))
    for k in range(factors):  # overlapping, and neither a mixture of the others
        directions[k, [k, k + factors, (k + 1) % factors + factors]] = [1.0, 0.7, 0.3]
    strengths = rng.exponential(size=(n, factors, size, size)) * (rng.random((n, factors, size, size)) < 0.6)
    return (
        np.einsum("nkhw,kc->nchw", strengths, directions),
        directions / np.linalg.norm(directions, axis=1)[:, None],
        strengths,
    )


def test_planted_directions_are_found_on_the_channel_axis():
    activations, directions, strengths = planted()
    found = reduce.factorise(activations, 2)
    assert found.error < 1e-3
    cosines = directions @ found.directions.T
    assert (cosines.max(1) > 0.99).all() and sorted(cosines.argmax(1)) == [0, 1]
    for k, own in enumerate(cosines.argmax(1)):  # maps too, each where it was planted
        assert np.corrcoef(found.weights[:, own].ravel(), strengths[:, k].ravel())[0, 1] > 0.999


def test_layers_without_positions_are_factorised_too():
    activations, directions, _ = planted(n=400, size=1)
    found = reduce.factorise(activations[:, :, 0, 0], 2)
    assert found.weights.shape == (400, 2) and ((directions @ found.directions.T).max(1) > 0.99).all()


def test_signed_attributions_keep_their_sign():
    activations, directions, _ = planted()
    sign = np.where(np.arange(50) % 2, 1, -1)[:, None, None, None]
    found = reduce.factorise_attributions(activations * sign, 2)
    assert (np.sign(found.weights.sum((1, 2, 3))) == sign.ravel()).all()
    assert ((directions @ found.directions.T).max(1) > 0.99).all()


def test_what_cannot_be_factorised_is_refused():
    for activations, factors in ((np.ones((3, 2)), 3), (-np.ones((3, 2)), 1)):
        with pytest.raises(RhtoolError, match="factors"):
            reduce.factorise(activations, factors)


def test_the_strongest_examples_at_their_best_positions():
    rng = np.random.default_rng(0)
    maps = rng.random((40, 3, 4))
    found = reduce.strongest(maps, 5)
    assert [e.sample for e in found] == np.argsort(-maps.max((1, 2)))[:5].tolist()
    assert all(maps[e.sample, e.y, e.x] == e.strength == maps[e.sample].max() for e in found)


def test_one_example_of_each_episode():
    maps, episode = np.random.default_rng(0).random((40, 2, 2)), np.arange(40) // 4
    found = reduce.strongest(maps, 10, episode=episode)
    best = maps.max((1, 2)).reshape(10, 4)
    assert sorted(e.sample for e in found) == (best.argmax(1) + 4 * np.arange(10)).tolist()
    assert [e.strength for e in found] == sorted(best.max(1), reverse=True)


def test_no_position_is_taken_too_often():
    maps = np.random.default_rng(0).random((40, 2, 3))
    maps[:, 0, 0] += 10
    found = reduce.strongest(maps, 9, repeats=2)
    places = [(e.y, e.x) for e in found]
    assert len(found) == 9 and max(map(places.count, places)) <= 2
    assert len({e.sample for e in found}) == 9


def test_a_patch_is_the_piece_of_the_image_behind_a_position():
    image = np.random.default_rng(0).random((8, 12, 3))
    np.testing.assert_array_equal(reduce.patch(image, (4, 4), (1, 2), 1), image[2:4, 6:9])
    large = reduce.patch(image, (4, 4), (0, 0), 2)
    assert large.shape == (4, 6, 3)
    np.testing.assert_array_equal(large[1:, 2:], image[:3, :4])
    assert set(np.unique(large[0])) == {0.75, 1.0}
