"""The Ray in which actors sample and learn: one of this machine alone, of which nothing listens beyond localhost, or a cluster."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.rllib.core.learner import learner_group
from ray.train.torch.config import TorchConfig, _setup_torch_process_group, _TorchBackend

from rhtool.errors import RhtoolError


def start_ray(address: str = "") -> None:
    """Start a Ray of this process's own (address ""), in a directory of its own that ends with it, or join the cluster at
    `auto` or `host:port`; no dashboard. If this process has a Ray already, that one is used.

    Raises `RhtoolError` if no cluster answers.
    """
    if ray.is_initialized():
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        try:
            _knock(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
            ray.init(address=address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            mend = "start one (`ray start --head`, on further machines `ray start --address=host:port`), or leave ray.address out"
            if isinstance(error.__cause__, ray.exceptions.AuthenticationError):
                mend = "it asks for a token: set RAY_AUTH_MODE=token, and copy ~/.ray/auth_token from the machine of its head"
            said = str(error).partition("\n")[0]
            raise RhtoolError(f"there is no Ray at '{address}': {said}", "ray.address", mend) from error
        return
    # Ray's way of saying "this machine alone", meant for the firewalls of other systems: all its servers bind to 127.0.0.1.
    ray_constants.ENABLE_RAY_CLUSTER = False
    # Actors wait for each other within an iteration, so a core may hold several.
    cpus = max(os.cpu_count() or 1, 16)
    # Not tempfile's own place: the names of Ray's sockets are in it, and a socket's name is short.
    directory = tempfile.mkdtemp(prefix="rhtool-ray-", dir=os.environ.get("RAY_TMPDIR", "/tmp"))
    atexit.register(_end, directory)
    ray.init("local", include_dashboard=False, num_cpus=cpus, _temp_dir=directory, **quiet)


def _knock(address: str) -> None:
    """Raise `OSError` or `ValueError` if nothing listens at `host:port`: of that Ray makes the end of the process."""
    if address:
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()


def _end(directory: str) -> None:
    ray.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


def cores() -> float:
    """CPUs of the cluster that nothing has taken."""
    return ray.available_resources().get("CPU", 0.0)


def learn_locally() -> None:
    """Have RLlib's learner groups of this process meet through a file and speak over the loopback interface.

    Their own way is a store of torch's, which listens on all interfaces and cannot be told otherwise.
    """
    learner_group._get_backend_config = lambda learner_class: _Local()


class _Local(TorchConfig):
    @property
    def backend_cls(self) -> type:
        """What sets up the process group."""
        return _LocalBackend


class _LocalBackend(_TorchBackend):
    share_cuda_visible_devices = False  # as RLlib's: a learner sees its own GPU

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Connect the learners."""
        self._meeting = tempfile.TemporaryDirectory(prefix="rhtool-learners-")
        place = (Path(self._meeting.name) / "store").as_uri()
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU") else "gloo"
        worker_group.execute(os.environ.update, GLOO_SOCKET_IFNAME="lo", NCCL_SOCKET_IFNAME="lo")
        size = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _setup_torch_process_group, backend, rank, size, place, backend_config.timeout_s
                )
                for rank in range(size)
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Disconnect them, and remove the file."""
        super().on_shutdown(worker_group, backend_config)
        self._meeting.cleanup()
