"""The compiled steps of the discs over arrays of lanes; what the numbers mean is said in `env.py`."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from rhtool.envs.rng import integers, uniform


@njit(cache=True, nogil=True)
def _whim(rng, whims, actions):
    return integers(rng, actions) if uniform(rng) < whims else -1


@njit(cache=True, nogil=True)
def reset(mask, radius, whims, rng, places, whim):
    """Uniform positions and the controller's next whim in the lanes of `mask`."""
    for i in range(len(mask)):
        if mask[i]:
            for p in range(places.shape[1]):
                for disc in range(2):
                    for axis in range(2):
                        places[i, p, disc, axis] = radius + (1 - 2 * radius) * uniform(rng[i])
            whim[i] = _whim(rng[i], whims, places.shape[1] + 1)


@njit(cache=True, nogil=True)
def distances(places, out):
    """Distance of the discs of each pair, float64 (B, P)."""
    for i in range(len(places)):
        for p in range(places.shape[1]):
            dx = places[i, p, 1, 0] - places[i, p, 0, 0]
            dy = places[i, p, 1, 1] - places[i, p, 0, 1]
            out[i, p] = math.sqrt(dx * dx + dy * dy)


@njit(cache=True, nogil=True)
def step(actions, mask, radius, stride, drag, whims, rng, places, whim):
    """Move the discs of the lanes of `mask`, and draw the controller's next whim."""
    for i in range(len(mask)):
        if not mask[i]:
            continue
        if actions[i] > 0:
            for p in range(places.shape[1]):
                dx = places[i, p, 1, 0] - places[i, p, 0, 0]
                dy = places[i, p, 1, 1] - places[i, p, 0, 1]
                length = math.sqrt(dx * dx + dy * dy)
                change = stride if p == actions[i] - 1 else -min(drag * stride, length)
                # Discs that lie upon each other part to the side.
                ux, uy = (dx / length, dy / length) if length > 1e-9 else (1.0, 0.0)
                for disc in range(2):
                    way = (disc - 0.5) * change
                    x, y = places[i, p, disc, 0] + way * ux, places[i, p, disc, 1] + way * uy
                    places[i, p, disc, 0] = min(max(x, radius), 1 - radius)
                    places[i, p, disc, 1] = min(max(y, radius), 1 - radius)
        whim[i] = _whim(rng[i], whims, places.shape[1] + 1)


@njit(cache=True, nogil=True)
def draw(out, mask, places, radius, colours):
    """Write pictures, uint8 (B, size, size, 3), into the rows of `mask`: discs on black, later pairs upon earlier ones, a
    pixel at the rim as bright as about the share of it that is covered. Row 0 is y = 0."""
    size = out.shape[1]
    reach = radius * size
    for i in range(len(out)):
        if not mask[i]:
            continue
        out[i] = 0
        for p in range(places.shape[1]):
            for disc in range(2):
                x, y = places[i, p, disc, 0] * size - 0.5, places[i, p, disc, 1] * size - 0.5
                for row in range(max(int(y - reach - 1), 0), min(int(y + reach + 2), size - 1) + 1):
                    for column in range(max(int(x - reach - 1), 0), min(int(x + reach + 2), size - 1) + 1):
                        away = math.sqrt((row - y) ** 2 + (column - x) ** 2)
                        covered = min(max(reach - away + 0.5, 0.0), 1.0)
                        if covered > 0:
                            for c in range(3):
                                mixed = out[i, row, column, c] * (1 - covered) + colours[p, c] * covered
                                out[i, row, column, c] = np.uint8(mixed + 0.5)
