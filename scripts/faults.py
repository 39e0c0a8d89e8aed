"""Break sweeps at random moments, repeat their command once, and compare with a sweep that nothing happened to.

    python scripts/faults.py 100

Each trial is a sweep of short runs in a directory of its own: three of tests/plugin's task, and of every fourth trial two of ORPO on
tomato's smallest board. Prints the table of docs/reliability.md. Faults of the disk need root (a file system of a few MB is mounted for
each; the sweep runs without the right to write where permissions forbid it), changes of the clock a C compiler; what cannot be had is
left out, and said.
"""

from __future__ import annotations

import argparse
import contextlib
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "tests" / "plugin"
SWEEPS = {
    "walks": "task=counter task.iterations=12 task.step_seconds=0.05 checkpoint_every=0 -m seed=0,1,2",
    "orpo": "task=orpo env=tomato env.level=-1 env.horizon=20 scale=smoke task.exact=false divergence=none task.iterations=30 "
    "checkpoint_every=0 -m seed=0,1",
}
SIZE = "4m"
"""of the file system of a trial in which the disk is at fault: the sweep's own files take less than half of it"""
SHIFT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long shift(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("CLOCK_SHIFT"), "r");
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, now);
    if (!code && clock == CLOCK_REALTIME) now->tv_sec += shift();
    return code;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *out, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *out = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}
"""
"""a library, loaded before libc, by which the time of day is off by the seconds that a file says; the monotonic clock goes on, as when
somebody sets the system's clock"""


@dataclass
class Trial:
    """One sweep in one directory."""

    place: Path
    words: list[str]
    env: dict[str, str]
    prefix: tuple[str, ...] = ()

    def start(self) -> subprocess.Popen:
        words = [*self.prefix, sys.executable, "-m", "rhtool", "--config-dir", str(PLUGIN / "conf"), *self.words]
        with open(self.place.with_suffix(".log"), "ab") as log:
            return subprocess.Popen(words, cwd=self.place, env=self.env, stdout=log, stderr=log)


def results(place: Path) -> dict[str, object]:
    """What a finished sweep leaves: results without clocks, rows without times, the arrays of the last checkpoints."""
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


# Faults: each strikes a trial whose process runs, and is over before the command is repeated.


def by_signal(signum: signal.Signals) -> Callable[[Trial, subprocess.Popen, random.Random], None]:
    return lambda trial, process, rng: process.send_signal(signum)


def full_disk(trial: Trial, process: subprocess.Popen, rng: random.Random) -> None:
    filler = trial.place / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    _end(process)
    filler.unlink()


def read_only(trial: Trial, process: subprocess.Popen, rng: random.Random) -> None:
    subprocess.run(["chmod", "-R", "a-w", trial.place], check=True)
    _end(process)
    subprocess.run(["chmod", "-R", "u+w", trial.place], check=True)


def clock(trial: Trial, process: subprocess.Popen, rng: random.Random) -> None:
    day = 86_400
    Path(trial.env["CLOCK_SHIFT"]).write_text(str(rng.choice([-10, -3 * day, 3 * day, 5 * 365 * day])))
    time.sleep(rng.uniform(0, 0.5))
    process.kill()


def _end(process: subprocess.Popen) -> None:
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()


CLOCK, FULL, READ_ONLY = "clock set by up to 5 years, then SIGKILL", "full disk", "read-only directory"
FAULTS = {
    **{s.name: by_signal(s) for s in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)},
    FULL: full_disk,
    READ_ONLY: read_only,
    CLOCK: clock,
}


@contextlib.contextmanager
def trial(kind: str, fault: str, place: Path, env: dict[str, str]) -> Iterator[Trial]:
    """A trial in the new directory `place`, and what its fault needs."""
    place.mkdir()
    made = Trial(place, SWEEPS[kind].split(), dict(env))
    with contextlib.ExitStack() as stack:
        if fault in (FULL, READ_ONLY):
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=777", "tmpfs", place], check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", place], check=True)
            made.prefix = ("setpriv", "--bounding-set", "-dac_override")  # root too is bound by permissions then
        if fault == CLOCK:
            made.env |= {
                "LD_PRELOAD": str(place.parent / "shift.so"),
                "CLOCK_SHIFT": str(place.with_suffix(".seconds")),
            }
        yield made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", type=int, nargs="?", default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    faults = {name: fault for name, fault in FAULTS.items() if not os.geteuid() or name not in (FULL, READ_ONLY)}
    if not (compiler := shutil.which("cc")):
        faults.pop(CLOCK)
    for name in FAULTS.keys() - faults.keys():
        print(f"left out: {name}", file=sys.stderr)
    rng, tried, struck, wrong = random.Random(args.seed), Counter(), Counter(), Counter()
    with tempfile.TemporaryDirectory(prefix="rhtool-faults-") as directory:
        if compiler:
            words = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", f"{directory}/shift.so", "-ldl"]
            subprocess.run(words, input=SHIFT, text=True, check=True)
        env = os.environ | {"OMP_NUM_THREADS": "1", "RHTOOL_PLUGINS": "counter"}
        env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(PLUGIN)])}
        seconds, wanted = {}, {}
        for kind in SWEEPS:
            with trial(kind, "", Path(directory, kind), env) as whole:
                began = time.monotonic()
                if code := whole.start().wait():
                    sys.exit(
                        f"a sweep that nothing happened to ended with {code}:\n{whole.place.with_suffix('.log').read_text()}"
                    )
                seconds[kind], wanted[kind] = time.monotonic() - began, results(whole.place)
        for number in range(args.trials):
            kind, name = "orpo" if number % 4 == 3 else "walks", [*faults][number % len(faults)]
            with trial(kind, name, Path(directory, str(number)), env) as broken:
                process = broken.start()
                time.sleep(rng.uniform(0.1, 0.8) * seconds[kind])
                tried[name] += 1
                if process.poll() is None:
                    faults[name](broken, process, rng)
                    struck[name] += 1
                process.wait()
                code, found = broken.start().wait(), results(broken.place)
                if code or found != wanted[kind]:
                    wrong[name] += 1
                    kept = Path(tempfile.gettempdir(), f"rhtool-fault-{number}")
                    shutil.copytree(broken.place, kept, dirs_exist_ok=True)
                    shutil.copy(broken.place.with_suffix(".log"), kept)
                    differ = sorted(k for k in {*found, *wanted[kind]} if found.get(k) != wanted[kind].get(k))
                    print(f"trial {number}, {name}: exit code {code}, differ: {differ}, kept: {kept}", file=sys.stderr)
    print("| fault | sweeps | struck while they ran | wrong or missing after one repeated command |\n|---|--:|--:|--:|")
    for name in faults:
        print(f"| {name} | {tried[name]} | {struck[name]} | {wrong[name]} |")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
