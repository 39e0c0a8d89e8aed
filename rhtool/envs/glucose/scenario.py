"""What happens to a patient in an episode: meals and sensor noise, from the seeds that the original gives its two
generators, so that a seed has the original's meals and noise.

Both come from numpy's legacy `RandomState`. The meals' draws depend on each other (a meal that is skipped draws nothing
more), so that generator is here compiled: MT19937 (Matsumoto and Nishimura, ACM TOMACS 8(1), 1998) with numpy's 53-bit
uniforms and polar normals.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba import njit

SLOTS = 6
"""meals and snacks of a day: breakfast, snack, lunch, snack, dinner, snack"""

NEVER = -(10**6)
"""the time of a meal that is skipped: long over"""

_PROBABILITY = np.array([0.95, 0.3, 0.95, 0.3, 0.95, 0.3])
# Minutes of the day: earliest, latest, mean, standard deviation of a truncated normal distribution.
_FIRST, _LAST = np.array([5, 9, 10, 14, 16, 20]) * 60.0, np.array([9, 10, 14, 16, 20, 23]) * 60.0
_MEAN, _SPREAD = np.array([7, 9.5, 12, 15, 18, 21.5]) * 60.0, np.array([60, 30, 60, 30, 60, 30.0])
_SIZE = np.array([0, 3, 1, 3, 2, 3])
"""the column of `patients.meal_means()` of each slot"""

_NODES, _SAMPLES = 10, 50
"""15-minute nodes and 3-minute samples of a block of sensor noise"""


def meals(seeds: np.ndarray, means: np.ndarray, days: int) -> tuple[np.ndarray, np.ndarray]:
    """The meals of each scenario seed: minute of the episode int32 and grams float64, each (K, 6 * days), in order of time.

    `seeds` uint32 (K,); `means` (K, 4) as `patients.meal_means()`. A skipped meal has minute `NEVER` and 0 g. A slot is
    taken with probability 0.95 (meals) or 0.3 (snacks); times are truncated normal, grams N(mean, (0.15 mean)^2), both
    rounded. The generator's first day is thrown away, as in the original.
    """
    from scipy.special import ndtr, ndtri

    taken = np.zeros((len(seeds), days, SLOTS), bool)
    u, z = np.zeros(taken.shape), np.zeros(taken.shape)
    _draw_meals(seeds, _PROBABILITY, taken, u, z)
    low, high = ndtr((_FIRST - _MEAN) / _SPREAD), ndtr((_LAST - _MEAN) / _SPREAD)
    times = np.rint(_MEAN + _SPREAD * ndtri(low + u * (high - low)))
    mean = means[:, None, _SIZE]
    grams = np.where(taken, np.rint(mean + 0.15 * mean * z), 0.0)
    minutes = np.where(taken, times + 1440 * np.arange(days)[:, None], NEVER)
    return minutes.reshape(len(seeds), -1).astype(np.int32), grams.reshape(len(seeds), -1)


def sensor_noise(seeds: np.ndarray, samples: int) -> np.ndarray:
    """float64 (K, samples): noise of CGM readings, one every 3 minutes, mg/dL.

    Every 15 minutes e[n] = 0.7 (e[n-1] + N(0, 1)), e[0] ~ N(0, 1), goes through Johnson's SU transform
    -5.47 + 15.9574 sinh((e + 0.5444) / 1.6898); a cubic spline through each 150 minutes gives the samples between
    (Breton and Kovatchev, "Analysis, modeling, and simulation of the accuracy of continuous glucose sensors", J. Diabetes
    Sci. Technol. 2(5), 2008, with the parameters that simglucose has for Dexcom).
    """
    blocks = -(-samples // _SAMPLES)
    e = np.stack([np.random.RandomState(int(seed)).randn(blocks * _NODES + 1) for seed in seeds])
    _autoregress(e)
    nodes = -5.47 + 15.9574 * np.sinh((e + 0.5444) / 1.6898)
    last = _NODES * np.arange(blocks)[:, None] + np.arange(_NODES + 1)
    return (nodes[:, last] @ _spline().T).reshape(len(seeds), -1)[:, :samples]


@cache
def _spline() -> np.ndarray:
    """(50, 11): samples of a block are this matrix times its nodes, the first sample (a node) left out."""
    from scipy.interpolate import make_interp_spline

    return make_interp_spline(np.arange(_NODES + 1) * 15.0, np.eye(_NODES + 1), k=3)(np.arange(1, _SAMPLES + 1) * 3.0)


@njit(cache=True, nogil=True)
def _autoregress(e):
    for row in e:
        for n in range(1, len(row)):
            row[n] = 0.7 * (row[n - 1] + row[n])


@njit(cache=True, nogil=True)
def _seed(key, seed):
    key[0] = seed
    for i in range(1, 624):
        key[i] = np.uint32(np.uint32(1812433253) * (key[i - 1] ^ (key[i - 1] >> np.uint32(30))) + np.uint32(i))


@njit(cache=True, nogil=True)
def _twist(key):
    for i in range(624):
        y = (key[i] & np.uint32(0x80000000)) | (key[(i + 1) % 624] & np.uint32(0x7FFFFFFF))
        word = key[(i + 397) % 624] ^ (y >> np.uint32(1))
        key[i] = word ^ np.uint32(0x9908B0DF) if y & np.uint32(1) else word


@njit(cache=True, nogil=True)
def _word(key, place):
    """The next 32 bits; `place` int64 (1,) is the number of words of `key` that are used up."""
    if place[0] == 624:
        _twist(key)
        place[0] = 0
    y = key[place[0]]
    place[0] += 1
    y ^= y >> np.uint32(11)
    y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
    y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
    return y ^ (y >> np.uint32(18))


@njit(cache=True, nogil=True)
def _uniform(key, place):
    a, b = _word(key, place) >> np.uint32(5), _word(key, place) >> np.uint32(6)
    return (a * 67108864.0 + b) / 9007199254740992.0


@njit(cache=True, nogil=True)
def _draw_meals(seeds, probability, taken, u, z):
    """Write which slots are taken and, where they are, the uniform of the time and the normal of the grams."""
    key, place = np.empty(624, np.uint32), np.empty(1, np.int64)
    for k in range(len(seeds)):
        _seed(key, seeds[k])
        place[0] = 624
        spare, has_spare = 0.0, False
        for day in range(-1, taken.shape[1]):
            for slot in range(len(probability)):
                if _uniform(key, place) >= probability[slot]:
                    continue
                time = _uniform(key, place)
                if has_spare:
                    size, has_spare = spare, False
                else:
                    while True:
                        v1 = 2.0 * _uniform(key, place) - 1.0
                        v2 = 2.0 * _uniform(key, place) - 1.0
                        q = v1 * v1 + v2 * v2
                        if 0.0 < q < 1.0:
                            break
                    factor = math.sqrt(-2.0 * math.log(q) / q)
                    size, spare, has_spare = factor * v2, factor * v1, True
                if day >= 0:
                    taken[k, day, slot], u[k, day, slot], z[k, day, slot] = True, time, size
