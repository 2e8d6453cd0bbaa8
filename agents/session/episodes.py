"""Statistics of finished episodes: return, length, success and reported channels."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from firstlight.envs.reset_points import RESET_POINT
from firstlight.envs.types import Rollout
from firstlight.networks import collective

_NO_COHORT = -1  # of open episodes that enter no mean


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


class _Rows(NamedTuple):
    """The steps of a rollout, as `EpisodeStatistics` reads them.

    Args:
        reward: [T, N] float32.
        valid: [T, N] bool.
        done: [T, N] bool, terminated or truncated, and not crashed.
        reopened: [T, N] bool, rows in which an environment that crashed begins anew; None if none
            crashed.
        ids: [N] int64, the environment behind each column.
        channels: side channels after each step, [T, N] each.
    """

    reward: np.ndarray
    valid: np.ndarray
    done: np.ndarray
    reopened: np.ndarray | None
    ids: np.ndarray
    channels: dict[str, np.ndarray]


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
    """Mean return, length and success of recent episodes, by the environment's own reward.

    Short episodes end first, and on sparse tasks the short ones are the successes, so a mean over
    the episodes that ended first is too high. Here an episode belongs to the cohort of the rollout
    in which it began, and a cohort enters the means as a whole: when each of its episodes, and of
    the cohorts before it, has ended. Rollouts end at times that do not depend on what happens in
    them, so the expected sum of returns over a cohort is the expected number of its episodes times
    the expected return (Wald 1944). The means are over the newest whole cohorts that hold at least
    `window` episodes together. A cut inside a cohort, after a number of episodes, would tie its
    place to their lengths.

    Episodes continue from rollout to rollout. Rows that are not valid are skipped, so both kinds of
    autoreset give the same numbers. Episodes of crashed environments are left out.

    Episodes that began at a reset point (side channel `RESET_POINT`) are not those of the task:
    they enter none of these means, and the newest `window` of them have means of their own.

    The episodes are those of all processes of a run, and the statistics the same in each.

    Args:
        num_envs: number of environments of this process; a rollout may hold some of them.
        success_threshold: of the vector environment.
        window: number of episodes that the means are over, at least, once there are so many.
        reported: side channels whose mean at the ends of episodes is logged, see `VecEnv`.

    Attributes:
        last: episodes that ended in the latest `update`, in order of time, then of column.
        episodes: number of episodes that have ended.
        counted: number of episodes that have entered the means.
        from_points: number of episodes that have ended and began at a reset point.
    """

    def __init__(
        self,
        num_envs: int,
        success_threshold: float | None,
        window: int = 100,
        reported: Sequence[str] = (),
    ):
        self.last: list[Episode] = []
        self.episodes = self.counted = 0
        self.window = window
        self._channels = ("success", RESET_POINT, *reported)
        self._first_id = collective.rank() * num_envs  # of this process among all
        self._open = EpisodeAccumulator(collective.size() * num_envs, success_threshold)
        # meaningless where no episode is open
        self._open_cohort = np.full(collective.size() * num_envs, _NO_COHORT)
        self._cohort = 0  # of episodes that begin in the next rollout
        self._waiting: dict[int, list[Episode]] = {}  # ended, by cohort, oldest first
        self._window: deque[list[Episode]] = deque()  # cohorts, none empty
        self.from_points = 0
        self._apart: deque[Episode] = deque(maxlen=window)  # began at a reset point

    def update(self, rollout: Rollout) -> None:
        """Add every valid row of `rollout`."""
        reward, valid, done, reopened, ids, after = self._rows(rollout)
        self.last = []
        self._waiting[self._cohort] = []
        for t in range(rollout.num_steps):
            now = {name: channel[t] for name, channel in after.items()}
            self._open_cohort[ids[valid[t] & (self._open.length[ids] == 0)]] = self._cohort
            for column, episode in self._open.add(reward[t], done[t], valid[t], now, ids):
                self.last.append(episode)
                if episode.numbers.pop(RESET_POINT, 0.0):
                    self._apart.append(episode)
                    self.from_points += 1
                    continue
                cohort = int(self._open_cohort[ids[column]])
                if cohort != _NO_COHORT and math.isfinite(episode.ret):
                    self._waiting[cohort].append(episode)
            if reopened is not None:
                self._open.drop(ids[reopened[t]])
        self.episodes += len(self.last)
        self._cohort += 1
        self._release()

    def add_finished(self, episodes: Sequence[Episode]) -> None:
        """Add episodes that began and ended together, as one cohort."""
        self.last = list(episodes)
        self._waiting[self._cohort] = [e for e in episodes if math.isfinite(e.ret)]
        self.episodes += len(self.last)
        self._cohort += 1
        self._release()

    def metrics(self) -> dict[str, float]:
        """Return means over the window, and how many episodes ended and entered it so far."""
        scalars = {
            "rollout/episodes": float(self.episodes),
            "rollout/episodes_counted": float(self.counted),
        }
        scalars |= self._apart_metrics()
        episodes = [episode for cohort in self._window for episode in cohort]
        if not episodes:
            return scalars
        rets = [episode.ret for episode in episodes]
        scalars["rollout/return_mean"] = float(np.mean(rets))
        scalars["rollout/return_std"] = float(np.std(rets))
        scalars["rollout/length_mean"] = float(np.mean([e.length for e in episodes]))
        known = [episode.success for episode in episodes if episode.success is not None]
        if known:
            scalars["rollout/success_rate"] = float(np.mean(known))
        return scalars | {f"rollout/{k}": v for k, v in reported_means(episodes).items()}

    def _apart_metrics(self) -> dict[str, float]:
        """Means of episodes that began at reset points; nothing if there are none."""
        rets = [episode.ret for episode in self._apart if math.isfinite(episode.ret)]
        if not rets:
            return {}
        scalars = {
            "rollout/reset_point_episodes": float(self.from_points),
            "rollout/reset_point_return_mean": float(np.mean(rets)),
        }
        known = [episode.success for episode in self._apart if episode.success is not None]
        if known:
            scalars["rollout/reset_point_success_rate"] = float(np.mean(known))
        return scalars

    def drop(self, env_ids: Tensor) -> None:
        """Discard the open episodes of `env_ids` [*] int64, which were all cut at this moment.

        They enter no statistics, and neither do the others of their cohorts and of later ones: of
        those only the short episodes have ended by now.
        """
        self._drop(collective.gather_rows(env_ids.cpu() + self._first_id).numpy())

    def _drop(self, lost: np.ndarray) -> None:
        """As `drop`, of `lost` [*] int64 among the environments of all processes."""
        lost = lost[self._open.length[lost] > 0]
        cohorts = self._open_cohort[lost]
        first = min(cohorts[cohorts != _NO_COHORT], default=self._cohort)
        self._open.drop(lost)
        self._open_cohort[self._open_cohort >= first] = _NO_COHORT
        self._waiting = {c: waiting for c, waiting in self._waiting.items() if c < first}
        self._release()

    def state_dict(self) -> dict[str, Any]:
        """Return the open episodes, those that wait, the window and the counts so far."""
        return {
            "open_return": torch.tensor(self._open.ret),
            "open_length": torch.tensor(self._open.length),
            "open_cohort": torch.tensor(self._open_cohort),
            "window": [_fields(episode) for cohort in self._window for episode in cohort],
            "window_cohorts": [len(cohort) for cohort in self._window],
            "waiting": [[c, [_fields(e) for e in those]] for c, those in self._waiting.items()],
            "cohort": self._cohort,
            "episodes": self.episodes,
            "counted": self.counted,
            "from_points": self.from_points,
            "apart": [_fields(episode) for episode in self._apart],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore such a state, also of a version that had no cohorts."""
        if state["open_return"].shape != self._open.ret.shape:
            raise ValueError(
                f"the statistics are of {len(state['open_return'])} environments, "
                f"expected {len(self._open.ret)}"
            )
        self._open.ret[:] = state["open_return"].numpy()
        self._open.length[:] = state["open_length"].numpy()
        self.episodes, self.last = state["episodes"], []
        self.from_points = state.get("from_points", 0)
        apart = [Episode(*fields) for fields in state.get("apart", [])]
        self._apart = deque(apart, maxlen=self.window)
        recent = iter([Episode(*fields) for fields in state["window"]])
        if "cohort" in state:
            self._open_cohort[:] = state["open_cohort"].numpy()
            self._cohort, self.counted = state["cohort"], state["counted"]
            sizes, waiting = state["window_cohorts"], state["waiting"]
        else:  # the window is one cohort, the open episodes are the next
            self._open_cohort[:] = 0
            self._cohort, self.counted = 1, self.episodes
            sizes, waiting = [len(state["window"])], [[0, []]]
        cohorts = ([*islice(recent, size)] for size in sizes)
        self._window = deque(cohort for cohort in cohorts if cohort)
        self._waiting = {c: [Episode(*fields) for fields in those] for c, those in waiting}

    def load_finished(self, state: dict[str, Any]) -> None:
        """Restore such a state but for its open episodes, of any number of environments."""
        number, rule = len(self._open.ret), self._open.success_threshold
        saved = len(state["open_return"])
        self._open, self._open_cohort = EpisodeAccumulator(saved, rule), np.zeros(saved, np.int64)
        self.load_state_dict(state)
        self._drop(np.arange(saved))
        self._open = EpisodeAccumulator(number, rule)
        self._open_cohort = np.full(number, _NO_COHORT)

    def _rows(self, rollout: Rollout) -> _Rows:
        """Arrange the steps of all processes."""
        reward, valid = rollout.reward.cpu(), rollout.valid.cpu()
        done = (rollout.terminated | rollout.truncated).cpu()
        reopened = None  # after a crash: nothing else opens an episode before the last one ended
        if rollout.crashed is not None:
            done = done & ~rollout.crashed.cpu()
            reopened = ~valid & rollout.is_first[1:].cpu()
        ids, after = rollout.env_ids.cpu(), _channels_after(rollout, self._channels)
        if collective.size() > 1:
            reopened = torch.zeros_like(valid) if reopened is None else reopened
            flags = torch.stack([valid, done, reopened], 2).byte()  # [T, N, 3]
            valid, done, reopened = collective.gather_columns(flags).bool().unbind(2)
            reward, ids = collective.gather_columns(reward), ids + self._first_id
            ids = collective.gather_rows(ids)
            after = {name: collective.gather_columns(x) for name, x in after.items()}
        return _Rows(
            reward.numpy(),
            valid.numpy(),
            done.numpy(),
            None if reopened is None else reopened.numpy(),
            ids.numpy(),
            {name: channel.numpy() for name, channel in after.items()},
        )

    def _release(self) -> None:
        """Move cohorts whose episodes have all ended into the window, in order of time."""
        is_open = (self._open.length > 0) & (self._open_cohort != _NO_COHORT)
        unfinished = set(self._open_cohort[is_open].tolist())
        first = min(unfinished, default=self._cohort)
        for cohort in [c for c in self._waiting if c < first]:
            if episodes := self._waiting.pop(cohort):
                self._window.append(episodes)
                self.counted += len(episodes)
        total = sum(map(len, self._window))
        while self._window and total - len(self._window[0]) >= self.window:
            total -= len(self._window.popleft())
        self._forget(unfinished)

    def _forget(self, unfinished: set[int]) -> None:
        """Discard what waits but can be in no window, to bound memory if an episode never ends.

        Finished cohorts between two of the `unfinished` are released together, so the newest of
        them alone fill the window.
        """
        newer = 0
        for cohort in sorted(self._waiting, reverse=True):
            if cohort in unfinished:
                newer = 0
            elif newer >= self.window or not self._waiting[cohort]:
                del self._waiting[cohort]
            else:
                newer += len(self._waiting[cohort])


def _fields(episode: Episode) -> list[Any]:
    return [episode.ret, episode.length, episode.success, episode.numbers]


def reported_means(episodes: Iterable[Episode]) -> dict[str, float]:
    """Return the mean of each reported channel over episodes, as ``NAME_mean``."""
    values: dict[str, list[float]] = {}
    for episode in episodes:
        for name, value in episode.numbers.items():
            values.setdefault(f"{name}_mean", []).append(value)
    return {name: float(np.mean(found)) for name, found in values.items()}


def _channels_after(rollout: Rollout, names: Sequence[str]) -> dict[str, Tensor]:
    """Return side channels after each step, [T, N] each, those of `names` that exist."""
    info, final = rollout.info, rollout.final_info
    there = [name for name in names if name in info]
    return {name: rollout.successors(info[name], final[name]).cpu() for name in there}
