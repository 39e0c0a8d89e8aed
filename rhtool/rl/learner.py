"""The *update* port: RLlib's `LearnerGroup` around one `Learner` in this process, or around several remote ones with DDP.

`OrpoLearner` keeps RLlib's modules, optimisers and distribution, and replaces its minibatch loop, which builds Python objects per
minibatch, by slices of shuffled columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from torch import Tensor

from rhtool.divergences import Divergence
from rhtool.errors import RhtoolError
from rhtool.rl.modules import DiscriminatorModule, PolicyModule
from rhtool.rl.process import precision


class OrpoConfig(AlgorithmConfig):
    """What a remote learner must know besides RLlib's own settings."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class)
        self.seed_: int = 0
        """seed of the networks' weights and of the shuffling"""
        self.loss: Callable[..., tuple[Tensor, dict[str, Tensor]]] | None = None
        """the policy's loss of a minibatch: `Loss` or `BcLoss`"""
        self.divergence: Divergence | None = None
        """whose discriminator loss is minimised"""
        self.initial: dict[str, dict[str, Tensor]] = {}
        """weights with which modules start, by module"""
        self.device: torch.device = torch.device("cpu")
        """where a learner in this process computes; a remote one has what Ray gives it"""
        self.tf32: bool = False
        """see `precision`"""


class OrpoLearner(TorchLearner):
    """Trains the modules `policy` and `discriminator_0 …`, each with its own Adam, one module per `update`."""

    def build(self) -> None:
        """Make modules and optimisers, from the configured seed."""
        precision(self.config.tf32)
        torch.manual_seed(self.config.seed_)
        super().build()
        # A stream per module, so that training a discriminator leaves the policy's minibatches as they are without one.
        self.generators = {
            name: torch.Generator().manual_seed(self.config.seed_ + i)
            for i, name in enumerate(sorted(self.module.keys(), reverse=True))
        }
        for name, weights in self.config.initial.items():
            self.module[name].unwrapped().load_state_dict(weights)

    def _make_module(self) -> Any:
        if not self.config.num_learners:
            self._device = self.config.device
        return super()._make_module()

    def configure_optimizers_for_module(self, module_id: str, config: AlgorithmConfig | None = None) -> None:
        """One fused Adam per module; `update` sets its learning rate."""
        params = self.get_parameters(self.module[module_id])
        self.register_optimizer(module_id=module_id, optimizer=torch.optim.Adam(params, fused=True), params=params)

    def update(
        self,
        *,
        training_data: TrainingData,
        num_epochs: int = 1,
        chunks: int = 1,
        lr: float = 1e-3,
        coefficients: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> dict[str, float]:
        """`num_epochs` passes over one module's columns, each in `chunks` shuffled minibatches.

        Args:
            training_data: a `MultiAgentBatch` with the columns of one module (of several learners: a share of the rows).
            chunks: minibatches of a pass, the same in every learner, for each waits for the others' gradients.
            lr: learning rate.
            coefficients: keyword arguments of the module's loss that change between updates (`entropy`, `kl_coeff`, `action_coeff`).

        Returns:
            The loss's parts, averaged over the minibatches.

        Raises:
            RhtoolError: if the loss is not finite.
        """
        training_data.solve_refs()
        [(name, batch)] = training_data.batch.policy_batches.items()
        columns = {key: torch.as_tensor(value).to(self._device) for key, value in batch.items()}
        rows = len(next(iter(columns.values())))
        module, optimizer = self.module[name], self.get_optimizer(name)
        params, clip = [p for g in optimizer.param_groups for p in g["params"]], self.config.grad_clip
        for group in optimizer.param_groups:
            group["lr"] = lr
        module.train()
        sums: dict[str, Tensor] = {}
        for _ in range(num_epochs):
            order = torch.randperm(rows, generator=self.generators[name]).to(self._device)
            shuffled = {key: column[order].tensor_split(chunks) for key, column in columns.items()}
            for i in range(chunks):
                minibatch = {key: parts[i] for key, parts in shuffled.items()}
                loss, parts = self._loss(name, module, minibatch, coefficients or {})
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if clip is not None:
                    parts["gradient_norm"] = torch.nn.utils.clip_grad_norm_(params, clip)
                optimizer.step()
                if name != "policy":
                    self.config.divergence.after_update(module)
                for key, value in parts.items():
                    sums[key] = sums.get(key, 0.0) + value.detach()
        module.eval()
        means = {key: float(total) / (num_epochs * chunks) for key, total in sums.items()}
        if not all(map(_finite, means.values())):
            raise RhtoolError(
                f"the loss of '{name}' is not finite: {means}", "task.lr", "lower task.lr or set task.grad_clip"
            )
        return means

    def _loss(
        self, name: str, module: torch.nn.Module, batch: dict[str, Tensor], coefficients: dict[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        out = module.forward_train(batch)
        if name == "policy":
            return self.config.loss(out[Columns.ACTION_DIST_INPUTS], out[Columns.VF_PREDS], batch, **coefficients)
        return self._discriminator_loss(module, out["scores"], batch)

    def _discriminator_loss(
        self, module: torch.nn.Module, scores: Tensor, batch: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        divergence, current = self.config.divergence, batch["current"]
        loss = divergence.discriminator_loss(scores[current], scores[~current])
        parts = {
            "discriminator/loss": loss,
            "discriminator/accuracy": ((scores > 0) == current).float().mean(),
        }
        extra = divergence.regulariser(module.unwrapped().score, batch["inputs"][current], batch["inputs"][~current])
        return loss + extra, parts

    def compute_loss_for_module(self, **kwargs: Any) -> Tensor:
        """RLlib's hook of its own minibatch loop, which `update` replaces: there is no way here."""
        raise RuntimeError("OrpoLearner learns through update(), whose coefficients RLlib's loop has no place for")

    def weights(self, name: str) -> dict[str, Tensor]:
        """A copy of a module's parameters, on the CPU."""
        return {k: v.detach().cpu().clone() for k, v in self.module[name].unwrapped().state_dict().items()}

    def snapshot(self) -> dict[str, Any]:
        """Everything the next update depends on: weights, Adam's moments, the shuffling RNG. Tensors on the CPU."""
        names = list(self.module.keys())
        return {
            "weights": {n: self.weights(n) for n in names},
            "optimizers": {n: adam_state(self.get_optimizer(n)) for n in names},
            "generators": {n: self.generators[n].get_state() for n in names},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `snapshot`."""
        for name, weights in state["weights"].items():
            self.module[name].unwrapped().load_state_dict(weights)
            set_adam_state(self.get_optimizer(name), state["optimizers"][name])
            self.generators[name].set_state(state["generators"][name])


class Updater:
    """The learners of one run.

    Args:
        spaces: observation and action space.
        network: `model_config` of `PolicyModule`.
        discriminators: how many.
        features: inputs of a discriminator.
        hidden: its hidden layers.
        config: what the learners must know.
        learners: 0 for one in this process, else remote ones.
        gpus: of each remote learner.
        address: of the Ray cluster of remote learners; "": one of this machine alone.
    """

    def __init__(
        self,
        spaces: tuple[Any, Any],
        network: dict[str, Any],
        config: OrpoConfig,
        discriminators: int = 0,
        features: int = 0,
        hidden: tuple[int, ...] = (256, 256),
        learners: int = 0,
        gpus: float = 0,
        address: str = "",
    ):
        specs = {"policy": RLModuleSpec(PolicyModule, *spaces, model_config=network)}
        for i in range(discriminators):
            specs[f"discriminator_{i}"] = RLModuleSpec(
                DiscriminatorModule, *spaces, model_config={"inputs": features, "hidden": list(hidden)}
            )
        self.learners = learners
        # RLlib asks Ray which GPU to use, and by asking would start it: a learner in this process is told by `config.device`.
        config.learners(learner_class=OrpoLearner, num_learners=learners, num_gpus_per_learner=gpus if learners else 0)
        if learners:
            from rhtool.rl.cluster import learn_locally, start_ray

            start_ray(address)
            if not address:
                learn_locally()
        self.group = LearnerGroup(config=config, module_spec=MultiRLModuleSpec(rl_module_specs=specs))

    def update(self, name: str, columns: dict[str, Tensor], minibatch_size: int, **options: Any) -> dict[str, float]:
        """Train one module on its columns (each (N, …)) in minibatches of (nearly) `minibatch_size` rows.

        Several learners take a share of each minibatch. For the rest see `OrpoLearner.update`.
        """
        rows = len(next(iter(columns.values())))
        options["chunks"] = max(1, min(round(rows / minibatch_size), rows // max(self.learners, 1)))
        if self.learners:  # whose shares are consecutive rows: each is to have some of either policy
            order = torch.randperm(rows, generator=torch.Generator().manual_seed(rows))
            columns = {key: column[order] for key, column in columns.items()}
        batch = MultiAgentBatch({name: SampleBatch(columns)}, env_steps=rows)
        results = self.group.update(batch=batch, **options)
        return {key: sum(r[key] for r in results) / len(results) for key in results[0]}

    def weights(self, name: str) -> dict[str, Tensor]:
        """A module's parameters, on the CPU."""
        return self._first(lambda learner: learner.weights(name))

    def get_state(self) -> dict[str, Any]:
        """The learners' state (they are all alike)."""
        return self._first(lambda learner: learner.snapshot())

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.group.foreach_learner(lambda learner: learner.restore(state))

    def close(self) -> None:
        """End remote learners."""
        self.group.shutdown()

    def _first(self, function: Any) -> Any:
        results = list(self.group.foreach_learner(function))
        return getattr(results[0], "get", lambda: results[0])()


def adam_state(optimizer: torch.optim.Adam) -> dict[str, Any]:
    """Steps and moments by the parameter's number, copied to the CPU."""
    moments = optimizer.state_dict()["state"]
    return {str(i): {key: torch.as_tensor(value).cpu().clone() for key, value in m.items()} for i, m in moments.items()}


def set_adam_state(optimizer: torch.optim.Adam, state: dict[str, Any]) -> None:
    """The inverse of `adam_state`."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {int(i): m for i, m in state.items()}, "param_groups": groups})


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
