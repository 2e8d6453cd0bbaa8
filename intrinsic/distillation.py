"""Inputs and networks of bonuses that predict frozen random networks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.types import Obs, Rollout, map_obs, take
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.embedding import MakeEncoder, default_fields, make_encoder
from firstlight.intrinsic.state import Fitter
from firstlight.networks.encoders import Encoder, auto
from firstlight.networks.initialisation import orthogonal
from firstlight.networks.normalisation import RunningMoments
from firstlight.networks.vjp import VJP, SequentialVJP, has_vjp

Network = Literal["auto", "encoder", "published", "conv", "mlp"]

SMALLEST_IMAGE = 36
"""Smallest height and width for which the convolutions have an output."""


class Distillation(IntrinsicModule):
    """Base class of modules that predict frozen random networks from a step's true successor.

    Networks are either encoders of the policy's kind followed by fully connected layers, or the
    published ones: from pixels the last frame only, three convolutions and a fully connected layer
    with leaky ReLU (0.2), two further layers with ReLU in the predictor, all orthogonal with gain
    √2; from other observations, flattened, one hidden layer and two more in the predictor.

    The published networks see numbers normalised by running moments and clipped; encoders
    normalise fields of floats alone, in the same way. The moments start from a random agent
    (`warmup`) and are updated after the bonus of a rollout is computed, before anything is learnt
    from it.

    Args:
        obs_space: observation space of the policy.
        keys: names of the fields to use; default all but texts.
        network: "encoder" for an encoder; "conv" for the published network for one field of pixels
            (uint8, [C, H, W] or [H, W, C]; the last channel, or the last three if C is a multiple
            of three; of stacked frames [S, ...] the last one); "mlp" for the published design for
            all fields flattened; "published" for "conv" if there is a field of pixels, which is
            then the only one used, and else "mlp"; "auto" for "conv" if there is one, and else
            "encoder".
        encoder: makes an encoder, for "encoder"; default `auto`.
        embedding_dim: `E`, outputs of a network.
        hidden: width of the fully connected layers; default 512 as published for "conv", 128 for
            "mlp", 64 for "encoder".
        obs_clip: bound on a normalised number, for the published networks.
        normalize_obs: False passes plain numbers to the networks (pixels in [0, 1]).
        warmup_steps: steps per environment of a random agent that initialise the moments; none if
            there are no moments.

    Raises:
        ValueError: for unknown `keys` or `network`, or no single field of pixels for "conv".
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        keys: Sequence[str] | None = None,
        network: Network = "auto",
        encoder: MakeEncoder | None = None,
        embedding_dim: int = 64,
        hidden: int | None = None,
        obs_clip: float = 5.0,
        normalize_obs: bool = True,
        warmup_steps: int = 128,
    ):
        super().__init__()
        self.obs_clip, self.normalize_obs = obs_clip, normalize_obs
        self.names, kind = _choose(obs_space, keys, network)
        self.encoded, self.pixels = kind == "encoder", kind == "conv"
        fields = [obs_space[name] for name in self.names]
        floats = any(np.issubdtype(f.dtype, np.floating) for f in fields if f.dtype is not None)
        normalized = normalize_obs and (floats or not self.encoded)
        self.warmup_steps = warmup_steps if normalized else 0
        shapes = [field.shape or () for field in fields]
        self.ranks = dict(zip(self.names, map(len, shapes), strict=True))
        shape: tuple[int, ...] = (sum(map(math.prod, shapes)),)
        if self.pixels:
            self.stacked = len(shapes[0]) == 4
            self.channels_last, shape = _layout(shapes[0][-3:])
        self.moments = RunningMoments((1,) if self.encoded else shape)
        self._obs_space, self.embedding_dim = obs_space, embedding_dim
        self._encoder = encoder or functools.partial(auto, normalize_obs=normalize_obs)
        self.width = hidden or (512 if self.pixels else 64 if self.encoded else 128)

    def make_network(self, *, extra_layers: int, outputs: int | None = None) -> nn.Module:
        """Build a network with `extra_layers` more hidden layers than a target has.

        It has `outputs` outputs, by default `embedding_dim`.
        """
        outputs = outputs or self.embedding_dim
        if not self.encoded:
            shape = tuple(self.moments.mean.shape)
            return _network(shape, self.width, outputs, extra_layers=extra_layers)
        encoder = make_encoder(self._obs_space, self._encoder, self.names)
        return Encoded(encoder, self.width, outputs, extra_layers=extra_layers)

    def inputs(self, obs: Mapping[str, Tensor]) -> Obs:
        """Fields [*lead, ...] as inputs [*lead, ...] of `apply_network`."""
        fields = {name: obs[name] for name in self.names}
        return fields if self.encoded else {"x": self._view(fields)}

    def successors(self, rollout: Rollout) -> Obs:
        """True successors as inputs [T, N, ...] of `apply_network`."""
        obs, final = rollout.obs, rollout.final_obs
        return self.inputs({n: rollout.successors(obs[n], final[n]) for n in self.names})

    def apply_network(self, network: nn.Module, inputs: Obs) -> Tensor:
        """Apply a network to inputs [B, ...]; returns [B, E]."""
        return network(inputs) if self.encoded else network(self._normalize(inputs["x"]))

    @torch.no_grad()
    def vjp(self, network: nn.Module, inputs: Obs) -> VJP | None:
        """Compute what `apply_network` does, and gradients, by hand if possible (`VJP`)."""
        if isinstance(network, Encoded):
            return network.vjp(inputs)
        assert isinstance(network, nn.Sequential)
        if not has_vjp(*network):
            return None
        layers = SequentialVJP(network, self._normalize(inputs["x"]))
        return layers.out, functools.partial(layers.add_gradients, to_inputs=False)

    def prepare(self, network: nn.Module, inputs: Obs) -> Obs:
        """Compute once what `apply_network` would compute each time for inputs [B, ...]."""
        return network.encoder.prepare(inputs) if isinstance(network, Encoded) else inputs

    def distill(
        self,
        fitter: Fitter,
        predictor: nn.Module,
        inputs: Obs,
        target: Callable[[Tensor], Tensor],
    ) -> float:
        """Fit a predictor to targets by the mean squared error.

        Args:
            fitter: of the predictor's parameters.
            predictor: network of `apply_network`.
            inputs: [B, ...].
            target: returns targets [b, E] for row numbers [b] int64.

        Returns:
            The mean loss over the gradient steps.
        """
        prepared, B = self.prepare(predictor, inputs), len(next(iter(inputs.values())))

        def gradient(rows: Tensor, share: float) -> Tensor:
            chosen = take(prepared, rows)
            with torch.no_grad():
                wanted = target(rows)
            by_hand = self.vjp(predictor, chosen)
            if by_hand is None:
                loss = share * F.mse_loss(self.apply_network(predictor, chosen), wanted)
                loss.backward()
                return loss.detach()
            predicted, add_gradients = by_hand
            error = predicted - wanted
            add_gradients(error * (2 * share / error.numel()))
            return share * error.square().mean()

        with torch.enable_grad():
            return fitter.fit_by_hand(B, gradient)

    def observe(self, networks: Sequence[nn.Module], inputs: Obs, valid: Tensor) -> None:
        """Add inputs [T, N, ...] of `valid` rows to the running statistics of all networks."""
        if self.encoded:
            for network in networks:
                assert isinstance(network, Encoded)
                network.encoder.observe(inputs, valid)
        elif self.normalize_obs:
            self.moments.update(inputs["x"][valid])

    def _view(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Convert fields [*lead, ...] to a new tensor [*lead, *shape]."""
        shape = self.moments.mean.shape
        if self.pixels:
            frame = obs[self.names[0]]
            frame = frame[..., -1, :, :, :] if self.stacked else frame
            frame = frame.movedim(-1, -3) if self.channels_last else frame
            return frame[..., -shape[0] :, :, :].clone(memory_format=torch.contiguous_format)
        columns = []
        for name, rank in self.ranks.items():
            field = obs[name].float()
            columns.append(field.reshape(*field.shape[: field.dim() - rank], -1))
        return torch.cat(columns, -1)

    def _normalize(self, x: Tensor) -> Tensor:
        if self.normalize_obs:
            return self.moments.normalize(x, self.obs_clip)
        return x / 255 if self.pixels else x


class Encoded(nn.Module):
    """An encoder followed by fully connected layers.

    Args:
        encoder: maps fields [B, ...] to [B, H].
        width: of the hidden layers.
        embedding_dim: `E`.
        extra_layers: number of hidden layers with ReLU.
    """

    def __init__(self, encoder: Encoder, width: int, embedding_dim: int, *, extra_layers: int):
        super().__init__()
        self.encoder: Encoder = encoder
        size, layers = encoder.out_dim, list[nn.Module]()
        for _ in range(extra_layers):
            layers += [orthogonal(nn.Linear(size, width)), nn.ReLU()]
            size = width
        self.layers = nn.Sequential(*layers, orthogonal(nn.Linear(size, embedding_dim)))

    def forward(self, obs: Obs) -> Tensor:
        """Map fields [B, ...] to [B, E]."""
        return self.layers(self.encoder(obs))

    @torch.no_grad()
    def vjp(self, obs: Obs) -> VJP | None:
        """Compute what `forward` does, and gradients, by hand if the encoder can (`VJP`)."""
        encoded = self.encoder.vjp(obs)
        if encoded is None or not has_vjp(*self.layers):
            return None
        features, add_gradients = encoded
        layers = SequentialVJP(self.layers, features)
        return layers.out, lambda grad: add_gradients(layers.add_gradients(grad))


def select(inputs: Obs, rows: Tensor) -> Obs:
    """Select `rows` [*] int64 or a mask of inputs [B, ...]."""
    return map_obs(lambda field: field[rows], inputs)


def _choose(
    obs_space: spaces.Dict, keys: Sequence[str] | None, network: str
) -> tuple[tuple[str, ...], str]:
    """Names of the fields to use, and the kind of network: "encoder", "conv" or "mlp"."""
    names = tuple(default_fields(obs_space) if keys is None else keys)
    if network not in get_args(Network):
        raise ValueError(f"network is {network!r}, expected one of {', '.join(get_args(Network))}")
    if not names or not set(names) <= set(obs_space):
        raise ValueError(f"keys is {list(names)}; the observation has {list(obs_space)}")
    images = tuple(name for name in names if _is_image(obs_space[name]))
    if network in ("mlp", "encoder"):
        return names, network
    if network != "conv" and not images:
        return names, "encoder" if network == "auto" else "mlp"
    if len(images) != 1:
        raise ValueError(
            f"network 'conv' needs one field of pixels (uint8, three axes, height and width at "
            f"least {SMALLEST_IMAGE}), but {list(names)} has {len(images)}: set keys or network"
        )
    return images, "conv"


def _is_image(space: spaces.Space) -> bool:
    shape = space.shape or ()
    if space.dtype != np.uint8 or len(shape) not in (3, 4):
        return False
    return min(_layout(shape[-3:])[1][1:]) >= SMALLEST_IMAGE


def _layout(shape: tuple[int, ...]) -> tuple[bool, tuple[int, int, int]]:
    """Whether channels come last, and the shape [c, H, W] of the last frame."""
    channels_last = shape[2] < shape[0]
    height, width, channels = shape if channels_last else (*shape[1:], shape[0])
    return channels_last, (3 if channels % 3 == 0 else 1, height, width)


def _network(
    shape: tuple[int, ...], width: int, embedding_dim: int, *, extra_layers: int
) -> nn.Sequential:
    """Build a published network from [B, *shape] to [B, E]."""
    layers: list[nn.Module] = []
    if len(shape) == 3:
        size, height, side = shape
        for out, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            layers += [nn.Conv2d(size, out, kernel, stride), nn.LeakyReLU(0.2, inplace=True)]
            size, height, side = out, (height - kernel) // stride + 1, (side - kernel) // stride + 1
        layers.append(nn.Flatten())
        size *= height * side
    else:
        layers += [nn.Linear(shape[0], width), nn.LeakyReLU(0.2, inplace=True)]
        size = width
    for _ in range(extra_layers):
        layers += [nn.Linear(size, width), nn.ReLU(inplace=True)]
        size = width
    layers.append(nn.Linear(size, embedding_dim))
    network = nn.Sequential(*layers)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.orthogonal_(parameter, math.sqrt(2))
        else:
            nn.init.zeros_(parameter)
    return network
