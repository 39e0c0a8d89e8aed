"""What a run on language models needs before it starts: models, data, memory; the lines of `task=doctor task.of=...`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import constants, try_to_load_from_cache

from rhtool.lm.memory import Unknown
from rhtool.models import Tiny, Trained
from rhtool.rewards.rm import Learned
from rhtool.run import Run

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
Line = tuple[bool, str, str, str]
"""(all is well, what was looked at, what was found, the command that mends it)"""


def lines(run: Run) -> Iterator[Line]:
    """Models, data and memory, each a line or more."""
    if isinstance(run.model, Tiny) and not run.model.path:
        yield True, "model", "made on the spot", ""
    else:
        yield model("model", run.model.source(), run.model.revision)
    if "reward" in run.task.uses and isinstance(run.reward, Learned):
        for judge in run.reward.trained().values():
            if judge.path:
                yield model("reward model", judge.source)
    yield from data(run)
    yield from memory(run)


def model(what: str, source: str, revision: str | None = None) -> Line:
    """Whether a directory, or the cache of the hub, has it."""
    if (Path(source).expanduser() / "config.json").is_file():
        return True, what, source, ""
    if Trained(source).local:
        return False, what, f"{source} is not there", "make it: see the line of the check, and docs/tasks"
    found = [isinstance(try_to_load_from_cache(source, name, revision=revision), str) for name in WEIGHTS]
    more = f" --revision {revision}" if revision else ""
    return (
        any(found),
        what,
        f"{source}, {'' if any(found) else 'not '}in the hub's cache",
        f"hf download {source}{more}",
    )


def data(run: Run) -> Iterator[Line]:
    """Whether its datasets are local, or in the cache of the library `datasets`."""
    wanted = run.data.downloads()
    if not wanted:
        yield True, "data", run.option("data"), ""
    for name, revision in dict.fromkeys(wanted.values()):
        fields = [f"data.{field}={name.split('/')[-1]}" for field, of in wanted.items() if of == (name, revision)]
        *owner, last = name.split("/")
        cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
        there = any(cache.glob("___".join([*owner, last.replace("-", "?")]) + "/*/*/*"))
        more = f" --revision {revision}" if revision else ""
        mend = f"hf download {name} --repo-type dataset{more} --local-dir {last}, and say {' '.join(fields)}"
        yield there, "data", f"{name}, {'' if there else 'not '}in the hub's cache", mend


def memory(run: Run) -> Iterator[Line]:
    """The estimate, beside what the GPU has, if there is one."""
    try:
        need = run.task.memory(run)
    except Unknown as error:
        yield False, "memory", f"unknown of {error.where}: {error.what}", error.mend
        return
    if need is None:
        return
    has = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None
    of = f" of {size(has)}" if has else ""
    mend = "fewer at a time: task.microbatch, task.chunk; model.gradient_checkpointing=true, model.lora.r=8"
    yield has is None or need.peak < has, "memory per GPU", f"{size(need.peak)}{of}, with {need.rows}", mend
    yield True, "", f"all the time: {listed(need.held)}", ""
    yield True, "", f"in turn: {listed(dict(sorted(need.passes.items(), key=lambda item: -item[1])))}", ""
    for name, why in need.unknown.items():
        yield False, "memory", f"without {name}: {why}", "ask again when it is there"


def listed(parts: dict[str, int]) -> str:
    """Sizes by name."""
    return ", ".join(f"{name} {size(number)}" for name, number in parts.items())


def size(number: int) -> str:
    """Bytes as people say them."""
    return f"{number / 1e9:.1f} GB" if number > 1e8 else f"{number / 1e6:.1f} MB"
