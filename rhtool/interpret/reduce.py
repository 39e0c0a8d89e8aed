"""Directions in a layer's channels that explain its activations, and the pieces of the data that are strongest in each.

Olah et al. 2018, "The Building Blocks of Interpretability", Distill; Hilton et al. 2020, "Understanding RL Vision", Distill
(factors of attributions, section "Dimensionality reduction").
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from rhtool.errors import RhtoolError


@dataclass
class Reduced:
    """Activations as sums of non-negative factors: a ≈ weights @ directions."""

    directions: np.ndarray
    """(K, C) float64, rows of length one"""
    weights: np.ndarray
    """(N, K, …) float64: of each factor, in each sample and position"""
    error: float
    """Frobenius norm of what is not explained over that of the activations"""


def positions_last(activations: np.ndarray) -> np.ndarray:
    """(N, C, …) -> (N * positions, C): the channels alone are mixed, never the space."""
    moved = np.moveaxis(np.asarray(activations, np.float64), 1, -1)
    return moved.reshape(-1, moved.shape[-1])


def factorise(activations: np.ndarray, factors: int, seed: int = 0, steps: int = 500) -> Reduced:
    """Non-negative matrix factorisation on the channel axis of activations (N, C) or (N, C, H, W); negative ones count as 0.

    Raises:
        RhtoolError: if there are more factors than channels, or nothing is positive.
    """
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    flat = np.maximum(positions_last(activations), 0)
    if not 1 <= factors <= flat.shape[1] or not flat.any():
        what = f"{factors} factors of {flat.shape[1]} channels" + ("" if flat.any() else " that are never above zero")
        raise RhtoolError(what, "method.factors", "choose fewer, or another layer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = NMF(factors, init="nndsvda", max_iter=steps, tol=1e-6, random_state=seed)
        weights = model.fit_transform(flat)
    length = np.linalg.norm(model.components_, axis=1)
    length[length == 0] = 1
    directions, weights = model.components_ / length[:, None], weights * length
    error = float(np.linalg.norm(flat - weights @ directions) / np.linalg.norm(flat))
    shape = activations.shape
    return Reduced(directions, np.moveaxis(weights.reshape(shape[0], *shape[2:], factors), -1, 1), error)


def factorise_attributions(attributions: np.ndarray, factors: int, seed: int = 0) -> Reduced:
    """Factors of signed attributions (N, C, …): of their positive and negative parts, one after the other in the samples.

    `weights` (N, K, …) are those of the positive minus those of the negative part.
    """
    both = factorise(np.concatenate([np.maximum(attributions, 0), np.maximum(-attributions, 0)]), factors, seed)
    plus, minus = np.split(both.weights, 2)
    return Reduced(both.directions, plus - minus, both.error)


@dataclass
class Example:
    """Where a feature is strong."""

    sample: int
    y: int
    x: int
    strength: float


def strongest(
    feature: np.ndarray, count: int, repeats: int | None = None, episode: np.ndarray | None = None
) -> list[Example]:
    """The `count` samples in which a feature (N,) or (N, H, W) is strongest, each at its best position, strongest first.

    With `repeats` no position is taken more often than that: a sample whose best is taken up gets its next best one. With `episode`
    (N,), if there are as many, only the best sample of each: those of one episode are alike.
    """
    maps = feature.reshape(len(feature), *(feature.shape[1:] or (1, 1)))
    flat = maps.reshape(len(maps), -1)
    if episode is not None and len(np.unique(episode)) >= count:
        order = np.argsort(-flat.max(1), kind="stable")
        own = np.sort(order[np.unique(episode[order], return_index=True)[1]])
        found = strongest(feature[own], count, repeats)
        return [Example(int(own[e.sample]), e.y, e.x, e.strength) for e in found]
    used = np.zeros(flat.shape[1], int)
    best = flat.max(1)
    found = []
    for sample in np.argsort(-best, kind="stable"):
        if len(found) == count and (repeats is None or best[sample] <= found[-1].strength):
            break
        free = np.where(used < repeats, flat[sample], -np.inf) if repeats else flat[sample]
        place = int(free.argmax())
        if np.isfinite(free[place]):
            y, x = np.unravel_index(place, maps.shape[1:])
            found.append(Example(int(sample), int(y), int(x), float(free[place])))
            used[place] += 1
            found = sorted(found, key=lambda e: -e.strength)[:count]
    return found


def patch(image: np.ndarray, grid: tuple[int, int], at: tuple[int, int], expand: float) -> np.ndarray:
    """The piece of an image (H, W, C) that lies behind position `at` of a layer's `grid` (h, w), `expand` times as large, padded
    by a checkerboard of 0.75 and 1 where it reaches beyond the image. float64 (h', w', C)."""
    centre = [(i + 0.5) * size / n for i, size, n in zip(at, image.shape, grid, strict=False)]
    side = [max(1, round(expand * size / n)) for size, n in zip(image.shape, grid, strict=False)]
    corner = [round(c - s / 2) for c, s in zip(centre, side, strict=True)]
    rows, columns = (np.arange(c, c + s) for c, s in zip(corner, side, strict=True))
    board = np.where((rows[:, None] + columns[None]) % 2, 0.75, 1.0)[..., None].repeat(image.shape[2], 2)
    inside = ((rows >= 0) & (rows < image.shape[0]))[:, None] & ((columns >= 0) & (columns < image.shape[1]))[None]
    there = image[rows.clip(0, image.shape[0] - 1)[:, None], columns.clip(0, image.shape[1] - 1)[None]]
    return np.where(inside[..., None], there, board)
