"""The text of `rhtool --help`, from the dataclasses and their docstrings."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from typing import Any

from hydra.core.hydra_config import HydraConfig

from rhtool.config import GROUPS, LISTED, check_config_dir, compose_all, options, register
from rhtool.run import Run
from rhtool.schema import field_docs

WIDTH = 110

INTRODUCTION = """\
rhtool studies and prevents reward hacking: a policy is optimised on a proxy reward, and its true reward falls.
One command trains, measures and compares, in control environments and in language models.

  rhtool group=option ... key=value ... [-m]

  group=option    choose one of a group below: task=orpo env=tomato; groups not named keep their default
  key=value       set a field by its path: coeff=0.1 env.horizon=200 task.lr=1e-3
  -m a=1,2 b=x,y  sweep: every combination is a run; those that are done already are skipped, others go on
  --cfg job       print what would run, and do nothing
  --help          with task=... (and env=..., divergence=...): the fields of these, with type, value and meaning
  --hydra-help    the flags that come from Hydra"""

EXAMPLES = """\
Examples
  rhtool task=orpo env=tomato divergence=sqrt_chi2 -m coeff=0,0.05,0.1 seed=0,1,2    a sweep: nine runs under outputs/
  rhtool task=report                                                                 their table and frontier
  rhtool experiment=correlated_proxies_tomato -m                                     all runs of a paper's table
  rhtool task=orpo env=tomato coeff=0.1 scale=smoke --cfg job                        what this would run

Runs are in outputs/<task>/<env>/<divergence>-coeff=<c>/seed=<n>, and a command repeated finishes what is missing.
TAB completes: eval "$(rhtool -sc install=bash)" (or zsh, fish).   RHTOOL_FULL_ERROR=1 shows tracebacks.
Your own: --config-dir DIR adds options, RHTOOL_PLUGINS=my.module the classes behind them."""


def help_text(overrides: list[str], config_dir: str | None = None) -> str:
    """The text for a command line: about rhtool, or about the options that the command line chooses."""
    check_config_dir(config_dir)
    register()
    chosen = {key for key, equals, _ in (o.partition("=") for o in overrides) if key in LISTED}
    if not chosen:
        return "\n\n".join([INTRODUCTION, *(_group(group, config_dir) for group in LISTED), EXAMPLES])
    run = compose_all(overrides, config_dir=config_dir)[0]
    sections = []
    if "experiment" in chosen:
        sections.append(_experiment(run, config_dir))
        chosen.add("task")
    used = {*chosen, *run.task.uses} if "task" in chosen else chosen
    sections += [_fields(getattr(run, g), f"{g}={run.option(g)}", f"{g}.") for g in GROUPS if g in used]
    if "task" in chosen:
        sections.append(_fields(run, "every run", "", skip=tuple(GROUPS)))
    return "\n\n".join(sections)


def _experiment(run: Run, config_dir: str | None) -> str:
    """What an experiment is, and its sweeps, as the configuration composed last has them."""
    name, sweeper = run.options["experiment"], HydraConfig.get().sweeper
    doc, _ = options("experiment", [config_dir] if config_dir else [])[name]
    every = " ".join(f"{key}={value}" for key, value in (sweeper.params or {}).items())
    lines = [" ".join(filter(None, [line, every])) for line in sweeper.get("union") or [""]]
    return "\n".join([f"experiment={name}", _wrapped("  ", doc), *(f"  -m {line}" for line in lines)])


def _group(group: str, config_dir: str | None) -> str:
    found = {option: doc for option, (doc, _) in options(group, [config_dir] if config_dir else []).items()}
    width = max(map(len, found), default=0)
    lines = [_wrapped(f"  {option:<{width}}  ", doc) for option, doc in found.items()]
    return "\n".join([f"{group}=", *lines])


def _fields(obj: Any, title: str, prefix: str, skip: tuple[str, ...] = ()) -> str:
    doc = (type(obj).__doc__ or "").strip().split("\n\n")[0]
    about = [] if type(obj) is Run else [textwrap.fill(" ".join(doc.split()), WIDTH, initial_indent="  ")]
    rows = [row for row in _rows(obj, prefix) if row[0].split(".")[0] not in skip]
    lines = [title, *about]
    for path, type_, value, meaning in rows:
        lines.append(f"  {path}  {type_} = {value}")
        if meaning:
            lines.append(
                textwrap.fill(" ".join(meaning.split()), WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
            )
    return "\n".join(lines if rows else [*lines, "  (no fields)"])


def _rows(obj: Any, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    docs = field_docs(type(obj))
    for f in dataclasses.fields(obj):
        value, path = getattr(obj, f.name), f"{prefix}{f.name}"
        if dataclasses.is_dataclass(value):
            yield from _rows(value, f"{path}.")
        else:
            choices = f.metadata.get("choices")
            type_ = "|".join(choices) if choices else str(f.type)
            yield path, type_, "null" if value is None else repr(value), docs.get(f.name, "")


def _wrapped(start: str, text: str) -> str:
    return (
        textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start)) if text else start.rstrip()
    )
