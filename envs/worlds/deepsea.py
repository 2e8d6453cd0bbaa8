"""DeepSea: a grid in which only one of 2^N sequences of actions is rewarded."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import derive_many, splitmix
from firstlight.envs.types import Obs
from firstlight.envs.worlds.array_backed import ArrayBacked, Autoreset

View = Literal["one_hot", "coordinates"]


class DeepSea(ArrayBacked):
    """A diver sinks one row a step in a grid of N x N cells, and moves left or right each time.

    As in bsuite (Osband et al. 2020, there from Osband et al. 2019, §4.1). An episode begins at the
    top left and takes N steps. Which of the two actions means right is drawn for each cell. A move
    to the right costs 0.01 / N; a move to the right in the last column, which only N - 1 moves to
    the right before lead to, gives 1. A move against a wall keeps the column. So the best return is
    0.99, that of always moving left is 0, and a random policy finds the reward with probability
    2^-N an episode.

    With `stochastic`, a move to the right fails with probability 1 / N, and standard normal noise
    is added to the reward at both ends of the last row.

    Side channels: `position`, row and column; `success`, 1 after the rewarded move, else 0.

    Args:
        num_envs: `N` of the shape law.
        size: rows, columns and steps of an episode.
        view: "one_hot" is the published observation, zeros with a 1 at the diver's cell, and zeros
            alone after the last step, here flat, uint8 [size * size]; "coordinates" are row / size
            and column / size, float32 [2].
        stochastic: with noise, see above.
        move_cost: of N moves to the right.
        mapping_seed: of the actions that mean right; None for action 1 in each cell.
        autoreset: "same_step" resets in the step that ends an episode, "next_step" in the next one.

    Raises:
        ValueError: for a size below 1, or another `view`.

    >>> sea = DeepSea(num_envs=2, size=4)
    >>> sea.step(sea.right[[0, 0], [0, 0]]).info["position"].tolist()
    [[1, 1], [1, 1]]
    """

    _saved = ("row", "column", "found", "noise", "over")

    def __init__(
        self,
        num_envs: int = 16,
        *,
        size: int = 20,
        view: View = "one_hot",
        stochastic: bool = False,
        move_cost: float = 0.01,
        mapping_seed: int | None = 42,
        autoreset: Autoreset = "same_step",
    ):
        if size < 1:
            raise ValueError(f"size is {size}, expected at least 1")
        if view not in get_args(View):
            raise ValueError(f"view is {view!r}, expected one of {', '.join(get_args(View))}")
        super().__init__(num_envs, autoreset)
        self.size, self.view, self.stochastic, self.move_cost = size, view, stochastic, move_cost
        right = np.ones((size, size), np.int64)
        if mapping_seed is not None:  # bsuite's generator, so that its cells are the same
            numbers = np.random.RandomState(mapping_seed)
            right = numbers.binomial(1, 0.5, (size, size)).astype(np.int64)
        self.right = torch.from_numpy(right)  # [row, column], the action that means right
        seen = (
            spaces.Box(0, 1, (size * size,), np.uint8)
            if view == "one_hot"
            else spaces.Box(0, 1, (2,), np.float32)
        )
        self.obs_space = spaces.Dict({"obs": seen})
        most = np.array([size, size - 1])
        self.info_space = spaces.Dict(
            {
                "position": spaces.Box(np.zeros(2, np.int64), most, dtype=np.int64),
                "success": spaces.Box(-1, 1, (), np.int8),
            }
        )
        self.act_space: spaces.Space = spaces.Discrete(2)
        self._row, self._column, self._noise = (
            torch.zeros(num_envs, dtype=torch.int64) for _ in range(3)
        )
        self._found = torch.zeros(num_envs, dtype=torch.bool)
        self.reset(0)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment; `seed` is that of the noise."""
        if seed is not None:
            self._noise = torch.from_numpy(derive_many(seed, "deepsea", self.num_envs))
        return self._begin_all()

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of the cells that can be reached and the diver, [12 N, 12 N, 3] uint8."""
        lower = np.tri(self.size, dtype=bool)[..., None]
        cells = np.where(lower, np.array([20, 60, 120], np.uint8), np.uint8(30))
        cells[-1, -1] = (40, 140, 60)
        if self._row[env_id] < self.size:
            cells[int(self._row[env_id]), int(self._column[env_id])] = (250, 210, 80)
        return np.kron(cells, np.ones((12, 12, 1), np.uint8))

    def _advance(self, actions: np.ndarray, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        last = self.size - 1
        row, column = self._row.clamp(max=last), self._column
        right = torch.from_numpy(actions) == self.right[row, column]
        self._found = right & (column == last)
        reward = self._found.float() - right * (self.move_cost / self.size)
        moves = right
        if self.stochastic:
            chance = self._draw(valid)
            moves = right & (chance > 1 / self.size)
            ends = (row == last) & ((column == 0) | (column == last))
            reward = reward + ends * self._draw_normal(valid)
        self._column = torch.where(moves, column + 1, torch.where(right, column, column - 1))
        self._column = self._column.clamp(0, last)
        self._row = self._row + 1
        never = torch.zeros(self.num_envs, dtype=torch.bool)
        return reward, self._row >= self.size, never

    def _begin(self, ids: Tensor) -> None:
        self._row = self._row.index_fill(0, ids, 0)
        self._column = self._column.index_fill(0, ids, 0)
        self._found = self._found.index_fill(0, ids, False)

    def _observe(self, ids: Tensor) -> tuple[Obs, Obs]:
        row, column = self._row[ids], self._column[ids]
        position = torch.stack([row, column], -1)
        if self.view == "coordinates":
            obs = position.float() / self.size
        else:
            cell = torch.arange(self.size**2)
            obs = (cell == (row * self.size + column)[:, None]).to(torch.uint8)  # [M, size²]
        return {"obs": obs}, {"position": position, "success": self._found[ids].to(torch.int8)}

    def _draw(self, valid: Tensor) -> Tensor:
        """Draw [N] float64 in [0, 1); the noise of rows that are not `valid` is kept."""
        after, numbers = splitmix(self._noise.numpy())
        self._noise = torch.where(valid, torch.from_numpy(after), self._noise)
        return torch.from_numpy(numbers)

    def _draw_normal(self, valid: Tensor) -> Tensor:
        """Draw standard normal numbers [N] float32 (Box and Muller 1958)."""
        radius, angle = self._draw(valid), self._draw(valid)
        return ((-2 * (1 - radius).log()).sqrt() * (2 * torch.pi * angle).cos()).float()
