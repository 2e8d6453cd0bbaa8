"""Forward models of embeddings: the next embedding from an embedding and an action."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.action_spaces import action_range, choices
from firstlight.intrinsic.embedding import CHUNK


class ActionFeatures(nn.Module):
    """Turns actions into vectors: one-hot choices, or numbers in units of half their range.

    Args:
        act_space: Discrete, MultiDiscrete, MultiBinary or Box.

    Attributes:
        out_dim: `D`.

    Raises:
        ValueError: for another space.

    >>> ActionFeatures(spaces.MultiDiscrete([2, 3]))(torch.tensor([[1, 2]])).tolist()
    [[0.0, 1.0, 0.0, 0.0, 1.0]]
    """

    centre: Tensor
    half_width: Tensor

    def __init__(self, act_space: spaces.Space):
        super().__init__()
        self.sizes = choices(act_space)
        centre, half_width = torch.zeros(0), torch.zeros(0)
        if isinstance(act_space, spaces.Box):
            bounds = (torch.as_tensor(x.ravel()).float() for x in action_range(act_space))
            centre, half_width = bounds
        elif not self.sizes:
            raise ValueError(
                f"no features for actions of {act_space}: Discrete, MultiDiscrete, MultiBinary and "
                "Box have some"
            )
        self.out_dim = sum(self.sizes) or math.prod(act_space.shape or ())
        self.register_buffer("centre", centre, persistent=False)
        self.register_buffer("half_width", half_width, persistent=False)

    def forward(self, action: Tensor) -> Tensor:
        """Convert actions [B, *action] to [B, D] float32; they are clipped to their bounds."""
        flat = action.reshape(len(action), -1)
        if not self.sizes:
            return ((flat - self.centre) / self.half_width).clamp(-1, 1)
        columns = zip(flat.unbind(1), self.sizes, strict=True)
        return torch.cat([F.one_hot(column, size) for column, size in columns], 1).float()


class ForwardModels(nn.Module):
    """An ensemble of networks that predict the next embedding, computed together.

    Each is a hidden layer, residual blocks of two layers, and a last layer, with leaky ReLU; each
    layer sees the action, as in the code of Pathak et al. 2019.

    Args:
        num_models: `M`.
        embedding_dim: `E`.
        act_space: of the actions.
        hidden: width of the hidden layers.
        num_blocks: residual blocks.
    """

    def __init__(
        self,
        num_models: int,
        embedding_dim: int,
        act_space: spaces.Space,
        *,
        hidden: int = 64,
        num_blocks: int = 0,
    ):
        super().__init__()
        self.features = ActionFeatures(act_space)
        sizes = [(embedding_dim, hidden), *[(hidden, hidden)] * 2 * num_blocks]
        sizes.append((hidden, embedding_dim))
        weights, biases = [], []
        for size, out in sizes:
            weight = torch.empty(num_models, size + self.features.out_dim, out)
            for member in weight:
                nn.init.orthogonal_(member, 2**0.5)
            weights.append(weight)
            biases.append(torch.zeros(num_models, 1, out))
        self.weights = nn.ParameterList(weights)  # [M, in, out] each
        self.biases = nn.ParameterList(biases)
        self.num_models = num_models

    def forward(self, embedding: Tensor, action: Tensor) -> Tensor:
        """Predict [M, B, E] from embeddings [B, E] and actions [B, *action]."""
        taken = self.features(action).expand(self.num_models, -1, -1)
        layers = list(zip(self.weights, self.biases, strict=True))

        def apply(x: Tensor, layer: int) -> Tensor:
            weight, bias = layers[layer]
            return torch.baddbmm(bias, torch.cat([x, taken], -1), weight)

        x = F.leaky_relu(apply(embedding.expand(self.num_models, -1, -1), 0))
        for block in range(1, len(layers) - 1, 2):
            x = x + apply(F.leaky_relu(apply(x, block)), block + 1)
        return apply(x, -1)


@torch.no_grad()
def rate_rows(function: Callable[..., Tensor], *fields: Tensor) -> Tensor:
    """Apply a function to steps [T, N, ...] in chunks of rows, without gradient.

    Args:
        function: maps rows [B, ...] of each field to [B].
        fields: [T, N, ...] each.

    Returns:
        [T, N].
    """
    rows = (field.flatten(0, 1).split(CHUNK) for field in fields)
    return torch.cat([function(*chunk) for chunk in zip(*rows, strict=True)]).view(
        fields[0].shape[:2]
    )
