"""MiniGrid's mission as an observation of the policy."""

from __future__ import annotations

from gymnasium import spaces

from firstlight.envs.text import MISSION_BYTES, TextBytes
from firstlight.envs.types import Obs
from firstlight.envs.vec import VecEnv
from firstlight.envs.wrapper import VecWrapper

MISSION = "mission"


class MissionText(VecWrapper):
    """Wrapper that makes the mission an observation, as a text.

    Args:
        vec: with `mission` [96] uint8 in its observation or its side channels, from where it is
            removed.
    """

    def __init__(self, vec: VecEnv):
        super().__init__(vec)
        text = {MISSION: TextBytes(MISSION_BYTES)}
        self.obs_space = spaces.Dict({**vec.obs_space.spaces, **text})
        channels = {n: s for n, s in vec.info_space.spaces.items() if n != MISSION}
        self.info_space = spaces.Dict(channels)
        self.left_out = {n: why for n, why in vec.left_out.items() if n != MISSION}

    def _transform(self, obs: Obs, info: Obs) -> tuple[Obs, Obs]:
        if MISSION in obs:
            return obs, info
        channels = {name: field for name, field in info.items() if name != MISSION}
        return {**obs, MISSION: info[MISSION]}, channels
