"""The tables of a report: for the terminal, as CSV for programs, as Markdown to paste."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rhtool.hacking import DIAGNOSTICS
from rhtool.results.cells import Cell, Keys, Section, by_seed, column, metrics
from rhtool.results.cells import Table as FurtherTable
from rhtool.results.commands import AUTO, commands
from rhtool.results.markdown import markdown_table
from rhtool.results.rows import STATUSES
from rhtool.results.statistics import FEWEST, Estimate, estimate, improvement, is_range

if TYPE_CHECKING:
    from rich.console import Console

NAMES = {"iqm": "IQM", "median": "median"}
BEST = "*"
LEFT = ("method", "runs", "principle", "hacked?", "status", "form", "intervals over", "peak inside?")
"""columns to align to the left"""
ENV = "env/"
"""what the keys of the metrics begin with that an environment reports of its own"""
OWN = "the environment's own metrics, mean over seeds"
HACKING = "diagnostics of hacking"
DOCS = Path(__file__).resolve().parents[2] / "docs"
"""the documentation in a checkout; an installed package has none"""


@dataclass
class Line:
    """A row of a printed table: the base policy's, or a cell's."""

    method: str
    coeff: str
    true: Estimate
    proxy: Estimate
    correlation: Estimate
    measured: Estimate
    hacked: str
    status: str


def lines(section: Section) -> list[Line]:
    """The base policy (if any run measured it), then every cell."""
    found = []
    if "true" in section.base:
        zero = Estimate(value=0.0, n=section.base["true"].n)
        rest = (section.base.get(name, Estimate()) for name in ("proxy", "correlation"))
        found.append(Line("base policy", "", section.base["true"], *rest, zero, "", ""))
    for cell in section.cells:
        estimates = cell.true, cell.proxy, cell.correlation, cell.measured
        found.append(Line(cell.label, _coeff(cell), *estimates, cell.hacked, cell.status))
    return found


def footnotes(keys: Keys) -> list[str]:
    """How to read the numbers."""
    return [
        f"n: finished seeds. {NAMES[keys.statistic]} of {keys.true} and {keys.proxy} over seeds, with 95 % bootstrap "
        f"percentile intervals; for n = {FEWEST} to {_most(keys.statistic)} such an interval is no more than the range "
        f"from the lowest to the highest seed; none for n < {FEWEST}.",
        f"{BEST} best coeff of its method: the highest {NAMES[keys.statistic]} of the true return among the cells "
        "whose seeds are all done. Choosing by the true reward is an oracle choice, as in the paper: who has "
        "only the proxy cannot make it.",
        "hacked?: yes if the true return is below the base policy's and the proxy return above it (Correlated Proxies, "
        "Definition 4.2), no if either is not, with the whole interval of the difference to the base policy; unclear "
        "otherwise.",
    ]


def interval_name(estimates: Iterable[Estimate], statistic: str) -> str:
    """What the intervals of these estimates are: "95 % CI", "range" (from few seeds they are no more), or either."""
    kinds = {is_range(e.n, statistic) for e in estimates if math.isfinite(e.low)} or {False}
    return " or ".join(name for kind, name in ((True, "range"), (False, "95 % CI")) if kind in kinds)


def _most(statistic: str) -> int:
    return max(n for n in range(FEWEST, 20) if is_range(n, statistic))


def unfinished(section: Section) -> tuple[list[str], list[str]]:
    """What is not done in a section, a line for each cell, state and reason, and the commands that finish it.

    Runs that are being worked on are listed, but need no command; those whose command is not known have none.
    """
    said, finish = [], []
    for cell in section.cells:
        rows = cell.runs[cell.runs.status != "done"]
        for (status, reason), part in rows.groupby(["status", "reason"], sort=False):
            seeds = ", ".join(f"{seed:g}" for seed in part.seed)
            coeff = f" coeff={cell.strength}" if cell.strength and AUTO not in cell.tuned else ""
            at = [f"at step {steps:,.0f}" for steps in [part.steps.max()] if status != "failed" and steps == steps]
            where = ", ".join(part.path) + ": repair or delete" if status == "damaged" else ""
            why = "; ".join(filter(None, [*at, str(reason).split("\n")[0], where]))
            said.append(f"{cell.label}{coeff} seed={seeds}: {status}" + (f" ({why})" if why else ""))
    for cells in section.methods.values():
        rows = pd.concat([cell.runs for cell in cells])
        finish += commands(rows[rows.status.isin(["failed", "interrupted", "missing"])])
    return said, finish


def formatter(values: Iterable[float]) -> Callable[[float], str]:
    """A function that writes numbers with the decimals that show four digits of the largest value; NaN is a dash."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    decimals = min(max(3 - math.floor(math.log10(largest)), 0), 6) if largest else 2

    def write(value: float) -> str:
        text = f"{value:.{decimals}f}"
        return "-" if not math.isfinite(value) else text.removeprefix("-") if float(text) == 0 else text

    return write


def with_interval(estimate: Estimate, write: Callable[[float], str]) -> str:
    """`9.17 [8.95, 9.30]`, or the value alone where there is no interval."""
    if math.isnan(estimate.low):
        return write(estimate.value)
    return f"{write(estimate.value)} [{write(estimate.low)}, {write(estimate.high)}]"


def texts(section: Section, keys: Keys, proxy_interval: bool = True) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a section's table as strings. Columns that would be empty are left out."""
    rows = lines(section)
    true, proxy, measured = (
        formatter(getattr(line, name).value for line in rows) for name in ("true", "proxy", "measured")
    )
    kind = interval_name((line.true for line in rows), keys.statistic)
    columns: dict[str, list[str]] = {
        "method": [line.method for line in rows],
        "coeff": [line.coeff for line in rows],
        "n": [str(line.true.n) for line in rows],
        f"true {NAMES[keys.statistic]} [{kind}]": [with_interval(line.true, true) for line in rows],
        "proxy": [with_interval(line.proxy, proxy) if proxy_interval else proxy(line.proxy.value) for line in rows],
        "correlation": [f"{line.correlation.value:.2f}" if line.correlation.n else "-" for line in rows],
        keys.divergence.rpartition("/")[2]: [measured(line.measured.value) for line in rows],
        "hacked?": [line.hacked for line in rows],
        "status": [line.status for line in rows],
    }
    kept = {name: texts for name, texts in columns.items() if name in ("method", "n") or set(texts) - {"", "-"}}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def own(section: Section) -> list[tuple[str, str, dict[str, float]]]:
    """`(method, coeff, {name: value})` of the environment's own metrics `env/<name>`, means over the seeds: of the base
    policy (`base/env/<name>`) if it was measured, then of every cell. Empty where no run has any."""
    runs = pd.concat([cell.runs for cell in section.cells])
    runs = runs[runs.status == "done"]
    keys = [key.removeprefix("base/") for key in metrics(runs) if runs[key].notna().any()]
    names = sorted({key.removeprefix(ENV) for key in keys if key.startswith(ENV)})
    base = {name: _mean(by_seed(runs, f"base/{ENV}{name}")) for name in names}
    found = [("base policy", "", base)] if any(map(math.isfinite, base.values())) else []
    for cell in section.cells if names else ():
        done = cell.runs[cell.runs.status == "done"]
        found.append((cell.label, _coeff(cell), {name: _mean(column(done, ENV + name)) for name in names}))
    return found


def own_texts(section: Section) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table of `own` as strings, both empty where there is nothing in it."""
    found = own(section)
    names = list(found[0][2]) if found else []
    writers = {name: formatter(values[name] for _, _, values in found) for name in names}
    rows = [[method, coeff, *(writers[name](values[name]) for name in names)] for method, coeff, values in found]
    return ["method", "coeff", *names] if found else [], rows


def own_note(section: Section) -> str:
    """Where the units and meanings of the metrics of `own` are said; empty for an environment without a page."""
    page = f"envs/{section.env}.md"
    return f"units and meanings: docs/{page}" if section.env and (DOCS / page).is_file() else ""


def diagnostics(section: Section, keys: Keys) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table of `hacking.DIAGNOSTICS`, a row per cell; both empty where no run has any `hacking/…`.

    Numbers are the chosen statistic over the seeds that have one. `held?` counts the seeds in which the bound held, of
    those that have one; so does `onset` those in which hacking set in, where these are not all. Empty columns are left out.
    """
    done = [cell.runs[cell.runs.status == "done"] for cell in section.cells]
    if not any(np.isfinite(column(runs, key)).any() for runs in done for key in DIAGNOSTICS.values()):
        return [], []
    columns: dict[str, list[str]] = {}
    for name, key in DIAGNOSTICS.items():
        found = [estimate(column(runs, key), keys.statistic, resamples=0) for runs in done]
        write = "{:,.0f}".format if name == "onset" else formatter(e.value for e in found)
        columns[name] = [write(e.value) if e.n else "-" for e in found]
        for i, (runs, e) in enumerate(zip(done, found, strict=True)):
            if name == "held?" and e.n:
                columns[name][i] = f"{np.nansum(column(runs, key)):.0f}/{e.n}"
            elif name == "onset" and 0 < e.n < len(runs):
                columns[name][i] += f" ({e.n}/{len(runs)})"
    columns = {name: values for name, values in columns.items() if set(values) - {"-"}}
    rows = [
        [cell.label, _coeff(cell), *values]
        for cell, *values in zip(section.cells, *columns.values(), strict=True)
        if set(values) - {"-"}
    ]
    return ["method", "coeff", *columns], rows


def diagnostics_note() -> str:
    """How to read `diagnostics`."""
    return (
        "r and sigma: correlation of the rewards and standard deviation of the proxy under the base policy; theory: the "
        "coeff of Theorem 5.1, sigma sqrt(1 - r^2) in the unit of coeff; sqrt_chi2: the divergence spent; gain and "
        "bound: true reward per step above the base policy's, and what the theorem guarantees of it; held?: seeds in "
        "which it did, two standard errors of the gains allowed where they are estimates; worst case: the least gain over "
        "all true rewards of this correlation; drop: peak of the true return in training less its "
        "value at the proxy's peak; onset: first step from which the true return stays below the base policy's while the "
        "proxy is above (in how many seeds)."
    )


def _coeff(cell: Cell) -> str:
    return cell.strength + (BEST if cell.best else "")


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _more(section: Section, keys: Keys) -> list[FurtherTable]:
    """A section's further tables, those that have rows."""
    found = [
        (HACKING, diagnostics(section, keys), diagnostics_note()),
        *section.further,
        (OWN, own_texts(section), own_note(section)),
    ]
    return [(f"{section.title}: {title}", table, note) for title, table, note in found if table[1]]


def _chunks(header: list[str], rows: list[list[str]], width: int) -> Iterable[list[int]]:
    """The columns after the first two, as many at a time as fit beside those."""
    widths = [max(len(row[i]) for row in [header, *rows]) + 2 for i in range(len(header))]
    chunk: list[int] = []
    for i in range(2, len(header)):
        if chunk and sum(widths[j] for j in (0, 1, *chunk, i)) > width:
            yield chunk
            chunk = []
        chunk.append(i)
    yield chunk


def show(found: list[Section], keys: Keys, console: Console, further: Iterable[FurtherTable] = ()) -> None:
    """Print the sections and further tables. At less than 120 columns the interval of the proxy is left to the files."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    colours = {"yes": "bold red", "no": "green"}

    def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for name in header:
            short = {"correlation": "corr"}.get(name, name)
            left = name in LEFT
            table.add_column(Text(short), justify="left" if left else "right", no_wrap=name not in ("method", "status"))
        for row in rows:
            best = row[1].endswith(BEST) if header[1] == "coeff" else False
            cells = [Text(text, style=colours.get(text, "")) for text in row]
            table.add_row(*cells, style="bold" if best else "dim" if row[0] == "base policy" else "")
        console.print(table)

    def print_noted(title: str, header: list[str], rows: list[list[str]], note: str) -> None:
        for chunk in _chunks(header, rows, console.width):
            shown = [[row[i] for i in (0, 1, *chunk)] for row in [header, *rows]]
            print_table(title, shown[0], shown[1:])
        if note:
            console.print(f"{note}\n", style="dim", highlight=False, markup=False)

    for section in found:
        print_table(section.title, *texts(section, keys, proxy_interval=console.width >= 120))
        for title, table, note in _more(section, keys):
            print_noted(title, *table, note)
        said, finish = unfinished(section)
        if said:
            console.print("\n".join(["Not done:", *(f"  {line}" for line in said)]), highlight=False, markup=False)
        if finish:
            console.print("To finish:", markup=False)
            for line in finish:
                console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
        if said:
            console.print()
    if found:
        console.print("\n".join(footnotes(keys)), style="dim", highlight=False, markup=False)
        console.print()
    for title, table, note in further:
        print_noted(title, *table, note)


def markdown(
    found: list[Section], keys: Keys, pictures: Iterable[str] = (), further: Iterable[FurtherTable] = ()
) -> str:
    """The report as Markdown; `pictures` are the names of files, as seen from beside it."""
    parts = ["# Report\n"]
    for section in found:
        parts.append(f"## {section.title}\n")
        parts.append(table_of_methods(*texts(section, keys)))
        for title, table, note in _more(section, keys):
            parts += [f"### {title}\n", table_of_methods(*table), *([f"{note}\n"] if note else [])]
        said, finish = unfinished(section)
        if said:
            parts.append("Not done:\n\n" + "\n".join("- " + line.replace("*", "\\*") for line in said) + "\n")
        if finish:
            parts.append("To finish:\n\n```\n" + "\n".join(finish) + "\n```\n")
    if found:
        parts.append("\n\n".join(note.replace("*", "\\*") for note in footnotes(keys)) + "\n")
    for title, table, note in further:
        parts += [f"## {title}\n", table_of_methods(*table), f"{note}\n"]
    parts += [f"![{Path(name).stem}]({name})\n" for name in pictures]
    return "\n".join(parts)


def table_of_methods(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; a row whose coeff is marked as the best is bold."""
    table = []
    for row in rows:
        best = len(row) > 1 and row[1].endswith(BEST)
        escaped = [text.replace("|", "\\|").replace("*", "\\*") for text in row]
        table.append([f"**{text}**" if best and text else text for text in escaped])
    return markdown_table(header, table, LEFT)


def frame(found: list[Section], keys: Keys) -> pd.DataFrame:
    """One row per cell, and one per section for the base policy, with unrounded numbers.

    `true`, `proxy`, `correlation` and `measured` carry the chosen statistic and its interval (`true_low`, `true_high`),
    `true_median` and `true_iqm` both; then the number of seeds in each state, and the chosen statistic of every metric
    under its own key; of the environment's own (`env/…`) the mean, also of the base policy.
    """
    table = []
    for section in found:
        where = {"env": section.env, "data": section.data, "model": section.model}
        where |= {"group": section.group, "scale": section.scale}
        means = [{ENV + name: value for name, value in values.items()} for _, _, values in own(section)]
        of_cells = means[-len(section.cells) :] or [{} for _ in section.cells]
        if "true" in section.base:
            row = where | {"method": "base policy", "n": section.base["true"].n} | _spread(section.base)
            table.append(row | (means[0] if len(means) > len(of_cells) else {}))
        plain = section.unregularised
        for cell, mean in zip(section.cells, of_cells, strict=True):
            done = cell.runs[cell.runs.status == "done"]
            values = column(done, keys.true)
            row = where | {"method": cell.label, "task": cell.task, "divergence": cell.divergence}
            row |= {"over": cell.over, "tuned": " ".join(cell.tuned), "coeff": cell.coeff, "best": cell.best}
            row |= {"n": cell.true.n, "hacked": cell.hacked, "improvement_over_base": cell.improvement}
            row["improvement_over_unregularised"] = _improvement(cell, plain, keys)
            row |= _spread({"true": cell.true, "proxy": cell.proxy, "correlation": cell.correlation})
            row |= _spread({"measured": cell.measured})
            row |= {f"true_{name}": estimate(values, name, resamples=0).value for name in ("iqm", "median")}
            row |= {status: int((cell.runs.status == status).sum()) for status in STATUSES}
            row |= {key: estimate(column(done, key), keys.statistic, resamples=0).value for key in metrics(done)} | mean
            table.append(row)
    return pd.DataFrame(table)


def _spread(estimates: dict[str, Estimate]) -> dict[str, float]:
    return {
        name + end: value
        for name, e in estimates.items()
        for end, value in (("", e.value), ("_low", e.low), ("_high", e.high))
    }


def _improvement(cell: Cell, other: Cell | None, keys: Keys) -> float:
    if other is None or other is cell:
        return float("nan")
    ours, theirs = (column(c.runs[c.runs.status == "done"], keys.true) for c in (cell, other))
    return improvement(ours[ours == ours], theirs[theirs == theirs])
