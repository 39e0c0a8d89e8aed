"""Composition: the groups, their options, and the only Hydra plumbing besides `cli.py`.

A group (`task`, `env`, `divergence`, `scale`, `logger`) is a dataclass; an option of it is a subclass (schema, documentation and live
object in one) and a YAML file in `conf/<group>/` that holds only numbers. `env=tomato` is `conf/env/tomato.yaml` over the `Env` subclass
`Tomato` of the module `rhtool.envs.tomato`.
"""

from __future__ import annotations

import copy
import importlib
import os
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, open_dict

from rhtool.divergences import Divergence
from rhtool.envs.base import Env, Scale
from rhtool.loggers import Logger
from rhtool.run import Run
from rhtool.schema import check_choices, option_name
from rhtool.tasks.base import Task

_HERE = Path(__file__).resolve().parent
CONF = next(p for p in (_HERE / "conf", _HERE.parent / "conf") if (p / "config.yaml").is_file())
"""`conf/` in the wheel, or beside the package in a checkout."""

GROUPS: dict[str, type] = {"task": Task, "env": Env, "divergence": Divergence, "scale": Scale, "logger": Logger}


def register() -> None:
    """Import the modules of all options (light, by rule) and store their dataclasses as Hydra's schemas."""
    for group, package in (("task", "rhtool.tasks"), ("env", "rhtool.envs")):
        for file in (CONF / group).glob("*.yaml"):
            importlib.import_module(f"{package}.{file.stem}")
    for module in filter(None, os.environ.get("RHTOOL_PLUGINS", "").split(",")):
        importlib.import_module(module)
    store = ConfigStore.instance()
    store.store(name="schema", node=Run)
    for group, base in GROUPS.items():
        for cls in [base, *subclasses(base)]:
            store.store(group=f"schema/{group}", name=option_name(cls), node=cls)
    OmegaConf.register_new_resolver("scaled", _scaled, replace=True)


def subclasses(base: type) -> list[type]:
    """All subclasses of `base`, at any depth."""
    return [cls for child in base.__subclasses__() for cls in (child, *subclasses(child))]


def _scaled(key: str, *, _root_: Any) -> Any:
    """`${scaled:lr}`: the number of the chosen `scale` if it has one, else the environment's own `training` number."""
    value = OmegaConf.select(_root_, f"scale.{key}")
    return OmegaConf.select(_root_, f"env.training.{key}") if value is None else value


def compose(*overrides: str) -> Run:
    """A `Run` from the overrides of a command line: `compose("task=orpo", "env=tomato", "coeff=0.1").execute()`.

    It has the directory that the command line would give it. Raises `ConfigError` for an override that cannot be used.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra_compose("config", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        return from_config(cfg)


def from_config(cfg: DictConfig) -> Run:
    """The live `Run` of a composed configuration, with its directory. Hydra's own configuration must be set (`HydraConfig`)."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    cfg = copy.deepcopy(cfg)
    with open_dict(cfg):
        cfg.pop("hydra", None)
    run: Run = OmegaConf.to_object(cfg)
    run.options = {group: option for group, option in hydra.runtime.choices.items() if option and "/" not in group}
    check_choices(run)
    return run
