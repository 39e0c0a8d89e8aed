"""Control problems with a proxy reward, a true reward and a base policy.

Importing this package is cheap; an environment's arrays and compiled kernels are imported when it is made.
"""


def register_gymnasium() -> None:
    """Register every environment with gymnasium (called by gymnasium itself, through the entry point `gymnasium.envs`)."""
