"""Encoders for vectors and other fields that are small enough to be flattened."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.fields import is_bytes, is_symbolic, picture_axes
from firstlight.envs.text import TextBytes
from firstlight.envs.types import Obs
from firstlight.networks.encoders.base import Encoder, TwinEncoder
from firstlight.networks.initialisation import orthogonal
from firstlight.networks.normalisation import ObservationNormaliser
from firstlight.networks.spec import rebuildable
from firstlight.networks.vjp import VJP, SequentialVJP, activation_vjp, add_gradient, has_vjp

UNSCALED = "unscaled bytes"
"""What `describe_fields` returns for uint8 fields that are not divided by 255."""


class Flat(Encoder):
    """Concatenates all fields into one float vector; Discrete fields become one-hot.

    Args:
        obs_space: of one environment. The field "action_mask" and texts are left out.
        scale_bytes: divide uint8 fields with bounds 0 and 255 by 255, except MiniGrid's codes.
        normalize_obs: normalise fields of floats, except pictures, by the running mean and
            deviation of each number, and clip them at 10.
    """

    def __init__(
        self, obs_space: spaces.Dict, *, scale_bytes: bool = False, normalize_obs: bool = False
    ):
        super().__init__()
        self.fields = {
            name: space
            for name, space in obs_space.spaces.items()
            if name != "action_mask" and not isinstance(space, TextBytes)
        }
        self.out_dim = sum(_width(name, space) for name, space in self.fields.items())
        self.scaled = {
            name
            for name, space in self.fields.items()
            if scale_bytes and is_bytes(space) and not is_symbolic(obs_space, name)
        }
        self.normalized = [n for n, s in self.fields.items() if normalize_obs and _is_vector(s)]
        chosen = [
            name in self.normalized
            for name, space in self.fields.items()
            for _ in range(_width(name, space))
        ]
        self.normaliser = ObservationNormaliser(chosen) if self.normalized else None

    def forward(self, obs: Obs) -> Tensor:
        """Flatten fields [B, ...] to [B, out_dim] float32."""
        parts = []
        for name, space in self.fields.items():
            field = obs[name]
            if isinstance(space, spaces.Discrete):
                field = _one_hot(field.long() - int(space.start), int(space.n))
            elif isinstance(space, spaces.MultiDiscrete):
                start = torch.as_tensor(space.start.flatten(), device=field.device)
                ids = (field.flatten(1).long() - start).unbind(1)
                hot = [_one_hot(i, int(n)) for i, n in zip(ids, space.nvec.flat, strict=True)]
                field = torch.cat(hot, 1)
            numbers = field[:, None].flatten(1).float()  # a scalar field is [B]
            parts.append(numbers / 255 if name in self.scaled else numbers)
        if not parts:
            some = next(iter(obs.values()))
            return torch.zeros(some.shape[0], 0, device=some.device)
        flat = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return flat if self.normaliser is None else self.normaliser(flat)

    def observe(self, obs: Obs, valid: Tensor) -> None:
        """Add observations to the running statistics, see `Encoder.observe`."""
        if self.normaliser is not None:
            fields = [obs[name][valid] for name in self.normalized]  # [T, N, ...] -> [R, ...]
            self.normaliser.update(torch.cat([f[:, None].flatten(1) for f in fields], 1))

    def describe_fields(self) -> dict[str, str]:
        """Describe what happens to each field, see `Encoder.describe_fields`."""
        return {name: self._describe(name, space) for name, space in self.fields.items()}

    def _describe(self, name: str, space: spaces.Space) -> str:
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            return "one-hot"
        if name in self.normalized:
            return "normalised by running mean and deviation, clipped at 10"
        if not is_bytes(space):
            return "as it is"
        return "flattened, scaled to [0, 1]" if name in self.scaled else f"flattened, {UNSCALED}"


def _is_vector(space: spaces.Space) -> bool:
    """Whether a field holds floats that are not a picture."""
    floats = isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f"
    return floats and picture_axes(space) is None


def _one_hot(ids: Tensor, n: int) -> Tensor:
    """Encode [B] int64 as one-hot [B, n] float32 without torch's search for the maximum."""
    return torch.zeros(ids.shape[0], n, device=ids.device).scatter_(1, ids[:, None], 1.0)


def _width(name: str, space: spaces.Space) -> int:
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return int(np.prod(space.shape))
    raise ValueError(f"observation {name!r} is a {type(space).__name__}, which cannot be flattened")


@rebuildable
class MLP(Encoder):
    """Fully connected layers over the flattened observation.

    Args:
        obs_space: of one environment.
        hidden: width of each layer.
        activation: class of the nonlinearity after each layer.
        scale_bytes, normalize_obs: see `Flat`.

    Raises:
        ValueError: if there is no field to flatten.
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
        scale_bytes: bool = True,
        normalize_obs: bool = True,
    ):
        super().__init__()
        self.flat = Flat(obs_space, scale_bytes=scale_bytes, normalize_obs=normalize_obs)
        if not self.flat.fields:
            raise ValueError(
                f"an MLP reads none of the observations {[*obs_space]}: MultiInput does"
            )
        widths = [self.flat.out_dim, *hidden]
        layers: list[nn.Module] = []
        for i, o in itertools.pairwise(widths):
            layers += [orthogonal(nn.Linear(i, o)), activation()]
        self.layers = nn.Sequential(*layers)
        self.out_dim = widths[-1]

    def forward(self, obs: Obs) -> Tensor:
        """Encode fields [B, ...] as [B, out_dim]."""
        return self.layers(self.flat(obs))

    @torch.no_grad()
    def fuse_heads(self, weight: Tensor, bias: Tensor) -> Callable[[Obs], Tensor] | None:
        """Return products and activations alone, see `Encoder.fuse_heads`.

        None for a subclass, and for activations other than tanh, ReLU and leaky ReLU.
        """
        if type(self) is not MLP or not has_vjp(*self.layers) or not len(self.layers):
            return None
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        layers = [(layer.weight.T, layer.bias) for layer in linear]
        return partial(_products, self.flat, layers, self.layers[1], (weight.T, bias))

    @torch.no_grad()
    def vjp(self, obs: Obs) -> VJP | None:
        """Compute features and gradients by hand, see `Encoder.vjp`.

        None for a subclass, and for activations other than tanh, ReLU and leaky ReLU.
        """
        if type(self) is not MLP or not has_vjp(*self.layers):
            return None
        layers = SequentialVJP(self.layers, self.flat(obs))
        return layers.out, partial(layers.add_gradients, to_inputs=False)

    def observe(self, obs: Obs, valid: Tensor) -> None:
        """Add observations to the running statistics, see `Encoder.observe`."""
        self.flat.observe(obs, valid)

    def describe_fields(self) -> dict[str, str]:
        """Describe what happens to each field, see `Encoder.describe_fields`."""
        return self.flat.describe_fields()


_JOINED = 128  # widest layers of a pair of networks that are one product
_Affine = tuple[Tensor, Tensor]  # weight [in, out] and bias [out]


@torch.inference_mode()
def _products(
    flat: Flat, layers: Sequence[_Affine], activation: nn.Module, heads: _Affine, obs: Obs
) -> Tensor:
    """Apply layers, each with the activation after it, and the heads to fields [B, ...]."""
    hidden = flat(obs)
    for weight, bias in layers:
        hidden = activation(torch.addmm(bias, hidden, weight))
    return torch.addmm(heads[1], hidden, heads[0])


@rebuildable
class TwinMLP(TwinEncoder):
    """Two separate `MLP`s of one shape, for the policy and for the values, computed together.

    The same networks as two `MLP`s, with half as many operations.

    Args:
        obs_space: of one environment.
        hidden: width of each layer, one or more.
        activation: class of the nonlinearity after each layer.
        scale_bytes, normalize_obs: see `Flat`.

    Raises:
        ValueError: if `hidden` is empty.
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
        scale_bytes: bool = True,
        normalize_obs: bool = True,
    ):
        super().__init__()
        if not hidden:
            raise ValueError(f"hidden is {hidden}, a TwinMLP needs at least one layer")
        options: dict[str, Any] = {"activation": activation, "scale_bytes": scale_bytes}
        options["normalize_obs"] = normalize_obs
        pair = [MLP(obs_space, hidden=hidden, **options) for _ in range(2)]
        self.flat, self.out_dim, self.activation = pair[0].flat, pair[0].out_dim, activation()
        linear = [[layer for layer in mlp.layers if isinstance(layer, nn.Linear)] for mlp in pair]
        weights = (
            torch.stack([policy.weight.detach().T, values.weight.detach().T])
            for policy, values in zip(*linear, strict=True)
        )
        self.weights = nn.ParameterList(weights)  # [2, in, out] each
        self.biases = nn.ParameterList(torch.zeros(2, 1, w.shape[2]) for w in self.weights)

    def forward(self, obs: Obs) -> Tensor:
        """Encode fields [B, ...] as [2, B, out_dim]: the policy's features, then the values'."""
        hidden = self.flat(obs).expand(2, -1, -1)  # [B, in] -> [2, B, in]
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = self.activation(torch.baddbmm(bias, hidden, weight))
        return hidden

    @torch.no_grad()
    def fuse_heads(self, weight: Tensor, bias: Tensor) -> Callable[[Obs], Tensor] | None:
        """Return products with both networks at once, see `Encoder.fuse_heads`.

        None for a subclass, for activations other than tanh, ReLU and leaky ReLU, and for layers
        so wide that the zeros of joined weights cost more than calls.
        """
        narrow = max(w.shape[2] for w in self.weights) <= _JOINED
        if type(self) is not TwinMLP or not has_vjp(self.activation) or not narrow:
            return None
        pairs = zip(self.weights, self.biases, strict=True)
        first, *others = ((weights.detach(), biases.flatten()) for weights, biases in pairs)
        layers = [(torch.cat([*first[0]], 1), first[1])]  # [2, in, out] -> [in, 2 * out]
        layers += [(torch.block_diag(*w), b) for w, b in others]
        return partial(_products, self.flat, layers, self.activation, (weight.T, bias))

    @torch.no_grad()
    def vjp(self, obs: Obs) -> VJP | None:
        """Compute both features and gradients by hand, see `Encoder.vjp`.

        None for a subclass, and for activations other than tanh, ReLU and leaky ReLU.
        """
        if type(self) is not TwinMLP or not has_vjp(self.activation):
            return None
        layers = [*zip(self.weights, self.biases, strict=True)]
        hidden = [self.flat(obs).expand(2, -1, -1)]
        for weight, bias in layers:
            hidden.append(self.activation(torch.baddbmm(bias, hidden[-1], weight)))

        @torch.no_grad()
        def add_gradients(grad: Tensor) -> None:
            for i, (weight, bias) in reversed([*enumerate(layers)]):
                grad = activation_vjp(self.activation, grad, hidden[i + 1])
                add_gradient(weight, hidden[i].mT @ grad)
                add_gradient(bias, grad.sum(1, keepdim=True))
                if i:
                    grad = grad @ weight.mT

        return hidden[-1], add_gradients

    def observe(self, obs: Obs, valid: Tensor) -> None:
        """Add observations to the running statistics, see `Encoder.observe`."""
        self.flat.observe(obs, valid)

    def describe_fields(self) -> dict[str, str]:
        """Describe what happens to each field, see `Encoder.describe_fields`."""
        return self.flat.describe_fields()
