"""What a policy remembers between steps."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from firstlight.envs.types import State


class Core(Protocol):
    """Carries state from step to step, and forgets it where an episode begins."""

    out_dim: int

    def initial_state(self, num_envs: int) -> State:
        """State before a first observation, each [N, ...]."""
        ...

    def __call__(self, features: Tensor, state: State, is_first: Tensor) -> tuple[Tensor, State]:
        """Features [T, N, H], state [N, ...], is_first [T, N] to [T, N, out_dim] and new state."""
        ...


class Feedforward(nn.Module):
    """No memory.

    Args:
        in_dim: width of the features, handed on as they are.
    """

    def __init__(self, in_dim: int):
        super().__init__()
        self.out_dim = in_dim

    def initial_state(self, num_envs: int) -> State:
        """Nothing."""
        return {}

    def forward(self, features: Tensor, state: State, is_first: Tensor) -> tuple[Tensor, State]:
        """Features as they came."""
        return features, state
