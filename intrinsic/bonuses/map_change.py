"""`MapChange`, a bonus for additions to the agent's map of a MiniGrid episode."""

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
    """Bonus for cells seen, objects changed and places reached for the first time in an episode.

    The bonus of step t is that of its true successor:
    ``cell_weight * min(new_cells, max_cells) + change_weight * new_changes + place_weight *
    new_place``, from the info channels of `MapMemory`.

    This is a domain prior, not a generic method: it assumes that the environment is a grid of
    cells, how a MiniGrid agent moves, and that changes of objects matter. A comparison with count,
    RND and the like should mention this. It uses no privileged information, only the agent's view
    and actions.

    The map of the episode is kept in the environment wrapper; this module has no memory and gives
    the same episode the same bonus however often it is repeated, so `novelty` is False.

    Args:
        obs_space: observation space: MiniGrid's view, or the map that `MapMemory` shows.
        info_space: space of the info channels; shows whether there is a hidden `MapMemory`.
        cell_weight: per cell seen for the first time in the episode.
        change_weight: per change, for example from a closed red door to an open one, seen for the
            first time in the episode.
        place_weight: for being in a cell with the same object in hand for the first time in the
            episode.
        max_cells: maximum number of new cells per step.

    Raises:
        ValueError: if the environment has no MiniGrid view.
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
        """Compute the bonus [T, N], at least 0 if the weights are."""
        cells, changes, place = self._channels(rollout)
        counts = (cells.clamp(max=self.max_cells), changes, place)
        bonus = torch.zeros_like(rollout.reward)
        for weight, count in zip(self.weights, counts, strict=True):
            bonus += weight * count
        return torch.where(rollout.valid, bonus, 0.0)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Return new cells, changes and places per step; nothing is learned."""
        valid = rollout.valid
        steps = valid.sum().clamp(min=1)
        names = (name.removeprefix("new_") for name in CHANNELS)
        return {
            name: ((count * valid).sum() / steps).item()
            for name, count in zip(names, self._channels(rollout), strict=True)
        }

    def wrap(self, vec: VecEnv) -> VecEnv:
        """Add the info channels of a hidden `MapMemory`, unless `vec` has them already."""
        known = set(CHANNELS) <= set(vec.info_space.spaces)
        return vec if known else MapMemory(vec, show=False)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.02 in an episodic stream, as tuned on DoorKey and KeyCorridor."""
        return Term(weight=0.02, gamma=0.99, episodic=True)

    def _channels(self, rollout: Rollout) -> list[Tensor]:
        """New cells, changes and places of each step's true successor, each [T, N] int64."""
        info = rollout.next_info()
        if missing := [name for name in CHANNELS if name not in info]:
            raise ValueError(f"no info {missing[0]!r}: use the environments returned by `wrap`")
        return [info[name] for name in CHANNELS]
