"""`task=report`: the runs of `outputs/` as tables and pictures, at any time, also while they run."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rhtool.errors import RhtoolError, nearest
from rhtool.run import Run
from rhtool.schema import choice
from rhtool.tasks.base import Task


@dataclass
class Report(Task):
    """Tables and pictures of all runs: what the proxy gained, what the truth lost, and what prevented it."""

    uses: ClassVar[tuple[str, ...]] = ()

    runs: str = ""
    """directory whose runs are read; empty: the run's `outputs`"""
    to: str = ""
    """directory for table.csv, table.md and the pictures; empty: `report` in `runs`"""
    env: str = ""
    """only these environments, separated by commas; empty: all"""
    group: str = ""
    """only these experiments or tasks, separated by commas; empty: all"""
    statistic: str = choice("iqm", "median")
    """what sums up the seeds: the interquartile mean, or the median as in the paper's Table 1"""
    true_metric: str = "true/return"
    """metric of the true reward (`base/` before it: the base policy's)"""
    proxy_metric: str = "proxy/return"
    """metric of the proxy reward (`base/` before it: the base policy's)"""
    divergence_metric: str = "divergence/sqrt_chi2"
    """divergence from the base policy that is shown for every method"""
    distance: str = choice("kl", "chi2")
    """the divergence against which overoptimisation is fitted and drawn"""
    plots: bool = True
    """draw the pictures"""

    def run(self, run: Run) -> dict[str, float]:
        """Print the tables, write the files, print their paths. Raises `RhtoolError` if there is nothing to report."""
        from rich.console import Console

        from rhtool.results import findings, overoptimisation, tables
        from rhtool.results.cells import Keys, metrics, sections
        from rhtool.results.rows import read

        outputs = Path(self.runs or run.outputs)
        to = Path(self.to) if self.to else outputs / "report"
        make = "make one with: rhtool task=orpo env=tomato scale=smoke"
        rows = read(outputs)
        if rows.empty:
            raise RhtoolError(
                "there is no run to report" if outputs.is_dir() else "there is no such directory", str(outputs), make
            )
        for name in ("env", "group"):
            if wanted := [word for word in getattr(self, name).split(",") if word]:
                for word in wanted:
                    if word not in set(rows[name]):
                        raise RhtoolError(
                            f"no run has the {name} '{word}'", f"task.{name}", nearest(word, set(rows[name]))
                        )
                rows = rows[rows[name].isin(wanted)].reset_index(drop=True)
        found_by, drawn = findings.tables(rows), findings.pictures(rows, outputs) if self.plots else []
        # Of a task none of whose finished runs measured a return (a reward model, a detection) there is nothing to sum up.
        of_task = rows.groupby("task")
        silent = of_task[self.true_metric].transform("count") == 0 if self.true_metric in rows else False
        silent |= rows.task.isin([*findings.COLUMNS])
        rows = rows[~(silent & (rows.status == "done"))].reset_index(drop=True)
        for field in ("true_metric", "proxy_metric"):
            if (rows.status == "done").any() and getattr(self, field) not in metrics(rows):
                mend = nearest(getattr(self, field), metrics(rows)) if metrics(rows) else make
                raise RhtoolError(f"no finished run has the metric '{getattr(self, field)}'", f"task.{field}", mend)
        keys = Keys(self.true_metric, self.proxy_metric, divergence=self.divergence_metric, statistic=self.statistic)
        found = sections(rows, keys)
        overoptimised = {}
        for section in found:
            measured, over_steps = overoptimisation.of_section(section, keys, outputs, self.distance)
            section.further += overoptimisation.tables(measured, over_steps)
            overoptimised[section.title] = measured

        if not self.to and not to.resolve().is_relative_to(outputs.resolve()):
            raise RhtoolError(
                "the report's directory is a link that leads out of the runs'", str(to), "delete it, or give task.to"
            )
        to.mkdir(parents=True, exist_ok=True)

        def own(name: str) -> Path:
            """The file in the report's directory, and not one elsewhere that a link there means, unless the user chose the directory."""
            if not self.to and (to / name).is_symlink():
                (to / name).unlink()
            return to / name

        written = [own("table.csv"), own("table.md")]
        if self.plots:
            from rhtool.results import curves_plot, frontier_plot, overoptimisation_plot, plots

            figures = {
                "frontier.png": frontier_plot.frontier(found, keys),
                "curves.png": curves_plot.curves(found, keys, outputs),
                "divergence.png": frontier_plot.divergence(found, keys),
                **dict(overoptimisation_plot.files(overoptimised)),
            }
            for name, figure in figures.items():
                if figure is not None:
                    written.append(own(name))
                    plots.save(figure, written[-1])
        tables.frame(found, keys).to_csv(written[0], index=False, float_format="%.10g")
        written += drawn
        pictures = [os.path.relpath(path, to) for path in written[2:]]
        written[1].write_text(tables.markdown(found, keys, pictures, found_by))

        # In a file or a SLURM log there is no width to ask for.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100
        console = Console(width=width)
        tables.show(found, keys, console, found_by)
        console.print("\n" + "\n".join(map(str, written)), highlight=False, markup=False, soft_wrap=True)
        return {}
