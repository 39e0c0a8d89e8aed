"""`hydra/launcher=elsewhere`: Hydra itself makes the jobs and runs them one by one, as a cluster's launcher would."""

from dataclasses import dataclass

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore


@dataclass
class ElsewhereConf:
    _target_: str = "hydra_plugins.elsewhere.Elsewhere"


ConfigStore.instance().store(group="hydra/launcher", name="elsewhere", node=ElsewhereConf, provider="tests")


class Elsewhere(BasicLauncher):
    pass
