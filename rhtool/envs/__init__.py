"""Control problems with a proxy reward, a true reward and a base policy.

Each package in this folder is an environment: its `__init__` holds the dataclass (an `Env`) and is cheap to import, its
arrays and compiled kernels are imported when it is made. From Python `Tomato(level=2).make_vec(512)`; from gymnasium,
see `rhtool.envs.gymnasium`.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhtool.envs.base import Env
    from rhtool.envs.vector import SingleEnv, VectorEnv


def register_gymnasium() -> None:
    """Register every environment as `rhtool/<Class>-v0` in gymnasium's registry.

    Keyword arguments of `gymnasium.make` and `make_vec` are the fields of the dataclass. Truncation is the
    environment's own (`horizon`), so no `max_episode_steps` is set.
    """
    from gymnasium.envs.registration import register, registry

    for name, cls in _classes().items():
        id = f"rhtool/{name}-v0"
        if id not in registry:
            where = {"env": f"{cls.__module__}:{cls.__qualname__}"}
            register(id, "rhtool.envs:_make", vector_entry_point="rhtool.envs:_make_vec", kwargs=where)


def _classes() -> dict[str, type[Env]]:
    """`{class name: class}` of the dataclasses of all environments."""
    from rhtool.envs.base import Env

    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        if module.ispkg:
            importlib.import_module(module.name)
    known, queue = {}, [Env]
    while queue:
        for cls in queue.pop().__subclasses__():
            queue.append(cls)
            if cls.vector_class is not Env.vector_class:
                known[cls.__name__] = cls
    return known


def _load(env: str) -> type[Env]:
    module, name = env.split(":")
    return getattr(importlib.import_module(module), name)


def _make(env: str, render_mode: str | None = None, **fields: Any) -> SingleEnv:
    """gymnasium's entry point."""
    return _load(env)().make(render_mode=render_mode, **fields)


def _make_vec(env: str, num_envs: int = 1, **options: Any) -> VectorEnv:
    """gymnasium's vector entry point; `options` are fields, `autoreset_mode`, `render_mode` and `seed`."""
    return _load(env)().make_vec(num_envs, **options)
