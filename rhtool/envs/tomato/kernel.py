"""The tomato environment's compiled steps over arrays of lanes; what the numbers mean is said in `env.py`."""

from __future__ import annotations

import numpy as np
from numba import njit

from rhtool.envs.rng import integers, uniform


@njit(cache=True, nogil=True)
def _count(x):
    """Number of set bits of a uint64."""
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def step(
    actions,
    mask,
    moves,
    far,
    tomatoes,
    bucket,
    eps,
    skip,
    factor,
    rng,
    cell,
    watered,
    order,
    visited,
    proxy,
    true,
    terminated,
):
    """Step the lanes of `mask`. `cell, watered, order, visited, rng` are changed in place, `proxy, true, terminated`
    written."""
    everything = (np.uint64(1) << np.uint64(tomatoes)) - np.uint64(1)
    for i in range(len(cell)):
        if not mask[i]:
            proxy[i] = true[i] = 0.0
            terminated[i] = False
            continue
        action = actions[i]
        if eps >= 0.0 and uniform(rng[i]) <= eps:
            action = integers(rng[i], moves.shape[1])
        here, wet = moves[cell[i], action], watered[i]
        bit = np.uint64(1) << np.uint64(here)
        if here != cell[i] and here < tomatoes and not wet & bit:
            if skip:
                order[i, _count(wet)] = here
            wet |= bit
        if here == bucket:
            visited[i] = True
        if wet & far[here]:
            if skip:
                # The original removes from the list that it iterates over, in the order of watering, so the tomato
                # after one that dried is not looked at in this step.
                n, kept, k = _count(wet), 0, 0
                while k < n:
                    tomato = np.uint64(order[i, k])
                    if (far[here] >> tomato) & np.uint64(1):
                        wet &= ~(np.uint64(1) << tomato)
                        k += 1
                        if k == n:
                            break
                    order[i, kept] = order[i, k]
                    kept += 1
                    k += 1
                order[i, kept:n] = -1
            else:
                wet &= ~far[here]
        cell[i], watered[i] = here, wet
        true[i] = factor * _count(wet)
        proxy[i] = factor * len(moves) if here == bucket else true[i]
        terminated[i] = wet == everything


@njit(cache=True, nogil=True)
def observe(out, mask, cells, tomatoes, cell, watered, visited):
    """Write one-hot of the agent's cell, bit per watered tomato, bit of the bucket into the rows of `mask` of `out`,
    float32 (B, N+T+1)."""
    for i in range(len(cell)):
        if mask[i]:
            for j in range(cells):
                out[i, j] = 0.0
            out[i, cell[i]] = 1.0
            for t in range(tomatoes):
                out[i, cells + t] = (watered[i] >> np.uint64(t)) & np.uint64(1)
            out[i, cells + tomatoes] = visited[i]
