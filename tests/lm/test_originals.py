"""task=export: the originals' files, read as the originals read them, say what the run's own say."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import pytest

from rhtool.config import compose
from rhtool.divergences import KL
from rhtool.errors import RhtoolError
from rhtool.models import SAVED
from tests.lm.test_bon_task import make as make_bon
from tests.lm.test_rlhf_ppo import make as make_ppo

pytest.importorskip("trl")
import numpy as np
import pandas as pd
from datasets import load_dataset
from transformers import AutoTokenizer

pytestmark = pytest.mark.lm


ALPACA = ["alpaca_eval.json", "alpaca_eval_base.json"]


def length(prompts, answers, columns):
    """A gold reward: how long a prompt and its answer are."""
    return [len(p[-1]["content"]) + len(a) for p, a in zip(prompts, answers, strict=True)]


def exported(run: Path, to: Path, *words: str) -> dict[str, list]:
    """`{path below to: content}`, as `datasets` reads it and as JSON does, which must agree."""
    compose("task=export", f"task.path={run}", f"task.to={to}", *words).execute()
    found = {}
    for file in sorted(to.rglob("*.json")):
        found[file.relative_to(to).as_posix()] = content = json.loads(file.read_text())
        rows = load_dataset("json", data_files=str(file), cache_dir=str(to / ".cache"))["train"].to_list()
        for row, entry in zip(rows, content, strict=True):
            assert {k for k, v in row.items() if v is not None} == {*entry}
            for key, value in entry.items():
                number = not isinstance(value, str | list) or isinstance(value[0] if value else 0, float)
                assert row[key] == (pytest.approx(value, abs=1e-9) if number else value)  # it rounds
    return found


@pytest.fixture(scope="module")
def ppo(sft_run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ppo") / "run"
    make_ppo(path, sft_run, KL(), 0.1, function="tests.lm.test_bon_task:judges").execute()
    return path


@pytest.fixture(scope="module")
def bon(sft_run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bon") / "run"
    make_bon(path, sft_run).execute()
    return path


def test_evaluations_of_ppo(ppo, tmp_path):
    found = exported(ppo, tmp_path)
    own = [[json.loads(x) for x in f.read_text().splitlines()] for f in sorted((ppo / "eval").glob("*.jsonl"))]
    evaluations = [f"eval/eval-{k}.json" for k in range(len(own))]
    assert [*found] == [*ALPACA, *evaluations, "gold_eval_with_response_ids.json"]
    kl = pd.read_csv(ppo / "metrics.csv")["divergence/kl"]
    for k, lines in enumerate(own):
        entries = found[f"eval/eval-{k}.json"]
        assert entries[0].pop("kl_list") == pytest.approx(kl[: max(lines[0]["step"], 1)].tolist())
        for entry, line in zip(entries, lines, strict=True):
            assert {*entry} == {"instruction", "answers", "proxy_scores", "ensemble_variance", "gold_scores"}
            assert entry["instruction"] == line["prompt"][-1]["content"] and entry["answers"] == [line["answer"]]
            assert entry["proxy_scores"] == [line["proxy"]] and entry["gold_scores"] == [line["true"]]
            assert entry["ensemble_variance"] == pytest.approx([np.var([*line["judges"].values()], ddof=1)])
    result = json.loads((ppo / "result.json").read_text())["metrics"]
    last = found["gold_eval_with_response_ids.json"]
    for scores, key in (("proxy_scores", "proxy/return"), ("gold_scores", "true/return")):
        assert np.mean([entry[scores][0] for entry in last]) == pytest.approx(result[key])
    tokenizer = AutoTokenizer.from_pretrained(ppo / SAVED)
    for entry in last:
        text = tokenizer.decode(entry["answers_ids"][0], skip_special_tokens=True)
        assert text == entry["instruction"] + entry["answers"][0]


def test_answers_as_alpaca_eval_reads_them(ppo, tmp_path):
    found = exported(ppo, tmp_path)
    files = sorted((ppo / "eval").glob("*.jsonl"))
    for name, file in zip(ALPACA, (files[-1], files[0]), strict=True):
        own = {}
        for line in map(json.loads, file.read_text().splitlines()):
            own.setdefault(line["prompt"][-1]["content"], (line["answer"], line["step"]))
        assert [{*entry} for entry in found[name]] == [{"instruction", "output", "generator", "dataset"}] * len(own)
        assert {entry["instruction"]: entry["output"] for entry in found[name]} == {k: v for k, (v, _) in own.items()}
        assert all(entry["generator"].endswith(f"run step {own[entry['instruction']][1]}") for entry in found[name])
    assert str(tmp_path.parent) not in json.dumps([found[name] for name in ALPACA])


def test_a_run_that_is_under_way_has_its_evaluations_so_far(ppo, tmp_path):
    (tmp_path / "part" / "eval").mkdir(parents=True)
    (tmp_path / "part" / "eval" / "step_000000.jsonl").write_bytes((ppo / "eval" / "step_000000.jsonl").read_bytes())
    found = exported(tmp_path / "part", tmp_path / "to")
    assert [*found] == [*ALPACA, "eval/eval-0.json"] and found["eval/eval-0.json"][0]["kl_list"] == []


def test_a_reward_that_is_chosen_judges_in_the_place_of_the_true_one(ppo, bon, tmp_path):
    words = ["reward=python", "reward.function=tests.lm.test_originals:length"]
    for run in (ppo, bon):
        entries = [
            e
            for f, es in exported(run, tmp_path / run.parent.name, *words).items()
            if "results" not in f and f not in ALPACA
            for e in es
        ]
        for entry in entries:
            assert entry["gold_scores"] == [len(entry["instruction"]) + len(answer) for answer in entry["answers"]]


def test_answers_of_best_of_n(bon, tmp_path):
    found, table = exported(bon, tmp_path), pd.read_parquet(bon / "answers.parquet")
    folders = {"seed0": "judge_0", "seed1": "judge_1", "seed2": "judge_2", "ensemble_mean": "proxy"}
    assert {file.split("/")[0] for file in found} == {*folders}
    for folder, name in folders.items():
        entries = found[f"{folder}/proxy_labelled_sorted.json"]
        for (_, part), entry in zip(table.groupby("row"), entries, strict=True):
            assert entry["proxy_scores"] == sorted(entry["proxy_scores"])
            triples = zip(entry["answers"], entry["proxy_scores"], entry["gold_scores"], strict=True)
            assert sorted(triples) == sorted(zip(part.answer, part[name], part.true, strict=True))
        for point in found[f"{folder}/bon_sampled_results.json"]:
            subsets = [max(some) for e in entries for some in combinations(e["proxy_scores"], point["n"])]
            assert point["proxy_score"] == pytest.approx(np.mean(subsets))
            if len({x for e in entries for x in e["proxy_scores"]}) == sum(len(e["answers"]) for e in entries):
                weights = [math.comb(i - 1, point["n"] - 1) / math.comb(12, point["n"]) for i in range(1, 13)]
                assert point["gold_score"] == pytest.approx(
                    np.mean([np.dot(weights, e["gold_scores"]) for e in entries])
                )


def test_what_has_no_answers(sft_run, tmp_path):
    with pytest.raises(RhtoolError, match="no answers to export"):
        compose("task=export", f"task.path={sft_run}").execute()
    with pytest.raises(RhtoolError, match="no such directory"):
        compose("task=export", f"task.path={tmp_path / 'none'}").execute()
    with pytest.raises(RhtoolError, match="no run is named"):
        compose("task=export").execute()
