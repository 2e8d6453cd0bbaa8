"""Cores: the part of a policy that carries state from step to step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn

from firstlight.envs.types import State
from firstlight.networks.recurrences import gru, lstm
from firstlight.networks.spec import rebuildable


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
            is_first: [T, N] bool. The memory is cleared before such a step, not after it.

        Returns:
            Features [T, N, out_dim], and the state [N, ...] after the last step.
        """


@rebuildable
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


class Recurrent(Core):
    """Base class of `GRU` and `LSTM`: layers of gates, and what surrounds them.

    Args:
        in_dim: width of the features.
        hidden: width of the memory.
        num_layers: number of layers, each with a memory of its own.
        layer_norm: normalise the output of the last layer.
        skip: return the features beside the output, [T, N, hidden + in_dim], so that the heads
            also read them directly.
        names: of the state's fields.
        num_gates: of a layer.

    Raises:
        ValueError: for a width or a number of layers below 1.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: int,
        num_layers: int,
        layer_norm: bool,
        skip: bool,
        names: tuple[str, ...],
        num_gates: int,
    ):
        super().__init__()
        for name, value in (("hidden", hidden), ("num_layers", num_layers)):
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        self.hidden, self.num_layers, self.skip = hidden, num_layers, skip
        self.names = names
        self.out_dim = hidden + in_dim if skip else hidden
        widths = [in_dim] + [hidden] * (num_layers - 1)
        self.inputs = nn.ModuleList(_gates(width, hidden, num_gates) for width in widths)
        self.memories = nn.ModuleList(_gates(hidden, hidden, num_gates) for _ in widths)
        self.norm = nn.LayerNorm(hidden) if layer_norm else nn.Identity()

    def initial_state(self, num_envs: int) -> State:
        """Return zeros [N, layers, hidden]."""
        like = next(self.parameters())
        return {name: like.new_zeros(num_envs, self.num_layers, self.hidden) for name in self.names}

    def forward(self, features: Tensor, state: State, is_first: Tensor) -> tuple[Tensor, State]:
        """Process a sequence of features, see `Core.forward`."""
        output, layers = features, []
        before = zip(*(state[name].unbind(1) for name in self.names), strict=True)
        for inputs, memory, old in zip(self.inputs, self.memories, before, strict=True):
            output, *after = self._layer(inputs(output), old, is_first, cast(nn.Linear, memory))
            layers.append(after)
        fields = (torch.stack(parts, 1) for parts in zip(*layers, strict=True))
        output = self.norm(output)
        output = torch.cat([output, features], -1) if self.skip else output
        return output, dict(zip(self.names, fields, strict=True))

    @abstractmethod
    def _layer(
        self, inputs: Tensor, state: tuple[Tensor, ...], is_first: Tensor, memory: nn.Linear
    ) -> tuple[Tensor, ...]:
        """Run one layer over projected inputs [T, N, gates * hidden].

        Returns:
            Outputs [T, N, hidden], and each field of the state [N, hidden] after the last step.
        """


@rebuildable
class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014), with weights as in `torch.nn.GRU`.

    Weights are orthogonal for each gate, biases 0.

    Args:
        in_dim: width of the features.
        hidden: width of the memory.
        num_layers: number of layers.
        layer_norm: normalise the output.
        skip: return the features beside the output.

    >>> core = GRU(8, hidden=16)
    >>> out, state = core(torch.zeros(5, 2, 8), core.initial_state(2), torch.zeros(5, 2).bool())
    >>> out.shape, state["hidden"].shape
    (torch.Size([5, 2, 16]), torch.Size([2, 1, 16]))
    """

    def __init__(
        self,
        in_dim: int,
        *,
        hidden: int = 128,
        num_layers: int = 1,
        layer_norm: bool = False,
        skip: bool = False,
    ):
        super().__init__(in_dim, hidden, num_layers, layer_norm, skip, ("hidden",), 3)

    def _layer(
        self, inputs: Tensor, state: tuple[Tensor, ...], is_first: Tensor, memory: nn.Linear
    ) -> tuple[Tensor, ...]:
        (hidden,) = state
        return gru(inputs, hidden, is_first, memory.weight, memory.bias)


@rebuildable
class LSTM(Recurrent):
    """Long short-term memory (Gers et al. 2000), with weights as in `torch.nn.LSTM`.

    Weights are orthogonal for each gate, biases 0, except 1 for the forget gate (Jozefowicz et al.
    2015), so that a new network remembers.

    Args:
        in_dim: width of the features.
        hidden: width of the memory.
        num_layers: number of layers.
        layer_norm: normalise the output.
        skip: return the features beside the output.
    """

    def __init__(
        self,
        in_dim: int,
        *,
        hidden: int = 128,
        num_layers: int = 1,
        layer_norm: bool = False,
        skip: bool = False,
    ):
        super().__init__(in_dim, hidden, num_layers, layer_norm, skip, ("hidden", "cell"), 4)
        with torch.no_grad():
            for layer in self.memories:
                layer.bias[hidden : 2 * hidden] = 1.0  # type: ignore[operator]

    def _layer(
        self, inputs: Tensor, state: tuple[Tensor, ...], is_first: Tensor, memory: nn.Linear
    ) -> tuple[Tensor, ...]:
        hidden, cell = state
        return lstm(inputs, hidden, cell, is_first, memory.weight, memory.bias)


def _gates(in_dim: int, hidden: int, number: int) -> nn.Linear:
    """Make a linear map to several gates, orthogonal for each."""
    layer = nn.Linear(in_dim, number * hidden)
    for part in layer.weight.chunk(number):
        nn.init.orthogonal_(part)
    nn.init.zeros_(layer.bias)
    return layer
