"""The processes of one run on one machine: started, watched, ended together.

The run's own process keeps its directory: lock, log of events, metrics, result. It starts one process per rank, which does the
task; that of rank 0 writes the checkpoints, tells what to log and what came out, and logs to `run.log`. The others write
nothing but what they say, to `ranks/<rank>.log`. They meet through a file and speak over the loopback interface, so that
nothing listens on another.

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

from rhtool.checkpoints import Checkpoints
from rhtool.errors import RhtoolError
from rhtool.loggers import NoLogger
from rhtool.run import Resumable, Run, logging_to
from rhtool.signals import STOPPING

LOGS = "ranks"
"""directory, in that of the run, of what the ranks from 1 on say"""
GRACE = 1.0
"""seconds for which a failure of one rank is taken for the consequence of the death of another"""
PATIENCE = timedelta(days=1)
"""that a rank has for the others: it is the run's process that notices who has died"""

PRELOAD = ["torch.distributed", "torch._dynamo", "rhtool.lm.ppo", "rhtool.lm.reward_model"]
"""what every rank imports, and takes seconds"""

OK, SAVE = b"ok", b"save"
"""what the run's process says to rank 0: a message has been dealt with; make a checkpoint"""


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
    """Do the run's task in so many processes; its metrics.

    Raises what a rank raised if a user can mend it, `RankFailed` with its traceback otherwise, and `Stopped` after a signal. No
    process is left in any case.
    """
    # The ranks fork from one process that has imported everything: it is read once, and no GPU has been touched there.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    (run.path / LOGS).mkdir(exist_ok=True)
    content = {f.name: getattr(run, f.name) for f in dataclasses.fields(run)} | {"logger": NoLogger()}
    about = {name: getattr(run, name) for name in ("options", "tuned", "overrides", "config_dirs")}
    ranks, lines = [], []
    with run.signals.kept(), tempfile.TemporaryDirectory(prefix="rhtool-ranks-") as meeting:
        try:
            for rank in range(processes):
                line, theirs = context.Pipe()
                with _no_signals(), theirs:
                    args = (content, about, rank, processes, meeting, theirs)
                    process = context.Process(target=work, args=args, name=f"rank {rank}")
                    process.start()
                ranks.append(process)
                lines.append(line)
            return _watch(run, ranks, lines)
        finally:
            for process in ranks:
                process.kill()
            for process in ranks:
                process.join()


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    """Processes started within get none of the signals that stop a run: they hear of them from the run's process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(run: Run, ranks: list[Any], lines: list[Connection]) -> dict[str, Any]:
    """Deal with what the ranks say until all have done their work."""
    looping = asked = False
    metrics: dict[str, Any] = {}
    failed: list[tuple[float, int, dict[str, Any]]] = []
    going = dict(enumerate(lines))
    while going:
        if run.signals.received and not looping:
            run.signals.obey()
        elif run.signals.received and not asked:
            lines[0].send_bytes(SAVE)
            asked = True
        for line in wait([*going.values()], timeout=0.2):
            rank = lines.index(line)
            try:
                what, *content = json.loads(line.recv_bytes())
            except (EOFError, OSError):
                ranks[rank].join()
                if code := ranks[rank].exitcode:
                    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
                    raise RankFailed(f"process {rank} of {len(ranks)} {how}; see {_log_of(run, rank)}") from None
                del going[rank]
                continue
            if what == "failed":
                failed.append((time.monotonic(), rank, content[0]))
            elif what == "done":
                metrics = metrics if rank else content[0]
            else:
                looping = _said(run, what, content, looping)
                asked = asked and what != "saved"
                lines[0].send_bytes(OK)
        if failed and time.monotonic() - failed[0][0] > GRACE:
            break
    if failed:
        raise _error(run, *failed[0][1:], len(ranks))
    return metrics


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


def work(content: dict[str, Any], about: dict[str, Any], rank: int, of: int, meeting: str, line: Connection) -> None:
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
            join(rank, of, Path(meeting))
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


def join(rank: int, of: int, meeting: Path) -> None:
    """Connect this process with the other ranks, by NCCL if there are GPUs, else gloo."""
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": of, "LOCAL_WORLD_SIZE": of}
    os.environ |= {key: str(value) for key, value in here.items()}
    # Nothing is opened there: that the address is this machine's is what DeepSpeed asks.
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    import torch
    from torch import distributed

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(rank)
    place = (meeting / "store").as_uri()
    backend = "nccl" if cuda else "gloo"
    distributed.init_process_group(backend, init_method=place, rank=rank, world_size=of, timeout=PATIENCE)


def leave() -> None:
    """Wait for the other ranks, and let go of them."""
    from torch import distributed

    distributed.barrier()
    distributed.destroy_process_group()
