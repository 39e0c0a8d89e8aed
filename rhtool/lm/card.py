"""Model cards: what made a model, and how it did, as README.md beside its weights."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from rhtool.checkpoints import write_atomic
from rhtool.models import SAVED
from rhtool.records import provenance_of
from rhtool.results.markdown import markdown_table

CARD = "README.md"
KINDS = {
    "rm_train": ("A reward model: the score of an answer to a prompt", "text-classification"),
    "sft": ("A language model fine-tuned on demonstrations", "text-generation"),
    "rlhf_ppo": ("A language model trained on a reward of its answers", "text-generation"),
}
"""{task: (what it makes, what the Hub calls its use)}"""
SHOWN_VERSIONS = ("rhtool", "torch", "transformers", "trl")
SECRET = re.compile(r"(token|secret|password|key)['\"]?\s*[=:]", re.IGNORECASE)
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")

NAME = "this/repository"
"""what the card calls the model in its examples; task=push puts the repository in its place"""
BESIDE = {
    "adapter": "the adapters alone, for peft, of the base model",
    "value_head": "the value head of PPO, on the last hidden state",
}
"""{folder beside the weights: what is in it}"""

USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")
talk = [{{"role": "user", "content": "..."}}]
prompt = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**prompt, do_sample=True, max_new_tokens=256)[0, prompt["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
```
"""
USE_SCORES = """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model, tokenizer = AutoModelForSequenceClassification.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")
talk = [{{"role": "user", "content": "..."}}]
text = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False) + "..." + tokenizer.eos_token
print(model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits[0, 0])  # the answer's score
```
"""


def write(path: Path, metrics: dict[str, Any]) -> None:
    """Write the card of the model that the run at `path` has made, with these metrics of its `result.json`."""
    write_atomic(path / SAVED / CARD, text(path, metrics).encode())


def text(path: Path, metrics: dict[str, Any]) -> str:
    """The card, from `config.yaml` and `provenance.json` of the run at `path`. It names no directory above the run's own
    `outputs`, no machine and no value of an option that is called a token, key, secret or password."""
    written, record = (path / "config.yaml").read_text(), provenance_of(path)
    config, run, attempt = yaml.safe_load(written), record["run"], record["attempts"][-1]
    option = dict(word.split("=") for word in written.splitlines()[0].removeprefix("# ").split())
    what, use = KINDS.get(run["task"], ("A model", "text-generation"))
    base, data = config["model"].get("path", ""), option.get("data", "none")
    rows = {
        "task": run["task"],
        "experiment": run["experiment"],
        "base model": f"`{public(base)}`" if base else f"none: a new {config['model'].get('family', 'model')}",
        "data": data,
        "reward": _reward(option.get("reward"), config.get("reward") or {}),
        "divergence": f"{run['divergence']}, coeff {run['coeff']:g}" if run["divergence"] else None,
        "seed": run["seed"],
        "made with": ", ".join(f"{name} {v}" for name in SHOWN_VERSIONS if (v := attempt["versions"].get(name))),
    }
    parts = [
        front(
            {
                "base_model": ancestor(base),
                "datasets": [d for d in dict.fromkeys(_datasets(config.get("data") or {})) if d],
                "library_name": "transformers",
                "license": "other",  # of the base model and of the data, which are not ours to say
                "pipeline_tag": use,
                "tags": [tag for tag in ("rhtool", run["task"], run["divergence"]) if tag and tag != "none"],
            }
        ),
        f"# {run['task']}: {option['model']} on {data}\n\n{what}, made by rhtool.\n",
        markdown_table(("", ""), [(key, str(value)) for key, value in rows.items() if value is not None], ("",)),
        "## Results\n\nThe names are those of rhtool's glossary, docs/metrics.md.\n\n" + _results(metrics),
        "## Use\n\n" + (USE_SCORES if run["task"] == "rm_train" else USE).format(name=NAME),
    ]
    if beside := [f"- `{name}/`: {said}" for name, said in BESIDE.items() if (path / SAVED / name).is_dir()]:
        parts.append("Beside the weights:\n\n" + "\n".join(beside) + "\n")
    if attempt["overrides"]:
        parts.append(f"## The command\n\n```\nrhtool {shlex.join(map(public, attempt['overrides']))}\n```\n")
    return "\n".join(parts)


def front(keys: dict[str, Any]) -> str:
    """YAML front matter, without the keys that are empty."""
    known = {key: value for key, value in keys.items() if value}
    return f"---\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True)}---\n"


def parsed(card: str) -> tuple[dict[str, Any], str]:
    """The keys of a card's front matter (none if it has none), and what follows it."""
    found = re.match(r"---\n(.*?\n)---\n", card, re.DOTALL)
    keys = yaml.safe_load(found[1]) if found else None
    return (keys, card[found.end() :]) if isinstance(keys, dict) else ({}, card)


def ancestor(base: str) -> str | None:
    """The model of the Hub that `base` is (a hub name), or comes from (a directory, by the card in it); None if unknown."""
    directory = Path(base).expanduser()
    directory = directory / SAVED if (directory / SAVED).is_dir() else directory
    if base and directory.is_dir():
        card = directory / CARD
        return parsed(card.read_text())[0].get("base_model") if card.is_file() else None
    return base if HUB_NAME.fullmatch(base) else None


def public(word: str) -> str:
    """The word without what others should not see: of absolute paths only what is from `outputs` on, or the last name; of
    tokens, keys and passwords nothing."""
    if secret := SECRET.search(word):
        return word[: secret.end()] + "…"
    return re.sub(r"(?<![\w.…/:-])[/~][^\s,'\"\]}]*", lambda found: _shortened(found[0]), word)


def _shortened(path: str) -> str:
    parts = Path(path).parts
    start = parts.index("outputs") if "outputs" in parts else len(parts) - 1
    return "/".join(parts[start:] if "outputs" in parts else ("…", *parts[start:]))


def _reward(name: str | None, fields: dict[str, Any]) -> str | None:
    if name is None:
        return None
    models = [m for m in (fields.get("model"), *fields.get("models", ()), fields.get("function")) if m]
    return ", ".join([name, *(f"`{public(model)}`" for model in models)])


def _datasets(data: dict[str, Any]) -> list[str]:
    paths = [value for key, value in data.items() if key == "path" or key.endswith("_path")]
    return [p for p in paths if p and not Path(p).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", p)]


def _results(metrics: dict[str, Any]) -> str:
    """A table of the metrics, those of the base policy (`base/…`) beside the others where there are any."""
    own = [key for key in metrics if not key.startswith("base/")]
    if len(own) == len(metrics):
        return markdown_table(("metric", "value"), [(f"`{key}`", _number(metrics[key])) for key in own], ("metric",))
    rows = [(f"`{k}`", _number(metrics[k]), _number(metrics[b]) if (b := f"base/{k}") in metrics else "") for k in own]
    return markdown_table(("metric", "model", "base model"), rows, ("metric",))


def _number(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.4g}" if value is not None and math.isfinite(value) else "-"
