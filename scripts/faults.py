"""Break sweeps at random moments, repeat their command once, and compare with a sweep that nothing happened to.

    python scripts/faults.py 100

Each trial is a sweep of short runs (tests/plugin, and with --orpo of ORPO on tomato's toy board) in a directory of its own, on a file
system of its own of a few MB where the fault is of the disk. Prints a table for docs/reliability.md. Faults of the disk need root (tmpfs),
changes of the clock the library faketime; where they cannot be had they are left out, and said.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "tests" / "plugin"
WALKS = "task=counter task.iterations=12 task.step_seconds=0.05 checkpoint_every=0 -m seed=0,1,2"
TOY = "task=orpo env=tomato env.level=-1 env.horizon=20 scale=smoke task.exact=false divergence=none task.iterations=6"
SIZE = "4m"
"""of a file system that is filled up"""
FAKETIME = next(iter(Path("/usr/lib").rglob("libfaketime.so.1")), None)


@dataclass
class Trial:
    """One sweep in one directory."""

    place: Path
    words: list[str]
    env: dict[str, str]

    def start(self) -> subprocess.Popen:
        words = [sys.executable, "-m", "rhtool", "--config-dir", str(PLUGIN / "conf"), *self.words]
        log = open(self.place.parent / f"{self.place.name}.log", "ab")  # noqa: SIM115 (the process has it)
        return subprocess.Popen(words, cwd=self.place, env=self.env, stdout=log, stderr=log)


def results(place: Path) -> dict[str, object]:
    """What a finished sweep leaves: results without clocks, rows without times, arrays of the last checkpoints."""
    found: dict[str, object] = {}
    for path in sorted(place.rglob("result.json")):
        name = str(path.parent.relative_to(place))
        result = json.loads(path.read_text())
        result.pop("seconds")
        header, *rows = (line.split(",") for line in (path.parent / "metrics.csv").read_text().splitlines())
        kept = [i for i, key in enumerate(header) if not key.startswith("time/")]
        found[name] = result
        found[f"{name} metrics.csv"] = [[row[i] for i in kept] for row in rows]
        last = max((path.parent / "checkpoints").iterdir(), key=lambda p: int(p.name))
        found[f"{name} checkpoint"] = (last / "arrays.safetensors").read_bytes()
    return found


# Faults: each is called with a trial whose process is running, and undoes itself before the command is repeated.


def by_signal(signum: signal.Signals) -> Callable[[Trial, subprocess.Popen, random.Random], None]:
    def strike(trial: Trial, process: subprocess.Popen, rng: random.Random) -> None:
        process.send_signal(signum)

    return strike


def full_disk(trial: Trial, process: subprocess.Popen, rng: random.Random) -> None:
    filler = trial.place / "filler"
    with open(filler, "wb") as file:
        try:
            while True:
                file.write(b"\0" * 4096)
                file.flush()
        except OSError:
            pass
    _ended(process)
    filler.unlink()


def read_only(trial: Trial, process: subprocess.Popen, rng: random.Random) -> None:
    # A file that is open for writing keeps a file system from becoming read-only, so the mount does, as a failed disk's.
    subprocess.run(["mount", "-o", "remount,bind,ro", trial.place], check=True, capture_output=True)
    _ended(process)
    subprocess.run(["mount", "-o", "remount,bind,rw", trial.place], check=True, capture_output=True)


def clock(trial: Trial, process: subprocess.Popen, rng: random.Random) -> None:
    Path(trial.env["FAKETIME_TIMESTAMP_FILE"]).write_text(rng.choice(["-3d\n", "+3d\n", "-10s\n", "+5y\n"]))
    time.sleep(rng.uniform(0, 0.5))
    process.kill()


def _ended(process: subprocess.Popen) -> None:
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


FAULTS = {
    "SIGKILL": by_signal(signal.SIGKILL),
    "SIGTERM": by_signal(signal.SIGTERM),
    "SIGINT": by_signal(signal.SIGINT),
    "SIGUSR2": by_signal(signal.SIGUSR2),
    "full disk": full_disk,
    "read-only directory": read_only,
    "the clock set, then SIGKILL": clock,
}
ON_DISK = ("full disk", "read-only directory")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", type=int, nargs="?", default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--orpo", type=int, default=0, help="of the trials, so many are of ORPO")
    args = parser.parse_args()
    faults = dict(FAULTS)
    if os.geteuid():
        faults = {name: fault for name, fault in faults.items() if name not in ON_DISK}
    if FAKETIME is None:
        faults.pop("the clock set, then SIGKILL")
    for name in FAULTS.keys() - faults.keys():
        print(f"left out: {name}", file=sys.stderr)
    rng, tried, wrong = random.Random(args.seed), Counter(), []
    inside = Counter()
    with tempfile.TemporaryDirectory(prefix="rhtool-faults-") as directory:
        base = os.environ | {"OMP_NUM_THREADS": "1", "RHTOOL_PLUGINS": "counter"}
        base |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(PLUGIN)])}
        whole, spans = {}, {}
        kinds = {"walks": WALKS, "orpo": f"{TOY} checkpoint_every=0 -m seed=0,1"}
        for kind in ("walks", "orpo") if args.orpo else ("walks",):
            place = Path(directory, f"whole-{kind}")
            place.mkdir()
            began = time.monotonic()
            assert Trial(place, kinds[kind].split(), base).start().wait() == 0, place
            spans[kind], whole[kind] = time.monotonic() - began, results(place)
        for number in range(args.trials):
            kind = "orpo" if number < args.orpo else "walks"
            name = [*faults][number % len(faults)]
            place = Path(directory, f"{number}")
            place.mkdir()
            env = dict(base)
            if name in ON_DISK:
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place], check=True)
            if name.startswith("the clock"):
                stamp = Path(directory, f"{number}.time")
                stamp.write_text("+0\n")
                env |= {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(stamp), "FAKETIME_NO_CACHE": "1"}
                env |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
            trial = Trial(place, kinds[kind].split(), env)
            process = trial.start()
            time.sleep(rng.uniform(0.2, 1) * spans[kind])
            struck = process.poll() is None
            if struck:
                faults[name](trial, process, rng)
            process.wait()
            inside[name] += struck
            again = trial.start().wait()
            found = results(place)
            tried[name] += 1
            if again != 0 or found != whole[kind]:
                differ = [key for key in {*found, *whole[kind]} if found.get(key) != whole[kind].get(key)]
                wrong.append((number, name, again, differ))
                shutil.copytree(place, Path(tempfile.gettempdir(), f"rhtool-fault-{number}"), dirs_exist_ok=True)
                print(f"trial {number}, {name}: exit code {again}, differ: {differ}", file=sys.stderr)
            if name in ON_DISK:
                subprocess.run(["umount", place], check=True)
    print("| fault | trials | struck while it ran | wrong or missing after one repeated command |\n|---|--:|--:|--:|")
    for name in faults:
        print(f"| {name} | {tried[name]} | {inside[name]} | {sum(w[1] == name for w in wrong)} |")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
