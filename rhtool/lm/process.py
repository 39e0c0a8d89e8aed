"""How a process that trains language models computes, and that it says nothing that a run does not say better."""

from __future__ import annotations

import logging
import os
import warnings

import torch

from rhtool.rl import process


def set_up(threads: int) -> None:
    """Torch's threads and memory; no progress bars of libraries, and none of their notes on their own next versions. To be
    called before TRL is imported: DeepSpeed, where it is installed, speaks as it is imported."""
    process.set_up(threads)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"(transformers|trl|accelerate|peft|torch\.distributed)\."
    )
    import datasets
    from transformers.utils import logging as of_transformers

    datasets.disable_progress_bars()
    of_transformers.disable_progress_bar()
    for name in ("transformers", "datasets", "accelerate", "DeepSpeed"):
        logging.getLogger(name).setLevel(logging.ERROR)
