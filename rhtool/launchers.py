"""Where the jobs of a sweep run: `hydra/launcher=slurm`, `slurm_a100`, `local`. Nothing is pickled: a job is a command.

A submission is a directory `outputs/.sweep/<n>/`: `jobs.json` with the command of every job, the script given to sbatch, and what
each task of the array said. `rhtool.slurm` reads it beside what SLURM says.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhtool.checkpoints import write_atomic
from rhtool.errors import ConfigError, MissingExtra, RhtoolError
from rhtool.locks import LOCK, UnderWay, lock, under_way

if TYPE_CHECKING:
    from rhtool.run import Run

SWEEPS = ".sweep"
"""directory, in `outputs`, of what was submitted"""
JOBS = "jobs.json"
SCHEMA = 1
ATTEMPTS = 600
"""to be the only one that submits, a tenth of a second apart"""


@dataclass
class Launcher:
    """Where the jobs of a sweep run, and how many at a time."""

    def launch(self, runs: list[Run]) -> None:
        """Have the jobs done, or see to it that they will be. Their results are on disk."""
        raise TypeError(f"{type(self).__name__} does not implement launch")


@dataclass
class Local(Launcher):
    """Processes of this machine, several at a time."""

    at_once: int = 2
    """jobs at a time"""

    def launch(self, runs: list[Run]) -> None:
        from rhtool.jobs import Jobs

        if self.at_once < 1:
            raise ConfigError(f"{self.at_once} jobs at a time", "hydra.launcher.at_once", "choose 1 or more")
        Jobs([job_of(run) for run in runs], self.at_once).run()


@dataclass
class Slurm(Launcher):
    """An array of SLURM, made by submitit. The fields' names are those of its Hydra launcher."""

    name: str = "rhtool"
    """of the array in the queue"""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    nodes: int = 1
    """machines of a job: more than one for accelerate.num_processes over several"""
    gres: str | None = None
    """generic resources of each node, like gpu:a100:1"""
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    """cores of a job; null: 1, or of several packed ones as many as run at a time"""
    mem_gb: int | None = None
    """memory of a job; null: the cluster's default"""
    timeout_min: int | None = None
    """minutes after which a job is requeued, to go on from its checkpoint; null: those of `limits` for the scale"""
    limits: dict[str, int] = field(default_factory=lambda: {"smoke": 15, "small": 120, "paper": 1440})
    """minutes, by scale"""
    signal_delay_s: int = 120
    """seconds before the time limit at which runs are told to write a checkpoint"""
    max_requeues: int = 20
    """times that a job is requeued at its time limit"""
    array_parallelism: int = 256
    """tasks of the array at a time"""
    pack: int = 1
    """runs of one job, side by side: several small ones on one GPU"""
    setup: list[str] | None = None
    """shell commands before a job: module load cuda"""
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    """of sbatch: {mail-type: END}"""

    def launch(self, runs: list[Run]) -> None:
        """Submit what is neither done nor under way nor in the queue, and wait for it unless `submit=detach`.

        Raises `RhtoolError` without SLURM, `MissingExtra` without submitit, `ConfigError` for numbers that cannot be used.
        """
        from rhtool import slurm

        self._check()
        outputs = Path(runs[0].outputs)
        (outputs / SWEEPS).mkdir(parents=True, exist_ok=True)
        with self._alone(outputs):
            waiting = slurm.directories(outputs)
            jobs, skipped = [], dict.fromkeys(("done", "under way", "in the queue"), 0)
            for run in runs:
                state = self._state(run, waiting)
                if state:
                    skipped[state] += 1
                else:
                    jobs.append(run)
            for state, count in skipped.items():
                if count:
                    print(f"{count} of {len(runs)} jobs are {state}", file=sys.stderr)
            made = self._submit(outputs, jobs) if jobs else []
        follow = f"rhtool task=status{'' if str(outputs) == 'outputs' else f' outputs={outputs}'}"
        print(f"follow them: {follow}   cancel: scancel --name={shlex.quote(self.name)} --me", file=sys.stderr)
        if runs[0].submit == "wait" and made:
            slurm.wait(made, [run.dir for run in jobs])

    def _check(self) -> None:
        for name in ("pack", "array_parallelism", "nodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is too few", f"hydra.launcher.{name}", "choose 1 or more")
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            mend = "call it on a login node, or leave out hydra/launcher to run the jobs here"
            raise RhtoolError("there is no SLURM: sbatch is not found", "hydra/launcher", mend)
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise MissingExtra("slurm", "submitit") from error

    @contextlib.contextmanager
    def _alone(self, outputs: Path) -> Iterator[None]:
        """One submission at a time, so that two of the same sweep do not submit it twice."""
        with contextlib.ExitStack() as stack:
            for attempt in range(ATTEMPTS):
                try:
                    stack.enter_context(lock(outputs / SWEEPS / LOCK))
                    break
                except UnderWay:
                    if attempt == ATTEMPTS - 1:
                        raise
                    time.sleep(0.1)
            yield

    def _state(self, run: Run, waiting: set[str]) -> str:
        if run.finished():
            return "done"
        if under_way(run.path):
            return "under way"
        return "in the queue" if os.path.realpath(run.path) in waiting else ""

    def _submit(self, outputs: Path, runs: list[Run]) -> list[Path]:
        """Submit the runs, in as many arrays as SLURM needs; the directories of the submissions."""
        from rhtool import slurm

        largest = slurm.largest_array() * self.pack
        return [self._submit_array(outputs, runs[i : i + largest]) for i in range(0, len(runs), largest)]

    def _submit_array(self, outputs: Path, runs: list[Run]) -> Path:
        from submitit.slurm.slurm import SlurmExecutor

        sweeps = (outputs / SWEEPS).resolve()
        number = 1 + max((int(p.name) for p in sweeps.glob("[0-9]*") if p.name.isdigit()), default=0)
        folder = sweeps / f"{number:04d}"
        folder.mkdir(mode=0o700)
        content = {"schema": SCHEMA, "pack": self.pack, "max_requeues": self.max_requeues}
        content["jobs"] = [job_of(run) for run in runs]
        write_atomic(folder / JOBS, (json.dumps(content, indent=1) + "\n").encode())

        tasks = math.ceil(len(runs) / self.pack)

        class Array(SlurmExecutor):
            """submitit's, whose jobs are a command instead of a pickle."""

            def submit_tasks(self) -> str:
                self.parameters["map_count"] = tasks
                return self._submit_command(shlex.join([sys.executable, "-u", "-m", "rhtool.jobs", str(folder)])).job_id

        executor = Array(folder)
        executor.update_parameters(**self._parameters(runs), comment=f"rhtool:{folder}")
        try:
            number = executor.submit_tasks()
        except Exception as error:
            raise RhtoolError(
                f"SLURM does not take the jobs: {error}", "hydra.launcher", "mend what it says, and repeat the command"
            ) from error
        print(f"submitted {len(runs)} jobs as {tasks} tasks of array {number}  {folder}", file=sys.stderr)
        return folder

    def _parameters(self, runs: list[Run]) -> dict[str, Any]:
        """As submitit's executor takes them."""
        scale = runs[0].option("scale")
        given = {
            "job_name": self.name,
            "time": self.timeout_min or self.limits.get(scale, max(self.limits.values(), default=1440)),
            "signal_delay_s": self.signal_delay_s,
            "array_parallelism": self.array_parallelism,
            "cpus_per_task": self.cpus_per_task or self.pack,
            "ntasks_per_node": 1,
            "nodes": self.nodes,
            "mem": None if self.mem_gb is None else f"{self.mem_gb}GB",
            "setup": self.setup,
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True, **self.additional_parameters},
        }
        same = ("partition", "account", "qos", "constraint", "exclude", "gres", "gpus_per_node")
        given |= {name: getattr(self, name) for name in same}
        return {name: value for name, value in given.items() if value is not None}


def job_of(run: Run) -> dict[str, Any]:
    """What composes a run, as JSON: its directory, and the words, working directory and plugins of its command."""
    return {
        "dir": os.path.abspath(run.path),
        "words": list(run.overrides or ()),
        "config_dirs": list(run.config_dirs),
        "cwd": os.getcwd(),
        "plugins": os.environ.get("RHTOOL_PLUGINS", ""),
    }


def command_of(job: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The argument vector of a job, and what it adds to the environment."""
    words = [sys.executable, "-m", "rhtool", *flags(job["config_dirs"]), *job["words"]]
    return words, {"RHTOOL_PLUGINS": job["plugins"]} if job["plugins"] else {}


def flags(config_dirs: Sequence[str]) -> list[str]:
    """The words of a command by which it looks for YAML files in these directories too."""
    return ["--config-dir", *config_dirs] if len(config_dirs) == 1 else [searchpath(config_dirs)] if config_dirs else []


def searchpath(config_dirs: Sequence[str]) -> str:
    """The same as an override, of any number of directories."""
    return "hydra.searchpath=[" + ",".join(f"'file://{directory}'" for directory in config_dirs) + "]"


LAUNCHERS: dict[str, type[Launcher]] = {"rhtool_local": Local, "rhtool_slurm": Slurm}
"""schemas of conf/hydra/launcher"""


def said(command: list[str], timeout: float = 60) -> str:
    """What a command of SLURM prints. Raises `RhtoolError` if it fails, or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout).stdout
    except (OSError, subprocess.SubprocessError) as error:
        why = (getattr(error, "stderr", "") or str(error)).strip()
        raise RhtoolError(f"{command[0]} says: {why}", shlex.join(command), "is SLURM up? sinfo says") from error
