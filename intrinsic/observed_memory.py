"""`ObservedMemory`: show the policy what a bonus remembers of the running episode.

A bonus that falls with visits is not a function of the observation. With the memory it depends on
as an observation field, it is one (SOFE, Castanyer et al. 2023).
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.optional_box import OptionalBox
from firstlight.envs.types import Obs, Step
from firstlight.envs.vec import VecEnv
from firstlight.envs.wrapper import MemoryWrapper


class ObservedMemory(MemoryWrapper):
    """Base class of wrappers that add a memory as an observation field.

    The wrapper has a memory of each of its environments, beside the module's, which advances only
    when a rollout is complete. It advances with every step, so the field of an observation is the
    memory with that observation in it; at the end of a rollout both are the same. (An episode that
    begins with the last row of a rollout has its first observation embedded before the module
    learns from that rollout, in the module after.) Environments of an evaluation have a wrapper of
    their own.

    Args:
        vec: the environments.
        name: of the field.
        space: of the field.

    Raises:
        ValueError: if `vec` has a field of that name already.
    """

    what = "a bonus's memory"

    def __init__(self, vec: VecEnv, name: str, space: OptionalBox):
        if name in vec.obs_space.spaces:
            raise ValueError(
                f"the environment observes {name!r} already: one module only can show its memory "
                "under that name"
            )
        super().__init__(vec)
        self.name, self.prefix, self.saved_as = name, f"{name}.", name
        self.obs_space = spaces.Dict({**vec.obs_space.spaces, name: space})
        self._all = torch.arange(vec.num_envs)
        self._shown = torch.full((vec.num_envs, *space.shape), space.default)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment, with only its first observation remembered."""
        obs, info = self._vec.reset(seed)
        yes = torch.ones(self.num_envs, dtype=torch.bool)
        return self._observe(self._all, obs, info, yes, yes), info

    def _transform_step(self, step: Step, action: Tensor) -> Step:
        ids, yes = step.final_ids, torch.ones(len(step.final_ids), dtype=torch.bool)
        final_obs = {**step.final_obs, self.name: self._shown[:0]}
        if len(ids):  # the last observation, before the memory is cleared
            final_obs = self._observe(ids, step.final_obs, step.final_info, ~yes, yes)
        obs = self._observe(self._all, step.obs, step.info, step.is_first, step.valid)
        return dataclasses.replace(step, obs=obs, final_obs=final_obs)

    def _observe(self, env_ids: Tensor, obs: Obs, info: Obs, opens: Tensor, valid: Tensor) -> Obs:
        """Advance the memories of `M` environments; return `obs` with the field."""
        self._shown[env_ids] = self._advance(env_ids, obs, info, opens, valid & ~opens)
        return {**obs, self.name: self._shown[env_ids]}

    def _save_memory(self, n: int) -> dict[str, Tensor]:
        """Memory of one environment, and the field as it was shown."""
        arrays = {"shown": self._shown[n].clone(), **self._save(n)}
        return {self.prefix + name: array for name, array in arrays.items()}

    def _load_memories(
        self,
        env_ids: Tensor,
        memories: Sequence[Mapping[str, Tensor]],
        obs: Obs,
        info: Obs,
        restarted: Tensor,
    ) -> tuple[Obs, Obs, Tensor]:
        """Load the memories of environments that were not restarted."""
        self._observe(env_ids, obs, info, restarted, torch.zeros_like(restarted))
        for n, arrays, gone in zip(env_ids.tolist(), memories, restarted.tolist(), strict=True):
            if not gone:
                own = {name.removeprefix(self.prefix): array for name, array in arrays.items()}
                self._shown[n] = own.pop("shown")
                self._load(n, own)
        return {**obs, self.name: self._shown[env_ids]}, info, restarted

    @abstractmethod
    def _advance(self, env_ids: Tensor, obs: Obs, info: Obs, opens: Tensor, adds: Tensor) -> Tensor:
        """Add observations to memories, and return the field.

        Args:
            env_ids: [M] int64.
            obs: each field [M, ...], without this one.
            info: each [M, ...].
            opens: [M] bool, whose memory is cleared before its observation is added.
            adds: [M] bool, whose observation is added otherwise.

        Returns:
            [M, *field] float32.
        """

    @abstractmethod
    def _save(self, n: int) -> dict[str, Tensor]:
        """Memory of environment `n`."""

    @abstractmethod
    def _load(self, n: int, arrays: Mapping[str, Tensor]) -> None:
        """Load what `_save` returned."""
