"""`GoalTeacher`, a network that proposes goals of a MiniGrid level."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from firstlight.intrinsic.state import isolated_rng

_PLANES = (11, 6, 4)  # objects, colours, states
_INPUT = sum(_PLANES) + 1  # and the agent's cell


class GoalTeacher(nn.Module):
    """Probabilities of the cells of a level as goals, and the reward to be expected.

    Args:
        hidden: channels of the convolutions.
        num_layers: number of 3 x 3 convolutions.
        seed: of the parameters.
    """

    def __init__(self, *, hidden: int = 32, num_layers: int = 4, seed: int = 0):
        super().__init__()
        with isolated_rng(seed):
            layers: list[nn.Module] = []
            for i in range(num_layers):
                layers += [nn.Conv2d(hidden if i else _INPUT, hidden, 3, padding=1), nn.ELU()]
            self.body = nn.Sequential(*layers)
            self.cell = nn.Conv2d(hidden, 1, 1)
            self.reward = nn.Linear(hidden, 1)

    def forward(self, grid: Tensor, agent: Tensor) -> tuple[Tensor, Tensor]:
        """Rate the cells of levels.

        Args:
            grid: [B, W, H] int16, codes of the cells.
            agent: [B, 2] int64, column and row.

        Returns:
            logits [B, W * H], and the expected reward [B].
        """
        features = self.body(planes(grid, agent))
        return self.cell(features).flatten(1), self.reward(features.mean((2, 3)))[:, 0]

    @torch.no_grad()
    def propose(self, grid: Tensor, agent: Tensor, numbers: np.ndarray) -> Tensor:
        """Sample a cell of each level: [B] int64, column times H plus row.

        Args:
            grid: [B, W, H] int16.
            agent: [B, 2] int64.
            numbers: [B] int64, seeds of the draws: equal ones draw equally.
        """
        device = self.reward.weight.device
        logits = self(grid.to(device), agent.to(device))[0].cpu()
        noise = [np.random.default_rng(int(n)).gumbel(size=logits.shape[1]) for n in numbers]
        return (logits + torch.from_numpy(np.stack(noise))).argmax(1)


def planes(grid: Tensor, agent: Tensor) -> Tensor:
    """One-hot planes of levels: [B, C, W, H] float32."""
    codes = grid.long()
    parts = (codes & 15, codes >> 4 & 7, codes >> 7 & 3)
    hot = [
        nn.functional.one_hot(part.clamp(max=size - 1), size)
        for part, size in zip(parts, _PLANES, strict=True)
    ]
    here = torch.zeros(*grid.shape, 1, dtype=torch.int64, device=grid.device)
    here[torch.arange(len(grid), device=grid.device), agent[:, 0], agent[:, 1]] = 1
    return torch.cat([*hot, here], -1).permute(0, 3, 1, 2).float()
