"""How this process computes: torch's threads, and memory that is kept instead of being given back."""

from __future__ import annotations

import ctypes
import sys

import torch


def set_up(threads: int) -> None:
    """Give torch `threads` threads, and have glibc keep freed memory for the next minibatch.

    Without the latter each large temporary is mapped from the kernel and unmapped again: half of the time of an LSTM's
    training steps went there. Elsewhere than on glibc that part does nothing.
    """
    torch.set_num_threads(threads)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20)):
            libc.mallopt(parameter, value)


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""names of malloc.h"""
