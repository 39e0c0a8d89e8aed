"""`task=push`: put the model that a run has made on the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rhtool.run import Run
from rhtool.tasks.base import Task, require_lm


@dataclass
class Push(Task):
    """Upload the model of a finished run to the Hugging Face hub, after a look at what would leave this machine."""

    extra: ClassVar[str] = "lm"

    uses: ClassVar[tuple[str, ...]] = ()

    path: str = ""
    """directory of a finished run that made a model"""
    repo: str = ""
    """name of the repository: user/name"""
    private: bool = True
    """of a repository that is new: only its owners see it"""
    overwrite: bool = False
    """add a commit to a repository that holds something already"""
    license: str = ""
    """of the model, by the hub's name for it (mit, apache-2.0, cc-by-nc-4.0); empty: what the card says"""
    dry_run: bool = False
    """say what would be uploaded, and upload nothing"""

    def check(self, run: Run) -> None:
        """Is the run finished, its folder whole and harmless, the repository's name one, and is there a token?"""
        require_lm()
        from rhtool.lm import push

        push.check_repo(self.repo)
        push.files(Path(self.path) if self.path else None)
        if not self.dry_run:
            push.token()

    def run(self, run: Run) -> dict[str, float]:
        """Print the list of files; upload them in one commit; print the address."""
        from rich.console import Console
        from rich.table import Table

        from rhtool.lm import push

        folder, names, left_out = push.files(Path(self.path))
        table = Table("file", "bytes", box=None, pad_edge=False)
        table.columns[1].justify = "right"
        for name in names:
            table.add_row(name, f"{(folder / name).stat().st_size:,}")
        console = Console(highlight=False)
        console.print(table)
        for name, why in left_out.items():
            console.print(f"left out: {name} ({why})", markup=False)
        if self.dry_run:
            console.print(f"would be uploaded to {self.repo}; nothing was", markup=False)
        else:
            url = push.upload(folder, names, self.repo, self.private, self.overwrite, self.license)
            console.print(url, markup=False, soft_wrap=True)
        return {}
