"""A Ray of this machine alone: nothing that it starts listens beyond localhost."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.rllib.core.learner import learner_group
from ray.train.torch.config import TorchConfig, _setup_torch_process_group, _TorchBackend


def start_ray() -> None:
    """Start it, unless there is a Ray already; no dashboard."""
    if ray.is_initialized():
        return
    # Ray's way of saying "this machine alone", meant for the firewalls of other systems: all its servers bind to 127.0.0.1.
    ray_constants.ENABLE_RAY_CLUSTER = False
    # Actors wait for each other within an iteration, so a core may hold several.
    cpus = max(os.cpu_count() or 1, 16)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", num_cpus=cpus)


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
