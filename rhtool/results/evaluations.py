"""The evaluations that a run of task=rlhf_ppo keeps, `eval/step_<n>.jsonl`: its answers to held-out prompts, from step 0 on."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhtool.errors import RhtoolError
from rhtool.records import Damaged, provenance_of

FEWEST = 3
"""evaluations: a rank correlation of fewer says nothing"""
PATTERN = "eval/step_*.jsonl"

Line = dict[str, Any]
"""of a file: `row`, `prompt`, `answer`, `finished`, `proxy`, perhaps `true`"""
Score = Callable[[list[dict[str, Any]], list[str], list[bool]], Sequence[float]]
"""(rows, answers, whether each ended by itself) -> a reward of each"""


@dataclass
class Evaluations:
    """Those of one run, T of them on the same P prompts."""

    path: Path
    """of the run"""
    steps: NDArray[np.int64]
    """(T,), ascending: rounds of sampling and learning"""
    lines: list[list[Line]]
    """(T, P)"""

    def scores(self, name: str) -> NDArray[np.float64]:
        """`proxy` or `true` of each answer, (T, P). Raises `RhtoolError` if the files have it not."""
        try:
            return np.array([[line[name] for line in part] for part in self.lines], np.float64)
        except KeyError:
            mend = "name who gives one: data.true_by.model=... or data.true_by.function=..., or the toy data's data=toy"
            raise RhtoolError(f"the run's answers have no {name} reward", str(self.path / "eval"), mend) from None

    def since(self, step: int) -> Evaluations:
        """Those from a step on."""
        first = int(np.searchsorted(self.steps, step))
        return Evaluations(self.path, self.steps[first:], self.lines[first:])

    def first(self) -> Evaluations:
        """The first one."""
        return Evaluations(self.path, self.steps[:1], self.lines[:1])

    def last(self) -> Evaluations:
        """The last one."""
        return Evaluations(self.path, self.steps[-1:], self.lines[-1:])


def runs_at(path: str, where: str) -> list[Path]:
    """The directories of runs with evaluations at `path`: it, or those below it, or those that it matches as a pattern.

    Raises `RhtoolError`, speaking of the field `where`, if there are none.
    """
    pattern = any(sign in path for sign in "*?")
    roots = (
        sorted(Path().glob(path) if not os.path.isabs(path) else Path("/").glob(path[1:])) if pattern else [Path(path)]
    )
    found = []
    for root in roots:
        files = root.glob(PATTERN) if any(root.glob(PATTERN)) else root.rglob(PATTERN)
        runs = {file.parent.parent for file in files}
        found += [run for run in runs if not any(part.startswith(".") for part in run.relative_to(root).parts)]
    if not found:
        raise RhtoolError(
            f"there are no evaluations of a run at {path}", where, "give the directory of a run of task=rlhf_ppo"
        )
    return sorted(set(found))


def read(path: Path, from_step: int = 0, fewest: int = FEWEST) -> Evaluations:
    """The evaluations of the run at `path`. Raises `RhtoolError` for fewer than `fewest` from the step `from_step` on, for a
    line that is none of an evaluation, and if they are not of the same prompts."""
    found: dict[int, list[Line]] = {}
    for file in sorted(path.glob(PATTERN)):
        try:
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            step = lines[0]["step"]
            if not all({"prompt", "answer", "proxy"} <= line.keys() for line in lines):
                raise KeyError("prompt, answer, proxy")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RhtoolError(f"this is no evaluation of a run: {error}", str(file), "delete it, or mend it") from error
        found[step] = lines
    if (count := sum(step >= from_step for step in found)) < fewest:
        said = f"{count} evaluations from step {from_step} on, and how rewards go together is asked of {fewest} or more"
        raise RhtoolError(said, str(path / "eval"), "train with a smaller task.eval_every, or more task.iterations")
    steps = sorted(found)
    first = [line["prompt"] for line in found[steps[0]]]
    for step in steps:
        if [line["prompt"] for line in found[step]] != first:
            said = f"the evaluation at step {step} is of other prompts than that at step {steps[0]}"
            raise RhtoolError(said, str(path / "eval"), "leave only those of one run there")
    return Evaluations(path, np.array(steps), [found[step] for step in steps])


def key(prompt: Any) -> str:
    """A conversation, as a key."""
    return json.dumps(prompt)


def rows_of(lines: Sequence[Line], known: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that rewards see: those of the data with the same `key`, in `known`, with all their columns, else the
    conversation alone."""
    return [
        known.get(key(line["prompt"]), {"prompt": line["prompt"]}) | {"row": line.get("row", i)}
        for i, line in enumerate(lines)
    ]


def check_known(runs: Iterable[Evaluations], known: Mapping[str, Any]) -> None:
    """Raise `RhtoolError` for a run with prompts whose `key` is not in `known`."""
    for found in runs:
        if strange := sum(key(line["prompt"]) not in known for line in found.lines[0]):
            said = f"{strange} of {len(found.lines[0])} prompts of {found.path} are none of these data"
            raise RhtoolError(said, "data", "give the data that the run was trained on, with the same options")


@dataclass
class Rescoring:
    """The answers of some runs, judged by other rewards than those of their training, an evaluation an iteration. `Run.loop` can
    stop and resume it; at the end the evaluations have the new scores.

    Args:
        runs: their evaluations.
        by: `{"proxy" or "true": who judges}`; the others stay.
        known: rows of the data.
    """

    runs: list[Evaluations]
    by: dict[str, Score]
    known: Mapping[str, dict[str, Any]]
    done: list[dict[str, NDArray[np.float64]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._parts = [part for run in self.runs for part in run.lines]

    @property
    def iterations(self) -> int:
        """Number of evaluations of them all; 0 where nobody judges anew."""
        return len(self._parts) if self.by else 0

    def iteration(self) -> dict[str, float]:
        """The next evaluation; means over its answers."""
        lines = self._parts[len(self.done)]
        rows, answers = rows_of(lines, self.known), [line["answer"] for line in lines]
        finished = [bool(line.get("finished", True)) for line in lines]
        found = {name: np.asarray(score(rows, answers, finished), np.float64) for name, score in self.by.items()}
        self._put(found)
        return {f"mean/{name}": float(x.mean()) for name, x in found.items()}

    def _put(self, found: dict[str, NDArray[np.float64]]) -> None:
        for name, values in found.items():
            for line, value in zip(self._parts[len(self.done)], values.tolist(), strict=True):
                line[name] = value
        self.done.append(found)

    def get_state(self) -> dict[str, Any]:
        """The scores so far."""
        return {"scores": {str(i): found for i, found in enumerate(self.done)}}

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.done = []
        for i in range(len(state["scores"])):
            self._put({name: np.asarray(x, np.float64) for name, x in state["scores"][str(i)].items()})


def groups(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """`{name: runs}` that differ only in their seed: directories `seed=<n>` beside each other; another directory is by itself.
    The name, of letters, digits and underscores, is what tells the group from the others: of a directory that is named after its
    options those (the last word of a field, and of a path only where nothing else tells), else the words of the directory; where
    nothing tells it from the others, its reward, or the directory's own name."""
    found: dict[Path, list[Path]] = {}
    for run in runs:
        full = run.absolute()
        found.setdefault(full.parent if full.name.startswith("seed=") else full, []).append(run)
    above = Path(os.path.commonpath([directory.parent for directory in found]))
    options = {directory: _options(directory, members[0]) for directory, members in found.items()}
    words = {d: said or re.split(r"[-/]", str(d.relative_to(above))) for d, (said, _) in options.items()}
    shared = set.intersection(*map(set, words.values()))
    telling = {directory: [word for word in said if word not in shared] for directory, said in words.items()}
    named: dict[str, list[Path]] = {}
    for directory, members in found.items():
        alike = [other for other in found if telling[other] == telling[directory]]
        own = [word for word in options[directory][1] if any(word not in options[other][1] for other in alike)]
        said = telling[directory] + own or [words[directory][0] if options[directory][0] else directory.name]
        name = re.sub(r"\W+", "_", "_".join(said), flags=re.ASCII).strip("_") or "runs"
        named[name if name not in named else f"{name}_{len(named)}"] = members
    return named


def _options(directory: Path, run: Path) -> tuple[list[str], list[str]]:
    """The words of the options that a directory is named after, the reward first, as provenance.json has them (a long name is
    cut): those without paths, and those that are paths, their last part. Nothing for a name of somebody's own."""
    try:
        about = (provenance_of(run) or {}).get("run", {})
    except Damaged:
        about = {}
    if not directory.name.startswith(f"{about.get('divergence')}-coeff="):
        return [], []
    words, paths = [str(about["reward"]), str(about["divergence"]), f"coeff={about['coeff']:g}"], []
    for key, value in about["tuned"].items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        short = re.sub(r"[^,\[\] ]*/", "", text)
        (paths if "/" in text else words).append(f"{key.rpartition('.')[2]}={short}")
    return words, paths


class InTurn:
    """Works one after the other, as one that `Run.loop` can stop and resume: each has `iterations`, `iteration`, and a state."""

    def __init__(self, *works: Any):
        self.works = works
        self.done = 0
        """iterations"""

    @property
    def iterations(self) -> int:
        """Of all together."""
        return sum(work.iterations for work in self.works)

    def iteration(self) -> dict[str, float]:
        """The next one's."""
        before = 0
        for work in self.works:
            if self.done < before + work.iterations:
                self.done += 1
                return work.iteration()
            before += work.iterations
        raise IndexError(f"all {before} iterations are done")

    def get_state(self) -> dict[str, Any]:
        """Of all of them."""
        return {"done": self.done, "works": {str(i): work.get_state() for i, work in enumerate(self.works)}}

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.done = int(state["done"])
        for i, work in enumerate(self.works):
            work.set_state(state["works"][str(i)])
