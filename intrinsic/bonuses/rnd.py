"""`RND`, random network distillation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.seeding import derive
from firstlight.envs.text import TextBytes
from firstlight.envs.types import Rollout
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.norm import ReturnScale
from firstlight.intrinsic.state import Fitter, isolated_rng
from firstlight.networks.normalisation import RunningMoments

SMALLEST_IMAGE = 36
"""Smallest height and width for which the convolutions have an output."""

_CHUNK = 2048  # rows per forward pass without gradient, to bound memory


class RND(IntrinsicModule):
    """Random network distillation: the prediction error of a random network (Burda et al. 2018).

    The bonus is the mean squared difference between a frozen random network and a predictor of it,
    both applied to the *true successor* observation, normalised by running moments and clipped. As
    published, the moments start from a random agent (`warmup`) and are updated after the bonus of a
    rollout is computed and before the predictor learns from it.

    From pixels: the last frame only, three convolutions and a fully connected layer with leaky
    ReLU (0.2), two further layers with ReLU in the predictor, all orthogonal with gain √2. From
    other observations, an MLP of the same design: one hidden layer, two more in the predictor.

    Published use: no mean is subtracted from the bonus, it is divided by the standard deviation of
    its discounted sum (`ReturnScale`), its returns continue past episode ends with γ 0.99, and
    advantages are combined as ``2 * A_E + 1 * A_I``: set weight 2 and γ 0.999 in the reward's term.

    Args:
        obs_space: observation space of the policy.
        keys: names of the fields to use; default all but texts.
        network: "conv" for one field of pixels (uint8, [C, H, W] or [H, W, C]; the last channel, or
            the last three if C is a multiple of three; of stacked frames [S, ...] the last one),
            "mlp" for all fields flattened, "auto" for "conv" if there is a field of pixels, which
            is then the only one used.
        embedding_dim: outputs of both networks.
        hidden: width of the fully connected hidden layers; default 512 as published for "conv",
            128 for "mlp".
        lr: Adam's step size.
        num_epochs: passes over a rollout in one `update`.
        num_minibatches: gradient steps per pass.
        update_proportion: probability that a transition is used in a pass; 0.25 as published with
            128 environments.
        obs_clip: bound on a normalised observation.
        normalize_obs: False passes plain numbers to the networks (pixels in [0, 1]).
        warmup_steps: steps per environment of a random agent that initialise the moments.
        distance: "mse" over the embedding as published, or "l2", its Euclidean norm (NovelD).
        seed: of the networks, the order of the minibatches and the choice of transitions.

    Raises:
        ValueError: for unknown `keys`, `network` or `distance`, or no single field of pixels for
            "conv".

    >>> space = spaces.Dict({"obs": spaces.Box(0, 1, (8,))})
    >>> RND(space, embedding_dim=16).default_term().episodic
    False
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        keys: Sequence[str] | None = None,
        network: Literal["auto", "conv", "mlp"] = "auto",
        embedding_dim: int = 512,
        hidden: int | None = None,
        lr: float = 1e-4,
        num_epochs: int = 4,
        num_minibatches: int = 4,
        update_proportion: float = 1.0,
        obs_clip: float = 5.0,
        normalize_obs: bool = True,
        warmup_steps: int = 128 * 50,
        distance: Literal["mse", "l2"] = "mse",
        seed: int = 0,
    ):
        super().__init__()
        if distance not in ("mse", "l2"):
            raise ValueError(f"distance is {distance!r}, expected 'mse' or 'l2'")
        self.obs_clip, self.normalize_obs, self.distance = obs_clip, normalize_obs, distance
        self.warmup_steps = warmup_steps if normalize_obs else 0
        self.names, self.pixels = _choose(obs_space, keys, network)
        shapes = [obs_space[name].shape or () for name in self.names]
        self.ranks = dict(zip(self.names, map(len, shapes), strict=True))
        shape: tuple[int, ...] = (sum(map(math.prod, shapes)),)
        if self.pixels:
            self.stacked = len(shapes[0]) == 4
            self.channels_last, shape = _layout(shapes[0][-3:])
        width = hidden or (512 if self.pixels else 128)
        with isolated_rng(derive(seed, "rnd")):
            self.target = _network(shape, width, embedding_dim, extra_layers=0)
            self.predictor = _network(shape, width, embedding_dim, extra_layers=2)
        self.target.requires_grad_(False)
        self.moments = RunningMoments(shape)
        self.fitter = Fitter(
            self.predictor.parameters(),
            lr=lr,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            proportion=update_proportion,
            seed=derive(seed, "rnd"),
        )

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N], at least 0."""
        x = self._successors(rollout).flatten(0, 1)  # [T, N, *] -> [T*N, *]
        bonus = torch.cat([self._distance(part) for part in x.split(_CHUNK)])
        return torch.where(rollout.valid, bonus.view_as(rollout.reward), 0.0)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Update the moments, then fit the predictor. Returns "loss" and "obs_std"."""
        x = self._successors(rollout)[rollout.valid]  # [T, N, *] -> [B, *]
        if self.normalize_obs:
            self.moments.update(x)
        with torch.no_grad():
            embedding = [self.target(self._normalize(part)) for part in x.split(_CHUNK)]
        target = torch.cat(embedding)  # [B, E]

        def loss(rows: Tensor) -> Tensor:
            return F.mse_loss(self.predictor(self._normalize(x[rows])), target[rows])

        mean_loss = self.fitter.fit(len(x), loss)
        return {"loss": mean_loss, "obs_std": self.moments.var.sqrt().mean().item()}

    def warmup(self, rollout: Rollout) -> None:
        """Initialise the moments with a random agent's observations."""
        if self.normalize_obs:
            self.moments.update(self._successors(rollout)[rollout.valid])

    @classmethod
    def default_term(cls) -> Term:
        """Weight 1 in a stream that is not episodic, scaled by `ReturnScale`."""
        return Term(weight=1.0, transform=ReturnScale(0.99), gamma=0.99, episodic=False)

    def _successors(self, rollout: Rollout) -> Tensor:
        """True successors as network inputs [T, N, *shape], uint8 or float32."""
        obs, final = rollout.obs, rollout.final_obs
        return self._view({name: rollout.successors(obs[name], final[name]) for name in self.names})

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

    def _distance(self, x: Tensor) -> Tensor:
        """Prediction error [B] of inputs [B, *shape]."""
        x = self._normalize(x)
        square = (self.predictor(x) - self.target(x)).square()  # [B, E]
        return square.mean(-1) if self.distance == "mse" else square.sum(-1).sqrt()


def _choose(
    obs_space: spaces.Dict, keys: Sequence[str] | None, network: str
) -> tuple[tuple[str, ...], bool]:
    """Names of the fields to use, and whether it is one field of pixels."""
    default = (
        n for n in obs_space if n != "action_mask" and not isinstance(obs_space[n], TextBytes)
    )
    names = tuple(default if keys is None else keys)
    if network not in ("auto", "conv", "mlp"):
        raise ValueError(f"network is {network!r}, expected 'auto', 'conv' or 'mlp'")
    if not names or not set(names) <= set(obs_space):
        raise ValueError(f"keys is {list(names)}; the observation has {list(obs_space)}")
    images = tuple(name for name in names if _is_image(obs_space[name]))
    if network == "mlp" or (network == "auto" and not images):
        return names, False
    if len(images) != 1:
        raise ValueError(
            f"network 'conv' needs one field of pixels (uint8, three axes, height and width at "
            f"least {SMALLEST_IMAGE}), but {list(names)} has {len(images)}: set keys or network"
        )
    return images, True


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
    """Build a network from [B, *shape] to [B, E]."""
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
