"""A fine-tuned model for the tests of what starts from one."""

from __future__ import annotations

from pathlib import Path

import pytest

from rhtool.models import SAVED, Model
from rhtool.run import Run
from tests.lm.small import Words, small


@pytest.fixture(scope="session")
def sft_run(tmp_path_factory) -> Path:
    """A run of task=sft."""
    from rhtool.tasks.sft import Sft

    data = Words()
    task = Sft(passes=16, minibatch=16, lr=5e-3, schedule="constant", max_length=48, every=8)
    path = tmp_path_factory.mktemp("sft")
    Run(task=task, model=small(), data=data, dir=str(path / "run"), seed=1).execute()
    assert (path / "run" / SAVED / "config.json").is_file()
    return path / "run"


@pytest.fixture(scope="session")
def reward_run(sft_run, tmp_path_factory) -> Path:
    """A run of task=rm_train that starts from it, and so has its tokenizer."""
    from rhtool.tasks.rm_train import RmTrainTexts

    path = tmp_path_factory.mktemp("rm") / "run"
    task = RmTrainTexts(passes=2, minibatch=16, lr=1e-3, max_length=48)
    Run(task=task, model=Model(path=str(sft_run)), data=Words(), dir=str(path)).execute()
    return path
