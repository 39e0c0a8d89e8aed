"""`task=doctor`: what this machine has and lacks, or what a run would need of it; each line a tick, or a cross and the command
that mends it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rhtool.errors import RhtoolError
from rhtool.provenance import threads, versions
from rhtool.run import Run
from rhtool.tasks.base import Task
from rhtool.tasks.ls import EXTRAS, installed

GIGABYTE = 1e9
ENOUGH = 5
"""GB free under `outputs` below which doctor warns"""
SUMO = ["eclipse-sumo", "libsumo", "traci", "sumo-rl"]
"""the simulator, itself as a library, itself behind a socket, and what env=signal runs on: all of the extra `traffic`"""

Line = tuple[bool, str, str, str]
"""(all is well, what was looked at, what was found, the command that mends it)"""


@dataclass
class Doctor(Task):
    """What this machine has and lacks, and the command for what it lacks; or what a run would need."""

    uses: ClassVar[tuple[str, ...]] = ()

    of: str = ""
    """the words of a run's command line: task.of=experiment=correlated_proxies_rlhf, or several in quotes; what would it need?"""

    def run(self, run: Run) -> dict[str, float]:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for good, what, found, mend in self.needs(run) if self.of else examine(Path(run.outputs)):
            mark = Text("✓", "green") if good else Text("✗", "red")
            table.add_row(mark, what, Text(found, overflow="fold"), Text("" if good else mend, overflow="fold"))
        Console(width=None if sys.stdout.isatty() else 140).print(table)
        return {}

    def needs(self, run: Run) -> Iterator[Line]:
        """The lines of the run that the words of `of` compose; nothing of it is started."""
        from rhtool.config import compose_all

        words = shlex.split(self.of)
        if not any(word.startswith("outputs=") for word in words):
            words.append(f"outputs={run.outputs}")
        (wanted,) = compose_all(words, config_dir=next(iter(run.config_dirs), None))
        yield True, "run", wanted.dir or f"{wanted.option('task')} is a tool: it has no directory", ""
        try:
            wanted.check()
            yield True, "check", "it could start", ""
        except RhtoolError as error:
            yield False, "check", f"{error.what} ({error.where})", error.mend
        if "model" in wanted.task.uses and installed("lm"):
            from rhtool.lm.needs import lines

            yield from lines(wanted)


def examine(outputs: Path) -> Iterator[Line]:
    """The lines of the table, one examination after the other."""
    yield from packages()
    yield from processor()
    yield gpu()
    yield from programs()
    yield from disk(outputs)


def packages() -> Iterator[Line]:
    """Versions of Python, of what rhtool always needs and of what each extra adds, without importing any."""
    found = versions(["rhtool", "hydra-core", "numpy", "numba", "gymnasium", "torch", "deepspeed", *EXTRAS.values()])
    yield sys.version_info >= (3, 11), "python", found.pop("python") or "", "install Python 3.11 or newer"
    extra_of = {package: extra for extra, package in EXTRAS.items()} | {"torch": "rl", "deepspeed": "lm"}
    for package, version in found.items():
        extra = extra_of.get(package)
        mend = f"pip install 'rhtool[{extra}]'" if extra else "pip install --upgrade rhtool"
        # a checkout on PYTHONPATH has no metadata, and works
        yield (
            bool(version) or package == "rhtool",
            package,
            version or ("checkout" if package == "rhtool" else "missing"),
            mend,
        )


def processor() -> Iterator[Line]:
    """Cores this process may use, and the threads that numerical libraries will start on them."""
    cores = len(os.sched_getaffinity(0))
    yield True, "CPU cores", str(cores), ""
    yield threads() <= cores, "threads", str(threads()), "export OMP_NUM_THREADS=1"


def gpu() -> Line:
    """What torch sees, asked in a process of its own because importing torch takes seconds."""
    if not installed("rl") and not installed("lm"):
        return False, "GPU", "torch is not installed", "pip install 'rhtool[rl]'"
    code = "import torch; print(*[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())], sep=', ')"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if process.returncode:
        return False, "GPU", process.stderr.strip().splitlines()[-1], "pip install --force-reinstall torch"
    if names := process.stdout.strip():
        return True, "GPU", names, ""
    if shutil.which("nvidia-smi"):
        return False, "GPU", "there is one, and torch does not see it", "install a torch built for your CUDA"
    return True, "GPU", "none (control environments need none)", ""


def programs() -> Iterator[Line]:
    """Simulators and schedulers."""
    simulator = {name: version for name, version in versions(SUMO).items() if name in SUMO}
    found = ", ".join(f"{name} {version or 'missing'}" for name, version in simulator.items())
    yield all(simulator.values()), "SUMO", found, "pip install 'rhtool[traffic]'"
    if sbatch := shutil.which("sbatch"):
        mend = "pip install 'rhtool[slurm]'"
        yield installed("slurm"), "SLURM", sbatch, mend
        answer = subprocess.run(["sinfo", "--noheader", "--format=%P %a"], capture_output=True, text=True)
        found = answer.stdout.split("\n")[0] if not answer.returncode else answer.stderr.strip().split("\n")[0]
        yield not answer.returncode, "SLURM controller", found, "ask the cluster's administrator; see: sinfo"
    else:
        yield True, "SLURM", "none (sweeps run here, one after the other)", ""
    shm = Path("/dev/shm")
    if installed("rl") and shm.is_dir():
        free = shutil.disk_usage(shm).free / GIGABYTE
        yield free > 1, "Ray's shared memory", f"{free:.1f} GB free in {shm}", f"mount -o remount,size=4G {shm}"


def disk(outputs: Path) -> Iterator[Line]:
    """Whether runs can write, and how much."""
    there = next(p for p in (outputs.absolute(), *outputs.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            writable = True
    except OSError:
        writable = False
    yield writable, "outputs", str(outputs.absolute()), "outputs=/a/directory/you/can/write"
    free = shutil.disk_usage(there).free / GIGABYTE
    yield free > ENOUGH, "disk", f"{free:.0f} GB free", "outputs=/a/larger/disk"
