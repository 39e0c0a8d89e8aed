"""The report of `method=attribution`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor

from rhtool.interpret import attribute, pictures
from rhtool.interpret.nets import CnnReward, MlpReward, RewardNet
from rhtool.interpret.networks import short
from rhtool.interpret.transitions import Transitions

if TYPE_CHECKING:
    from rhtool.interpret.attribution import Attribution
    from rhtool.interpret.report import Report
    from rhtool.run import Run

BLUR = 4.0
"""pixels: standard deviation of the blurred baseline"""
RESAMPLES = 500
COMPLETE = ("integrated_gradients", "expected_gradients", "shapley")
"""methods whose attributions are to sum to the difference from the baseline"""


def write(method: Attribution, run: Run, report: Report) -> dict[str, float]:
    """A section for each network, and one that compares vectors' features between them; metrics of the first."""
    networks, data = method.networks(run), method.sample(run)
    report.text(
        "An attribution divides the difference of a reward from that of a baseline among the parts of its input. Ways to divide"
        " differ, and none is a proof: below them stands whether their sums are right (completeness), and whether the reward goes"
        " when what they point at is taken away (deletion, the lower the better) and comes when it is put back (insertion)."
    )
    metrics: dict[str, float] = {}
    ranked: dict[str, pd.Series] = {}
    for name, label in short(list(networks)).items():
        report.heading(label)
        found, features = section(method, run, report, label, networks[name], data)
        metrics = metrics or found
        if features is not None:
            ranked[label] = features
    if len(ranked) > 1:
        compare(report, ranked)
    return metrics


def section(
    method: Attribution, run: Run, report: Report, name: str, net: RewardNet, data: Transitions
) -> tuple[dict[str, float], pd.Series | None]:
    """Attribute, judge, draw. Returns the metrics, and of a network of vectors the features' shares."""
    rng = np.random.default_rng([run.seed, 72])
    rows = np.sort(rng.choice(len(data), min(method.explained, len(data)), replace=False))
    chosen, generator = data[rows], torch.Generator().manual_seed(run.seed)
    net.requires_grad_(False)
    everything = torch.cat([net.visible(*net.parts(data[i : i + 256])) for i in range(0, len(data), 256)])
    x = everything[torch.from_numpy(rows)]
    _, action, _, ends = net.parts(chosen)
    f = lambda x: net.of_visible(x, action, ends)  # noqa: E731
    baseline = baseline_of(method.baseline, x, everything, generator)
    groups = attribute.blocks(tuple(x.shape[1:]), method.patch)
    made = {way: HOW[way](method, f, x, baseline, everything, groups, generator) for way in method.methods}
    main = "integrated_gradients" if "integrated_gradients" in made else method.methods[0]
    report.text(
        f"{len(x)} of {len(data)} transitions are explained, against the baseline `{method.baseline}`; the features below are ranked by"
        f" `{main}`."
    )
    table = judged(made, f, x, baseline, everything, groups, generator, main)
    if isinstance(net, CnnReward):
        images(method, report, name, net, x, f, made, main, chosen)
        features = None
    else:
        names = feature_names(run, net)
        features = vectors(method, report, name, names, x, made[main], chosen)
    report.table(
        f"methods_{name.replace('/', '-')}",
        table,
        "Completeness: median over transitions of |sum - difference from the baseline|, in median differences. The others are"
        " shares of that difference, see docs/metrics.md; `random order` is what knowing nothing gives. Agreement: mean rank"
        f" correlation with {main}.",
    )
    by = table.set_index("method")
    row, chance = by.loc[main], by.loc["random order"]
    trusted = row.insertion - row.deletion > chance.insertion - chance.deletion
    lost = f"{row.comprehensiveness:.0%}" if row.comprehensiveness < 1.005 else "all, and more,"
    report.finding(
        f"{main.replace('_', ' ').capitalize()} {'point' if trusted else 'do not point'} at what the reward is made of: taking"
        f" away the fifth of the input that they rank first takes away {lost} of the difference from the"
        f" baseline, a random fifth {chance.comprehensiveness:.0%}."
    )
    metrics = {
        f"attribution/{key}": float(row[key]) for key in ("completeness", "deletion", "insertion", "comprehensiveness")
    }
    return metrics | {"attribution/random_comprehensiveness": float(chance.comprehensiveness)}, features


HOW: dict[str, Callable[..., Tensor]] = {
    "saliency": lambda m, f, x, x0, all_x, groups, rng: attribute.saliency(f, x),
    "gradient_input": lambda m, f, x, x0, all_x, groups, rng: attribute.gradient_input(f, x, x0),
    "integrated_gradients": lambda m, f, x, x0, all_x, groups, rng: attribute.integrated_gradients(f, x, x0, m.steps),
    "expected_gradients": lambda m, f, x, x0, all_x, groups, rng: attribute.expected_gradients(
        f, x, all_x, m.steps, rng
    ),
    "occlusion": lambda m, f, x, x0, all_x, groups, rng: attribute.occlusion(f, x, x0, groups),
    "shapley": lambda m, f, x, x0, all_x, groups, rng: attribute.shapley(f, x, x0, groups, m.permutations, rng),
}


def baseline_of(name: str, x: Tensor, everything: Tensor, generator: torch.Generator) -> Tensor:
    """What stands for an absent feature, of x's shape."""
    if name == "blurred":
        return attribute.blurred(x, BLUR)
    if name == "data":
        return everything[torch.randint(len(everything), (len(x),), generator=generator)]
    return torch.zeros_like(x) if name == "zero" else everything.mean(0, keepdim=True).expand_as(x)


def judged(
    made: dict[str, Tensor],
    f: attribute.Function,
    x: Tensor,
    baseline: Tensor,
    everything: Tensor,
    groups: Tensor,
    generator: torch.Generator,
    main: str,
) -> pd.DataFrame:
    """What each way is worth, and a random order."""
    with torch.no_grad():
        difference = f(x) - f(baseline)
        # Of expected gradients the baselines are the data: the mean reward of these transitions' actions there.
        some = everything[torch.randperm(len(everything), generator=generator)[:32]]
        expected = f(x) - torch.stack([f(one.expand_as(x)) for one in some]).mean(0)
    rows = []
    order = torch.rand(x.shape, generator=generator)
    order = order.mean(1, keepdim=True).expand_as(x) if x.dim() == 4 else order
    for way, a in {**made, "random order": order}.items():
        row: dict[str, object] = {"method": way}
        right = expected if way == "expected_gradients" else difference
        row["completeness"] = float(attribute.completeness(a, right).median()) if way in COMPLETE else float("nan")
        row |= attribute.faithfulness(f, a, x, baseline, groups)
        row["agreement"] = float(
            np.mean(
                [_spearman(p, q) for p, q in zip(_per_group(a, groups), _per_group(made[main], groups), strict=True)]
            )
        )
        rows.append(row)
    return pd.DataFrame(rows)


def _per_group(a: Tensor, groups: Tensor) -> np.ndarray:
    """Sums (N, G) over groups."""
    flat = (a.sum(1) if a.dim() == 4 else a).flatten(1)
    return torch.zeros(len(a), int(groups.max()) + 1).index_add_(1, groups.flatten(), flat).numpy()


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    a, b = rankdata(np.abs(a)), rankdata(np.abs(b))
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def feature_names(run: Run, net: MlpReward) -> list[str]:
    """What the network's features are, in the environment's words where it has any."""
    lanes = run.env.make_vec(1)
    try:
        return net.feature_names(*(tuple(getattr(lanes, f"{part}_names", ())) for part in ("obs", "action")))
    finally:
        lanes.close()


def vectors(
    method: Attribution, report: Report, name: str, names: list[str], x: Tensor, a: Tensor, data: Transitions
) -> pd.Series:
    """A table and a picture of the features; their shares of the mean size of all attributions."""
    sizes, values = a.abs().numpy(), x.numpy()
    total = sizes.mean(0).sum() or 1.0
    episodes = np.unique(data.episode, return_inverse=True)[1]
    low, high = _interval(sizes, episodes)
    slope = [_correlation(values[:, i], a[:, i].numpy()) for i in range(len(names))]
    table = pd.DataFrame(
        {
            "feature": names,
            "share": sizes.mean(0) / total,
            "low": low,
            "high": high,
            "mean": a.mean(0).numpy(),
            "more of it pays": ["" if s != s else "more" if s > 0 else "less" for s in slope],
        }
    )
    table = table.sort_values("share", ascending=False, kind="stable").reset_index(drop=True)
    top = table.head(method.features)
    shown = {row.feature: (row.share, row.low, row.high) for row in top.itertuples()}
    ink = ["#D55E00" if row["more of it pays"] == "less" else "#0072B2" for _, row in top.iterrows()]
    file = name.replace("/", "-")
    report.figure(
        f"attribution_{file}",
        pictures.bars(shown, "share of the mean size of all attributions", ink),
        "What the reward is made of: each feature's share, with 95 % intervals over episodes. Blue: more of it pays more; orange: less.",
    )
    report.table(
        f"features_{file}",
        table,
        "The features as the network sees them; `mean` is the mean attribution, in the reward's unit.",
        rows=method.features,
    )
    first = top.iloc[0]
    pays = f"; more of it pays {first['more of it pays']}" if first["more of it pays"] else ""
    report.finding(
        f"`{first.feature}` has {first.share:.0%} of all attributions [{first.low:.0%}, {first.high:.0%}]{pays}."
    )
    return table.set_index("feature").share


def _interval(sizes: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """95 % intervals (2, F) of the columns' shares of the whole, episodes being drawn with replacement."""
    rng = np.random.default_rng(0)
    count = int(episodes.max()) + 1
    sums = np.zeros((count, sizes.shape[1]))
    np.add.at(sums, episodes, sizes)
    drawn = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)
    resampled = drawn @ sums
    return np.quantile(resampled / resampled.sum(1, keepdims=True).clip(min=1e-300), [0.025, 0.975], axis=0)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 and b.std() > 1e-9 else float("nan")


def images(
    method: Attribution,
    report: Report,
    name: str,
    net: CnnReward,
    x: Tensor,
    f: attribute.Function,
    made: dict[str, Tensor],
    main: str,
    data: Transitions,
) -> None:
    """Maps over the images with the highest rewards, one of an episode, and the mean map."""
    with torch.no_grad():
        rewards = f(x).numpy()
    order = np.argsort(-rewards, kind="stable")
    own = order[np.sort(np.unique(data.episode[order], return_index=True)[1])][: method.shown]
    rows: dict[str, list[np.ndarray]] = {}
    for i in own:
        for frame, pixels in pictures.frames(x[i].numpy(), net.sees).items():
            rows.setdefault(frame, []).append(pictures.rgb(pixels))
    for way, a in made.items():
        for i in own:
            for frame, (pixels, part) in _both(x[i], a[i], net).items():
                several = f" of {frame}" if len(pictures.frames(x[0].numpy(), net.sees)) > 1 else ""
                limit = float(np.quantile(np.abs(part), 0.99))
                rows.setdefault(f"{way.replace('_', chr(10))}{several}", []).append(
                    pictures.overlay(pictures.rgb(pixels), part, limit)
                )
    file = name.replace("/", "-")
    report.figure(
        f"attribution_{file}",
        pictures.grid(rows, [f"reward {rewards[i]:.3g}" for i in own]),
        "The transitions with the highest rewards, one of an episode, and what each way to attribute says of their pixels: orange"
        " raises the reward against the baseline, blue lowers it; colours are scaled image by image.",
    )
    mean = made[main].abs().mean(0)
    sheets = {
        frame: [pictures.overlay(np.zeros((*part.shape, 3)), part, float(part.max()))]
        for frame, (_, part) in _both(x[0], mean, net).items()
    }
    report.figure(
        f"places_{file}",
        pictures.grid(sheets, [main.replace("_", " ")]),
        "Where the network looks: mean size of the attributions at each pixel.",
    )
    report.table(
        f"channels_{file}",
        pd.DataFrame(
            {
                "channel": [
                    f"{frame} {c}"
                    for frame, p in pictures.frames(mean.numpy(), net.sees).items()
                    for c in range(len(p))
                ],
                "share": mean.sum((1, 2)).numpy() / max(float(mean.sum()), 1e-12),
                "mean": made[main].mean(0).sum((1, 2)).numpy(),
            }
        ),
        "Shares of the channels (of colours: red, green, blue), and their mean attributions in the reward's unit.",
    )


def _both(x: Tensor, a: Tensor, net: CnnReward) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`{frame: (its pixels (C, H, W), its attributions summed over channels (H, W))}`."""
    seen, said = pictures.frames(x.numpy(), net.sees), pictures.frames(a.numpy(), net.sees)
    return {frame: (seen[frame], said[frame].sum(0)) for frame in seen}


def compare(report: Report, ranked: dict[str, pd.Series]) -> None:
    """The features' shares in several rewards side by side: what one pays for that another does not."""
    table = pd.DataFrame(ranked).fillna(0.0)
    first, *others = table.columns
    gap = table[first] - table[others].max(axis=1)
    table.insert(0, "feature", table.index)
    table["difference"] = gap
    table = table.sort_values("difference", ascending=False, kind="stable").reset_index(drop=True)
    report.heading("Compared")
    report.table(
        "compared", table, f"Shares of the features in each reward; `difference`: of {first} from the largest other."
    )
    top = table.iloc[0]
    report.finding(
        f"What {first} looks at more than the others do is `{top.feature}`: {top[first]:.0%} of its attributions."
    )
