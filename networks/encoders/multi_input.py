"""The encoder for observations of several kinds of fields."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.fields import is_symbolic, picture_axes
from firstlight.envs.text import TextBytes
from firstlight.envs.types import Obs
from firstlight.networks.encoders.base import Encoder
from firstlight.networks.encoders.grid import Grid
from firstlight.networks.encoders.mlp import MLP
from firstlight.networks.encoders.nethack import FIELDS, NetHack
from firstlight.networks.encoders.pixel import Pixel
from firstlight.networks.encoders.words import Words
from firstlight.networks.initialisation import orthogonal
from firstlight.networks.spec import rebuildable


@rebuildable
class MultiInput(Encoder):
    """Encodes each picture by its own encoder, all other fields by one, and concatenates features.

    A picture goes through `Pixel`, a symbolic grid through `Grid`, a text through `Words`,
    NetHack's screen through `NetHack`, and everything else through one `MLP`. If there is a text,
    one more layer joins the features, because what a sentence asks for depends on what is seen.

    Args:
        obs_space: of one environment. The field "action_mask" is left out.
        hidden: width of each layer of the MLP.
        picture_dim: width of the features of each picture.
        text_dim: width of the features of each text.
        joint_dim: width of the layer after the concatenation, if there is a text.
        normalize_obs: of the MLP, see `Flat`.
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        hidden: Sequence[int] = (64, 64),
        picture_dim: int = 256,
        text_dim: int = 64,
        joint_dim: int = 128,
        normalize_obs: bool = True,
    ):
        super().__init__()
        kinds = FieldKinds(obs_space)
        parts: list[Encoder] = []
        if kinds.nethack:
            parts.append(NetHack(_only(obs_space, kinds.nethack)))
        parts += [Grid(_only(obs_space, [name]), key=name) for name in kinds.grids]
        for name in kinds.pictures:
            parts.append(Pixel(_only(obs_space, [name]), key=name, out_dim=picture_dim))
        for name in kinds.texts:
            parts.append(Words(_only(obs_space, [name]), key=name, out_dim=text_dim))
        if kinds.rest:
            rest = _only(obs_space, kinds.rest)
            parts.append(MLP(rest, hidden=hidden, normalize_obs=normalize_obs))
        self.parts = nn.ModuleList(parts)
        self._encoders = parts
        self.out_dim = sum(part.out_dim for part in parts)
        self.joint: nn.Module | None = None
        if kinds.texts:
            self.joint = nn.Sequential(orthogonal(nn.Linear(self.out_dim, joint_dim)), nn.ReLU())
            self.out_dim = joint_dim

    def forward(self, obs: Obs) -> Tensor:
        """Encode fields [B, ...] as [B, out_dim]."""
        features = torch.cat([part(obs) for part in self.parts], 1)
        return features if self.joint is None else self.joint(features)

    def observe(self, obs: Obs, valid: Tensor) -> None:
        """Add observations to the running statistics, see `Encoder.observe`."""
        for part in self._encoders:
            part.observe(obs, valid)

    def describe_fields(self) -> dict[str, str]:
        """Describe what happens to each field, see `Encoder.describe_fields`."""
        return {k: v for part in self._encoders for k, v in part.describe_fields().items()}


class FieldKinds:
    """Names of the fields of a space, by the encoder that suits them.

    Attributes:
        nethack: NetHack's screen.
        grids: MiniGrid's symbolic grids.
        pictures: images.
        texts: texts as bytes.
        rest: everything else but "action_mask".
    """

    def __init__(self, obs_space: spaces.Dict):
        names = [name for name in obs_space.spaces if name != "action_mask"]
        screen = {"glyphs", "blstats"} <= set(names)
        self.nethack = [name for name in names if screen and name in FIELDS]
        names = [name for name in names if name not in self.nethack]
        self.grids = [name for name in names if is_symbolic(obs_space, name)]
        names = [name for name in names if name not in self.grids]
        self.pictures = [name for name in names if picture_axes(obs_space[name]) is not None]
        self.texts = [name for name in names if isinstance(obs_space[name], TextBytes)]
        self.rest = [name for name in names if name not in (*self.pictures, *self.texts)]


def _only(obs_space: spaces.Dict, names: Iterable[str]) -> spaces.Dict:
    """Return the space with these fields."""
    return spaces.Dict([(name, obs_space[name]) for name in names])
