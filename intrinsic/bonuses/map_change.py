"""A bonus for what the agent's own map of a MiniGrid episode gains."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.minigrid.map_memory import CHANNELS, MapMemory, check_view, has_map
from firstlight.envs.types import Rollout
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.mixer.terms import Term


class MapChange(IntrinsicModule):
    """Pays for cells seen, things changed and places reached for the first time in an episode.

    The bonus of step t is about its true successor:
    ``cell_weight * min(new_cells, max_cells) + change_weight * new_changes + place_weight *
    new_place``, of the side channels of `MapMemory`.

    This is a domain prior and no generic method: it builds in how a MiniGrid agent moves, that
    the world is a grid of cells, and that objects which change are interesting. Whoever compares
    it with count, RND or the like says so. It reads nothing privileged: only the agent's view and
    actions.

    What is remembered lies in the environments, for one episode; this module has no memory and
    pays the same for the same episode however often it was lived, so that `novelty` is False.

    Args:
        obs_space: what policies see: MiniGrid's view, or the map that `MapMemory` shows.
        info_space: side channels, which tell of a `MapMemory` that shows nothing.
        cell_weight: of each cell seen for the first time in the episode.
        change_weight: of each change, such as of a closed red door to an open one, seen for the
            first time in the episode.
        place_weight: of being somewhere with this in hand for the first time in the episode.
        max_cells: new cells of one step that are paid for.

    Raises:
        ValueError: if the environment shows no MiniGrid view.
    """

    novelty = False

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        info_space: spaces.Dict | None = None,
        cell_weight: float = 0.1,
        change_weight: float = 1.0,
        place_weight: float = 0.1,
        max_cells: int = 14,
    ):
        super().__init__()
        if not has_map(obs_space, info_space):
            check_view(obs_space)
        self.weights = (cell_weight, change_weight, place_weight)
        self.max_cells = max_cells

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Returns [T, N], at least 0 with weights that are."""
        cells, changes, place = self._channels(rollout)
        parts = (cells.clamp(max=self.max_cells), changes, place)
        bonus = torch.zeros_like(rollout.reward)
        for weight, part in zip(self.weights, parts, strict=True):
            bonus += weight * part
        return torch.where(rollout.valid, bonus, 0.0)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learns nothing. Returns what was new per step: cells, changes and places."""
        valid = rollout.valid
        steps = valid.sum().clamp(min=1)
        names = (name.removeprefix("new_") for name in CHANNELS)
        parts = self._channels(rollout)
        return {
            name: ((part * valid).sum() / steps).item()
            for name, part in zip(names, parts, strict=True)
        }

    def wrap(self, vec: VecEnv) -> VecEnv:
        """Add the side channels, if no map memory gives them already; the policy sees no map."""
        known = set(CHANNELS) <= set(vec.info_space.spaces)
        return vec if known else MapMemory(vec, show=False)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.02 in an episodic stream, as tried on DoorKey and KeyCorridor."""
        return Term(weight=0.02, gamma=0.99, episodic=True)

    def _channels(self, rollout: Rollout) -> list[Tensor]:
        """What each step's true successor has new, each [T, N] int64."""
        info = rollout.next_info()
        if missing := [name for name in CHANNELS if name not in info]:
            raise ValueError(f"no info {missing[0]!r}: step the environments that `wrap` returns")
        return [info[name] for name in CHANNELS]
