"""What a policy of texts is worth: its answers to held-out prompts, their proxy and true rewards, divergences from the base policy."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rhtool.checkpoints import write_atomic
from rhtool.data.base import Row
from rhtool.hacking import diagnostics
from rhtool.lm import parallel, ppo_math
from rhtool.lm.generation import generate, tokens

if TYPE_CHECKING:
    from rhtool.lm.ppo import Ppo


@torch.no_grad()
def sampled(work: Ppo, rows: list[Row]) -> tuple[list[list[int]], Tensor]:
    """An answer of the policy to each row of this rank's share, as tokens, and the log-ratio (B,) of each to the base policy,
    at the temperature of evaluation. The random states stay as they were."""
    task, answers, ratios = work.task, [], []
    model, mine = work.accelerator.unwrap_model(work.model), parallel.share(len(rows))
    prompts = tokens(work.form, [rows[i] for i in mine], task.max_prompt)
    options = {"max_new_tokens": task.max_new_tokens, "stop": task.stop, "first": mine[0]}
    options |= {"temperature": task.eval_temperature, "top_p": task.eval_top_p, "chunk": task.chunk or task.rollouts}
    for padded, ids in generate(model, work.form, prompts, task.eval_seed, **options):
        answers += ids
        ratios.append(log_ratio(work, padded, ids))
    return answers, torch.cat(ratios)


def log_ratio(work: Ppo, prompts: Any, answers: list[list[int]]) -> Tensor:
    """log pi - log base (B,) of answers to padded prompts."""
    device = work.accelerator.device
    padded = nn.utils.rnn.pad_sequence(
        [torch.tensor(x, dtype=torch.long) for x in answers], True, work.form.tokenizer.pad_token_id
    ).to(device)
    mask = (
        torch.arange(padded.shape[1], device=device) < torch.tensor([len(x) for x in answers], device=device)[:, None]
    )
    ids = torch.cat([prompts["input_ids"], padded], 1)
    attention = torch.cat([prompts["attention_mask"], mask.long()], 1)
    now, _, _ = work.log_probs(work.model, ids, attention, padded.shape[1])
    with work.as_base():
        base, _, _ = work.log_probs(work.model, ids, attention, padded.shape[1])
    return ppo_math.sequence_log_ratio(now, base, mask).cpu()


def evaluate(work: Ppo, rows: list[Row], step: int) -> dict[str, float]:
    """Means over answers to held-out rows, in the words of control: `true/return`, `proxy/return` and their standard
    errors, `divergence/…`, `correlation`, `sigma/…`; the answers and their scores are in eval/step_<step>.jsonl."""
    rows = [row | {"row": i} for i, row in enumerate(rows)]
    mine = [rows[i] for i in parallel.share(len(rows))]
    with parallel.whole(work):
        ids, ratio = sampled(work, rows)
    answers, finished, scores, proxy_reward = work.judged(mine, ids)
    found = {"proxy": proxy_reward.double()}
    if work.true is not None:
        found["true"] = torch.tensor(work.true(mine, answers), dtype=torch.float64)
    ids = of_all_ranks(ids, len(rows))
    answers = work.form.tokenizer.batch_decode(ids, skip_special_tokens=True)
    finished, scores, ratio = (parallel.gathered(x, len(rows)) for x in (finished, scores, ratio))
    found = {name: parallel.gathered(x, len(rows)) for name, x in found.items()}
    true = found.get("true")
    metrics = {"text/length": float(np.mean([len(x) for x in ids])), "text/finished": float(finished.double().mean())}
    for name, x in found.items():
        metrics |= {
            f"{name}/return": float(x.mean()),
            f"mean/{name}": float(x.mean()),
            f"sigma/{name}": float(x.std(correction=0)),
        }
        metrics[f"{name}/return_se"] = float(x.std()) / math.sqrt(len(x))
    if true is not None:
        metrics["correlation"] = ppo_math.correlation(found["proxy"], true)
    if work.task.eval_temperature == 1 and work.task.eval_top_p == 1:
        valid = torch.ones(len(ratio), 1, dtype=torch.bool)
        measured = ppo_math.divergence_metrics(ratio.unsqueeze(1), valid)
        metrics |= {f"divergence/{key}": value for key, value in measured.items()}
    if parallel.rank() == 0:
        write(work, step, rows, answers, ids, finished, scores, found, ratio)
    return metrics


def of_all_ranks(ids: list[list[int]], n: int) -> list[list[int]]:
    """The tokens of n answers, of which each rank has its share."""
    lengths = parallel.gathered(torch.tensor([len(x) for x in ids]), n)
    padded = nn.utils.rnn.pad_sequence([torch.tensor(x, dtype=torch.long) for x in ids], True)
    return [
        x[:length].tolist() for x, length in zip(parallel.gathered(parallel.widest(padded), n), lengths, strict=True)
    ]


def write(
    work: Ppo, step: int, rows: Any, answers: Any, ids: Any, finished: Any, scores: Any, found: Any, ratio: Any
) -> None:
    """eval/step_<step>.jsonl: a line for each prompt."""
    directory = work.run_.path / "eval"
    directory.mkdir(exist_ok=True)
    lines = []
    for i, row in enumerate(rows):
        line = {
            "step": step,
            "row": i,
            "prompt": row["prompt"],
            "answer": answers[i],
            "answer_ids": ids[i],
            "finished": bool(finished[i]),
            **{name: float(x[i]) for name, x in found.items()},
            "judges": dict(zip(work.proxy.judges(scores.shape[1]), scores[i].tolist(), strict=True)),
            "log_ratio": float(ratio[i]),
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    write_atomic(directory / f"step_{step:06d}.jsonl", ("\n".join(lines) + "\n").encode())


def validation(work: Ppo, rows: list[Row], step: int) -> dict[str, float]:
    """`evaluate` under `validation/…`, for the rows of metrics.csv."""
    shown = ("true/return", "proxy/return", "divergence/", "correlation", "text/")
    return {
        f"validation/{k}": v for k, v in evaluate(work, rows, step).items() if k.startswith(shown) and "_se" not in k
    }


def evaluate_base(work: Ppo, rows: list[Row]) -> dict[str, float]:
    """`evaluate` of the base policy, as eval/step_000000.jsonl."""
    with work.as_base():
        return evaluate(work, rows, 0)


def final(work: Ppo, rows: list[Row], base: dict[str, float]) -> dict[str, float]:
    """`evaluate` at the end, the base policy's numbers as `base/…`, and the diagnostics of hacking."""
    metrics = evaluate(work, rows, work.task.iterations)
    metrics |= {f"base/{key}": value for key, value in base.items() if not key.startswith("divergence/")}
    if "divergence/chi2" in metrics and "true/return" in metrics:
        metrics |= diagnostics(metrics, 1.0)
    return metrics
