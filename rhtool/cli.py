"""`rhtool`: find `conf/`, compose, run. Nothing heavy is imported before a task runs."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from rhtool.config import CONF, from_config, register


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> None:
    """Run what was composed."""
    from_config(cfg).execute()


def cli() -> None:
    """The console command."""
    register()
    for flag in ("-m", "--multirun"):
        if flag in sys.argv:
            sys.argv.remove(flag)
            sys.argv.append(flag)
    main()
