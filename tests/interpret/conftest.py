"""The trained models of the tests of language models."""

from tests.lm.conftest import reward_run, sft_run

__all__ = ["reward_run", "sft_run"]
