"""Two things at a time."""

import threading

import pytest
import torch

from rhtool.rl.process import together


def test_they_run_at_the_same_time_with_half_of_the_threads_each():
    before = torch.get_num_threads()
    meet = threading.Barrier(2, timeout=20)  # which neither passes alone

    def threads():
        meet.wait()
        return torch.get_num_threads()

    try:
        torch.set_num_threads(2)
        assert together(threads, threads) == (1, 1)
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            together(lambda: 1, lambda: 1 / 0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
