"""Grid cells that a MiniGrid agent sees in one observation."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.minigrid.map_kernels import SIDE
from firstlight.envs.minigrid.map_memory import check_view
from firstlight.envs.types import Obs

POSE = "pose"
"""Side channel of `SeenMap`: x, y and heading."""

_DX, _DY = torch.tensor([1, 0, -1, 0]), torch.tensor([0, 1, 0, -1])  # east, south, west, north


class SeenCells:
    """Numbers of the cells that an agent sees, for `Coverage`: [C] int64, -1 if not visible.

    A cell is numbered by its position in the grid. The agent's pose is read from the side channel
    `pose` (see `SeenMap`), or else from `agent_pos` and the field `direction`. With `MapMemory`
    around the environments the view is the map, and all cells on it count as seen.

    Args:
        obs_space: with MiniGrid's view or a map of it as `image`, and `direction`.
        info_space: side channels.

    Raises:
        ValueError: without such a view, or for a map without `agent_pos`.
    """

    num_cells = SIDE * SIDE

    def __init__(self, obs_space: spaces.Dict, info_space: spaces.Dict | None = None):
        channels = set() if info_space is None else set(info_space.spaces)
        self.is_map = {"visits", "visited"} <= set(obs_space.spaces)
        self.placed = bool({POSE, "agent_pos"} & channels)
        if not self.is_map:
            check_view(obs_space)
        elif not self.placed:
            raise ValueError("the cells of a map need the side channel agent_pos, which is missing")
        self.size: int = obs_space["image"].shape[0]  # type: ignore[index]
        self.item_size = self.size**2

    def __call__(self, obs: Obs, info: Obs) -> Tensor:
        """Number the visible cells. Returns [R, C] int64, see `Items`."""
        if POSE in info:
            pose = info[POSE]
        elif "agent_pos" in info:
            pose = torch.cat([info["agent_pos"].long(), obs["direction"].long()[:, None]], 1)
        else:
            raise ValueError(f"info has no {POSE!r}: step the environments that `wrap` returns")
        cells = cells_around(pose, self.size, centred=self.is_map).flatten(1)
        return torch.where(obs["image"][..., 0].flatten(1) > 0, cells, -1)


def cells_around(pose: Tensor, size: int, *, centred: bool) -> Tensor:
    """Numbers ``x * SIDE + y`` of the cells around agents, turned to their headings.

    Args:
        pose: [R, 3] int64, x, y and MiniGrid's heading.
        size: cells along a side of the square.
        centred: the agent is in the middle, else in the middle of the lowest row, as in a view.

    Returns:
        [R, size, size] int64, axes as in MiniGrid's view; -1 outside of the grid.
    """
    x, y, heading = (column[:, None, None] for column in pose.unbind(1))
    dx, dy = _DX.to(pose.device), _DY.to(pose.device)
    right = (heading + 1) % 4
    steps = torch.arange(size, device=pose.device)
    aside = steps[:, None] - size // 2
    forward = (size // 2 if centred else size - 1) - steps[None, :]
    u = x + forward * dx[heading] + aside * dx[right]
    v = y + forward * dy[heading] + aside * dy[right]
    inside = (u >= 0) & (u < SIDE) & (v >= 0) & (v < SIDE)
    return torch.where(inside, u * SIDE + v, -1)
