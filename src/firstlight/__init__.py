"""firstlight: reinforcement learning where reward is rare.

The package's parts live in the root folders of the repository and are imported as
`firstlight.envs`, `firstlight.intrinsic`, `firstlight.agents` and `firstlight.scripts`.
This module imports none of them, so that `import firstlight` costs nothing.
"""

__version__ = "0.1.0"
