"""How this process computes: torch's threads, two things at a time, and memory that is kept instead of being given back."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from rhtool.errors import ConfigError


def set_up(threads: int) -> None:
    """Give torch `threads` threads, and have glibc keep freed memory for the next minibatch.

    Without the latter each large temporary is mapped from the kernel and unmapped again: half of the time of an LSTM's
    training steps went there. Elsewhere than on glibc that part does nothing.
    """
    torch.set_num_threads(threads)
    precision(tf32=False)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20)):
            libc.mallopt(parameter, value)


def precision(tf32: bool) -> None:
    """Whether products on a GPU have TF32's 10 bits instead of float32's 23, those of cuDNN's LSTM too, whose default it is."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


def accelerator() -> torch.device:
    """The GPU if this process sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gpus_per_learner(asked: float | None, learners: int) -> float:
    """As asked; None: one if there is one for each of `learners` (0: the one in this process). Raises `ConfigError` if there
    is none at all."""
    there = torch.cuda.device_count()
    gpus = float(there >= max(learners, 1)) if asked is None else asked
    if gpus and not there:
        raise ConfigError(f"{gpus:g} GPUs per learner, and there is none", "task.gpus", "leave it out, or set it to 0")
    return gpus


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Give torch `number` threads meanwhile, in the thread that asks."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def together(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
    """The results of two functions that run at the same time, each with half of torch's threads.

    Kernels, torch's operations and waiting for another process leave the interpreter to the other one meanwhile.
    """
    share = max(torch.get_num_threads() // 2, 1)

    def work() -> Any:
        with threads(share):
            return second()

    with threads(share), ThreadPoolExecutor(1) as pool:
        other = pool.submit(work)
        return first(), other.result()


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""names of malloc.h"""
