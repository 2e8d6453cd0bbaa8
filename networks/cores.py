"""Cores: the part of a policy that carries state from step to step."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from firstlight.envs.types import State


class Core(nn.Module, ABC):
    """Base class of modules between an encoder and a head, with or without a memory.

    Attributes:
        out_dim: width of the features that it returns.
    """

    out_dim: int

    def initial_state(self, num_envs: int) -> State:
        """Return the state before a first observation, each [N, ...]; empty without a memory."""
        return {}

    @abstractmethod
    def forward(self, features: Tensor, state: State, is_first: Tensor) -> tuple[Tensor, State]:
        """Process a sequence of features; the memory is cleared where an episode begins.

        Args:
            features: [T, N, H].
            state: [N, ...] before the first step.
            is_first: [T, N] bool.

        Returns:
            Features [T, N, out_dim], and the state [N, ...] after the last step.
        """


class Feedforward(Core):
    """Core without a memory: returns the features unchanged.

    Args:
        in_dim: width of the features.
    """

    def __init__(self, in_dim: int):
        super().__init__()
        self.out_dim = in_dim

    def forward(self, features: Tensor, state: State, is_first: Tensor) -> tuple[Tensor, State]:
        """Return features and state as they are."""
        return features, state
