"""Answers to prompts as columns, which rewards of texts are looked at on, where they come from, and who scores them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rhtool.data.base import VALIDATION, Row
from rhtool.errors import ConfigError, RhtoolError
from rhtool.results import evaluations
from rhtool.rewards.base import Reward
from rhtool.rewards.rm import Rm
from rhtool.rewards.warm import Warm

if TYPE_CHECKING:
    from rhtool.run import Run

POOL = "answers.parquet"
"""of a run of task=bon"""
PREFERRED, OTHER, NEITHER = 1, 0, -1

Array = NDArray[np.float64]
Score = Callable[[list[Row], list[str], list[bool]], Array]
"""(rows, answers, whether each ended by itself) -> (B,) float64"""


@dataclass
class Answers:
    """N answers. Those to a prompt stand one after the other."""

    rows: list[Row]
    """(N,): of the data, with the `prompt`"""
    texts: list[str]
    finished: list[bool]
    """(N,): whether each ended by itself"""
    prompt: NDArray[np.int64]
    """(N,): which prompt, from 0"""
    step: NDArray[np.int64]
    """(N,): rounds of training of the policy whose answers they are; of other answers 0"""
    label: NDArray[np.int64]
    """(N,): `PREFERRED` and `OTHER` of the data's pairs, else `NEITHER`"""
    recorded: dict[str, Array] = field(default_factory=dict)
    """{"proxy", "true": (N,)}: what the run wrote down"""

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: Any) -> Answers:
        """Those of an index array or of a mask."""
        chosen = np.arange(len(self))[rows].tolist()
        columns: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "recorded"}
        found = {k: [v[i] for i in chosen] if isinstance(v, list) else v[chosen] for k, v in columns.items()}
        return Answers(**found, recorded={name: v[chosen] for name, v in self.recorded.items()})

    def pairs(self, scores: Array) -> NDArray[np.int64]:
        """(P, 2): of each prompt the answers to compare, the better one first: those of the data's pair as labelled, else those
        of the highest and of the lowest score, if they differ."""
        found = []
        for p in np.unique(self.prompt):
            here = np.flatnonzero(self.prompt == p)
            if (self.label[here] != NEITHER).all():
                found.append((here[self.label[here] == PREFERRED][0], here[self.label[here] == OTHER][0]))
            elif scores[here].max() > scores[here].min():
                found.append((here[scores[here].argmax()], here[scores[here].argmin()]))
        return np.array(found, np.int64).reshape(-1, 2)


def answered(run: Run, path: str, prompts: int, draws: int) -> Answers:
    """The answers of the run at `path` to its first `prompts` prompts: of every evaluation of one of task=rlhf_ppo, the first
    `draws` to each prompt of one of task=bon; with an empty path the data's own pairs.

    Raises `RhtoolError` if there are none, or if their prompts are not the data's.
    """
    if not path:
        return _of_pairs(run.data.preferences(VALIDATION)[:prompts])
    known = {evaluations.key(row["prompt"]): row for row in run.data.prompts(VALIDATION)}
    if Path(path, POOL).is_file():
        return _of_pool(Path(path), known, prompts, draws)
    found = evaluations.read(only_run(path), fewest=1)
    lines = [part[:prompts] for part in found.lines]
    _check_known(lines[0], known, path)
    flat = [(p, step, part[p]) for p in range(len(lines[0])) for step, part in zip(found.steps, lines, strict=True)]
    return Answers(
        evaluations.rows_of([line for _, _, line in flat], known),
        [line["answer"] for _, _, line in flat],
        [bool(line.get("finished", True)) for _, _, line in flat],
        np.array([p for p, _, _ in flat], np.int64),
        np.array([step for _, step, _ in flat], np.int64),
        np.full(len(flat), NEITHER),
        {
            name: np.array([line[name] for _, _, line in flat], np.float64)
            for name in ("proxy", "true")
            if all(name in line for _, _, line in flat)
        },
    )


def only_run(path: str) -> Path:
    """The one run with evaluations at a path. Raises `RhtoolError` if there is none, or several."""
    runs = evaluations.runs_at(path, "task.answers")
    if len(runs) > 1:
        said = f"there are {len(runs)} runs at {path}"
        raise RhtoolError(said, "task.answers", f"give one of them, such as {runs[0]}")
    return runs[0]


def _of_pairs(rows: list[Row]) -> Answers:
    count = len(rows)
    return Answers(
        [row for row in rows for _ in range(2)],
        [row[name] for row in rows for name in ("chosen", "rejected")],
        [True] * (2 * count),
        np.repeat(np.arange(count), 2),
        np.zeros(2 * count, np.int64),
        np.tile(np.array([PREFERRED, OTHER]), count),
    )


def _of_pool(path: Path, known: dict[str, Row], prompts: int, draws: int) -> Answers:
    import pandas as pd

    table = pd.read_parquet(path / POOL)
    lines = [json.loads(line) for line in (path / "prompts.jsonl").read_text().splitlines()][:prompts]
    _check_known(lines, known, str(path))
    table = table[(table.row < len(lines)) & (table.draw < draws)].sort_values(["row", "draw"])
    rows = evaluations.rows_of(lines, known)
    recorded = {name: table[name].to_numpy(np.float64) for name in ("proxy", "true") if name in table}
    return Answers(
        [rows[i] for i in table.row],
        table.answer.tolist(),
        table.finished.tolist(),
        table.row.to_numpy(np.int64),
        np.zeros(len(table), np.int64),
        np.full(len(table), NEITHER),
        recorded,
    )


def _check_known(lines: list[Any], known: dict[str, Row], path: str) -> None:
    if strange := sum(evaluations.key(line["prompt"]) not in known for line in lines):
        said = f"{strange} of {len(lines)} prompts of {path} are none of these data"
        raise RhtoolError(said, "data", "give the data that the run was trained on, with the same options")


# Who scores


def given(reward: Reward) -> bool:
    """Whether the group `reward` names any."""
    return type(reward) is not Reward


def is_model(reward: Reward) -> bool:
    """Whether the reward is one learned model's score, which has gradients and hidden states."""
    return type(reward) in (Rm, Warm)


def require_model(reward: Reward) -> None:
    """Raise `ConfigError` unless it is."""
    reward.check()
    if not is_model(reward):
        what = "gradients and hidden states are those of one reward model"
        raise ConfigError(what, "reward", "choose reward=rm (of an ensemble, one of its members), or reward=warm")


def score_by(reward: Reward, name: str = "proxy") -> Score:
    """The reward, its judges combined, checked. Models are loaded here."""
    loaded = reward.load()

    def score(rows: list[Row], answers: list[str], finished: list[bool]) -> Array:
        if not answers:
            return np.zeros(0)
        found = reward.combined(loaded(rows, answers, finished)).double().numpy()
        return checked(name, found, rows, answers)

    return score


def true_score(run: Run) -> Score | None:
    """The data's true reward; None where nothing gives one."""
    if not (true := run.data.true_reward()):
        return None
    return lambda rows, answers, _: checked("true", np.asarray(true(rows, answers), np.float64), rows, answers)


def checked(name: str, scores: Array, rows: list[Row], answers: list[str]) -> Array:
    """The scores, if all are finite. Raises `RhtoolError` with the text that caused one that is not."""
    wrong = np.flatnonzero(~np.isfinite(scores))
    if not len(wrong):
        return scores
    i = int(wrong[0])
    said = f"the {name} reward is {scores[i]} for {len(wrong)} of {len(scores)} answers"
    where = f"the answer {answers[i][:200]!r} to {rows[i]['prompt'][-1]['content'][:200]!r}"
    raise RhtoolError(said, where, "mend what gives the reward, or leave this answer out")


def proxy_and_true(run: Run, answers: Answers) -> dict[str, Array]:
    """`{"proxy", "true": (N,)}`: by the group `reward` and by the data where these give one, else as the run wrote it down.

    Raises `ConfigError` if one is known of neither.
    """
    found = {}
    columns = answers.rows, answers.texts, answers.finished
    if given(run.reward):
        found["proxy"] = score_by(run.reward)(*columns)
    if true := true_score(run):
        found["true"] = true(*columns)
    for name in ("proxy", "true"):
        if name not in found:
            if name not in answers.recorded:
                mend = {
                    "proxy": "choose a reward: reward=rm reward.model=...",
                    "true": "name who gives one: data.true_by.model=... or data.true_by.function=...",
                }
                raise ConfigError(f"these answers have no {name} reward", "task.answers", mend[name])
            found[name] = checked(name, answers.recorded[name], answers.rows, answers.texts)
    return {name: found[name] for name in ("proxy", "true")}


# Within a prompt


def centred(x: Array, prompt: NDArray[np.int64]) -> Array:
    """x (N, …) less its mean over the answers to the same prompt."""
    _, inverse, count = np.unique(prompt, return_inverse=True, return_counts=True)
    sums = np.zeros((len(count), *x.shape[1:]))
    np.add.at(sums, inverse, x)
    return x - (sums.T / count).T[inverse]


def z_scores(x: Array, prompt: NDArray[np.int64], pooled: bool = False) -> Array:
    """x (N,) less the mean of its prompt, in standard deviations over the answers to it; 0 where all are equal. `pooled`: in the
    root mean square of what is left of all answers, so that a prompt of which all answers are alike does not count as much."""
    found = centred(x, prompt)
    _, inverse, count = np.unique(prompt, return_inverse=True, return_counts=True)
    square = np.bincount(inverse, found**2)
    if pooled:
        spread = np.full(len(found), np.sqrt(square.sum() / max(1, (count - 1).sum())))
    else:
        spread = np.sqrt(square / np.maximum(count - 1, 1))[inverse]
    least = 1e-9 * max(1.0, float(np.abs(x).max(initial=0.0)))
    return np.divide(found, spread, out=np.zeros_like(found), where=spread > least)
