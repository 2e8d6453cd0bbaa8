"""What every wrapper of vector environments passes on."""

from __future__ import annotations

import numpy as np

from firstlight.envs.vec import VecEnv, resume_of


class VecWrapper:
    """Vector environments in others' clothes: a base of `VecEnv`s that change what is shown.

    It resumes as what is inside does, so a subclass with a memory of its own saves that too.

    Args:
        vec: what is inside.
    """

    resume: str = "dropped"

    def __init__(self, vec: VecEnv):
        self._vec = vec
        self.num_envs, self.success_threshold = vec.num_envs, vec.success_threshold
        self.act_space, self.resume = vec.act_space, resume_of(vec)

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of one environment as it is inside, [H, W, 3] uint8."""
        return self._vec.render(env_id)

    def enable_rendering(self) -> None:
        """Have the environments made able to render, where that takes something; then `reset`."""
        if hasattr(self._vec, "enable_rendering"):
            self._vec.enable_rendering()

    def close(self) -> None:
        """Close the environments."""
        self._vec.close()
