"""What reward=rer costs: real answers with the offline encoder, and its parts.

    python benchmarks/rer.py [answers.json ...]

Files are lists of {"input" or "instruction", "output", "qtype"}, as reverse reward engineering has them (alpacafarm_val.json,
alpaca_eval.json). Each output is an answer, and the reference of the row before it. Without files answers are made up of the toy
language's words, in lengths like those.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import torch

from rhtool.data.base import CONSTRAINED, OPENENDED
from rhtool.data.toy_language import vocabulary
from rhtool.errors import MissingExtra
from rhtool.lm.process import set_up
from rhtool.rewards.rer import Rer

ANSWERS = 2000


def rows_of(paths: list[str]) -> tuple[list[dict], list[str]]:
    """(rows, answers) of the files, the first `ANSWERS`."""
    found = [record for path in paths for record in json.loads(Path(path).read_bytes())][:ANSWERS]
    if not found:
        rng, words = random.Random(0), vocabulary()
        said = [" ".join(rng.choices(words, k=rng.randint(5, 120))) for _ in range(2 * ANSWERS)]
        types = (OPENENDED, CONSTRAINED)
        found = [{"input": said[i], "output": said[-1 - i], "qtype": types[i % 2]} for i in range(ANSWERS)]
    rows = [
        {
            "prompt": [{"role": "user", "content": record.get("input") or record["instruction"]}],
            "reference": other["output"],
            "qtype": record["qtype"],
        }
        for record, other in zip(found, found[1:] + found[:1], strict=True)
    ]
    return rows, [record["output"] for record in found]


def main() -> None:
    set_up(1)
    rows, answers = rows_of(sys.argv[1:])
    finished = [True] * len(answers)
    words = sum(len(answer.split()) for answer in answers) / len(answers)
    print(f"{len(answers)} answers of {words:.0f} words in the mean, 1 thread")
    rewards = {"length, repetition": Rer(relevance=False), "all, minilm": Rer()}
    for name, reward in rewards.items():
        try:
            reward.check()
        except MissingExtra as error:
            print(error)
            continue
        started = time.perf_counter()
        judge = reward.load()
        loaded = time.perf_counter() - started
        for again in ("", "again, the queries remembered"):
            started, busy = time.perf_counter(), time.process_time()
            found = reward.combined(judge(rows, answers, finished))
            seconds, busy = time.perf_counter() - started, time.process_time() - busy
            assert torch.isfinite(found).all()
            print(
                f"  {name:20s} {again:30s} {seconds:7.2f} s {len(answers) / seconds:9,.0f} answers/s"
                f"   (of the processor: {busy:.2f} s, {len(answers) / busy:,.0f} answers/s; loading {loaded:.1f} s)"
            )


if __name__ == "__main__":
    main()
