"""The report of `method=examples`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from rhtool.interpret import pictures, reduce
from rhtool.interpret.layers import activations, contributions, names, resolve, without
from rhtool.interpret.nets import CnnReward
from rhtool.interpret.networks import sections
from rhtool.interpret.transitions import Transitions

if TYPE_CHECKING:
    from rhtool.interpret.examples import Examples
    from rhtool.interpret.report import Report
    from rhtool.run import Run


def write(method: Examples, run: Run, report: Report) -> dict[str, float]:
    """A section for each network; metrics of the first."""
    networks, data = method.networks(run), method.sample(run)
    report.text(
        "A layer's channels are seldom one thing each. Here they are explained as sums of a few directions with non-negative"
        " weights; each is shown by the pieces of the data in which it is strongest. What it does is"
        " measured by taking it away: the reward of the data without the direction."
    )
    return sections(networks, lambda name, net: section(method, run, report, name, net, data))


def section(
    method: Examples, run: Run, report: Report, name: str, net: CnnReward, data: Transitions
) -> dict[str, float]:
    """Factorise, show, take away."""
    known = names(net)
    layer = resolve(net, method.layer or known[known.index("cnn.avg_pool") - 1])
    collect = (
        contributions
        if method.of == "attributions"
        else lambda *args: activations(args[0], [args[1]], args[2])[args[1]]
    )
    acts = collect(net, layer, data)
    factors = min(method.factors, acts.shape[1])
    factorise = reduce.factorise_attributions if method.of == "attributions" else reduce.factorise
    found = factorise(acts, factors, run.seed)
    before = net.predict(data)
    spread = float(before.std()) or 1.0
    rows, mosaics = [], {}
    for k, direction in enumerate(found.directions):
        with without(net, layer, direction):
            change = net.predict(data) - before
        strength = found.weights[:, k].reshape(len(data), -1).mean(1)
        row = {
            "factor": f"factor {k}",
            "strength": float(strength.mean()),
            "correlation with the reward": _correlation(strength, before),
        }
        for reward, values in data.rewards.items():
            row[f"with the {reward} reward"] = _correlation(strength, values)
        row |= {"reward without it": float(change.mean()), "change / sd": float(np.sqrt((change**2).mean()) / spread)}
        rows.append(row)
        for frame, picture in mosaic(method, net, data, found.weights[:, k]).items():
            mosaics.setdefault(frame, []).append(picture)
    table = pd.DataFrame(rows)
    report.heading(name)
    report.text(
        f"Layer `{layer}`, {acts.shape[1]} channels, {factors} factors, which leave {found.error:.1%} of its outputs unexplained."
        f" Layers: {', '.join(f'`{n}`' for n in known)}."
    )
    file = name.replace("/", "-")
    report.figure(
        f"examples_{file}",
        pictures.grid(
            mosaics, table.factor.tolist(), [f"without: {c:.2f} sd" for c in table["change / sd"]], per_line=3
        ),
        "The pieces of the data in which each factor is strongest, each of another episode, in the order of their places in the"
        " image; paler where it is weaker.",
    )
    report.table(
        f"factors_{file}",
        table,
        "Mean strength of each factor; its correlation with the network's reward and with the environment's own; by how much the"
        " network's reward changes in the mean if the factor is taken away, and root mean square of that in the reward's standard"
        " deviations.",
    )
    strongest = table.iloc[int(table["change / sd"].argmax())]
    report.finding(
        f"What decides most is {strongest.factor}: without it rewards change by {strongest['change / sd']:.2f} standard deviations."
    )
    return {"examples/error": found.error, "examples/largest_change": float(table["change / sd"].max())}


def mosaic(method: Examples, net: CnnReward, data: Transitions, feature: np.ndarray) -> dict[str, np.ndarray]:
    """`{frame: (h, w, 3)}`: side x side pieces, sorted by place, faded to white where the factor is weaker."""
    found = reduce.strongest(np.abs(feature), method.side**2, method.side if feature.ndim > 1 else None, data.episode)
    found = sorted(found, key=lambda e: (e.y, e.x, -e.strength))
    most = max(e.strength for e in found) or 1.0
    grid = feature.shape[1:] or (1, 1)
    pieces: dict[str, list[np.ndarray]] = {}
    for example in found:
        with torch.no_grad():
            image = net.visible(*net.parts(data[[example.sample]]))[0].numpy()
        for frame, pixels in pictures.frames(image, net.sees).items():
            piece = reduce.patch(pictures.rgb(pixels), grid, (example.y, example.x), method.expand)
            opacity = 0.25 + 0.75 * example.strength / most
            pieces.setdefault(frame, []).append(opacity * piece + 1 - opacity)
    return {frame: _tiled(own, method.side) for frame, own in pieces.items()}


def _tiled(pieces: list[np.ndarray], side: int) -> np.ndarray:
    h, w, _ = pieces[0].shape
    gap = max(1, h // 12)
    sheet = np.ones((side * (h + gap) - gap, side * (w + gap) - gap, 3))
    for i, piece in enumerate(pieces):
        y, x = (k * (n + gap) for k, n in zip(divmod(i, side), (h, w), strict=True))
        sheet[y : y + h, x : x + w] = piece
    return sheet


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")
