"""The report of `method=feature_visualisation`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from matplotlib import image as files
from torch import Tensor, nn

from rhtool.errors import ConfigError, RhtoolError
from rhtool.interpret import pictures, reduce
from rhtool.interpret import visualise as v
from rhtool.interpret.layers import activations, names, resolve
from rhtool.interpret.nets import CnnReward
from rhtool.interpret.networks import short
from rhtool.interpret.transitions import Transitions

if TYPE_CHECKING:
    from rhtool.interpret.feature_visualisation import FeatureVisualisation
    from rhtool.interpret.report import Report
    from rhtool.run import Run

ZOOM = 4
"""pixels of a saved picture for one of the image"""


@dataclass
class Features:
    """What is to be maximised, one for each image."""

    names: list[str]
    objective: v.Objective
    strength: np.ndarray
    """(N, F): of the data's transitions"""


def write(method: FeatureVisualisation, run: Run, report: Report) -> dict[str, float]:
    """A section for each network; metrics of the first."""
    networks, data = method.networks(run), method.sample(run)
    called = short(list(networks))
    metrics: dict[str, float] = {}
    report.text(
        "Each image below was made by gradient ascent on a network's output, not seen by any policy. What the network pays for"
        " is what all of an image's instances have in common; a reward far above that of the data says that the network can be"
        " paid by what no policy has shown it yet."
    )
    for name, net in networks.items():
        if name != method.minus:
            other = networks.get(method.minus)
            found = section(method, run, report, called[name], net, data, other)
            metrics = metrics or found
    return metrics


def section(
    method: FeatureVisualisation,
    run: Run,
    report: Report,
    name: str,
    net: CnnReward,
    data: Transitions,
    other: CnnReward | None,
) -> dict[str, float]:
    """Maximise, draw, compare with the data and with noise."""
    x = torch.cat([net.visible(*net.parts(data[i : i + 256])) for i in range(0, len(data), 256)])
    layer = resolve(net, method.layer or names(net)[-1])
    report.heading(name)
    report.text(f"Layers: {', '.join(f'`{n}`' for n in names(net))}. Maximised here: `{layer}`.")
    if method.init == "images":
        features, start, cases = of_cases(method, net, report, name)
    else:
        features, cases = features_of(method, net, layer, data, x, other, run.seed), []
        start = x[features.strength.argmax(0)]
    images, penalty = parametrised(method, net, len(features.names), start, run.seed)
    moves = [v.jitter(min(method.jitter, min(net.image[1:]) // 4))] if method.jitter else []
    moves += [v.affine(method.scale, method.degrees)] if method.scale or method.degrees else []
    objective = features.objective - penalty
    for weight, term in (
        (method.total_variation, v.total_variation()),
        (method.roughness, v.roughness()),
        (-method.diversity, v.diversity(layer)),
    ):
        objective = objective - weight * term if weight else objective
    still = method.init in ("gan", "images")
    found = v.maximise(net, objective, images, [] if still else moves, method.steps, method.lr, run.seed)
    rewards, seen = v.rewards_by_action(net, found.images), v.rewards_by_action(net, x)
    draw(
        report,
        run.path,
        name,
        net,
        found.images,
        start if method.init in ("dataset", "images") else None,
        features,
        rewards,
    )
    table = pd.DataFrame(rewards, columns=[f"action {a}" for a in range(rewards.shape[1])])
    table.insert(0, "image", cases or features.names)
    quantiles = np.quantile(seen, [0.05, 0.5, 0.95, 1.0], axis=0)
    generator = torch.Generator().manual_seed(run.seed)
    noise = (0.5 + torch.randn((method.noise, *net.image), generator=generator)).clamp(0, 1)
    below = pd.DataFrame(np.concatenate([quantiles, v.rewards_by_action(net, noise)]), columns=table.columns[1:])
    said = ["data: 5 % quantile", "data: median", "data: 95 % quantile", "data: highest"]
    below.insert(0, "image", said + [f"Gaussian noise {i}" for i in range(method.noise)])
    report.table(
        f"rewards_{name.replace('/', '-')}",
        pd.concat([table, below]),
        f"Rewards under every action, of the images above, of {len(x)} transitions of the data, and of noise.",
    )
    highest, of_data = float(rewards.max()), float(seen.max())
    spread = float(seen.std()) or 1.0
    report.finding(
        f"The most that the network pays for any of these images is {highest:.4g}; of the data, {of_data:.4g} "
        f"({(highest - of_data) / spread:+.1f} standard deviations of the data's rewards)."
        + (f" For Gaussian noise it pays up to {v.rewards_by_action(net, noise).max():.4g}." if method.noise else "")
    )
    return {
        "visualisation/reward": highest,
        "visualisation/data_reward": of_data,
        "visualisation/noise_reward": float(v.rewards_by_action(net, noise).max()) if method.noise else float("nan"),
        "visualisation/objective": float(found.objective[-1].mean()),
    }


def features_of(
    method: FeatureVisualisation,
    net: CnnReward,
    layer: str,
    data: Transitions,
    x: Tensor,
    other: CnnReward | None,
    seed: int,
) -> Features:
    """The units of a layer, its factors, or what is paid here and not by another network."""
    acts = activations(net, [layer], data)[layer]
    pooled = acts.reshape(*acts.shape[:2], -1).mean(-1)
    last = layer == names(net)[-1]
    if other is not None:
        if (net.image, net.actions, net.sees) != (other.image, other.actions, other.sees):
            raise RhtoolError(
                "the rewards look at different things", "method.minus", "learn both with the same task.sees"
            )
        heads = [torch.as_tensor(v.rewards_by_action(n, x)) for n in (net, other)]
        sd = [float(h.std()) or 1.0 for h in heads]
        action = torch.eye(net.actions)[: heads[0].shape[1]]

        def apart(seen: v.Seen) -> Tensor:
            ends = seen.moved.new_zeros(len(seen.moved))
            return sum(
                s / d * n.of_visible(seen.moved, action, ends) for s, d, n in ((1, sd[0], net), (-1, sd[1], other))
            )

        strength = (heads[0] / sd[0] - heads[1] / sd[1]).numpy()
        return Features([f"action {a}" for a in range(len(action))], v.Objective(apart), strength)
    if method.factors:
        reduced = reduce.factorise(acts, method.factors, seed)
        vectors = torch.from_numpy(reduced.directions).float()
        strength = reduced.weights.reshape(*reduced.weights.shape[:2], -1).mean(-1)
        return Features(
            [f"factor {k}" for k in range(method.factors)],
            v.directions(layer, vectors, method.cosine or None),
            strength,
        )
    best = np.argsort(-pooled.std(0), kind="stable")[: method.shown]
    index = sorted(best.tolist())
    heads = "action" if last and "action" in net.sees else "unit"
    ends = [f"{heads} {i}" if not last or i < net.actions else f"action {i - net.actions}, end" for i in index]
    return Features(ends, v.units(layer, index), pooled[:, index])


def of_cases(
    method: FeatureVisualisation, net: CnnReward, report: Report, name: str
) -> tuple[Features, Tensor, list[str]]:
    """Images of one's own: what the network pays for them, and the reward of the first action to be climbed from there."""
    cases = sorted(d for d in Path(method.folder).iterdir() if d.is_dir())
    if not cases:
        raise ConfigError("there is no case in it", f"method.folder={method.folder}", "make CASE/obs.png in it")
    parts, channels = (
        [p for p in ("obs", "next_obs") if p in net.sees],
        net.image[0] // (2 if {"obs", "next_obs"} <= {*net.sees} else 1),
    )
    read = []
    for case in cases:
        found = []
        for part in parts:
            file = next((f for f in (case / f"{part}.png", case / "obs.png") if f.is_file()), None)
            if file is None:
                raise ConfigError(f"there is no {part}.png", str(case), "draw one")
            picture = files.imread(file)
            picture = picture[..., None].repeat(3, -1) if picture.ndim == 2 else picture[..., :3]
            if picture.shape[:2] != net.image[1:]:
                what = f"it has {picture.shape[1]} x {picture.shape[0]} pixels"
                raise ConfigError(what, str(file), f"the network takes {net.image[2]} x {net.image[1]}")
            picture = picture if channels == 3 else picture.mean(-1, keepdims=True).repeat(channels, -1)
            found.append(torch.from_numpy(np.moveaxis(picture, -1, 0).astype(np.float32)))
        read.append(torch.cat(found))
    start = torch.stack(read)
    rewards = v.rewards_by_action(net, start)
    table = pd.DataFrame(rewards, columns=[f"action {a}" for a in range(rewards.shape[1])])
    table.insert(0, "case", [c.name for c in cases])
    ends = pd.DataFrame([["mean", *rewards.mean(0)], ["standard deviation", *rewards.std(0)]], columns=table.columns)
    report.table(
        f"cases_{name.replace('/', '-')}", pd.concat([table, ends]), "Rewards of your images, before they are changed."
    )
    labels = [c.name for c in cases]
    return Features(labels, v.reward(), rewards), start, labels


def parametrised(
    method: FeatureVisualisation, net: CnnReward, count: int, start: Tensor, seed: int
) -> tuple[nn.Module, v.Objective]:
    """What is changed, and the penalty on how far."""
    generator, shape = torch.Generator().manual_seed(seed), (count, *net.image)
    none = v.Objective(lambda seen: torch.zeros(len(seen.images)))
    if method.init == "fourier":
        return v.Fourier(shape, generator), none
    if method.init == "pixel":
        return v.Pixels(shape, generator), none
    if method.init == "gan":
        from rhtool.interpret.gan import load

        made = load(Path(method.generator))
        if made.image != net.image:
            what = f"it makes images {made.image}, the network sees {net.image}"
            raise ConfigError(what, f"method.generator={method.generator}", "make one with the same task.sees")
        images = v.Latent(made, 0.01 * torch.randn(count, made.latents, generator=generator))
        return images, v.Objective(lambda seen: method.latent_penalty * (images.z**2).sum(1))
    if method.init == "images":
        return v.From(start), none
    squared = v.Objective(lambda seen: method.penalty * ((seen.images - start) ** 2).flatten(1).sum(1))
    return v.From(start), squared


def draw(
    report: Report,
    path: Path,
    name: str,
    net: CnnReward,
    images: Tensor,
    start: Tensor | None,
    features: Features,
    rewards: np.ndarray,
) -> None:
    """The overview, and a file for each image."""
    rows: dict[str, list[np.ndarray]] = {}
    folder = path / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        for what, x in (("before", start), ("", images)):
            if x is not None:
                for frame, pixels in pictures.frames(x[i].numpy(), net.sees).items():
                    rows.setdefault(f"{frame} {what}".strip(), []).append(pictures.rgb(pixels))
        for frame, pixels in pictures.frames(image.numpy(), net.sees).items():
            large = pictures.rgb(pixels).repeat(ZOOM, 0).repeat(ZOOM, 1)
            part = "obs" if frame == "s" else "next_obs"
            files.imsave(folder / f"{name.replace('/', '-')}_{i}_{part}.png", large)
    notes = [f"pays {row.max():.3g}" + (f" (action {row.argmax()})" if len(row) > 1 else "") for row in rewards]
    report.figure(
        f"features_{name.replace('/', '-')}",
        pictures.grid(rows, features.names, notes),
        f"What maximises each of {len(images)} features, and the most that the network pays for it under any action.",
    )
