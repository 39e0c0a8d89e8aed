"""A synthetic `outputs/`: runs as the toolkit writes them, with returns that follow a known law."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def write_run(
    root: Path,
    *,
    group: str = "orpo",
    env: str = "tomato",
    divergence: str = "sqrt_chi2",
    over: str = "state_action",
    coeff: float | str = 0.1,
    seed: int = 0,
    tuned: dict[str, Any] | None = None,
    status: str | None = "done",
    reason: str | None = None,
    metrics: dict[str, Any] | None = None,
    curve: tuple[int, float, float] | None = None,
    experiment: str | None = None,
    scale: str = "paper",
    overrides: list[str] | None = None,
    text: dict[str, str] | None = None,
) -> Path:
    """A run's directory; `curve`: rows of metrics.csv, true and proxy at their end; without status no result.json; `text`:
    data, model and reward of a run on texts."""
    tuned = tuned or {}
    if over != "state_action":
        tuned = {"divergence.over": over} | tuned
    words = [f"{k}={str(v).strip('[]').replace(',', '+')}" for k, v in tuned.items()]
    name = "-".join([divergence, f"coeff={coeff}", *words] if divergence else words or ["default"])
    path = root / (experiment or group) / ("-".join(text.values()) if text else env) / name / f"seed={seed}"
    (path / "checkpoints").mkdir(parents=True)
    (path / ".lock").touch()
    (path / "events.jsonl").write_text('{"event": "start"}\n')
    run = {
        "task": group,
        "experiment": experiment,
        "env": None if text else env,
        **(text or {}),
        "divergence": divergence or None,
        "over": over,
    }
    run |= {"coeff": coeff, "seed": seed, "scale": scale, "tuned": tuned}
    if overrides is None:
        overrides = [f"{'experiment' if experiment else 'task'}={experiment or group}", f"env={env}"]
        overrides += [f"divergence={divergence}", *(f"{k}={v}" for k, v in tuned.items())]
        overrides += [f"coeff={coeff}", f"seed={seed}"]
    attempt = {"directory": str(root), "dir": str(path), "overrides": overrides, "config_dirs": [], "plugins": ""}
    (path / "provenance.json").write_text(json.dumps({"schema": 1, "identity": {}, "run": run, "attempts": [attempt]}))
    options = f"# task={group} env={env} divergence={divergence} scale={scale} logger=none\n"
    config = f"{options}task: {{iterations: 3}}\ndivergence: {{over: {over}}}\ncoeff: {coeff}\nseed: {seed}\n"
    (path / "config.yaml").write_text(config)
    if curve:
        n, true, proxy = curve
        rng = np.random.default_rng(seed)
        rise = 1 - np.exp(-np.linspace(0, 4, n))
        lines = ["iteration,steps,true/return,proxy/return,ppo/loss"]
        for i in range(n):
            noise = rng.normal(0, 0.02 * (abs(true) + abs(proxy)), 2)
            lines.append(f"{i + 1},{(i + 1) * 3000},{true * rise[i] + noise[0]},{proxy * rise[i] + noise[1]},")
        (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    if status:
        result = {"schema": 1, "status": status, "reason": reason, **run, "fingerprint": "0" * 64}
        result |= {"metrics": metrics or {}, "steps": 9000, "seconds": 1.5}
        (path / "result.json").write_text(json.dumps(result))
    return path


def returns(true: float, proxy: float, base: tuple[float, float] = (5.86, 6.37), **more: float) -> dict[str, float]:
    """The metrics of a finished run."""
    return {
        "true/return": true,
        "proxy/return": proxy,
        "correlation": 0.4,
        "divergence/sqrt_chi2": abs(proxy - base[1]) / 2,
        "base/true/return": base[0],
        "base/proxy/return": base[1],
        "base/correlation": 0.9,
    } | more


def paper_like(
    root: Path,
    env: str = "tomato",
    base: tuple[float, float] = (5.86, 6.37),
    unit: float = 1.0,
    seeds: int = 5,
    worst: float = -3.5,
) -> None:
    """A sweep with the shape of the paper's: no regularisation hacks, each divergence has a coeff that prevents it."""

    def cell(divergence: str, coeff: float, true: float, proxy: float, spread: float, **more: Any) -> None:
        for seed in range(seeds):
            rng = np.random.default_rng([seed, int(coeff * 1e6), *map(ord, divergence)])
            t, p = base[0] + unit * (true + rng.normal(0, spread)), base[1] + unit * (proxy + rng.normal(0, spread))
            write_run(
                root,
                env=env,
                divergence=divergence,
                coeff=coeff,
                seed=seed,
                metrics=returns(t, p, base),
                curve=(60, t, p),
                **more,
            )

    cell("none", 0, worst, 9.0, 0.2)
    cell("none", 0, 2.7, 1.9, 0.12, tuned={"env.reward_fun": "true"})
    for divergence, peak, shift in (("kl", 1.4, 0.0), ("chi2", 2.4, 0.3), ("sqrt_chi2", 3.3, 0.5)):
        for k, coeff in enumerate((0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)):
            gain = peak * np.exp(-((k - 3.2 - shift) ** 2) / 3) + (worst + 0.3) * np.exp(-k * 1.3)
            cell(
                divergence,
                coeff,
                float(gain),
                float(8.2 * np.exp(-k / 2.2) + 0.4 * peak * np.exp(-((k - 3) ** 2) / 4)),
                0.22,
            )
