"""What selection among scored answers gives: curves over its strength, their picture, and the diagnostics of hacking."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from rhtool.hacking import diagnostics
from rhtool.lm import hedging
from rhtool.lm.bon import NS, Answers, Point, best_of_n
from rhtool.lm.ppo_math import correlation
from rhtool.results.overoptimisation import points
from rhtool.rewards.combine import OF_ENSEMBLES, combination


def proxies(scores: np.ndarray, combined: np.ndarray, weights: Mapping[str, float]) -> dict[str, np.ndarray]:
    """`{name: proxy (N, Q)}`: the reward's own, and of K > 1 judges each combination of `scores` (N, Q, K) that
    ensembles have, and each judge."""
    import torch

    found = {"proxy": combined}
    if scores.shape[-1] > 1:
        for name in OF_ENSEMBLES:
            options = {"weight": weights[name]} if name in weights else {}
            found[name] = combination(name, **options)(torch.from_numpy(scores).double()).numpy()
        found |= {f"judge_{k}": scores[..., k].astype(np.float64) for k in range(scores.shape[-1])}
    return found


def curves(
    proxy: np.ndarray, true: np.ndarray, rates: list[float], soft_n: int, temperatures: list[float]
) -> pd.DataFrame:
    """A row per method and strength, with the expected proxy and true reward, their standard errors over prompts, KL and chi2.

    `proxy` and `true` are (N, Q). Methods: `best_of_n`, `best_of_poisson`, `soft_best_of_n` (temperatures in standard
    deviations of the proxy), and each with `tuned`: the strength of most true reward (HedgeTune).
    """
    answers = Answers(list(proxy.T), list(true.T))
    unit = float(np.std(proxy)) or 1.0
    n = min(soft_n, answers.fewest)
    found = {
        ("best_of_n", False): best_of_n(answers, [n for n in NS if n <= answers.fewest]),
        ("best_of_poisson", False): hedging.best_of_poisson(answers, [r for r in rates if r < answers.fewest]),
        ("soft_best_of_n", False): hedging.soft_best_of_n(answers, n, [t * unit for t in temperatures]),
        ("best_of_n", True): [hedging.hedge_best_of_n(answers).point],
        ("best_of_poisson", True): [hedging.hedge_best_of_poisson(answers).point],
        ("soft_best_of_n", True): [hedging.hedge_soft_best_of_n(answers, n).point],
    }
    return pd.DataFrame(
        [{"method": method, "tuned": tuned, **_row(point)} for (method, tuned), some in found.items() for point in some]
    )


def _row(point: Point) -> dict[str, float]:
    names = ("strength", "proxy", "proxy_se", "true", "true_se", "kl", "chi2")
    return {name: float(getattr(point, name)) for name in names}


def summary(table: pd.DataFrame, proxy: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Metrics: what the most selection gives, the best n, the base policy's own rewards, the diagnostics of hacking."""
    of_n = table[(table.method == "best_of_n") & ~table.tuned].sort_values("strength")
    last, tuned = of_n.iloc[-1], table[(table.method == "best_of_n") & table.tuned].iloc[0]
    q = proxy.shape[1]
    metrics = {
        "true/return": last.true,
        "proxy/return": last.proxy,
        "true/return_se": last.true_se,
        "proxy/return_se": last.proxy_se,
        "divergence/kl": last.kl,
        "divergence/chi2": last.chi2,
        "divergence/sqrt_chi2": math.sqrt(last.chi2),
        "bon/n": last.strength,
        "bon/best_n": tuned.strength,
        "bon/best_true": tuned.true,
    }
    for name, x in (("true", true), ("proxy", proxy)):
        metrics |= {f"base/{name}/return": float(x.mean()), f"base/mean/{name}": float(x.mean())}
        metrics |= {f"base/sigma/{name}": float(x.std()), f"mean/{name}": metrics[f"{name}/return"]}
        metrics[f"base/{name}/return_se"] = float(x.mean(0).std(ddof=1) / math.sqrt(q)) if q > 1 else math.nan
    import torch

    metrics["base/correlation"] = correlation(torch.from_numpy(proxy).flatten(), torch.from_numpy(true).flatten())
    return metrics | diagnostics(metrics, 1.0)


def gao_table(table: pd.DataFrame, base: tuple[float, float]) -> pd.DataFrame:
    """Best-of-n's curve as `overoptimisation.points`, with the base policy's true and proxy reward."""
    of_n = table[(table.method == "best_of_n") & ~table.tuned]
    rows = of_n.rename(columns={"strength": "n", "true": "true/return", "proxy": "proxy/return"})
    rows = rows.rename(columns={"true_se": "true/return_se", "proxy_se": "proxy/return_se"})
    return points({"best-of-n": rows.reset_index(drop=True)}, "n", base)
