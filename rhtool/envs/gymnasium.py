"""Import this module, and gymnasium knows every environment of rhtool as `rhtool/<Class>-v0`.

    import gymnasium
    import rhtool.envs.gymnasium

    gymnasium.make("rhtool/Tomato-v0", level=2)
    gymnasium.make_vec("rhtool/Tomato-v0", num_envs=512)

or, with gymnasium doing the import (it has read no entry points of plugins since 1.0),
`gymnasium.make("rhtool.envs.gymnasium:rhtool/Tomato-v0")`.
"""

from __future__ import annotations

from rhtool.envs import register_gymnasium

register_gymnasium()
