"""The report of `method=probe`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from rhtool.errors import ConfigError, nearest
from rhtool.interpret.layers import activations, names, resolve
from rhtool.interpret.nets import RewardNet
from rhtool.interpret.networks import sections
from rhtool.interpret.probing import probe
from rhtool.interpret.transitions import Transitions
from rhtool.results.plots import INK

if TYPE_CHECKING:
    from rhtool.interpret.probe import Probe
    from rhtool.interpret.report import Report
    from rhtool.run import Run

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D00", "#56B4E9", "#882255", "#117733")


def write(method: Probe, run: Run, report: Report) -> dict[str, float]:
    """A section for each network; metrics of the first."""
    networks, data = method.networks(run), Transitions.concat(run.task.transitions(run))
    report.text(
        "A probe predicts a quantity of the environment from a layer's activations, on episodes that it was not fitted to. R² says"
        " how much of its variance can be read there. What can be read from a network that has learned nothing was in the input all"
        " along; what the learned one adds to it, or has thrown away, is what learning the reward did."
    )
    return sections(networks, lambda name, net: section(method, run, report, name, net, data))


def aligned(data: Transitions, sees: tuple[str, ...]) -> tuple[Transitions, dict[str, np.ndarray]]:
    """Transitions and what is true of the state that a network sees. An environment's metrics of a step are of s'; those of s are the
    ones of the step before, so that without s' each episode's first step is left out. Rewards are of the step itself."""
    if "next_obs" in sees:
        return data, data.metrics | data.rewards
    before = np.arange(len(data)) - 1
    there = (before >= 0) & (data.episode[before] == data.episode) & (data.step[before] == data.step - 1)
    rows = np.flatnonzero(there)
    kept = data[rows]
    return kept, {key: value[rows - 1] for key, value in data.metrics.items()} | kept.rewards


def section(method: Probe, run: Run, report: Report, name: str, net: RewardNet, data: Transitions) -> dict[str, float]:
    """Probe every layer and its controls, draw, tabulate."""
    data, known = aligned(data, net.sees)
    rng = np.random.default_rng([run.seed, 73])
    rows = np.sort(rng.choice(len(data), min(method.transitions, len(data)), replace=False))
    data, known = data[rows], {key: value[rows] for key, value in known.items()}
    for target in method.targets:
        if target not in known:
            raise ConfigError(f"there is no metric '{target}'", "method.targets", nearest(target, list(known)))
    targets = [key for key in (method.targets or known) if known[key].std() > 1e-9]
    if not targets:
        raise ConfigError("nothing to be read varies", "method.targets", "take other policies, or more episodes")
    episodes = rng.permutation(np.unique(data.episode))
    held_out = np.isin(data.episode, episodes[: max(1, round(method.held_out * len(episodes)))])
    if held_out.all():
        raise ConfigError("there is but one episode", "task.episodes", "take more")
    y = np.stack([known[key] for key in targets], 1)
    shuffled = y[rng.permutation(len(y))]
    layers = [resolve(net, layer) for layer in method.layers] or _telling(net)
    fresh = net.fresh(run.seed + 1)
    found, control = (activations(n, layers, data) for n in (net, fresh))
    with torch.no_grad():
        inputs = torch.cat([net.visible(*net.parts(data[i : i + 256])) for i in range(0, len(data), 256)]).numpy()

    def read(features: np.ndarray, of: np.ndarray, interval: bool = False):
        pooled = features.reshape(*features.shape[:2], -1).mean(-1) if method.positions == "mean" else features
        return probe(pooled, of, data.episode, held_out, method.probe, method.penalty, run.seed, interval)

    lines = []
    for layer, features, other in [("input", inputs, None), *((n, found[n], control[n]) for n in layers)]:
        own = read(features, np.concatenate([y, shuffled], 1), True)
        random = read(other, y).r2 if other is not None else np.full(len(targets), np.nan)
        for t, target in enumerate(targets):
            line = {"layer": layer, "target": target, "R2": own.r2[t], "low": own.low[t], "high": own.high[t]}
            lines.append(line | {"untrained": random[t], "permuted": own.r2[t + len(targets)]})
    table = pd.DataFrame(lines)
    file = name.replace("/", "-")
    report.heading(name)
    report.text(
        f"{len(data)} transitions of {len(episodes)} episodes, {int(held_out.sum())} of them held out; probe: {method.probe}."
        f" Layers: {', '.join(f'`{n}`' for n in names(net))}."
    )
    report.figure(
        f"probe_{file}",
        picture(table, ["input", *layers], targets),
        "R² on held-out episodes by layer, with 95 % intervals over episodes; dashed: the same network untrained. What is below"
        " -0.25 is drawn there.",
    )
    report.table(
        f"probe_{file}",
        table,
        "R² with its interval; of the same architecture untrained; and with the targets permuted, which is what nothing gives.",
        rows=60,
    )
    own = table[~table.target.isin(("proxy", "true")) & (table.layer == layers[-1])]
    if len(own):
        best, worst = own.loc[own.R2.idxmax()], own.loc[own.R2.idxmin()]
        report.finding(
            f"At its last layer the network knows most of `{best.target}` (R² {best.R2:.2f}) and least of `{worst.target}`"
            f" ({worst.R2:.2f})."
        )
    metrics = {}
    for target in targets:
        row = table[(table.target == target) & (table.layer != "input")].set_index("layer").R2
        metrics[f"probe/{target}"] = float(row.max())
    return metrics


def _telling(net: RewardNet) -> list[str]:
    """The layers after activations, and the last: what stands between has the same to tell."""
    known = names(net)
    return [n for n in known[:-1] if "act" in n.rpartition(".")[2]] + [known[-1]]


def picture(table: pd.DataFrame, layers: list[str], targets: list[str]) -> Figure:
    """A line for each target through the layers."""
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(layers))
    for t, target in enumerate(targets):
        rows = table[table.target == target].set_index("layer").loc[layers]
        ink, shift = COLOURS[t % len(COLOURS)], 0.03 * (t - (len(targets) - 1) / 2)
        axes.vlines(
            places + shift, rows.low.clip(lower=-0.25), rows.high.clip(lower=-0.25), color=ink, linewidth=1.2, alpha=0.7
        )
        axes.plot(
            places + shift,
            rows.R2.clip(lower=-0.25),
            color=ink,
            marker="o",
            markersize=3.5,
            linewidth=1.5,
            label=target,
        )
        axes.plot(
            places + shift, rows.untrained.clip(lower=-0.25), color=ink, linestyle=(0, (4, 3)), linewidth=1, alpha=0.8
        )
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_ylim(-0.28, 1.04)
    axes.set_xticks(places, [layer.rpartition(".")[2] for layer in layers], fontsize=8.5)
    axes.set_ylabel("R² on held-out episodes", fontsize=9)
    axes.tick_params(axis="y", labelsize=8.5)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
