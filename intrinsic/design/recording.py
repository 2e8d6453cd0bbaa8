"""`Recording`, transitions and episodes on which reward programs are checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from firstlight.envs.runner import Actor, RandomActor, Runner
from firstlight.envs.types import Obs, Rollout
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.design.sandbox_worker import Arrays
from firstlight.intrinsic.memory import hash_rows

UNFINISHED = -1
"""Episode of rows that belong to none whose beginning and end were recorded."""
SUCCESS = "success"
"""Side channel that says whether an episode succeeded: 1 yes, 0 no, -1 unknown."""


@dataclass(frozen=True)
class Recording:
    """Steps of environments, and the episodes in them.

    Args:
        fields: as `run_steps` takes them, [T, N, ...].
        info: side channels before each step, [T, N, ...] each; those in `fields` are after it.
        reward: [T, N] float32, the environment's.
        terminated: [T, N] bool.
        episode: [T, N] int64, number of the episode, or `UNFINISHED`.
        success: [E] float64 of each episode: 1, 0, or NaN where it is unknown.
    """

    fields: Arrays
    info: Arrays
    reward: np.ndarray
    terminated: np.ndarray
    episode: np.ndarray
    success: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """[T, N] bool, rows in which an environment made a step."""
        return self.fields["valid"]

    def episode_sums(self, values: np.ndarray) -> np.ndarray:
        """Sum values [T, N] over the valid rows of each episode: [E] float64."""
        rows = (self.episode != UNFINISHED) & self.valid
        return np.bincount(self.episode[rows], values[rows], len(self.success))

    def states(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Observation fields and side channels before each step, and after it: [T, N, ...]."""
        before = [x for name, x in self.fields.items() if name.startswith("obs/")]
        after = [x for name, x in self.fields.items() if name.startswith("next_obs/")]
        side = [self.fields[f"info/{name}"] for name in self.info]
        return [*before, *self.info.values()], [*after, *side]

    def state_keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Hash the states before and after each step, [T, N] int64 each."""
        T, N = self.reward.shape
        before, after = (
            hash_rows((torch.from_numpy(x).flatten(0, 1) for x in fields), T * N).numpy()
            for fields in self.states()
        )
        return before.reshape(T, N), after.reshape(T, N)

    @classmethod
    def of(cls, rollouts: Sequence[Rollout], success_threshold: float | None) -> Recording:
        """Put rollouts of the same environments behind each other, and find their episodes.

        An episode whose beginning or end is not in them belongs to none, nor does one whose
        environment crashed.

        Args:
            rollouts: at least one, in order. One that begins new episodes ends those before it.
            success_threshold: as `VecEnv.success_threshold`, for environments without the side
                channel `success`.
        """

        def joined(tensors: Sequence[Tensor]) -> np.ndarray:
            return torch.cat([tensor.cpu() for tensor in tensors]).numpy()

        parts = [program_fields(rollout) for rollout in rollouts]
        fields = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        info = {
            name: joined([rollout.info[name][:-1] for rollout in rollouts])
            for name in rollouts[0].info
        }
        reward = joined([rollout.reward for rollout in rollouts])
        terminated = joined([rollout.terminated for rollout in rollouts])
        over = joined([rollout.truncated for rollout in rollouts]) | terminated
        lost = joined(
            [torch.zeros_like(r.valid) if r.crashed is None else r.crashed for r in rollouts]
        )
        episode, last = _find_episodes(fields["is_first"], fields["valid"], over, lost)
        found = cls(fields, info, reward, terminated, episode, np.full(len(last), np.nan))
        if success_threshold is not None:
            success = found.episode_sums(reward) > success_threshold
            found.success[:] = success
        if f"info/{SUCCESS}" in fields and len(last):
            told = fields[f"info/{SUCCESS}"][tuple(np.array(last).T)]
            found.success[:] = np.where(told < 0, found.success, told > 0)
        return found


def record_transitions(
    vec: VecEnv, num_steps: int, actor: Actor | None = None, *, seed: int = 0
) -> Recording:
    """Record steps of environments from their reset on.

    Args:
        vec: the environments.
        num_steps: T, of each of them.
        actor: a policy; default random actions.
        seed: of environments and actions.
    """
    rollout = Runner(vec, seed=seed).collect(actor or RandomActor(vec.act_space), num_steps)
    return Recording.of([rollout], vec.success_threshold)


def program_fields(rollout: Rollout) -> Arrays:
    """Arrays of a rollout by the names that `run_steps` knows."""

    def arrays(group: str, fields: Obs) -> Arrays:
        return {f"{group}/{name}": field.cpu().numpy() for name, field in fields.items()}

    past = {name: field[:-1] for name, field in rollout.obs.items()}
    return {
        **arrays("obs", past),
        **arrays("next_obs", rollout.next_obs()),
        **arrays("info", rollout.next_info()),
        "action": rollout.action.cpu().numpy(),
        "is_first": rollout.is_first[:-1].cpu().numpy(),
        "valid": rollout.valid.cpu().numpy(),
    }


def _find_episodes(
    is_first: np.ndarray, valid: np.ndarray, over: np.ndarray, lost: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Number whole episodes: the number of each row [T, N], and the last (t, n) of each."""
    episode = np.full(valid.shape, UNFINISHED, np.int64)
    began = np.full(valid.shape[1], -1)
    last: list[tuple[int, int]] = []
    for t in range(len(valid)):
        began[is_first[t]] = t
        for n in np.flatnonzero(over[t] & valid[t]).tolist():
            if began[n] >= 0 and not lost[t, n]:
                episode[began[n] : t + 1, n] = len(last)
                last.append((t, n))
            began[n] = -1
    return episode, last
