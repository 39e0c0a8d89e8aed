"""One stream of random numbers per lane, drawn inside compiled kernels: xoshiro256++ seeded by SplitMix64.

A stream is four uint64 words: row `i` of a `(B, 4)` array is lane `i`'s, so streams are saved and restored as any other
array. The stream of (seed, lane) does not depend on how many lanes there are. Kernels that call these functions are
cached on disk with them compiled in: after a change here, delete the `__pycache__` folders.

Blackman and Vigna, "Scrambled linear pseudorandom number generators", ACM TOMS 47(4), 2021; Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014; Lemire, "Fast random integer generation in an interval",
ACM TOMACS 29(1), 2019.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64, elementwise on a uint64 array (arithmetic wraps)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def streams(seeds: np.ndarray, lanes: np.ndarray) -> np.ndarray:
    """The initial states, uint64 `(B, 4)`, of the streams of `seeds[i]`, `lanes[i]` (both uint64 `(B,)`)."""
    x = _mix(_mix(seeds + _GOLDEN) ^ lanes)
    steps = np.arange(1, 5, dtype=np.uint64) * _GOLDEN
    return _mix(x[:, None] + steps)


@njit(cache=True)
def _rotate(x, k):
    return (x << np.uint64(k)) | (x >> np.uint64(64 - k))


@njit(cache=True)
def bits(s):
    """The next 64 random bits of the stream `s` (uint64 `(4,)`, advanced in place)."""
    out = _rotate(s[0] + s[3], 23) + s[0]
    t = s[1] << np.uint64(17)
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= t
    s[3] = _rotate(s[3], 45)
    return out


@njit(cache=True)
def uniform(s):
    """A float64 uniform on [0, 1), a multiple of 2^-53."""
    return (bits(s) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(cache=True)
def integers(s, n):
    """An int64 uniform on {0, …, n-1}, without bias; 0 < n < 2^32."""
    span = np.uint64(n)
    low32 = np.uint64(0xFFFFFFFF)
    product = (bits(s) >> np.uint64(32)) * span
    if product & low32 < span:
        threshold = (np.uint64(4294967296) - span) % span
        while product & low32 < threshold:
            product = (bits(s) >> np.uint64(32)) * span
    return np.int64(product >> np.uint64(32))


@njit(cache=True)
def normal(s):
    """A standard normal float64 (Marsaglia's polar method; its second value is dropped, so that four words are the
    whole state)."""
    while True:
        u = 2.0 * uniform(s) - 1.0
        v = 2.0 * uniform(s) - 1.0
        q = u * u + v * v
        if 0.0 < q < 1.0:
            return u * math.sqrt(-2.0 * math.log(q) / q)
