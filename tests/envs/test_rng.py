"""The kernels' random numbers."""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.stats import chisquare, kstest

from rhtool.envs.rng import bits, integers, normal, streams, uniform

MASK = 2**64 - 1


def xoshiro(s: list[int], n: int) -> list[int]:
    """xoshiro256++ from its publication, in Python integers."""

    def rotate(x, k):
        return (x << k | x >> (64 - k)) & MASK

    out = []
    for _ in range(n):
        out.append((rotate((s[0] + s[3]) & MASK, 23) + s[0]) & MASK)
        t = s[1] << 17 & MASK
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rotate(s[3], 45)
    return out


@njit
def draw(s, n, kind, span):
    out = np.empty(n)
    for i in range(n):
        out[i] = uniform(s) if kind == 0 else normal(s) if kind == 1 else integers(s, span)
    return out


def stream(seed: int, lane: int = 0) -> np.ndarray:
    return streams(np.array([seed], np.uint64), np.array([lane], np.uint64))[0]


def test_bits_are_those_of_the_published_generator():
    state = np.array([1, 2, 3, 4], np.uint64)
    # The first values from (1, 2, 3, 4): (1 + 4) rotated by 23, plus 1.
    expected = xoshiro([1, 2, 3, 4], 1000)
    assert expected[0] == 41943041
    assert [int(bits(state)) for _ in range(1000)] == expected


def test_distributions():
    n = 200_000
    assert kstest(draw(stream(1), n, 0, 0), "uniform").pvalue > 1e-4
    assert kstest(draw(stream(2), n, 1, 0), "norm").pvalue > 1e-4
    for span in (2, 4, 5, 77):
        counts = np.bincount(draw(stream(3), n, 2, span).astype(int))
        assert len(counts) == span and chisquare(counts).pvalue > 1e-4


def test_streams_of_neighbouring_seeds_and_lanes_are_unrelated():
    values = np.array([draw(stream(seed, lane), 2000, 0, 0) for seed in range(8) for lane in range(8)])
    r = np.corrcoef(values)[~np.eye(64, dtype=bool)]
    assert np.abs(r).max() < 5.5 / np.sqrt(2000)
    assert (
        len(
            np.unique(
                streams(np.repeat(np.arange(100, dtype=np.uint64), 100), np.tile(np.arange(100, dtype=np.uint64), 100))
            )
        )
        == 40_000
    )
