"""SUMO: finding it, starting it, starting an episode anew without starting it again, and saying what is missing.

SUMO comes as wheels (the extra `traffic`): no installation and no `SUMO_HOME` to set by hand. Two ways to talk to it:

- `libsumo`: the simulator as a library in this process. A call costs 0.2 microseconds, but a process holds one
  simulation, so every lane of a vector environment is a process.
- `traci`: the simulator as a process of its own behind a socket. A call crosses a socket; any number of
  simulations, and `sumo-gui`. SUMO listens on a port of all interfaces from its start until the connection is made, and
  has no option to bind it elsewhere.

Both have the same functions, so nothing but this module knows which one is used.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from rhtool.errors import MissingExtra, RhtoolError

log = logging.getLogger(__name__)

_VARIABLE = "LIBSUMO_AS_TRACI"
_owner: object | None = None


def home() -> Path:
    """Directory of the installed SUMO (its `bin`, `tools`, `data`), also put into `SUMO_HOME`, which the packages around
    SUMO read. Raises `MissingExtra` where the wheel is not installed."""
    path = package("sumo", "eclipse-sumo").SUMO_HOME
    os.environ.setdefault("SUMO_HOME", path)
    return Path(path)


def check() -> None:
    """Raise `MissingExtra` where SUMO, or the package through which both ways lead, is not installed."""
    home()
    installed("traci", "traci")


@cache
def warn_of_traci() -> None:
    """Say, once in a process, that TraCI takes the place of libsumo."""
    log.warning("libsumo is not installed: SUMO runs behind a socket, which is slower; pip install 'rhtool[traffic]'")


def has_libsumo() -> bool:
    """Whether the simulator is there as a library."""
    return importlib.util.find_spec("libsumo") is not None


def library() -> Any:
    """The module `libsumo`. Raises `MissingExtra` where it is not installed."""
    home()
    # The two import each other; whichever way the variable stands when TraCI comes, TraCI comes first. Afterwards "quiet"
    # keeps libsumo from printing, at every import, that pyarrow was built against another Arrow: the two do not meet, as
    # nothing here asks SUMO for Parquet files.
    package("traci", "traci")
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = "quiet"
    try:
        return package("libsumo", "libsumo")
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


def bare(domain: Any, name: str) -> Any:
    """The function `name` of `api.vehicle` and the like; with libsumo without the Python around it, a good part of what a short
    question costs. (Two such functions differ: `getLeader` and `getFollower` answer `("", -1)` for None.)"""
    module = sys.modules[domain.__module__] if isinstance(domain, type) else None
    return getattr(
        getattr(module, "_libsumo", None), f"{getattr(domain, '__name__', '')}_{name}", getattr(domain, name)
    )


def claim(owner: object) -> None:
    """Take this process's one libsumo simulation. Raises `RhtoolError` while somebody else holds it: a second
    `libsumo.start` would silently replace the first simulation."""
    global _owner
    if _owner is not None and _owner is not owner:
        raise RhtoolError(
            "this process already holds a SUMO simulation, and libsumo has room for one",
            "env.backend=libsumo",
            "close() the first one, give each its own process, or choose env.backend=traci",
        )
    _owner = owner


def release(owner: object) -> None:
    """Give the process's simulation back; nothing if `owner` does not hold it."""
    global _owner
    if _owner is owner:
        _owner = None


class Simulation:
    """One SUMO simulation, started once and loaded anew for each episode."""

    def __init__(self, arguments: list[str], backend: str = "libsumo", gui: bool = False):
        """`arguments` are SUMO's own (network, routes, step length …), without the binary and `--seed`. `gui` shows
        it in `sumo-gui`, for which TraCI is used. Nothing starts before `load`."""
        self.arguments = [*arguments, *(["--start", "--quit-on-end", "--delay", "50"] if gui else [])]
        self.backend = "traci" if gui or not has_libsumo() else backend
        self.gui = gui
        self.api: Any = None
        """`libsumo`, or a TraCI connection: `api.vehicle`, `api.simulation`, `api.simulationStep()` …"""
        self._process: subprocess.Popen | None = None

    def load(self, seed: int) -> Any:
        """Begin an episode with SUMO's random seed, and return `api`. Raises `RhtoolError` if SUMO refuses."""
        arguments = [*self.arguments, "--seed", str(seed)]
        try:
            if self.api is not None:
                self.api.load(arguments)
            elif self.backend == "libsumo":
                api = library()
                claim(self)
                api.start(["sumo", *arguments])
                self.api = api
            else:
                self.api = self._connect(arguments)
        except RhtoolError:
            raise
        except Exception as error:
            self.close()
            raise RhtoolError(
                f"SUMO did not start: {error}",
                " ".join(["sumo", *arguments]),
                "what it wrote to the screen says why",
            ) from error
        return self.api

    def close(self) -> None:
        """End the simulation, and the process where it is one."""
        api, self.api = self.api, None
        if api is not None:
            with contextlib.suppress(Exception):  # a simulator that has died cannot be asked to end
                api.close()
        release(self)
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            if process.poll() is None:
                process.kill()
                process.wait()

    def _connect(self, arguments: list[str]) -> Any:
        if (
            self.gui
            and sys.platform == "linux"
            and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        ):
            raise RhtoolError(
                "sumo-gui needs a display, and DISPLAY names none",
                "env.gui=true",
                "set DISPLAY, or leave env.gui=false; render_mode='rgb_array' draws without a display",
            )
        binary = home() / "bin" / ("sumo-gui" if self.gui else "sumo")
        traci = package("traci", "traci")
        if traci.isLibsumo():
            raise RhtoolError(
                f"{_VARIABLE} has put libsumo in the place of TraCI", "env.backend=traci", f"unset {_VARIABLE}"
            )
        from traci.main import getFreeSocketPort

        port = getFreeSocketPort()
        self._process = subprocess.Popen(
            [str(binary), *arguments, "--remote-port", str(port)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        # A connection of its own, not traci's table of labels: SUMO ends when the socket closes, also if we are killed.
        connection = _quietly(traci.connect, port=port, proc=self._process, waitBetweenRetries=0.05, numRetries=600)
        connection.getVersion()
        return connection


def _quietly(function: Any, **arguments: Any) -> Any:
    """The call without what TraCI prints at each attempt to connect."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return function(**arguments)


def package(module: str, wheel: str) -> Any:
    """The module `module`, or `MissingExtra` naming the wheel that holds it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra("traffic", wheel) from error


def installed(module: str, wheel: str) -> None:
    """Raise `MissingExtra` unless `module` is there, without importing it."""
    if importlib.util.find_spec(module) is None:
        raise MissingExtra("traffic", wheel)
