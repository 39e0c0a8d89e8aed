"""What a feature of answers is paid by the proxy and by the true reward, and which features explain where the two part.

Everything is within prompts: of features and rewards the prompt's mean is taken away. The gap is z(proxy) - z(true). Features are chosen
by an L1 regression (Tibshirani 1996) on one half of the prompts, its penalty by cross-validation over prompts and the rule of one
standard error; what they are paid is measured on the other half, so that the choice does not flatter it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rhtool.interpret.text_features import Table
from rhtool.interpret.texts import centred
from rhtool.results.statistics import LEVEL

Array = NDArray[np.float64]

FOLDS = 5
RESAMPLES = 1000
MOST = 12
"""features that are chosen: a reader cannot weigh more"""


@dataclass
class Prices:
    """What was found."""

    table: pd.DataFrame
    """a row per chosen feature, the strongest first: `feature`, `said`, `spread` (its standard deviation within prompts), `weight`
    (change of the gap, in standard deviations, with one standard deviation of it, the other chosen ones held, on the half that
    chose), and what one more of it is paid, in standard deviations of the reward, `gap`, `proxy`, `true`, each with `_low`, `_high`"""
    r2: float
    """share of the gap's variance on the other half that the regression explains"""
    prompts: int
    answers: int
    features: int
    """that were offered"""


def prices(features: Table, z: dict[str, Array], prompt: NDArray[np.int64], seed: int = 0) -> Prices:
    """The prices of the features that explain z["proxy"] - z["true"], both (N,), of answers to `prompt` (N,)."""
    from sklearn.linear_model import Lasso, lasso_path
    from sklearn.model_selection import GroupKFold

    x = centred(features.values, prompt)
    spread = np.sqrt((x**2).mean(0))
    kept = np.flatnonzero(spread > 1e-9)
    features, x, spread = features.columns(kept.tolist()), x[:, kept], spread[kept]
    gap = centred(z["proxy"] - z["true"], prompt)
    different = np.unique(prompt)
    shuffled = np.random.default_rng(seed).permutation(different)
    first = np.isin(prompt, shuffled[: (len(different) + 1) // 2])
    second = ~first
    chosen, weights, r2 = np.zeros(0, np.int64), np.zeros(0), 0.0
    folds = min(FOLDS, len(np.unique(prompt[first])))
    if x.shape[1] and folds > 1 and np.ptp(gap[first]) > 0:
        scaled = x / spread
        top = np.abs(scaled[first].T @ gap[first]).max() / first.sum()
        alphas = top * np.logspace(0, -2.5, 40)
        errors = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convergence, on the smallest penalties, which are not chosen
            for train, test in GroupKFold(folds).split(scaled[first], groups=prompt[first]):
                _, path, _ = lasso_path(scaled[first][train], gap[first][train], alphas=alphas)
                errors.append(((gap[first][test][:, None] - scaled[first][test] @ path) ** 2).mean(0))
            mean, error = np.mean(errors, 0), np.std(errors, 0, ddof=1) / folds**0.5
            best = int(mean.argmin())
            alpha = alphas[int(np.flatnonzero(mean <= mean[best] + error[best])[0])]
            fitted = Lasso(alpha=alpha, fit_intercept=False, max_iter=10_000).fit(scaled[first], gap[first])
        weights = fitted.coef_
        chosen = np.argsort(-np.abs(weights), kind="stable")[: min(MOST, int((weights != 0).sum()))]
        if second.any() and (total := (gap[second] ** 2).sum()) > 0:
            r2 = 1 - ((gap[second] - scaled[second] @ weights) ** 2).sum() / total
    rows = {
        "feature": [features.names[i] for i in chosen],
        "said": [features.said[i] for i in chosen],
        "spread": spread[chosen],
        "weight": weights[chosen] if len(weights) else np.zeros(0),
    }
    at = second if second.any() else first
    for name, y in {"gap": gap, **{k: centred(v, prompt) for k, v in z.items()}}.items():
        found = [slope(x[at, i], y[at], prompt[at], seed) for i in chosen]
        for part, suffix in enumerate(("", "_low", "_high")):
            rows[name + suffix] = np.array([f[part] for f in found], np.float64)
    counts = {"prompts": len(different), "answers": len(prompt), "features": len(kept)}
    return Prices(pd.DataFrame(rows), float(r2), **counts)


def slope(x: Array, y: Array, prompt: NDArray[np.int64], seed: int = 0) -> tuple[float, float, float]:
    """Of y on x, both centred within prompts, (N,), by least squares, with the percentile interval of a bootstrap over prompts.

    NaN if x never varies.
    """
    _, inverse = np.unique(prompt, return_inverse=True)
    xy, xx = np.bincount(inverse, x * y), np.bincount(inverse, x * x)
    if not xx.sum() > 0:
        return float("nan"), float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(len(xx), size=(RESAMPLES, len(xx)))
    below = xx[draws].sum(1)
    drawn = np.divide(xy[draws].sum(1), below, out=np.full(RESAMPLES, np.nan), where=below > 0)
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(xy.sum() / xx.sum()), float(low), float(high)


def paid_by_proxy_alone(found: Prices) -> pd.DataFrame:
    """The rows of features for which the gap rises, and of which more is paid by the proxy and not by the true reward, all beyond
    the intervals; the strongest first."""
    t = found.table
    return t[(t.weight > 0) & (t.gap_low > 0) & (t.proxy_low > 0) & (t.true_high <= 0.5 * t.proxy)]


def paid_by_truth_alone(found: Prices) -> pd.DataFrame:
    """Likewise the rows of what the true reward pays for, and the proxy not, or much less."""
    t = found.table
    return t[(t.weight < 0) & (t.gap_high < 0) & (t.true_low > 0) & (t.proxy_high <= 0.5 * t.true)]
