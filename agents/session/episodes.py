"""Statistics of finished episodes: return, length, success and reported channels."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstlight.envs.types import Rollout


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished episode.

    Args:
        ret: sum of the environment's rewards.
        length: steps; calls that only reset the environment do not count.
        success: None if it is unknown.
        numbers: channel name to value after the last step (`VecEnv.reported`).
    """

    ret: float
    length: int
    success: bool | None
    numbers: dict[str, float] = field(default_factory=dict)


class EpisodeAccumulator:
    """Accumulates return and length of each environment's open episode, step by step.

    Args:
        num_envs: number of environments.
        success_threshold: an episode whose return exceeds it succeeded; None for no such rule.
    """

    def __init__(self, num_envs: int, success_threshold: float | None):
        self.success_threshold = success_threshold
        self.ret = np.zeros(num_envs)  # float64: a sum of many float32
        self.length = np.zeros(num_envs, np.int64)

    def add(
        self,
        reward: np.ndarray,
        done: np.ndarray,
        valid: np.ndarray,
        channels: Mapping[str, np.ndarray] | None = None,
        env_ids: np.ndarray | slice = slice(None),
    ) -> list[tuple[int, Episode]]:
        """Add one step.

        Args:
            reward: [N] float32.
            done: [N] bool, terminated or truncated.
            valid: [N] bool; other rows are skipped.
            channels: side channels after the step, [N] each. "success", int8, 1 yes, 0 no, -1
                unknown, outranks the threshold; the others become the episodes' `numbers`.
            env_ids: [N] int64, the environment behind each column.

        Returns:
            Column and episode of each episode that ended.
        """
        self.ret[env_ids] += np.where(valid, reward, 0.0)
        self.length[env_ids] += valid
        ended = np.flatnonzero(done & valid)
        if not ended.size:
            return []
        closed = np.arange(len(self.ret))[env_ids][ended]
        rets, lengths = self.ret[closed].tolist(), self.length[closed].tolist()
        self.drop(closed)
        episodes = []
        for column, ret, length in zip(ended.tolist(), rets, lengths, strict=True):
            numbers = {name: float(channel[column]) for name, channel in (channels or {}).items()}
            success = self._success(ret, numbers.pop("success", -1))
            episodes.append((column, Episode(ret, length, success, numbers)))
        return episodes

    def unfinished(self, env_id: int) -> Episode:
        """Return the open episode of an environment as if it ended now, with unknown success."""
        return Episode(float(self.ret[env_id]), int(self.length[env_id]), None)

    def drop(self, env_ids: np.ndarray) -> None:
        """Discard the open episodes of `env_ids` [*] int64."""
        self.ret[env_ids] = 0.0
        self.length[env_ids] = 0

    def _success(self, ret: float, flag: float) -> bool | None:
        if flag >= 0:
            return flag > 0
        return None if self.success_threshold is None else ret > self.success_threshold


class EpisodeStatistics:
    """Mean return, length and success of the last episodes, by the environment's own reward.

    Episodes continue from rollout to rollout. Rows that are not valid are skipped, so both kinds of
    autoreset give the same numbers. Episodes of crashed environments are left out.

    Args:
        num_envs: number of environments; a rollout may hold some of them.
        success_threshold: of the vector environment.
        window: number of episodes that the means are over.
        reported: side channels whose mean at the ends of episodes is logged, see `VecEnv`.

    Attributes:
        last: episodes that ended in the latest `update`, in order of time, then of column.
        episodes: number of episodes that have ended.
    """

    def __init__(
        self,
        num_envs: int,
        success_threshold: float | None,
        window: int = 100,
        reported: Sequence[str] = (),
    ):
        self.last: list[Episode] = []
        self.episodes = 0
        self._channels = ("success", *reported)
        self._open = EpisodeAccumulator(num_envs, success_threshold)
        self._window: deque[Episode] = deque(maxlen=window)

    def update(self, rollout: Rollout) -> None:
        """Add every valid row of `rollout`."""
        reward, valid, ids = (
            x.cpu().numpy() for x in (rollout.reward, rollout.valid, rollout.env_ids)
        )
        done = (rollout.terminated | rollout.truncated).cpu().numpy()
        reopened = None  # after a crash: nothing else opens an episode before the last one ended
        if rollout.crashed is not None:
            done &= ~rollout.crashed.cpu().numpy()
            reopened = ~valid & rollout.is_first[1:].cpu().numpy()
        after = _channels_after(rollout, self._channels)
        self.last = []
        for t in range(rollout.num_steps):
            now = {name: channel[t] for name, channel in after.items()}
            self.last += [e for _, e in self._open.add(reward[t], done[t], valid[t], now, ids)]
            if reopened is not None:
                self._open.drop(ids[reopened[t]])
        self.episodes += len(self.last)
        self._window.extend(e for e in self.last if math.isfinite(e.ret))

    def metrics(self) -> dict[str, float]:
        """Return means over the window; ``rollout/episodes`` counts all episodes so far."""
        scalars = {"rollout/episodes": float(self.episodes)}
        if not self._window:
            return scalars
        rets = [episode.ret for episode in self._window]
        scalars["rollout/return_mean"] = float(np.mean(rets))
        scalars["rollout/return_std"] = float(np.std(rets))
        scalars["rollout/length_mean"] = float(np.mean([e.length for e in self._window]))
        known = [episode.success for episode in self._window if episode.success is not None]
        if known:
            scalars["rollout/success_rate"] = float(np.mean(known))
        return scalars | {f"rollout/{k}": v for k, v in reported_means(self._window).items()}

    def drop(self, env_ids: Tensor) -> None:
        """Discard the open episodes of `env_ids` [*] int64; they enter no statistics."""
        self._open.drop(env_ids.cpu().numpy())

    def state_dict(self) -> dict[str, Any]:
        """Return the open episodes, the window and the number of episodes so far."""
        return {
            "open_return": torch.tensor(self._open.ret),
            "open_length": torch.tensor(self._open.length),
            "window": [[e.ret, e.length, e.success, e.numbers] for e in self._window],
            "episodes": self.episodes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore such a state."""
        if state["open_return"].shape != self._open.ret.shape:
            raise ValueError(
                f"the statistics are of {len(state['open_return'])} environments, "
                f"expected {len(self._open.ret)}"
            )
        self._open.ret[:] = state["open_return"].numpy()
        self._open.length[:] = state["open_length"].numpy()
        self._window.clear()
        self._window.extend(Episode(*fields) for fields in state["window"])
        self.episodes, self.last = state["episodes"], []


def reported_means(episodes: Iterable[Episode]) -> dict[str, float]:
    """Return the mean of each reported channel over episodes, as ``NAME_mean``."""
    values: dict[str, list[float]] = {}
    for episode in episodes:
        for name, value in episode.numbers.items():
            values.setdefault(f"{name}_mean", []).append(value)
    return {name: float(np.mean(found)) for name, found in values.items()}


def _channels_after(rollout: Rollout, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return side channels after each step, [T, N] each, those of `names` that exist."""
    info, final = rollout.info, rollout.final_info
    there = [name for name in names if name in info]
    return {name: rollout.successors(info[name], final[name]).cpu().numpy() for name in there}
