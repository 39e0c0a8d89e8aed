"""Reinforcement learning on the pinned ray's new API stack. Everything that imports ray lives here."""

import logging

# RLlib's own code calls its deprecated forms; its warnings of that are for its authors.
logging.getLogger("ray._common.deprecation").setLevel(logging.ERROR)
