"""Makes `rhtool/envs/glucose/data/starts.json`, where the episodes of each patient start: `python scripts/glucose_starts.py`.

adult#001 keeps the start of the original (cassidylaidlaw/orpo stores the state at the end of one day under the PID
controller with a noisy sensor). The other patients' stored days are not published, so theirs are made by the same
procedure: from the steady state, one day of meals, sensor noise and the controller.
"""

from __future__ import annotations

import json
from typing import Any

from rhtool.envs.glucose import Glucose, patients

KEPT = "adult#001"
SEED = 1
"""of the meals and of the sensor's noise"""


def main() -> None:
    """Write the file."""
    path = patients.DATA / "starts.json"
    found = starts() | {KEPT: json.loads(path.read_text())[KEPT]}
    lines = [f"{json.dumps(name)}: {json.dumps(found[name])}" for name in patients.names()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def starts() -> dict[str, dict[str, Any]]:
    """`{patient: {state, cgm, insulin, bg}}` at the end of the day, of all patients but adult#001."""
    day = Glucose(
        patient="all",
        start="basal",
        horizon=288,
        noise_scale=1.0,
        controller_noise=0.0,
        meal_seed=SEED,
        sensor_seed=SEED,
    )
    env = day.make_vec(len(patients.names()), seed=0, autoreset_mode="Disabled")
    observations, _ = env.reset()
    for _ in range(day.horizon):
        observations, _, terminated, _, info = env.step(env.base_action(observations))
        if terminated.any():
            raise SystemExit(f"{patients.names()[int(terminated.argmax())]} did not survive the day")
    states = env.get_state()["state"]
    return {
        name: {
            "state": states[i].tolist(),
            "cgm": [float(f"{x:.6f}") for x in observations[i, 0]],
            "insulin": [float(f"{x:.9f}") for x in observations[i, 1]],
            "bg": float(info["bg"][i]),
        }
        for i, name in enumerate(patients.names())
        if name != KEPT
    }


if __name__ == "__main__":
    main()
