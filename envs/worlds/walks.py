"""Grid environments without reward, for rewards that are set functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import derive_many, splitmix
from firstlight.envs.types import Obs
from firstlight.envs.worlds.array_backed import ArrayBacked, Autoreset

MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
"""Stay, right, up, left, down, as steps in x and y; the order of Submodular RL's released code."""


class Walks(ArrayBacked):
    """Walks of `horizon` moves over a grid (the tabular tasks of Prajapat et al. 2024).

    Five actions: stay, or move one cell in one of four directions; a move into a wall or over the
    edge does nothing. The environment's reward is 0: the reward comes from a reward module. The
    horizon is part of the task and time is observed, so an episode *terminates* there.

    A policy sees `cell` and `time`, both Discrete (encoders make them one-hot), which makes it a
    Markov policy; with `history` it also sees the set of visited cells. Reward modules read the
    side channels `cell`, numbered ``x * height + y``, and `position`, x and y.

    Args:
        num_envs: `N`.
        width: of the grid, along x; ignored with a `plan`.
        height: of the grid, along y; ignored with a `plan`.
        plan: one string for each x, with a character for each y: ``#`` a wall, ``.`` free.
        horizon: moves of an episode. H in the paper counts states, one more than moves.
        start: number of the cell in which episodes begin.
        slip: probability with which an action is replaced by one of the five at random.
        history: add the field `visited` [cells] uint8, 1 for cells visited in the episode.
        autoreset: "same_step" resets in the step that ends an episode, "next_step" in the next one.

    Raises:
        ValueError: for a plan that is not a rectangle, a start outside of the grid or in a wall, or
            numbers out of range.

    >>> walks = Walks(num_envs=2, width=4, height=3, start=0, horizon=5)
    >>> walks.step(torch.tensor([1, 2])).info["position"].tolist()
    [[0, 1], [1, 0]]
    """

    _saved = ("cell", "elapsed", "over", "noise", "visited")

    def __init__(
        self,
        num_envs: int = 16,
        *,
        width: int = 30,
        height: int = 30,
        plan: Sequence[str] | None = None,
        horizon: int = 39,
        start: int = 34,
        slip: float = 0.0,
        history: bool = False,
        autoreset: Autoreset = "same_step",
    ):
        if min(num_envs, width, height, horizon) < 1 or not 0 <= slip <= 1:
            raise ValueError(
                f"num_envs {num_envs}, width {width}, height {height} and horizon {horizon} must "
                f"be at least 1, and slip {slip} from 0 to 1"
            )
        self.walls = _walls(plan) if plan is not None else np.zeros((width, height), bool)
        self.width, self.height = self.walls.shape
        cells = self.walls.size
        if not 0 <= start < cells or self.walls.flat[start]:
            raise ValueError(
                f"start {start} is not a free cell: expected 0 to {cells - 1}, not a wall"
            )
        super().__init__(num_envs, autoreset)
        self.horizon, self.start, self.slip, self.history = horizon, start, slip, history
        self.successor = successors(self.walls)  # [cells, 5]
        seen: dict[str, spaces.Space] = {
            "cell": spaces.Discrete(cells),
            "time": spaces.Discrete(horizon + 1),
        }
        if history:
            seen["visited"] = spaces.Box(0, 1, (cells,), np.uint8)
        self.obs_space = spaces.Dict(seen)
        most = np.array([self.width - 1, self.height - 1])
        self.info_space = spaces.Dict(
            {
                "cell": spaces.Discrete(cells),
                "position": spaces.Box(np.zeros(2, np.int64), most, dtype=np.int64),
            }
        )
        self.act_space: spaces.Space = spaces.Discrete(len(MOVES))
        self._noise = torch.zeros(num_envs, dtype=torch.int64)
        self._cell, self._elapsed = torch.zeros_like(self._noise), torch.zeros_like(self._noise)
        self._visited = torch.zeros(num_envs, cells if history else 0, dtype=torch.uint8)
        self.reset(0)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment; `seed` is that of the slips."""
        if seed is not None:
            self._noise = torch.from_numpy(derive_many(seed, "walks", self.num_envs))
        return self._begin_all()

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of walls and agent, x to the right and y down, [H, W, 3] uint8."""
        cells = np.where(self.walls.T[..., None], 110, 40).astype(np.uint8).repeat(3, -1)
        x, y = divmod(int(self._cell[env_id]), self.height)
        cells[y, x] = (250, 210, 80)
        return np.kron(cells, np.ones((12, 12, 1), np.uint8))

    def _advance(self, actions: np.ndarray, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        action = torch.from_numpy(actions)
        if self.slip:
            action = self._slipped(action, valid)
        self._cell = self.successor[self._cell, action]
        self._elapsed = self._elapsed + 1
        self._visited = self._visited.clone()
        self._mark_visited()
        never = torch.zeros(self.num_envs, dtype=torch.bool)
        return torch.zeros(self.num_envs), self._elapsed >= self.horizon, never

    def _begin(self, ids: Tensor) -> None:
        self._cell = self._cell.index_fill(0, ids, self.start)
        self._elapsed = self._elapsed.index_fill(0, ids, 0)
        self._visited = self._visited.index_fill(0, ids, 0)
        self._mark_visited()

    def _observe(self, ids: Tensor) -> tuple[Obs, Obs]:
        cell = self._cell[ids]
        x = torch.div(cell, self.height, rounding_mode="floor")
        obs = {"cell": cell, "time": self._elapsed[ids]}
        obs |= {"visited": self._visited[ids]} if self.history else {}
        return obs, {"cell": cell.clone(), "position": torch.stack([x, cell % self.height], -1)}

    def _mark_visited(self) -> None:
        if self.history:
            self._visited[self._all, self._cell] = 1

    def _slipped(self, action: Tensor, valid: Tensor) -> Tensor:
        """Replace some of the actions [N]; the noise of rows that are not `valid` is kept."""
        noise, slips = splitmix(self._noise.numpy())
        after, which = splitmix(noise)
        self._noise = torch.where(valid, torch.from_numpy(after), self._noise)
        other = torch.from_numpy((which * len(MOVES)).astype(np.int64))
        return torch.where(torch.from_numpy(slips < self.slip), other, action)


def successors(walls: np.ndarray) -> Tensor:
    """Table of the cell that each of `MOVES` leads to from each cell of a grid.

    Args:
        walls: [width, height] bool.

    Returns:
        [width * height, 5] int64; impossible moves lead to the same cell.
    """
    width, height = walls.shape
    x, y = np.divmod(np.arange(walls.size), height)
    table = np.empty((walls.size, len(MOVES)), np.int64)
    for move, (dx, dy) in enumerate(MOVES):
        u, v = x + dx, y + dy
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        free = inside & ~walls[u.clip(0, width - 1), v.clip(0, height - 1)]
        table[:, move] = np.where(free, u * height + v, x * height + y)
    return torch.from_numpy(table)


def _walls(plan: Sequence[str]) -> np.ndarray:
    if not plan or not plan[0] or len({*map(len, plan)}) > 1 or set("".join(plan)) - set("#."):
        raise ValueError(f"plan is {list(plan)}, expected strings of one length, of # and . only")
    return np.array([[character == "#" for character in row] for row in plan])
