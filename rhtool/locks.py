"""The lock of a run's directory: one process at a time works on it, and anyone may ask whether one does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from rhtool.errors import RhtoolError

LOCK = ".lock"


class UnderWay(RhtoolError):
    """Another process is at work on the run."""


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock file while entered; `UnderWay` if another process has it. It is free when that process dies."""
    file = open(path, "a+")  # noqa: SIM115 (closed below, which frees the lock)
    try:
        for last in (*[False] * 9, True):  # task=report looks at a lock for an instant
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if last:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    raise UnderWay(
                        f"the run is under way already ({holder})",
                        str(path.parent),
                        "wait for it or stop it, or give another dir=...",
                    ) from None
                time.sleep(0.02)
        file.truncate(0)
        file.write(f"{socket.gethostname()} pid {os.getpid()}\n")
        file.flush()
        yield
    finally:
        file.close()


def under_way(directory: Path) -> bool:
    """Whether a process holds the lock of a run's directory. The shared lock tried here is given back at once."""
    try:
        # Neither a link nor a pipe, which a directory of a stranger's could have there.
        with open(os.open(directory / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
