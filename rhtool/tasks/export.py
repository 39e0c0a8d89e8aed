"""`task=export`: a run's answers in the files of the original programs, for what reads those."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rhtool.errors import ConfigError, RhtoolError
from rhtool.rewards.base import Reward
from rhtool.run import Run
from rhtool.tasks.base import Task, require_lm


@dataclass
class Export(Task):
    """The answers of a run, and their scores, as the programs of Coste et al. and of Correlated Proxies write them."""

    extra: ClassVar[str] = "lm"

    uses: ClassVar[tuple[str, ...]] = ()

    path: str = ""
    """directory of a run of task=rlhf_ppo or task=bon"""
    to: str = ""
    """directory for the files; empty: `export` in the run's"""

    def check(self, run: Run) -> None:
        """Is there a run, and the reward that is to judge its answers, if one is chosen?"""
        require_lm()
        if not self.path:
            raise ConfigError("no run is named", "task.path", "give the directory of a run: outputs/rlhf_ppo/…/seed=0")
        if not Path(self.path).is_dir():
            raise RhtoolError(
                "there is no such directory", self.path, "give that of a run of task=rlhf_ppo or task=bon"
            )
        if self._judged(run):
            run.reward.check()

    def run(self, run: Run) -> dict[str, float]:
        """Write the files and print their paths. With `reward=...` that reward is the gold model: it judges the answers anew."""
        from rhtool.lm import originals

        gold = None
        if self._judged(run):
            scores = run.reward.load()

            def gold(rows: list, answers: list[str], finished: list[bool]) -> list[float]:
                return run.reward.combined(scores(rows, answers, finished)).tolist()

        path = Path(self.path)
        print(*originals.export(path, Path(self.to) if self.to else path / "export", gold), sep="\n")
        return {}

    def _judged(self, run: Run) -> bool:
        return type(run.reward) is not Reward
