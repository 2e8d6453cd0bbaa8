"""Assemble whole episodes from consecutive rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from firstlight.envs.types import Obs, Rollout, map_obs


@dataclass(frozen=True, slots=True)
class EpisodeSteps:
    """The L steps of an episode, or of its beginning, on the CPU.

    Args:
        obs: [L, ...] observation before each action.
        action: [L, *action].
        keys: [L] int64, keys of the states in which the actions were taken.
        reward: [L] the environment's.
    """

    obs: Obs
    action: Tensor
    keys: Tensor
    reward: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    def then(self, later: EpisodeSteps) -> EpisodeSteps:
        """Append `later` to this one."""
        return EpisodeSteps(
            {name: torch.cat([field, later.obs[name]]) for name, field in self.obs.items()},
            torch.cat([self.action, later.action]),
            torch.cat([self.keys, later.keys]),
            torch.cat([self.reward, later.reward]),
        )


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """An episode that continues in the next rollout.

    Args:
        episode: so far.
        tail: key of the last observation; the next rollout must begin with it, or one is missing.
        ended: whether it was truncated in the last row. Only the next rollout shows whether the
            environment did that, or the episode was cut from outside.
    """

    episode: EpisodeSteps
    tail: int
    ended: bool


class EpisodeAssembler:
    """Collects the steps of running episodes and returns those that ended.

    An episode is returned if it was observed from its first observation to its own end, terminated
    or truncated by the environment. One that was cut from outside (`Runner.cut`, a crashed
    environment) is not, nor is one of which a part is missing. A missing rollout, of a skipped
    update for instance, is detected because the next one does not begin with the last observation.

    Attributes:
        running: unfinished episodes by id of the environment.
    """

    def __init__(self) -> None:
        self.running: dict[int, _Unfinished] = {}

    def add(self, rollout: Rollout, keys: Tensor) -> list[EpisodeSteps]:
        """Add a rollout and return the episodes that ended.

        Args:
            rollout: on any device.
            keys: [T+1, N] int64 of its observations, on the CPU.

        Returns:
            Episodes that ended, in an order that depends neither on where rollouts are cut nor on
            which column an environment has.
        """
        assert keys.shape == rollout.is_first.shape, f"{tuple(keys.shape)} is not [T+1, N]"
        columns = _Columns(rollout, keys)
        ended: list[tuple[tuple[int, bool, int], EpisodeSteps]] = []
        for n, env_id in enumerate(rollout.env_ids.tolist()):
            begun = self.running.pop(env_id, None)
            if begun is not None and (columns.first[0][n] or begun.tail != int(keys[0, n])):
                begun = None
            if begun is not None and begun.ended:
                ended.append(((-1, True, env_id), begun.episode))
                begun = None
            for t, episode in columns.episodes(n, None if begun is None else begun.episode):
                hidden = t < columns.T and columns.hidden[t][n]
                if t < columns.T - hidden:
                    ended.append(((t, hidden, env_id), episode))
                else:
                    self.running[env_id] = _Unfinished(episode, int(keys[-1, n]), ended=hidden)
        return [episode for _, episode in sorted(ended, key=lambda end: end[0])]

    def state_dict(self) -> dict[str, Any]:
        """Return the running episodes."""
        return {
            str(env_id): {
                "obs": dict(item.episode.obs),
                "action": item.episode.action,
                "keys": item.episode.keys,
                "reward": item.episode.reward,
                "tail": item.tail,
                "ended": item.ended,
            }
            for env_id, item in self.running.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.running = {
            int(env_id): _Unfinished(
                EpisodeSteps(dict(item["obs"]), item["action"], item["keys"], item["reward"]),
                item["tail"],
                item["ended"],
            )
            for env_id, item in state.items()
        }


class _Columns:
    """Reads a rollout environment by environment.

    Args:
        rollout: on any device.
        keys: [T+1, N] int64, on the CPU.

    Attributes:
        first: [T+1][N], whether an episode begins.
        hidden: [T][N], whether an episode was truncated and the next one is not visible yet: the
            environment resets itself in the next call, or it was cut from outside.
    """

    def __init__(self, rollout: Rollout, keys: Tensor):
        self.T = rollout.num_steps
        self.obs = map_obs(lambda field: field[: self.T].cpu(), rollout.obs)
        self.action, self.reward, self.keys = rollout.action.cpu(), rollout.reward.cpu(), keys
        self.valid, truncated = rollout.valid.cpu(), rollout.truncated.cpu()
        done = (rollout.terminated.cpu() | truncated) & self.valid
        lost = torch.zeros_like(done) if rollout.crashed is None else rollout.crashed.cpu()
        first = rollout.is_first.cpu()
        moments = first.clone()
        moments[:-1] |= done
        self.moments = [column.nonzero()[:, 0].tolist() for column in moments.unbind(1)]
        self.first, self.done, self.lost = first.tolist(), done.tolist(), lost.tolist()
        self.hidden = (truncated & done & ~first[1:]).tolist()

    def episodes(self, n: int, past: EpisodeSteps | None) -> Iterator[tuple[int, EpisodeSteps]]:
        """Split column `n` into episodes, leaving out those whose beginning is unknown.

        Args:
            n: column.
            past: the episode that continues into this rollout, up to here.

        Yields:
            The row in which it ended, `T` if it is still running, and the episode.
        """
        start: int | None = None if past is None else 0
        for t in self.moments[n]:
            if self.first[t][n]:
                start, past = t, None
            if t == self.T or start is None or not self.done[t][n]:
                continue
            if not self.lost[t][n]:
                yield t, self._piece(n, start, t + 1, past)
            start = past = None
        if start is not None and start < self.T:
            yield self.T, self._piece(n, start, self.T, past)

    def _piece(self, n: int, start: int, stop: int, past: EpisodeSteps | None) -> EpisodeSteps:
        rows = start + self.valid[start:stop, n].nonzero()[:, 0]
        piece = EpisodeSteps(
            map_obs(lambda field: field[rows, n], self.obs),
            self.action[rows, n],
            self.keys[rows, n],
            self.reward[rows, n],
        )
        return piece if past is None else past.then(piece)
