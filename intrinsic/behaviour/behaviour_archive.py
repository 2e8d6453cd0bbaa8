"""Behaviours that the novelty of an episode is measured to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from firstlight.envs.seeding import generator
from firstlight.intrinsic.state import GrowingBuffers


class BehaviourArchive(GrowingBuffers):
    """Behaviours of the latest episodes, and of some earlier ones that were chosen at random.

    In novelty search (Lehman & Stanley 2011) they are the population with its children, and the
    archive, which random children enter. Here a new member of a full archive replaces a random one.

    Args:
        dim: `D`, numbers of a behaviour.
        num_recent: latest behaviours that are held.
        share: probability that an episode enters the archive.
        capacity: largest number of behaviours in the archive.
        seed: of the choices.

    Attributes:
        recent: [R, D] float32, oldest first.
        chosen: [A, D] float32.

    Raises:
        ValueError: for numbers out of range.
    """

    on_host = True
    recent: Tensor
    chosen: Tensor

    def __init__(self, dim: int, *, num_recent: int, share: float, capacity: int, seed: int):
        super().__init__()
        if num_recent < 1 or capacity < 1 or not 0 <= share <= 1:
            raise ValueError(
                f"num_recent {num_recent} and capacity {capacity} must be at least 1, and the "
                f"share {share} of episodes that enter the archive from 0 to 1"
            )
        self.num_recent, self.share, self.capacity = num_recent, share, capacity
        self.generator = generator(seed, "behaviour_archive")
        self.register_buffer("recent", torch.zeros(0, dim))
        self.register_buffer("chosen", torch.zeros(0, dim))

    def __len__(self) -> int:
        return len(self.recent) + len(self.chosen)

    def behaviours(self) -> Tensor:
        """Return all of them, [R + A, D] float32."""
        return torch.cat([self.recent, self.chosen])

    def add(self, starts: Tensor, ends: Tensor) -> None:
        """Add episodes, oldest first.

        Args:
            starts: [S, D] behaviours at the start of episodes: those of an agent that stays there.
                They are recent ones, and never enter the archive.
            ends: [E, D] behaviours of complete episodes.
        """
        self.recent = torch.cat([self.recent, starts, ends])[-self.num_recent :]
        enters = torch.rand(len(ends), generator=self.generator) < self.share
        new = ends[enters]
        room = self.capacity - len(self.chosen)
        self.chosen = torch.cat([self.chosen, new[:room]])
        for behaviour in new[room:]:
            row = int(torch.randint(self.capacity, (), generator=self.generator))
            self.chosen[row] = behaviour

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state of the random generator."""
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        self.generator.set_state(state["generator"].cpu())
