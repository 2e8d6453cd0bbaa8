"""Statistics of finished episodes: return, length, success, and what the environment reports."""

from __future__ import annotations

import dataclasses
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
        success: None where nobody knows.
        numbers: what the environment reports of it (`VecEnv.reported`), as its last step left it.
    """

    ret: float
    length: int
    success: bool | None
    numbers: dict[str, float] = field(default_factory=dict)


class Tally:
    """Sums up the open episode of each environment, step by step.

    Args:
        num_envs: environments.
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
        told: Mapping[str, np.ndarray] | None = None,
        env_ids: np.ndarray | slice = slice(None),
    ) -> list[tuple[int, Episode]]:
        """Count one step.

        Args:
            reward: [N] float32.
            done: [N] bool, terminated or truncated.
            valid: [N] bool; other rows do not count at all.
            told: side channels after the step, [N] each. "success", int8, 1 yes, 0 no, -1 unknown,
                outranks the threshold; the others become the episodes' `numbers`.
            env_ids: [N] int64, the environment behind each column.

        Returns:
            Column and episode of each end.
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
            numbers = {name: float(channel[column]) for name, channel in (told or {}).items()}
            success = self._success(ret, numbers.pop("success", -1))
            episodes.append((column, Episode(ret, length, success, numbers)))
        return episodes

    def drop(self, env_ids: np.ndarray) -> None:
        """Forget the open episodes of `env_ids` [*] int64."""
        self.ret[env_ids] = 0.0
        self.length[env_ids] = 0

    def _success(self, ret: float, flag: float) -> bool | None:
        if flag >= 0:
            return flag > 0
        return None if self.success_threshold is None else ret > self.success_threshold


class EpisodeStatistics:
    """Mean return, length and success of the last episodes, of the environment's own reward.

    Episodes run on from rollout to rollout. Rows that are not valid are skipped, so both kinds of
    autoreset give the same numbers. What died with its environment is in none of them.

    Args:
        num_envs: environments, however many of them a rollout brings.
        success_threshold: of the vector environment.
        window: how many of the last episodes the means are over.
        reported: side channels of which the mean at episodes' ends is given, see `VecEnv`.

    Attributes:
        last: episodes that the latest `update` closed, in order of time, then of column.
        episodes: how many were closed so far.
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
        self._told = ("success", *reported)
        self._tally = Tally(num_envs, success_threshold)
        self._window: deque[Episode] = deque(maxlen=window)

    def update(self, rollout: Rollout) -> None:
        """Count every valid row of `rollout`."""
        reward, valid, ids = (
            x.cpu().numpy() for x in (rollout.reward, rollout.valid, rollout.env_ids)
        )
        done = (rollout.terminated | rollout.truncated).cpu().numpy()
        reopened = None  # by a death: nothing else opens an episode before the last one ended
        if rollout.crashed is not None:
            done &= ~rollout.crashed.cpu().numpy()
            reopened = ~valid & rollout.is_first[1:].cpu().numpy()
        after = _after(rollout, self._told)
        self.last = []
        for t in range(rollout.num_steps):
            told = {name: channel[t] for name, channel in after.items()}
            self.last += [e for _, e in self._tally.add(reward[t], done[t], valid[t], told, ids)]
            if reopened is not None:
                self._tally.drop(ids[reopened[t]])
        self.episodes += len(self.last)
        self._window.extend(e for e in self.last if math.isfinite(e.ret))

    def metrics(self) -> dict[str, float]:
        """Scalars over the window; ``rollout/episodes`` counts all so far."""
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
        """Forget the open episodes of `env_ids` [*] int64; they never enter the statistics."""
        self._tally.drop(env_ids.cpu().numpy())

    def state_dict(self) -> dict[str, Any]:
        """Open and remembered episodes, for a checkpoint."""
        return {
            "open_return": torch.tensor(self._tally.ret),
            "open_length": torch.tensor(self._tally.length),
            "window": [[e.ret, e.length, e.success, e.numbers] for e in self._window],
            "episodes": self.episodes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        if state["open_return"].shape != self._tally.ret.shape:
            raise ValueError(
                f"the statistics are of {len(state['open_return'])} environments, "
                f"expected {len(self._tally.ret)}"
            )
        self._tally.ret[:] = state["open_return"].numpy()
        self._tally.length[:] = state["open_length"].numpy()
        self._window.clear()
        self._window.extend(Episode(*fields) for fields in state["window"])
        self.episodes, self.last = state["episodes"], []


def reported_means(episodes: Iterable[Episode]) -> dict[str, float]:
    """Mean of each number that the environment reports of its episodes, as ``NAME_mean``."""
    values: dict[str, list[float]] = {}
    for episode in episodes:
        for name, value in episode.numbers.items():
            values.setdefault(f"{name}_mean", []).append(value)
    return {name: float(np.mean(found)) for name, found in values.items()}


def _after(rollout: Rollout, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Side channels after each step, [T, N] each, those of `names` that there are."""
    there = [name for name in names if name in rollout.info]
    only = dataclasses.replace(  # the other channels may be large
        rollout,
        info={name: rollout.info[name] for name in there},
        final_info={name: rollout.final_info[name] for name in there},
    )
    return {name: channel.cpu().numpy() for name, channel in only.next_info().items()}
