"""Write the tables of docs/reproductions.md, between its markers, from the runs stored in docs/reproductions/.

    python scripts/reproduce/tables.py            write them
    python scripts/reproduce/tables.py --check    exit code 1 if they are not what is there

`paper.csv` has the papers' numbers, `store.py` puts our runs there. Nothing is typed in by hand, and nothing is rounded
before it is compared.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rhtool.config import compose
from rhtool.records import provenance_of
from rhtool.results.cells import Cell, Keys, Section, by_seed, column, lengths_differ, sections
from rhtool.results.rows import read
from rhtool.results.tables import diagnostics, formatter, table_of_methods, texts

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reproductions.md"
STORE = PAGE.with_suffix("")
KEYS = Keys(statistic="median")
BASE, PLAIN = "base policy", "no regularisation"
MARKED = re.compile(r"(?<=<!-- made from the stored runs: )(\w+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)

Value = tuple[float, float, int]
"""median and standard deviation (NaN from one seed) over seeds, and how many"""

Steps = tuple[float, float]
"""of the episodes: their mean length, and the mean true reward of a step; medians over seeds"""


def page(text: str, store: Path = STORE) -> str:
    """The page with its tables made anew."""
    with open(store / "paper.csv", newline="") as file:
        paper = list(csv.DictReader(file))
    rows = read(store)
    rows = rows[rows.experiment.fillna("") != ""]
    found = sections(rows, KEYS) if len(rows) else []
    return MARKED.sub(lambda marked: marked[1] + marked[2] + "\n" + block(marked[1], found, paper, store) + "\n", text)


def block(env: str, found: list[Section], paper: list[dict[str, str]], store: Path) -> str:
    """All that is said of an environment: of each section the table, the check of the order, every coefficient."""
    theirs = [row for row in paper if row["env"] == env]
    divide = float(theirs[0]["divide"])
    ours = [section for section in found if section.env == env and section.cells]
    parts = [] if ours else [beside({}, theirs, divide), "No run is stored yet.\n"]
    for section in ours:
        best = {cell.label: cell for cell in section.chosen() if cell.true.n}
        values = {label: _value(column(_done(cell), KEYS.true)) for label, cell in best.items()}
        steps = {label: _steps(_done(cell)) for label, cell in best.items()}
        runs = pd.concat([_done(cell) for cell in section.cells])
        if "true" in section.base:
            values[BASE] = _value(by_seed(runs, f"base/{KEYS.true}"))
            steps[BASE] = _steps(runs, "base/")
        if not lengths_differ(length for length, _ in steps.values()):
            steps = {}
        changed = [*([] if section.scale == "paper" else [f"scale={section.scale}"]), *section.setting, *section.shared]
        command = " ".join([f"rhtool experiment={section.group} -m", *changed])
        parts.append(f"**{section.title}**, {made_with(runs, store)}: `{command}`\n")
        parts += [beside(values, theirs, divide, best, steps), order(values, theirs, divide, steps)]
        parts += ["Every coefficient, as `rhtool task=report` has it:\n", table_of_methods(*texts(section, KEYS))]
        if (table := diagnostics(section, KEYS))[1]:
            parts += ["Diagnostics of hacking:\n", table_of_methods(*table)]
        if (table := objectives(section))[1]:
            parts += ["What the objective says, by the mean reward of a step:\n", table_of_methods(*table)]
    return "\n".join(parts)


def beside(
    values: dict[str, Value],
    theirs: list[dict[str, str]],
    divide: float,
    best: dict[str, Cell] | None = None,
    steps: dict[str, Steps] | None = None,
) -> str:
    """The papers' numbers and ours, a row per method: theirs in the order of Table 1, then methods that it has not.

    With `steps`, how long our episodes are and what a step has.
    """
    steps = steps or {}
    table = {row["method"]: row for row in theirs if row["place"] != "re-run"}
    again = {row["method"]: row for row in theirs if row["place"] == "re-run"}
    unit = "" if divide == 1 else f", x{divide:,.0f}"
    header = ["method", f"paper{unit}", f"re-run{unit}", f"ours{unit}", "n", "coeff", "hacked?", "hours a run"]
    header += ["steps", "true of a step"] if steps else []
    rows = []
    for method in dict.fromkeys([*table, *values]):
        cell = (best or {}).get(method)
        ours = values.get(method, (math.nan, math.nan, 0))
        hours = _value(column(_done(cell), "seconds"))[0] / 3600 if cell else math.nan
        quoted = [_quoted(source[method]) if method in source else "" for source in (table, again)]
        of_cell = [cell.strength, cell.hacked, f"{hours:.2f}"] if cell else [""] * 3
        of_steps = [f"{value:,.4g}" for value in steps[method]] if method in steps else [""] * (2 * bool(steps))
        rows.append([method, *quoted, _spread(ours, divide), str(ours[2] or ""), *of_cell, *of_steps])
    return table_of_methods(header, rows)


def order(
    values: dict[str, Value],
    theirs: list[dict[str, str]],
    divide: float,
    steps: dict[str, Steps] | None = None,
) -> str:
    """The paper's order, no regularisation < base policy < over action < over state_action, link by link.

    A link between episodes of different lengths says what a step has: the higher sum may be that of fewer steps.
    """
    paper = {row["method"]: float(row["true"]) for row in theirs if row["place"] != "re-run"}
    lines: dict[str, bool] = {}
    for divergence in ("sqrt_chi2", "kl"):
        chain = [PLAIN, BASE, f"{divergence} over action", divergence]
        known = [method for method in chain if method in values]
        for low, high in itertools.pairwise(known):
            ours, there = (values[low][0], values[high][0]), (paper[low], paper[high])
            holds, held = ours[0] < ours[1], there[0] < there[1]
            said = "holds" if holds else "**does not hold**"
            agree = "as in the paper" if holds == held else "**the paper disagrees**"
            numbers = f"{ours[0] / divide:.4g} and {ours[1] / divide:.4g}, {agree}: {there[0]:g} and {there[1]:g}"
            if steps and lengths_differ((steps[low][0], steps[high][0])):
                (first, of_first), (second, of_second) = steps[low], steps[high]
                numbers += f"; **over {first:.0f} and {second:.0f} steps**, of {of_first:.4g} and {of_second:.4g} each"
            lines[f"- {low} < {high}: {said} ({numbers})"] = holds and held
    wrong = list(lines.values()).count(False)
    if not lines:
        return "The order cannot be checked yet.\n"
    agree = "the one comparison agrees" if len(lines) == 1 else f"all {len(lines)} comparisons agree"
    verdict = f"{wrong} of {len(lines)} comparisons disagree" if wrong else agree
    return f"The order no regularisation < base policy < over action < over state_action, medians: {verdict}.\n\n" + (
        "\n".join(lines) + "\n"
    )


def objectives(section: Section) -> tuple[list[str], list[list[str]]]:
    """Whom the objective prefers: J(pi, proxy) - lambda D(mu_pi, mu_base), per step, of a cell's policies and of others.

    The others are the base policy and those that were trained without regularisation, at the same lambda. D is exact where
    that was measured. Of cells over state_action, since of the unregularised policies no other D is known.
    """
    plain = next((cell for cell in section.cells if cell.label == PLAIN and cell.true.n), None)
    header = ["method", "coeff", "this policy", "base policy", "no regularisation", "highest"]
    found = []
    for cell in section.cells if plain else ():
        names = [f"exact/divergence/{cell.divergence}", f"divergence/{cell.divergence}"]
        runs, hacked = _done(cell), _done(plain)
        known = [key for key in names if all(np.isfinite(column(each, key)).any() for each in (runs, hacked))]
        if cell.over != "state_action" or not cell.strength or not known:
            continue
        run = compose("task=orpo", f"env={section.env}", f"divergence={cell.divergence}", *section.setting)
        penalty = float(cell.strength) * run.divergence.scale(run.env) / run.env.proxy_scale
        own, other = (_value(column(each, "mean/proxy") - penalty * column(each, known[0])) for each in (runs, hacked))
        base = _value(by_seed(pd.concat([runs, hacked]), "base/mean/proxy"))
        found.append((cell, own[0], base[0], other[0]))
    write = formatter(value for _, *values in found for value in values)
    rows = [
        [cell.label, cell.strength, *map(write, values), header[2 + int(np.argmax(values))]] for cell, *values in found
    ]
    return header, rows


def made_with(runs: pd.DataFrame, store: Path) -> str:
    """How many runs, on what, in how many hours."""
    attempts = [provenance_of(store / path)["attempts"][-1] for path in runs.path]
    machines = Counter(
        f"{attempt['threads']} thread{'s' * (attempt['threads'] != 1)} of {attempt['cpus']} CPUs"
        + (f" and {', '.join(attempt['gpus'])}" if attempt["gpus"] else "")
        for attempt in attempts
    )
    on = "; ".join(f"{count} with {machine}" if len(machines) > 1 else machine for machine, count in machines.items())
    commits = sorted({(attempt["git"] or {}).get("commit", "?")[:7] for attempt in attempts})
    torch = sorted({str(attempt["versions"].get("torch")) for attempt in attempts})
    return (
        f"{len(runs)} finished run{'s' * (len(runs) != 1)}, each on {on}, {runs.seconds.sum() / 3600:.1f} hours together "
        f"(torch {', '.join(torch)}; commit {', '.join(commits)})"
    )


def _done(cell: Cell) -> pd.DataFrame:
    return cell.runs[cell.runs.status == "done"]


def _value(values: Any) -> Value:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan, 0
    return float(np.median(values)), float(values.std(ddof=1)) if len(values) > 1 else math.nan, len(values)


def _steps(runs: pd.DataFrame, whose: str = "") -> Steps:
    return tuple(_value(by_seed(runs, whose + key))[0] for key in ("episode/length", "mean/true"))


def _spread(value: Value, divide: float) -> str:
    middle, std, n = value
    if not n:
        return ""
    return f"{middle / divide:.2f}" + (f" ± {std / divide:.2f}" if math.isfinite(std) else "")


def _quoted(row: dict[str, str]) -> str:
    return " ± ".join(filter(None, [row["true"], row["std"]]))


if __name__ == "__main__":
    before = PAGE.read_text()
    after = page(before)
    if sys.argv[1:] == ["--check"]:
        raise SystemExit(int(before != after))
    if sys.argv[1:]:
        raise SystemExit(__doc__)
    PAGE.write_text(after)
    print(f"{PAGE}: {'changed' if before != after else 'as it was'}")
