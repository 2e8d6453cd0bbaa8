"""The policy network of ONI and Motif, up to its recurrent core."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.nethack.draw import PALETTE, letters
from firstlight.envs.types import Obs
from firstlight.networks.encoders.base import Encoder
from firstlight.networks.encoders.nethack import check_fields
from firstlight.networks.encoders.nethack_parts import crop
from firstlight.networks.initialisation import orthogonal
from firstlight.networks.spec import rebuildable

SIZE, PIXELS = 12, 6  # cells of the crop, and pixels of a cell, each way
LINE = 26
# of the bottom line: position, strength (percent, value), other attributes, score, hit points
# and maximum, depth, gold, energy and maximum, armour, monster level, experience level and
# points, time, hunger, burden, dungeon, level, condition
_SCALES = (
    *(1 / 79, 1 / 21, 0.0, *[0.1] * 6, 0.0, 0.1, 0.1, 0.0, 0.001, 0.1, 0.1, 0.1, 0.0),
    *(0.1, 0.01, 0.001, 1.0, 1.0, 0.0, 0.0, 0.0),
)


@rebuildable
class ONINet(Encoder):
    """The network of ONI (Zheng et al. 2024) and Motif (Klissarov et al. 2023): 794 features.

    The 12 x 12 characters around the hero are drawn in colour at 6 x 6 pixels and go through three
    convolutions and a linear layer (512); the bottom line, scaled and clipped to ±5, enters
    unchanged (26) and through two layers (128), without score, depth and level; the bytes of the
    message, divided by 255, go through two layers (128). In the paper a GRU of 512 follows. The
    scale factors of the bottom line and the font are our own.

    Args:
        obs_space: of one environment, with `chars` and `colors` uint8 [21, 79], `blstats` and
            `message`; `glyphs` is allowed and not used.

    Raises:
        ValueError: if one of those is missing, or there are further fields.
    """

    out_dim = 512 + 128 + LINE + 128

    def __init__(self, obs_space: spaces.Dict):
        super().__init__()
        fields = {name: s for name, s in obs_space.spaces.items() if name != "action_mask"}
        needed = ("chars", "colors", "blstats", "message")
        check_fields("ONINet", fields, needed, (*needed, "glyphs"))
        self.font: Tensor
        self.palette: Tensor
        self.scales: Tensor
        self.register_buffer("font", torch.from_numpy(small_letters()), persistent=False)
        palette = torch.from_numpy(PALETTE.copy()).float() / 255
        self.register_buffer("palette", palette, persistent=False)
        self.register_buffer("scales", torch.tensor(_SCALES), persistent=False)
        self.convs = nn.Sequential(
            nn.Conv2d(3, 32, 8, stride=4),  # 72 -> 17
            nn.ELU(),
            nn.Conv2d(32, 64, 4, stride=2),  # 17 -> 7
            nn.ELU(),
            nn.Conv2d(64, 128, 3, stride=2),  # 7 -> 3
            nn.ELU(),
            nn.Flatten(),
            nn.Linear(128 * 9, 512),
            nn.ELU(),
        )
        self.line = _two_layers(LINE)
        self.text = _two_layers(int(np.prod(fields["message"].shape)))  # type: ignore[arg-type]
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                orthogonal(layer)

    def forward(self, obs: Obs) -> Tensor:
        """Encode fields [B, ...] as [B, 794]."""
        scaled = (obs["blstats"][:, :LINE].float() * self.scales).clamp(-5, 5)
        message = obs["message"].float() / 255
        parts = [self.convs(self.picture(obs)), self.line(scaled), scaled, self.text(message)]
        return torch.cat(parts, 1)

    def describe_fields(self) -> dict[str, str]:
        """Describe what happens to each field, see `Encoder.describe_fields`."""
        drawn = "drawn around the hero, convolutions over the picture"
        return {
            "chars": drawn,
            "colors": drawn,
            "blstats": "scaled, two layers",
            "message": "divided by 255, two layers",
        }

    def picture(self, obs: Obs) -> Tensor:
        """Draw the characters around the hero, [B, 3, 72, 72] from 0 to 1."""
        blstats, size = obs["blstats"], (SIZE, SIZE)
        ink = self.font[crop(obs["chars"], blstats, size, ord(" "))]  # [B, 12, 12, 6, 6]
        colour = self.palette[crop(obs["colors"], blstats, size, 0) % 16]  # [B, 12, 12, 3]
        cells = ink[..., None] * colour[:, :, :, None, None]  # [B, 12, 12, 6, 6, 3]
        side = SIZE * PIXELS
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(blstats.shape[0], 3, side, side)


def small_letters() -> np.ndarray:
    """Shrink our font to 6 x 6 pixels, [256, 6, 6] float32, by means over rows."""
    font = letters().astype(np.float32)  # [256, 11, 6]
    edges = np.linspace(0, font.shape[1], PIXELS + 1).round().astype(int)
    rows = [font[:, a:b].mean(1) for a, b in itertools.pairwise(edges)]
    return np.stack(rows, 1)


def _two_layers(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 128), nn.ELU(), nn.Linear(128, 128), nn.ELU())
