"""Composition: groups, their options, what a run's directory is called; the only Hydra plumbing besides `cli.py`.

A group (`task`, `env`, `divergence`, `scale`, `logger`) is a dataclass; an option of it is a subclass (schema,
documentation and live object in one) and a YAML file in `conf/<group>/` that holds only numbers. `env=tomato` is
`conf/env/tomato.yaml` over the `Env` subclass `Tomato` of the module `rhtool.envs.tomato`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import json
import os
import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rhtool.accelerate import Accelerate
from rhtool.data.base import Data
from rhtool.divergences import Divergence
from rhtool.envs.base import Env, Scale
from rhtool.errors import ConfigError, nearest
from rhtool.feedback.base import Feedback
from rhtool.identity import flatten
from rhtool.interpret.base import Method
from rhtool.launchers import LAUNCHERS, Launcher
from rhtool.loggers import Logger
from rhtool.models import Model
from rhtool.rewards.base import Reward
from rhtool.run import Run
from rhtool.schema import option_name, see_working_directory
from rhtool.tasks.base import Task

_HERE = Path(__file__).resolve().parent
CONF = next(p for p in (_HERE / "conf", _HERE.parent / "conf") if (p / "config.yaml").is_file())
"""`conf/` in the wheel, or beside the package in a checkout."""

GROUPS: dict[str, type] = {
    "task": Task,
    "env": Env,
    "model": Model,
    "data": Data,
    "reward": Reward,
    "feedback": Feedback,
    "method": Method,
    "divergence": Divergence,
    "scale": Scale,
    "accelerate": Accelerate,
    "logger": Logger,
}

PACKAGES = {
    "task": "rhtool.tasks",
    "env": "rhtool.envs",
    "data": "rhtool.data",
    "reward": "rhtool.rewards",
    "feedback": "rhtool.feedback",
    "method": "rhtool.interpret",
}
"""where the options of a group have modules of their own, of the same name"""

INCIDENTAL = ("logger", "accelerate")
"""groups that are no part of what a run is"""

LISTED = (*GROUPS, "experiment")
"""what a user chooses by name; an experiment is no part of a `Run`, only overrides of the others"""

STAGE = "task.stage"
"""the key that says which part of a task is to be done: it is no setting of the whole"""

LONGEST_NAME = 120
"""characters of the variant in a directory's name; a longer one is cut and hashed"""


class _Schema(ConfigNode):
    """Hydra's schema of a dataclass, made when it is first asked for: a command uses one in ten, and each takes time."""

    def __init__(self, cls: type | Run, group: str, name: str) -> None:
        self.cls, self.name, self.group, self.package, self.provider = cls, name, group or None, None, None

    @functools.cached_property
    def node(self) -> DictConfig:
        return OmegaConf.structured(self.cls)

    def __copy__(self) -> ConfigNode:  # what Hydra takes, and copies deeply
        return ConfigNode(self.name, self.node, self.group, self.package, self.provider)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Schema:  # Hydra copies the whole store to compose
        return self


def register() -> None:
    """Import the modules of all options (light, by rule) and store their dataclasses as Hydra's schemas.

    Modules of your own with tasks, environments, divergences: RHTOOL_PLUGINS=my.module,another
    """
    for group, package in PACKAGES.items():
        for file in sorted((CONF / group).glob("*.yaml")):
            if importlib.util.find_spec(f"{package}.{file.stem}"):  # else it is other numbers over another's class
                importlib.import_module(f"{package}.{file.stem}")
    for module in filter(None, os.environ.get("RHTOOL_PLUGINS", "").split(",")):
        _import_plugin(module)
    # Each group starts as its base class: only then may a YAML put any subclass in its place.
    _store("", "schema", Run(**{group: base() for group, base in GROUPS.items()}))
    for group, base in GROUPS.items():
        for cls in [base, *subclasses(base)]:
            _store(f"schema/{group}", option_name(cls), cls)
    for name, cls in LAUNCHERS.items():
        _store("hydra/launcher", name, cls)
    OmegaConf.register_new_resolver("kind_of", lambda data: "control" if data == "none" else "texts", replace=True)
    OmegaConf.register_new_resolver("scaled", _scaled, replace=True)
    OmegaConf.register_new_resolver("cloned", functools.partial(_scaled, numbers="cloning"), replace=True)


def _store(group: str, name: str, cls: type | Run) -> None:
    place = ConfigStore.instance().repo
    for part in filter(None, group.split("/")):
        place = place.setdefault(part, {})
    there = place.get(f"{name}.yaml")
    if not isinstance(there, _Schema) or there.cls != cls:
        place[f"{name}.yaml"] = _Schema(cls, group, f"{name}.yaml")


def _import_plugin(module: str) -> None:
    see_working_directory()
    try:
        importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            said, where, mend = "it is not found", "RHTOOL_PLUGINS", "add its directory to PYTHONPATH, or mend the name"
        else:
            last = traceback.extract_tb(error.__traceback__)[-1]
            said, where = f"{type(error).__name__}: {error}", f"RHTOOL_PLUGINS, {last.filename}:{last.lineno}"
            mend = "mend the module; RHTOOL_FULL_ERROR=1 shows the traceback"
        raise ConfigError(f"the module '{module}' cannot be imported: {said}", where, mend) from error


def subclasses(base: type) -> list[type]:
    """All subclasses of `base`, at any depth."""
    return [cls for child in base.__subclasses__() for cls in (child, *subclasses(child))]


def options(group: str, config_dirs: Iterable[str] = ()) -> dict[str, tuple[str, type]]:
    """`{option: (one line about it, its class)}` of a group, from `conf/`, then `config_dirs`, and the docstrings.

    An option whose name is not a class's (scale=smoke, every experiment) has the first comment of its YAML instead.
    """
    base = GROUPS.get(group, Run)
    classes = {option_name(cls): cls for cls in subclasses(base)}
    found = {}
    for file in (file for directory in (CONF, *config_dirs) for file in sorted(Path(directory, group).glob("*.yaml"))):
        if file.stem in found:
            continue  # of two files of one name Hydra takes the first
        text = file.read_text()
        comments = (line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
        comment = next((line for line in comments if not line.startswith("@package")), "")
        schema = re.search(r"/schema/\w+@_here_: (\w+)", text)
        cls = classes.get(schema[1] if schema else file.stem, base)
        doc = (cls.__doc__ or "").strip().splitlines()[0] if option_name(cls) == file.stem else comment
        found[file.stem] = (doc, cls)
    return found


def _scaled(key: str, *, _root_: Any, numbers: str = "training") -> Any:
    """`${scaled:lr}`: the number of the chosen `scale` if it has one, else the environment's own `training` number.
    `${cloned:passes}`: likewise, from its `cloning`."""
    value = OmegaConf.select(_root_, f"scale.{key}")
    return OmegaConf.select(_root_, f"env.{numbers}.{key}") if value is None else value


# Composing


def compose(*overrides: str) -> Run:
    """A `Run` from the overrides of a command line: `compose("task=orpo", "env=tomato", "coeff=0.1").execute()`.

    It has the directory that the command line would give it. Raises `ConfigError` for an override that cannot be used.
    """
    return compose_all(overrides)[0]


def compose_all(overrides: Sequence[str], multirun: bool = False, config_dir: str | None = None) -> list[Run]:
    """The runs of a command line, one for each job of a sweep; nothing is written.

    Of a sweeper other than Hydra's own the jobs are not known beforehand: then the list is empty.
    """
    from hydra import initialize_config_dir

    register()
    overrides = [quoted(override) for override in overrides]
    refuse_added(overrides)
    check_config_dir(config_dir)
    if config_dir:
        overrides.append(f"hydra.searchpath=['file://{Path(config_dir).resolve()}']")
    runs, wrong = [], {}
    known: dict[tuple[str, ...], DictConfig] = {}
    with explained(), initialize_config_dir(str(CONF), version_base="1.3"):
        for job in _jobs(overrides) if multirun else [overrides]:
            try:
                with explained():
                    cfg, reference = _composed(list(job), known)
                    HydraConfig.instance().set_config(cfg)
                    runs.append(from_config(cfg, reference))
            except ConfigError as error:
                wrong.setdefault(str(error), error)  # of all jobs, each error once
    if len(wrong) > 1:
        raise ConfigError("\n".join(wrong))
    for error in wrong.values():
        raise error
    return runs


def launcher() -> Launcher | None:
    """That of what was composed last; None if it is one of Hydra's."""
    found = OmegaConf.to_object(HydraConfig.get().launcher)
    return found if isinstance(found, Launcher) else None


def check_config_dir(directory: str | None) -> None:
    """Raise `ConfigError` for a `--config-dir` that is none: Hydra would pass over it in silence."""
    if directory is not None and not Path(directory).is_dir():
        raise ConfigError("there is no such directory", f"--config-dir {directory}", "give one that holds YAML files")


def _jobs(overrides: list[str]) -> list[list[str]]:
    """The overrides of every job of a sweep, as its sweeper will make them; none if it makes them up as it goes."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.utils import get_class

    hydra = GlobalHydra.instance().hydra
    cfg = hydra.compose_config("config", overrides, RunMode.MULTIRUN, with_log_configuration=False)
    settings = OmegaConf.to_container(cfg.hydra.sweeper)
    cls = get_class(settings.pop("_target_"))
    if not issubclass(cls, BasicSweeper):
        return []
    sweeper = cls(**settings)
    preset = [f"{key}={value}" for key, value in sweeper.params.items()]
    parsed = OverridesParser.create(hydra.config_loader).parse_overrides(preset + overrides)
    return [job for batch in sweeper.split_arguments(parsed, None) for job in batch]


def _composed(job: list[str], known: dict[tuple[str, ...], DictConfig]) -> tuple[DictConfig, DictConfig]:
    """What Hydra composes of a job's overrides, and of those alone that choose groups.

    `known` keeps what choices of groups compose: the jobs of a sweep share a few, and Hydra takes a fifth of a second for
    each. Fields are then set in a copy, by Hydra itself; a job in which that fails is composed anew, for its words.
    """
    from hydra import compose as hydra_compose
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.overrides_parser import OverridesParser

    plain = {f.name for f in dataclasses.fields(Run)} - GROUPS.keys()
    fields = [
        word
        for word in job
        if (key := word.partition("=")[0]) in plain or key.partition(".")[0] in GROUPS.keys() - {key}
    ]
    groups = tuple(word for word in job if word not in fields)
    if groups not in known:
        known[groups] = hydra_compose("config", list(groups), return_hydra_config=True)
    cfg = copy.deepcopy(known[groups])
    try:
        ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(fields), cfg)
    except HydraException:
        return hydra_compose("config", job, return_hydra_config=True), known[groups]
    cfg.hydra.overrides.task = [word for word in job if word in fields or word in cfg.hydra.overrides.task]
    return cfg, known[groups]


def from_config(cfg: DictConfig, reference: DictConfig | None = None) -> Run:
    """The live `Run` of a composed configuration, with its directory. Hydra's own configuration must be set.

    `reference` is what the same choices of groups compose, nothing else being overridden; it is composed if not given.
    """
    hydra = HydraConfig.get()
    with explained():
        plain = copy.deepcopy(cfg)
        with open_dict(plain):
            plain.pop("hydra", None)
        run: Run = OmegaConf.to_object(plain)
        run.check_values()
        run.options = {group: option for group, option in hydra.runtime.choices.items() if option and "/" not in group}
        run.tuned = _tuned(run, plain, hydra, reference)
        run.overrides = list(hydra.overrides.task)
        run.config_dirs = [
            os.path.abspath(source.path)
            for source in hydra.runtime.config_sources
            if source.schema == "file" and source.provider != "main"
        ]
    run.dir = run.dir or directory(run)
    return run


def quoted(override: str) -> str:
    """`dir=outputs/a/seed=0` -> `dir='outputs/a/seed=0'`: Hydra takes a value with `=` in it only in quotes."""
    key, equals, value = override.partition("=")
    if "=" not in value or set(value) & set("'\"[]{}()$\\"):
        return override
    return key + equals + ",".join(f"'{item}'" if "=" in item else item for item in value.split(","))


def refuse_added(overrides: Sequence[str]) -> None:
    """Hydra adds a key for `+env.nope=1` and takes one away for `~env.level`. Here every key is a field, so neither."""
    for override in overrides:
        if override[:1] in "+~" and not override.lstrip("+~").startswith("hydra"):
            raise ConfigError(
                f"'{override}': fields can be set, not added or taken away",
                override.partition("=")[0],
                f"write {override.lstrip('+~')}",
            )


# The directory of a run


def directory(run: Run) -> str:
    """`outputs/<experiment or task>/<env>/<divergence>-coeff=<c>[-tuned keys]/seed=<n>`, as the task's `uses` has it.

    Empty for a tool. Without a divergence the variant is the tuned keys, or `default`. A stage of a task that has them is in a
    directory of its name, where the other stages find it.
    """
    if not run.task.uses:
        return ""
    words = [f"{key}={_text(value)}" for key, value in sorted(run.tuned.items()) if key != STAGE]
    if "divergence" in run.task.uses:
        words = [run.option("divergence"), f"coeff={_text(run.coeff)}", *words]
    variant = _safe("-".join(words) or "default")
    if len(variant) > LONGEST_NAME:
        variant = f"{variant[:100]}-{_hash(variant)}"
    named = [_safe(run.option(group)) for group in run.task.uses if group not in ("task", "divergence")]
    top = run.options.get("experiment") or run.option("task")
    return str(Path(run.outputs, top, *named, variant, f"seed={run.seed}", run.tuned.get(STAGE, "")))


def _tuned(run: Run, cfg: DictConfig, hydra: Any, reference: DictConfig | None) -> dict[str, Any]:
    """`{key: value}` of the command line's overrides that change something and have no place of their own in the path.

    An override that says what is so anyway (`env.level=4`) is none: the value is compared with what the same choice of
    groups composes without it.
    """
    choices = hydra.runtime.choices
    overrides = {o.lstrip("+~").partition("=")[0]: o for o in hydra.overrides.task}
    chosen = {key: o for key, o in overrides.items() if key in choices}
    unnamed = {group: choices[group] for group in chosen if group in GROUPS and group not in ("task", *INCIDENTAL)}
    tuned = {
        group: option
        for group, option in unnamed.items()
        if group not in ("env", "divergence", *run.task.uses) and option != _default_options()[group]
    }
    fields = {f.name: f for f in dataclasses.fields(Run)}
    ignored = {"coeff", "seed", *INCIDENTAL, *(g for g in ("env", "divergence") if g not in run.task.uses)}
    for key in sorted(overrides.keys() - chosen.keys()):
        first, *rest = key.split(".")
        if first in ignored or fields[first].metadata.get("incidental") or _is_incidental(getattr(run, first), rest):
            continue
        values: dict[str, Any] = {}
        flatten(functools.reduce(getattr, key.split("."), run), key, values)  # env.training={lr: 1} is several keys
        if reference is None:
            searchpath = [o for o in hydra.overrides.hydra if o.startswith("hydra.searchpath=")]
            reference = _reference((*chosen.values(), *searchpath))
        for path, value in values.items():
            if OmegaConf.select(cfg, path) != OmegaConf.select(reference, path):
                tuned[path] = value
    return dict(sorted(tuned.items()))


def _is_incidental(obj: Any, path: list[str]) -> bool:
    for name in path:
        for f in dataclasses.fields(obj) if dataclasses.is_dataclass(obj) else ():
            if f.name == name and f.metadata.get("incidental"):
                return True
        obj = getattr(obj, name, None)
    return False


def _reference(groups: tuple[str, ...]) -> DictConfig:
    """What these choices of groups compose, nothing else being overridden."""
    return GlobalHydra.instance().config_loader().load_configuration("config", list(groups), RunMode.RUN)


@functools.cache
def _default_options() -> dict[str, str]:
    defaults = OmegaConf.load(CONF / "config.yaml").defaults
    return {key: option for entry in defaults if isinstance(entry, DictConfig) for key, option in entry.items()}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return "+".join(map(_text, value))
    if isinstance(value, dict):
        items = sorted(value.items(), key=str)
        text = "+".join(f"{key}={item if isinstance(item, float) else _text(item)}" for key, item in items)
        plain = all(map(_is_word, [*value, *value.values()]))
        return text if plain else f"{text}-{_hash(json.dumps(value, sort_keys=True, default=str))}"
    return str(value)


def _is_word(value: Any) -> bool:
    """Whether no other value has the same text in the name of a directory."""
    if isinstance(value, str):
        return bool(re.fullmatch(r"[A-Za-z_]\w*", value, re.ASCII)) and value not in ("true", "false", "null", "inf")
    return isinstance(value, int | float | None)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _safe(name: str) -> str:
    """A name for one directory, of characters that neither a shell nor Hydra's grammar minds."""
    return re.sub(r"[^\w.+=-]", "_", name).lstrip(".") or "_"


# What was wrong


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise about a configuration into a `ConfigError` with the valid names."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise _explanation(error) from error


def _explanation(error: Exception) -> ConfigError:
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"'{error.override}' is not an override",
            error.override,
            "write key=value, with a value that has spaces or brackets in quotes, in a list every one that has =: "
            "\"key='a b'\", \"key=['a=1','b']\"",
        )
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        return ConfigError(
            f"'{option}' is not an option of {group}", f"{group}={option}", nearest(option, error.options)
        )
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        where, what = cause.full_key, (cause.msg or str(cause)).splitlines()[0]
        if what.startswith("Key '"):
            return ConfigError(f"there is no field '{where}'", where, _nearest_field(cause))
        return ConfigError(what[:1].lower() + what[1:], where, _type_wanted(cause))
    first, *rest = str(error).splitlines() or [type(error).__name__]
    if first.startswith("Ambiguous value"):
        return ConfigError(first, "", "add -m to sweep over the values; write key=[a,b] for a list")
    return ConfigError(first, "", " ".join(line.strip() for line in rest))


def _nearest_field(error: OmegaConfBaseException) -> str:
    """The field that was meant: one of the same name elsewhere (`lr`: `task.lr`), or the nearest name beside it.

    Those elsewhere that the task uses come first.
    """
    cls = error.object_type if dataclasses.is_dataclass(error.object_type) else Run
    prefix, _, key = error.full_key.rpartition(".")
    root = error.parent_node._get_root() if error.parent_node is not None else OmegaConf.create()
    elsewhere = [path for path in _paths(root) if path.rpartition(".")[2] == key]
    if elsewhere:
        uses = getattr(OmegaConf.get_type(root, "task"), "uses", ())
        elsewhere.sort(key=lambda path: path.partition(".")[0] in GROUPS.keys() - {"task", "scale", *uses})
        return f"did you mean {' or '.join(elsewhere[:4])}?"
    names = [f.name for f in dataclasses.fields(cls)] + (["experiment"] if cls is Run else [])
    meant = nearest(key, names)
    return meant.replace("mean '", f"mean '{prefix}.") if prefix else meant


def _paths(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node if isinstance(node, DictConfig) else ():
        if (path := f"{prefix}{key}") != "hydra":
            yield path
            yield from _paths(node._get_node(key), f"{path}.")


def _type_wanted(error: OmegaConfBaseException) -> str:
    cls, name = error.object_type, (error.full_key or "").rpartition(".")[2]
    if name.endswith("]") and error.parent_node is not None:  # an element of a list, which is the field
        cls, name = OmegaConf.get_type(error.parent_node._get_parent()), name.partition("[")[0]
    if dataclasses.is_dataclass(cls):
        for f in dataclasses.fields(cls):
            if f.name == name:
                return f"it takes a value of type {f.type}"
    return ""
