"""The processes of one run, on one machine or on the nodes of a SLURM job: started, watched, ended together.

The run's own process keeps its directory: lock, log of events, metrics, result. It starts one process per rank, which does the
task; that of rank 0 writes the checkpoints, tells what to log and what came out, and logs to `run.log`. The others write
nothing but what they say, to `ranks/<rank>.log`. On one machine they meet through a file and speak over the loopback interface,
so that nothing listens on another.

Of a job of several nodes the run's process starts `python -m rhtool.ranks` by srun on each of the others, which starts the ranks
there and says on its standard output, which srun brings back, how they failed.

A signal to the run's process becomes a checkpoint that all ranks make after the same iteration, and their end. A rank that
fails ends the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from rhtool.accelerate import nodes
from rhtool.checkpoints import Checkpoints, write_atomic
from rhtool.errors import RhtoolError
from rhtool.launchers import job_of, searchpath
from rhtool.loggers import NoLogger
from rhtool.run import Resumable, Run, logging_to
from rhtool.signals import STOPPING

LOGS = "ranks"
"""directory, in that of the run, of what the ranks from 1 on say"""
OTHERS = "others.json"
"""file there, from which other nodes learn what to do"""
GRACE = 1.0
"""seconds for which a failure of one rank is taken for the consequence of the death of another"""
PATIENCE = timedelta(days=1)
"""that a rank has for the others: it is the run's process that notices who has died"""

PRELOAD = ["torch.distributed", "torch._dynamo", "rhtool.lm.ppo", "rhtool.lm.reward_model"]
"""what every rank imports, and takes seconds"""

OK, SAVE = b"ok", b"save"
"""what the run's process says to rank 0: a message has been dealt with; make a checkpoint"""


@dataclasses.dataclass(frozen=True)
class Group:
    """The ranks of a run."""

    of: int
    """how many"""
    local: int
    """of each machine"""
    store: str
    """where they meet: file://… on one machine, tcp://… on several"""


class RankFailed(RuntimeError):
    """A rank ended with an error that is not a user's to mend, or was killed."""


@dataclasses.dataclass
class Rank(Run):
    """The run as one of its ranks sees it."""

    def attach(self, rank: int, line: Connection) -> None:
        """Say which rank this is, and over which line it speaks with the run's process."""
        self.rank, self._line = rank, line
        self._asked, self._answers = threading.Event(), threading.Semaphore(0)
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self._iteration = self._total = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def loop(self, work: Resumable, iterations: int) -> Iterator[int]:
        """As `Run.loop`: all ranks begin at one checkpoint, and rank 0 decides for all when there is one."""
        done, total = 0, iterations
        if found := self.checkpoints.latest():
            done, state = found
            work.set_state(state)
        self.tell("loop", done if found else None, total)
        saved_at = time.monotonic()
        for iteration in range(done, total):
            self._iteration = iteration
            yield iteration
            done = iteration + 1
            due = time.monotonic() - saved_at >= self.checkpoint_every
            if self._of_first(due or self._asked.is_set()) or done == total:
                state = work.get_state()
                if self.rank == 0:
                    self.checkpoints.save(done, state)
                self.tell("saved", done)
                saved_at = time.monotonic()
        self.tell("looped")

    def log(self, metrics: dict[str, float], iteration: int | None = None) -> None:
        """As `Run.log`, by the run's process; what the other ranks say is dropped."""
        number = self._iteration if iteration is None else iteration
        self.tell("log", {k: v.item() if hasattr(v, "item") else v for k, v in metrics.items()}, number)

    def tell(self, what: str, *content: Any) -> None:
        """Have the run's process deal with what rank 0 says, and wait until it has."""
        if self.rank == 0:
            self._line.send_bytes(json.dumps([what, *content]).encode())
            self._answers.acquire()

    def end(self, what: str, *content: Any) -> None:
        """The last word of any rank."""
        self._line.send_bytes(json.dumps([what, *content]).encode())

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                if self._line.recv_bytes() == SAVE:
                    self._asked.set()
                else:
                    self._answers.release()
        os._exit(1)  # the run's process is no more

    def _of_first(self, value: bool) -> bool:
        """What rank 0 says, in all ranks."""
        import torch
        from torch import distributed

        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        said = torch.tensor([int(value)], device=device)
        distributed.broadcast(said, 0)
        return bool(said.item())


# In the run's process


def launch(run: Run, processes: int) -> dict[str, Any]:
    """Do the run's task in so many processes, those of a SLURM job of several nodes divided among them; its metrics.

    Raises what a rank raised if a user can mend it, `RankFailed` with its traceback otherwise, and `Stopped` after a signal. No
    process is left in any case.
    """
    (run.path / LOGS).mkdir(exist_ok=True)
    with run.signals.kept(), contextlib.ExitStack() as stack:
        others = None
        if (count := nodes()) > 1:
            group = Group(processes, processes // count, f"tcp://{socket.gethostname()}:{_free_port()}")
            others = stack.enter_context(_elsewhere(run, group, count - 1))
        else:
            meeting = stack.enter_context(tempfile.TemporaryDirectory(prefix="rhtool-ranks-"))
            group = Group(processes, processes, (Path(meeting) / "store").as_uri())
        ranks = stack.enter_context(_started(run, range(group.local), group))
        return _watch(run, ranks, group.of, others)


@contextlib.contextmanager
def _started(run: Run, numbers: range, group: Group) -> Iterator[dict[int, tuple[Any, Connection]]]:
    """`{rank: (process, line)}` of ranks on this machine, which end with the context."""
    # They fork from one process that has imported everything: it is read once, and no GPU has been touched there.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    content = {f.name: getattr(run, f.name) for f in dataclasses.fields(run)} | {"logger": NoLogger()}
    about = {name: getattr(run, name) for name in ("options", "tuned", "overrides", "config_dirs")}
    ranks: dict[int, tuple[Any, Connection]] = {}
    try:
        for rank in numbers:
            line, theirs = context.Pipe()
            with _no_signals(), theirs:
                process = context.Process(target=work, args=(content, about, rank, group, theirs), name=f"rank {rank}")
                process.start()
            ranks[rank] = process, line
        yield ranks
    finally:
        for process, _ in ranks.values():
            process.kill()
        for process, _ in ranks.values():
            process.join()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def _elsewhere(run: Run, group: Group, count: int) -> Iterator[subprocess.Popen]:
    """srun, which starts the ranks of the other `count` nodes; they end with the context."""
    about = run.path / LOGS / OTHERS
    write_atomic(about, json.dumps({"group": dataclasses.asdict(group), "job": job_of(run)}).encode())
    words = [
        "srun",
        "--overlap",
        f"--nodes={count}",
        f"--ntasks={count}",
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=1",
    ]
    words += [f"--exclude={os.environ['SLURMD_NODENAME']}", "--input=none"]
    if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):  # srun takes none from the job
        words.append(f"--cpus-per-task={cpus}")
    with _no_signals():
        process = subprocess.Popen([*words, sys.executable, "-m", "rhtool.ranks", str(about)], stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)  # whoever is done ends by himself
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    """Processes started within get none of the signals that stop a run: they hear of them from the run's process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(
    run: Run, ranks: dict[int, tuple[Any, Connection]], of: int, others: subprocess.Popen | None
) -> dict[str, Any]:
    """Deal with what the ranks say until all have done their work."""
    looping = asked = False
    metrics: dict[str, Any] = {}
    failed: list[tuple[float, int, dict[str, Any]]] = []
    first = ranks[0][1]
    going: dict[Any, int] = {line: rank for rank, (_, line) in ranks.items()}
    if others:
        going[others.stdout] = -1
    while going:
        if run.signals.received and not looping:
            run.signals.obey()
        elif run.signals.received and not asked:
            first.send_bytes(SAVE)
            asked = True
        for line in wait([*going], timeout=0.2):
            if others and line is others.stdout:
                if said := line.readline():
                    failed.append((time.monotonic(), *json.loads(said)))
                else:
                    del going[line]
                    if (code := others.wait()) and not failed:
                        raise RankFailed(f"the ranks of other nodes: srun ended with code {code}")
                continue
            rank = going[line]
            try:
                what, *content = json.loads(line.recv_bytes())
            except (EOFError, OSError):
                if how := _death(ranks[rank][0]):
                    raise RankFailed(f"process {rank} of {of} {how}; see {_log_of(run, rank)}") from None
                del going[line]
                continue
            if what == "failed":
                failed.append((time.monotonic(), rank, content[0]))
            elif what == "done":
                metrics = metrics if rank else content[0]
            else:
                looping = _said(run, what, content, looping)
                asked = asked and what != "saved"
                first.send_bytes(OK)
        if failed and time.monotonic() - failed[0][0] > GRACE:
            break
    if failed:
        raise _error(run, *failed[0][1:], of)
    return metrics


def _death(process: Any) -> str:
    """How a process that ended ended, if not well."""
    process.join()
    code = process.exitcode
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}" if code else ""


def _said(run: Run, what: str, content: list[Any], looping: bool) -> bool:
    """Do what rank 0 says; whether it is in its loop."""
    if what == "loop":
        done, total = content
        if done is not None:
            run.resumed(done, total)
        run.expect(total)
        return True
    if what == "log":
        run.log(*content)
    elif what == "saved":
        run.saved(*content)
        run.signals.obey()
    return looping and what != "looped"


def _error(run: Run, rank: int, said: dict[str, Any], of: int) -> Exception:
    if "mend" in said:
        return RhtoolError(said["what"], said["where"], said["mend"])
    return RankFailed(f"process {rank} of {of}: {said['what']}\n\n{said['traceback']}  see {_log_of(run, rank)}")


def _log_of(run: Run, rank: int) -> Path:
    return run.path / (LOGS if rank else "") / (f"{rank}.log" if rank else "run.log")


# In a rank's process


def work(content: dict[str, Any], about: dict[str, Any], rank: int, group: Group, line: Connection) -> None:
    """Be a rank: join the others, do the task, say how it ended."""
    run = Rank(**content)
    vars(run).update(about)
    run.attach(rank, line)
    random.seed(run.seed)  # as the run's process has it
    np.random.seed(run.seed)
    if rank:
        _say_to(run.path / LOGS / f"{rank}.log")
    with logging_to(run.path / "run.log") if rank == 0 else contextlib.nullcontext():
        try:
            join(rank, group)
            metrics = run.task.run(run)
            leave()
            run.end("done", {k: v.item() if hasattr(v, "item") else v for k, v in metrics.items()})
        except BaseException as error:
            logging.getLogger(__name__).debug("failed", exc_info=True)
            said = {"what": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
            if isinstance(error, RhtoolError):
                said |= {"what": error.what, "where": error.where, "mend": error.mend}
            if rank:
                traceback.print_exc()
            run.end("failed", said)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)  # libraries wait for the other ranks when they are left


def _say_to(path: Path) -> None:
    """Have all that this process says go to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.captureWarnings(True)


def join(rank: int, group: Group) -> None:
    """Connect this process with the other ranks, by NCCL if there are GPUs, else gloo."""
    here = {"RANK": rank, "LOCAL_RANK": rank % group.local, "WORLD_SIZE": group.of, "LOCAL_WORLD_SIZE": group.local}
    os.environ |= {key: str(value) for key, value in here.items()}
    if group.store.startswith("tcp:"):
        host, port = group.store.removeprefix("tcp://").rsplit(":", 1)
        os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": port}
    else:
        # Nothing is opened there: that the address is this machine's is what DeepSpeed asks.
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    import torch
    from torch import distributed

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(rank % group.local)
    backend = "nccl" if cuda else "gloo"
    distributed.init_process_group(backend, init_method=group.store, rank=rank, world_size=group.of, timeout=PATIENCE)


def leave() -> None:
    """Wait for the other ranks, and let go of them."""
    from torch import distributed

    distributed.barrier()
    distributed.destroy_process_group()


# On the other nodes


def main(about: Path) -> int:
    """Start the ranks of this node, and print, a JSON line each, how they fail; the exit code."""
    from rhtool.config import compose_all

    said_to = os.fdopen(os.dup(1), "w")  # the run's process reads it: what libraries print goes where errors go
    os.dup2(2, 1)
    content = json.loads(about.read_text())
    job, group = content["job"], Group(**content["group"])
    os.chdir(job["cwd"])
    os.environ["RHTOOL_PLUGINS"] = job["plugins"]
    [run] = compose_all([*job["words"], searchpath(job["config_dirs"])])
    begin = (1 + int(os.environ["SLURM_NODEID"])) * group.local
    code = 0
    with _no_signals(), _started(run, range(begin, begin + group.local), group) as ranks:
        going = {line: rank for rank, (_, line) in ranks.items()}
        while going:
            for line in wait([*going]):
                rank = going[line]
                try:
                    what, *said = json.loads(line.recv_bytes())
                except (EOFError, OSError):
                    del going[line]
                    how = _death(ranks[rank][0])
                    what, said = "failed" if how else "", [{"what": how, "traceback": ""}]
                if what == "failed":
                    print(json.dumps([rank, said[0]]), file=said_to, flush=True)
                    code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
