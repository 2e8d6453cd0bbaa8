"""`RecordRollouts`, a wrapper around Gymnasium's vector environments."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from firstlight.agents.adapters.fields import (
    action_tensor,
    field_spaces,
    field_tensors,
    stacked_tensors,
)
from firstlight.agents.adapters.recorder import RolloutRecorder
from firstlight.envs.types import Rollout, Step, take


class RecordRollouts(VectorWrapper):
    """Records what a Gymnasium vector environment does, for reward modules; changes nothing.

    All three ways of autoreset are understood. In `NEXT_STEP` mode the row in which an environment
    only resets itself is not `valid` in the rollout. In `SAME_STEP` mode the last observation of an
    episode is read from ``infos["final_obs"]``. In `DISABLED` mode environments that ended must be
    reset by ``reset(options={"reset_mask": mask})``.

    Args:
        envs: the vector environment.
        autoreset_mode: of `envs`; default what its metadata say.

    Attributes:
        obs_space: observation space as reward modules take it (`field_spaces`).
        act_space: action space of one environment.

    Raises:
        ValueError: if the way of autoreset is not known.

    >>> import gymnasium
    >>> envs = RecordRollouts(gymnasium.make_vec("CartPole-v1", num_envs=2))
    >>> _ = envs.reset(seed=0)
    >>> _ = envs.step(envs.action_space.sample())
    >>> envs.rollout().reward
    tensor([[1., 1.]])
    """

    def __init__(self, envs: VectorEnv, *, autoreset_mode: AutoresetMode | None = None):
        super().__init__(envs)
        mode = envs.metadata.get("autoreset_mode") if autoreset_mode is None else autoreset_mode
        if mode is None:
            raise ValueError(
                f"the metadata of {envs} have no autoreset_mode: pass autoreset_mode=..."
            )
        self.autoreset_mode = AutoresetMode(mode)
        self.obs_space = field_spaces(envs.single_observation_space)
        self.act_space = envs.single_action_space
        self.recorder = RolloutRecorder(envs.num_envs)
        self._ended = torch.zeros(envs.num_envs, dtype=torch.bool)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those of ``options["reset_mask"]`` [N] bool.

        Raises:
            RuntimeError: for all, if steps were taken since the last rollout.
        """
        mask = None if options is None else options.get("reset_mask")  # `envs` may remove it
        obs, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        fields = field_tensors(self.single_observation_space, obs)
        if mask is None:
            self.recorder.begin(fields)
            self._ended = torch.zeros_like(self._ended)
        else:
            self.recorder.restart(torch.from_numpy(np.flatnonzero(mask)), fields)
        return obs, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step with `actions` [N, ...] and record; return what the environment returned."""
        obs, reward, terminated, truncated, infos = answer = self.env.step(actions)
        space = self.single_observation_space
        fields = field_tensors(space, obs)
        died = torch.from_numpy(np.array(terminated, bool))
        cut = torch.from_numpy(np.array(truncated, bool)) & ~died
        over = died | cut
        final_ids = torch.zeros(0, dtype=torch.int64)
        final_obs = take(fields, final_ids)
        valid, is_first = torch.ones_like(over), torch.zeros_like(over)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            valid, is_first, self._ended = ~self._ended, self._ended, over
        elif bool(over.any()):
            final_ids, is_first = over.nonzero()[:, 0], over
            if self.autoreset_mode == AutoresetMode.DISABLED:
                final_obs = take(fields, final_ids)
            else:
                final_obs = stacked_tensors(space, [infos["final_obs"][n] for n in final_ids])
        step = Step(
            obs=fields,
            info={},
            reward=torch.from_numpy(np.array(reward, np.float32)),
            terminated=died,
            truncated=cut,
            valid=valid,
            is_first=is_first,
            final_ids=final_ids,
            final_obs=final_obs,
            final_info={},
        )
        self.recorder.add(action_tensor(self.act_space, actions), step)
        return answer

    def rollout(self) -> Rollout:
        """Return the steps since the last rollout as a new one, on the CPU.

        Raises:
            RuntimeError: if there are none.
        """
        return self.recorder.rollout()
