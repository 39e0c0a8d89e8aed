"""`task=ls`: every option of every group, with its documentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rhtool.run import Run
from rhtool.tasks.base import Task


@dataclass
class Ls(Task):
    """A table of every option of every group."""

    uses: ClassVar[tuple[str, ...]] = ()

    def run(self, run: Run) -> dict[str, float]:
        from rhtool.config import GROUPS, subclasses
        from rhtool.schema import option_name

        for group, base in GROUPS.items():
            for cls in subclasses(base):
                print(group, option_name(cls), (cls.__doc__ or "").splitlines()[0])
        return {}
