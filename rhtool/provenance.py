"""Where a result comes from: versions, code, command and machine. No environment variables: they hold secrets; only
the names of the modules in RHTOOL_PLUGINS, without which a command would not compose."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = [
    "rhtool",
    "torch",
    "ray",
    "gymnasium",
    "numpy",
    "numba",
    "scipy",
    "hydra-core",
    "transformers",
    "trl",
    "accelerate",
    "safetensors",
    "eclipse-sumo",
    "libsumo",
]


def provenance() -> dict[str, Any]:
    """What `provenance.json` keeps of one attempt."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "directory": os.getcwd(),
        "plugins": os.environ.get("RHTOOL_PLUGINS", ""),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": threads(),
        "gpus": gpus(),
        "git": git(),
        "versions": versions(),
    }


def versions(packages: list[str] = PACKAGES) -> dict[str, str | None]:
    """`{package: version}`, None if it is not installed, without importing any."""
    import importlib.metadata

    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def threads() -> int:
    """How many threads numerical libraries may use here: torch's number if it is loaded, else the system's."""
    if torch := sys.modules.get("torch"):
        return torch.get_num_threads()
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def gpus() -> list[str]:
    """The names of the GPUs, if torch is loaded."""
    torch = sys.modules.get("torch")
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch else []


def git() -> dict[str, Any] | None:
    """Commit of the checkout that the package is imported from, and whether it was changed; None if it is installed."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=20
    ).stdout.strip()
