"""Best-of-n: of n answers of the base policy keep the one with the highest proxy score (Coste et al. 2024, arXiv 2310.02743).

Its expected proxy and true reward are estimated without bias from N >= n scored answers to each of Q prompts; standard
errors are over prompts, and nothing is sampled anew. Numpy and scipy, in float64. Softer selection: `hedging`.

In what follows u is the rank of an answer's proxy score among the base policy's answers, uniform in [0, 1]. Equal scores
are ranked at random, and everything is the expectation over that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from rhtool.errors import ConfigError, RhtoolError
from rhtool.results.scaling_laws import best_of_n_kl
from rhtool.results.statistics import standard_error

if TYPE_CHECKING:
    from rhtool.rewards.combine import Combination

Array = NDArray[np.float64]

NS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 6144, 8192, 12500)
"""the papers' n"""


@dataclass(frozen=True)
class Point:
    """What selection of some strength gives: means over prompts, with standard errors (NaN for a single prompt)."""

    strength: float
    """n, temperature or rate"""
    proxy: float
    proxy_se: float
    true: float
    true_se: float
    kl: float
    """nats from the base policy; see the function it comes from"""
    chi2: float


class Answers:
    """Scored answers: `proxy` and `true`, for each prompt (N,) of the same answers. N may differ between prompts.

    Raises `RhtoolError` that names the prompt (from 0) if it has no answers, unequally many scores, or a score that is
    not finite.
    """

    def __init__(self, proxy: Sequence[ArrayLike], true: Sequence[ArrayLike]):
        if len(proxy) != len(true) or not len(proxy):
            said = f"there are proxy scores of {len(proxy)} prompts and true scores of {len(true)}"
            raise RhtoolError(said, "answers", "give both of the same prompts, of one at least")
        self.proxy = [np.asarray(x, np.float64) for x in proxy]
        self.true = [np.asarray(x, np.float64) for x in true]
        for q, (p, t) in enumerate(zip(self.proxy, self.true, strict=True)):
            if p.ndim != 1 or p.shape != t.shape or not p.size:
                said = f"the scores have the shapes {p.shape} (proxy) and {t.shape} (true)"
                raise RhtoolError(said, f"prompt {q}", "give both of each answer, of one answer at least")
            if not (np.isfinite(p).all() and np.isfinite(t).all()):
                raise RhtoolError("a score is not finite", f"prompt {q}", "leave that answer out")

    @classmethod
    def of_ensemble(cls, scores: Sequence[ArrayLike], true: Sequence[ArrayLike], combine: Combination) -> Answers:
        """The proxy is the combination of K judges' scores, for each prompt (N, K): combined first, then ranked, each
        answer with its own true score."""
        import torch

        return cls([combine(torch.tensor(np.asarray(x, np.float64))).numpy() for x in scores], true)

    @property
    def fewest(self) -> int:
        """Number of answers to the prompt that has fewest: up to this n, all prompts have an estimate."""
        return min(len(p) for p in self.proxy)

    @cached_property
    def ranked(self) -> list[tuple[NDArray[np.int64], Array, Array]]:
        """For each number of answers N: which prompts have it (Q',), and their proxy and true scores (Q', N) in ascending
        order of the proxy. The true score of equals is their mean, its expectation over their order."""
        sizes: dict[int, list[int]] = {}
        for q, p in enumerate(self.proxy):
            sizes.setdefault(len(p), []).append(q)
        groups = []
        for prompts in sizes.values():
            pairs = [_ranked(self.proxy[q], self.true[q]) for q in prompts]
            groups.append((np.array(prompts), np.stack([p for p, _ in pairs]), np.stack([t for _, t in pairs])))
        return groups

    def expected(self, weights: Callable[[int], Array]) -> tuple[Array, Array]:
        """Expected proxy and true reward of each prompt, (Q, M) each, if of N answers that of rank i is kept with the
        probabilities `weights(N)` (M, N)."""
        values: tuple[list[Array], list[Array]] = ([], [])
        for _, *scores in self.ranked:
            by_rank = weights(scores[0].shape[1]).T
            for x, into in zip(scores, values, strict=True):
                into.append(x @ by_rank)
        order = np.argsort(np.concatenate([prompts for prompts, *_ in self.ranked]))
        proxy, true = (np.concatenate(x)[order] for x in values)
        return proxy, true


def _ranked(proxy: Array, true: Array) -> tuple[Array, Array]:
    levels, level, count = np.unique(proxy, return_inverse=True, return_counts=True)
    means = np.bincount(level, weights=true) / count
    return np.repeat(levels, count), np.repeat(means, count)


def points(strengths: ArrayLike, proxy: Array, true: Array, kl: ArrayLike, chi2: ArrayLike) -> list[Point]:
    """From the expected rewards of each prompt and strength (Q, M), and M divergences."""
    columns = zip(np.asarray(strengths, float), proxy.T, true.T, np.asarray(kl), np.asarray(chi2), strict=True)
    return [
        Point(float(s), float(p.mean()), standard_error(p), float(t.mean()), standard_error(t), float(k), float(c))
        for s, p, t, k, c in columns
    ]


def rank_weights(size: int, ns: Sequence[int]) -> Array:
    """(len(ns), size): of `size` answers in ascending order, the probability that the i-th is the best of n of them.

        C(i - 1, n - 1) / C(size, n)

    over all subsets of n, 1 <= n <= size: the weights of the unbiased estimator of best-of-n. They sum to 1.
    """
    log_factorial = gammaln(np.arange(size + 1) + 1.0)
    weights = np.zeros((len(ns), size))
    for row, n in zip(weights, ns, strict=True):
        if not 1 <= n <= size:
            raise ConfigError(f"the best of {n} cannot be estimated from {size} answers", "n", f"1 <= n <= {size}")
        log_all = log_factorial[size] - log_factorial[n] - log_factorial[size - n]
        row[n - 1 :] = np.exp(
            log_factorial[n - 1 : size] - log_factorial[n - 1] - log_factorial[: size - n + 1] - log_all
        )
    return weights


def best_of_n_chi2(n: ArrayLike) -> Array:
    """chi2 of best-of-n from the base policy: n^2 / (2n - 1) - 1, the integral of (n u^(n-1))^2 less 1.

    Exact, or an upper bound, as `best_of_n_kl`. It grows as n / 2.
    """
    n = np.asarray(n, np.float64)
    return (n - 1) ** 2 / (2 * n - 1)


def best_of_n(answers: Answers, ns: Sequence[int] = NS) -> list[Point]:
    """Best-of-n for each n, by the unbiased estimator: the mean over all subsets of n answers.

    An n above `answers.fewest` is left out, so that every point is over the same prompts. Divergences: `best_of_n_kl` and
    `best_of_n_chi2`. Raises `ConfigError` for an n below 1.
    """
    ns = [n for n in ns if n <= answers.fewest]
    return points(ns, *answers.expected(lambda size: rank_weights(size, ns)), best_of_n_kl(ns), best_of_n_chi2(ns))


def best_of_each_n(answers: Answers) -> Array:
    """True reward of best-of-n, mean over prompts, for all n = 1 .. `fewest`."""
    curve = np.zeros(answers.fewest)
    for prompts, _, true in answers.ranked:
        share = true.mean(0) * (len(prompts) / len(answers.proxy))
        for ns in blocks(range(1, answers.fewest + 1)):
            curve[ns[0] - 1 : ns[-1]] += rank_weights(len(share), ns) @ share
    return curve


def blocks(ns: Sequence[int], size: int = 256) -> Iterator[Sequence[int]]:
    """Consecutive parts, so that weights of many n are never all in memory."""
    return (ns[i : i + size] for i in range(0, len(ns), size))
