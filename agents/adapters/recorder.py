"""Build rollouts from the steps of a loop that is not ours."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from firstlight.envs.types import Obs, Rollout, Step, map_obs


class RolloutRecorder:
    """Collects the steps of `num_envs` environments and stacks them to rollouts.

    The policy is not known: `log_prob` and `value` of the rollouts are 0, and there are no side
    channels.

    Args:
        num_envs: `N`.
    """

    def __init__(self, num_envs: int):
        self.num_envs = num_envs
        self._obs: Obs | None = None
        self._is_first = torch.ones(num_envs, dtype=torch.bool)
        self._steps: list[Step] = []
        self._actions: list[Tensor] = []

    @property
    def num_steps(self) -> int:
        """Steps since the last rollout."""
        return len(self._steps)

    def begin(self, obs: Obs, is_first: Tensor | None = None) -> None:
        """Set the observations [N, ...] before the next step.

        Args:
            obs: each field [N, ...].
            is_first: [N] bool, which begin an episode; default all.

        Raises:
            RuntimeError: if steps were added since the last rollout.
        """
        if self._steps:
            raise RuntimeError(
                f"all environments were reset {len(self._steps)} steps after the last rollout: "
                "take the rollout first"
            )
        self._obs = obs
        self._is_first = torch.ones(self.num_envs).bool() if is_first is None else is_first.clone()

    def restart(self, env_ids: Tensor, obs: Obs) -> None:
        """Replace the current observations of environments [M] that were reset after the last step.

        Args:
            env_ids: [M] int64.
            obs: of all environments, each field [N, ...].
        """
        assert self._obs is not None
        self._obs = map_obs(torch.clone, self._obs)
        for name, field in self._obs.items():
            field[env_ids] = obs[name][env_ids]
        self._is_first = self._is_first.index_fill(0, env_ids, True)
        if self._steps:
            self._steps[-1] = dataclasses.replace(
                self._steps[-1], obs=self._obs, is_first=self._is_first
            )

    def add(self, action: Tensor, step: Step) -> None:
        """Add a step taken with `action` [N, ...].

        Raises:
            RuntimeError: before `begin`.
        """
        if self._obs is None:
            raise RuntimeError("step() before reset(): the first observations are not known")
        if not self._steps:
            self._opened = self._obs, self._is_first
        self._steps.append(step)
        self._actions.append(action)
        self._obs, self._is_first = step.obs, step.is_first

    def discard(self) -> None:
        """Forget the steps since the last rollout."""
        self._steps, self._actions = [], []

    def rollout(self) -> Rollout:
        """Return the steps since the last rollout as a new one, on the CPU.

        Raises:
            RuntimeError: if there are none.
        """
        if not self._steps:
            raise RuntimeError("no steps were taken since the last rollout")
        steps, actions = self._steps, torch.stack(self._actions)
        self.discard()
        T, N = len(steps), self.num_envs
        names = steps[0].obs
        opened, is_first = self._opened
        rows = torch.repeat_interleave(torch.tensor([len(step.final_ids) for step in steps]))
        return Rollout(
            obs={k: torch.stack([opened[k], *(s.obs[k] for s in steps)]) for k in names},
            info={},
            action=actions,
            log_prob=torch.zeros(T, N),
            value=torch.zeros(T + 1, N, 1),
            dist_params=None,
            reward=torch.stack([s.reward for s in steps]),
            terminated=torch.stack([s.terminated for s in steps]),
            truncated=torch.stack([s.truncated for s in steps]),
            valid=torch.stack([s.valid for s in steps]),
            is_first=torch.stack([is_first, *(s.is_first for s in steps)]),
            final_at=torch.stack([rows, torch.cat([s.final_ids for s in steps])], 1),
            final_obs={k: torch.cat([s.final_obs[k] for s in steps]) for k in names},
            final_info={},
            final_state={},
            state={},
            env_ids=torch.arange(N),
        )
