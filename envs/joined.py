"""Vector environments that are several others side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstlight.envs import seeding
from firstlight.envs.text import TextTable
from firstlight.envs.types import Obs, Snapshot, Step, take
from firstlight.envs.vec import VecEnv


class JoinedVec(VecEnv):
    """The environments of several vector environments, numbered one after the other.

    A trainer steps one part in the background while its policy acts in the next
    (`AlternatingRunner`). Sentences of all parts are in the table of the first.

    Args:
        parts: at least one, with equal spaces.

    Raises:
        ValueError: if spaces differ.
    """

    def __init__(self, parts: Sequence[VecEnv]):
        first = parts[0]
        for part in parts:
            for name in ("obs_space", "info_space", "act_space"):
                own, other = getattr(first, name), getattr(part, name)
                if own != other:
                    raise ValueError(f"{name} of the parts differ: {own} and {other}")
        self.parts = tuple(parts)
        self.num_envs = sum(part.num_envs for part in parts)
        self.obs_space, self.info_space = first.obs_space, first.info_space
        self.act_space, self.success_threshold = first.act_space, first.success_threshold
        self.resume, self.reported, self.left_out = first.resume, first.reported, first.left_out
        self.text_table = None
        if first.text_table is not None:
            self.share_texts(first.text_table)
        ends = np.cumsum([part.num_envs for part in parts]).tolist()
        self._begin = [0, *ends[:-1]]  # number of the first environment of each part

    def share_texts(self, table: TextTable) -> None:
        """Take text ids from another table, in every part."""
        for part in self.parts:
            part.share_texts(table)
        self.text_table = table

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment, with a seed derived for each part."""
        pairs = [part.reset(part_seed(seed, i)) for i, part in enumerate(self.parts)]
        obs, info = zip(*pairs, strict=True)
        return concatenate(obs), concatenate(info)

    def step(self, action: Tensor) -> Step:
        """Step every part with its share of `action` [N, ...]."""
        self.send(action)
        return self.recv()

    def send(self, action: Tensor) -> None:
        """Start a step in every part."""
        for part, own in zip(self.parts, self._split(action), strict=True):
            part.send(own)

    def recv(self) -> Step:
        """Wait for the step started by `send`."""
        steps = [part.recv() for part in self.parts]

        def ids(name: str) -> Tensor:
            pairs = zip(steps, self._begin, strict=True)
            return torch.cat([getattr(step, name) + begin for step, begin in pairs])

        flags = ("reward", "terminated", "truncated", "valid", "is_first")
        return Step(
            obs=concatenate([step.obs for step in steps]),
            info=concatenate([step.info for step in steps]),
            **{name: torch.cat([getattr(step, name) for step in steps]) for name in flags},
            final_ids=ids("final_ids"),
            final_obs=concatenate([step.final_obs for step in steps]),
            final_info=concatenate([step.final_info for step in steps]),
            crashed_ids=ids("crashed_ids"),
        )

    def snapshots(self) -> list[Snapshot]:
        """Current state of each environment."""
        return [one for part in self.parts for one in part.snapshots()]

    def restore(self, env_ids: Tensor, snapshots: Sequence[Snapshot]) -> tuple[Obs, Obs, Tensor]:
        """Set environments back to snapshots."""
        results, order = [], []
        for part, begin in zip(self.parts, self._begin, strict=True):
            at = ((env_ids >= begin) & (env_ids < begin + part.num_envs)).nonzero()[:, 0]
            if len(at):
                chosen = [snapshots[i] for i in at.tolist()]
                results.append(part.restore(env_ids[at] - begin, chosen))
                order.append(at)
        back = torch.cat(order).argsort()
        obs, info, restarted = zip(*results, strict=True)
        return (
            take(concatenate(obs), back),
            take(concatenate(info), back),
            torch.cat(restarted)[back],
        )

    def state_dict(self) -> dict[str, Any]:
        """State of every part."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Load what `state_dict` returned."""
        pairs = zip(self.parts, state["parts"], strict=True)
        obs, info, restarted = zip(*(part.load_state_dict(own) for part, own in pairs), strict=True)
        return concatenate(obs), concatenate(info), torch.cat(restarted)

    def persistent_state(self) -> dict[str, Any]:
        """State of the first part that is kept even when open episodes are dropped."""
        return self.parts[0].persistent_state()

    def load_persistent_state(self, state: dict[str, Any]) -> None:
        """Load what `persistent_state` returned, in every part."""
        for part in self.parts:
            part.load_persistent_state(state)
        if self.parts[0].text_table is not None:
            self.share_texts(self.parts[0].text_table)

    def enable_rendering(self) -> None:
        """Prepare for `render`."""
        for part in self.parts:
            part.enable_rendering()

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of one environment, [H, W, 3] uint8."""
        number = int(np.searchsorted(self._begin, env_id, side="right")) - 1
        return self.parts[number].render(env_id - self._begin[number])

    def close(self) -> None:
        """Close every part."""
        for part in self.parts:
            part.close()

    def _split(self, action: Tensor) -> tuple[Tensor, ...]:
        return action.split([part.num_envs for part in self.parts])


def part_seed(seed: int | None, number: int) -> int | None:
    """Derive the seed of a part; the first has the whole's."""
    return seed if seed is None or number == 0 else seeding.derive(seed, "part", number)


def concatenate(fields: Sequence[Obs], dim: int = 0) -> Obs:
    """Concatenate each field along an axis."""
    return {name: torch.cat([each[name] for each in fields], dim) for name in fields[0]}
