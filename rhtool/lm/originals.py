"""The files that the programs of Coste et al. 2024 (tlc4418/llm_optimization) and of Laidlaw et al. 2025
(cassidylaidlaw/llm_optimization) write, from a run's own, so that what reads theirs reads ours.

    of task=rlhf_ppo     eval/eval-<k>.json                      the k-th evaluation, from 0: before the first round
                         gold_eval_with_response_ids.json        the last one, with tokens
                         alpaca_eval.json                        the last one, as the package alpaca_eval reads it
                         alpaca_eval_base.json                   likewise the first one, for its --reference_outputs
    of task=bon          seed<k>/proxy_labelled_sorted.json      of the k-th judge, answers by ascending score
                         seed<k>/bon_sampled_results.json        best-of-n by it
                         ensemble_<combine>/...                  likewise, of an ensemble's combination

What they call gold is called true here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from rhtool.checkpoints import write_atomic
from rhtool.data.base import Row
from rhtool.errors import RhtoolError
from rhtool.lm.bon import NS, Answers, best_of_n
from rhtool.lm.card import public
from rhtool.models import SAVED

Gold = Callable[[list[Row], list[str], list[bool]], list[float]]
"""(rows with `prompt`, answers, whether each ended) -> the true reward of each"""
PROMPTS = "prompts.jsonl"
"""in the directory of a run of task=bon: {"row", "prompt"} of each prompt of its answers.parquet"""


def export(run: Path, to: Path, gold: Gold | None = None) -> list[Path]:
    """Write the files of the run at `run` into the directory `to`; their paths. With `gold` it judges in the place of the
    true reward that the run has, if it has any. Raises `RhtoolError` for a run that keeps no answers."""
    if evaluations := sorted((run / "eval").glob("step_*.jsonl")):
        return _of_ppo(run, evaluations, to, gold)
    if (run / "answers.parquet").is_file() and (run / PROMPTS).is_file():
        return _of_bon(run, to, gold)
    raise RhtoolError(
        "the run has no answers to export", str(run), "give a run of task=rlhf_ppo, or a done one of task=bon"
    )


def _of_ppo(run: Path, evaluations: list[Path], to: Path, gold: Gold | None) -> list[Path]:
    kl = _kl_of_rounds(run)
    written, lines, entries = [], [], []
    for k, file in enumerate(evaluations):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        entries = [_entry(line) for line in lines]
        _add_gold(entries, lines, gold)
        # Theirs are written after the round's sampling, the first one too, whose KL is that of the base policy.
        listed = [{**entries[0], "kl_list": kl[: max(lines[0]["step"], 1)]}, *entries[1:]]
        written.append(_write(to / "eval" / f"eval-{k}.json", listed))
    if (run / SAVED / "tokenizer.json").is_file():
        prompts = _prompt_ids(run, lines)
        last = [
            {key: value for key, value in entry.items() if key != "ensemble_variance"}
            | {"answers_ids": [prompt + line["answer_ids"]]}
            for entry, line, prompt in zip(entries, lines, prompts, strict=True)
        ]
        written.append(_write(to / "gold_eval_with_response_ids.json", last))
    for name, file in (("alpaca_eval", evaluations[-1]), ("alpaca_eval_base", evaluations[0])):
        written.append(_write(to / f"{name}.json", _alpaca_eval(run, file)))
    return written


def _alpaca_eval(run: Path, file: Path) -> list[dict[str, str]]:
    """An evaluation as AlpacaEval (Li et al. 2023, github.com/tatsu-lab/alpaca_eval) has answers; `generator` is the run and the
    step, `dataset` the run's data. It matches answers by their instruction, so of equal ones the first is kept."""
    config = run / "config.yaml"
    words = config.read_text().partition("\n")[0].removeprefix("# ").split() if config.is_file() else []
    dataset = next((word.removeprefix("data=") for word in words if word.startswith("data=")), "")
    found: dict[str, dict[str, str]] = {}
    for line in map(json.loads, file.read_text().splitlines()):
        instruction, generator = _instruction(line["prompt"]), f"{public(str(run.absolute()))} step {line['step']}"
        entry = {"instruction": instruction, "output": line["answer"], "generator": generator, "dataset": dataset}
        found.setdefault(instruction, entry)
    return [*found.values()]


def _entry(line: dict[str, Any]) -> dict[str, Any]:
    judges = list(line["judges"].values())
    return {
        "instruction": _instruction(line["prompt"]),
        "answers": [line["answer"]],
        "proxy_scores": [line["proxy"]],
        "ensemble_variance": [float(np.var(judges, ddof=1)) if len(judges) > 1 else 0.0],
    }


def _add_gold(entries: list[dict[str, Any]], lines: list[dict[str, Any]], gold: Gold | None) -> None:
    if gold is not None:
        rows = [{"prompt": line["prompt"]} for line in lines]
        scores = gold(rows, [line["answer"] for line in lines], [line["finished"] for line in lines])
    elif "true" in lines[0]:
        scores = [line["true"] for line in lines]
    else:
        return
    for entry, score in zip(entries, scores, strict=True):
        entry["gold_scores"] = [float(score)]


def _kl_of_rounds(run: Path) -> list[float]:
    file = run / "metrics.csv"
    rows = pd.read_csv(file) if file.is_file() and file.stat().st_size else pd.DataFrame()
    return rows["divergence/kl"].tolist() if "divergence/kl" in rows else []


def _prompt_ids(run: Path, lines: list[dict[str, Any]]) -> list[list[int]]:
    from rhtool.lm.text import Format, tokenizer_at

    most = yaml.safe_load((run / "config.yaml").read_text())["task"]["max_prompt"]
    form = Format(tokenizer_at(str(run / SAVED)), most)
    return [form.ids(form.prompt(line["prompt"]))[-most:] for line in lines]


def _of_bon(run: Path, to: Path, gold: Gold | None) -> list[Path]:
    table = pd.read_parquet(run / "answers.parquet")
    prompts = {row["row"]: row["prompt"] for row in map(json.loads, (run / PROMPTS).read_text().splitlines())}
    if gold is not None:
        rows = [{"prompt": prompts[row]} for row in table.row]
        table["true"] = gold(rows, table.answer.tolist(), table.finished.tolist())
    judges = [name for name in table.columns[table.columns.get_loc("finished") + 1 :] if name not in ("proxy", "true")]
    folders = {f"seed{k}": name for k, name in enumerate(judges)}
    if len(judges) > 1:
        combine = yaml.safe_load((run / "config.yaml").read_text())["reward"].get("combine", "mean")
        folders[f"ensemble_{combine}"] = "proxy"
    written = []
    for folder, name in folders.items():
        entries = [
            {
                "instruction": _instruction(prompts[row]),
                "answers": part.answer.tolist(),
                "proxy_scores": part[name].astype(float).tolist(),
                "gold_scores": part.true.astype(float).tolist(),
            }
            for row, part in table.sort_values(["row", name], kind="stable").groupby("row")
        ]
        written.append(_write(to / folder / "proxy_labelled_sorted.json", entries))
        answers = Answers([x["proxy_scores"] for x in entries], [x["gold_scores"] for x in entries])
        results = [
            {"n": int(point.strength), "proxy_score": point.proxy, "gold_score": point.true}
            for point in best_of_n(answers, [n for n in NS if n <= answers.fewest])
        ]
        written.append(_write(to / folder / "bon_sampled_results.json", results))
    return written


def _instruction(prompt: list[dict[str, str]]) -> str:
    return "\n\n".join(message["content"] for message in prompt)


def _write(file: Path, entries: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(entries, ensure_ascii=False, indent=4).encode())
    return file
