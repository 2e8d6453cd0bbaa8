"""The encoder for NetHack and MiniHack: surroundings, map, bottom line, message, inventory."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.agents.encoders.mlp import orthogonal
from firstlight.agents.encoders.nethack_parts import STATISTICS, crop, statistics
from firstlight.agents.spec import rebuildable
from firstlight.envs.types import Obs

_KNOWN = ("glyphs", "blstats", "message", "inv_glyphs")
_COARSE = 4  # width of a glyph on the whole map


@rebuildable
class NetHack(nn.Module):
    """Looks closely at what is around the hero, coarsely at the whole level, and reads.

    Glyphs have an embedding, shared by three views: a crop centred on the hero, through two
    convolutions that keep each cell apart; the whole map, through two with strides; and the
    inventory, averaged. The bottom line enters by `statistics`, the message by a convolution over
    its characters and the maximum over its length. What the observation lacks is left out.

    Args:
        obs_space: of one environment, with `glyphs` int16 [H, W] and `blstats` [26 or 27];
            `message` uint8 [M] and `inv_glyphs` int16 [I] are used if they are there.
        hidden: width of the features.
        crop_size: rows and columns around the hero, odd.
        embedding: width of a glyph's.
        whole_map: look at the whole map too.

    Raises:
        ValueError: without `glyphs` and `blstats`, or with a field that would go unseen.
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        hidden: int = 256,
        crop_size: int = 9,
        embedding: int = 32,
        whole_map: bool = True,
    ):
        super().__init__()
        fields = {name: s for name, s in obs_space.spaces.items() if name != "action_mask"}
        check_fields("NetHack", fields, ("glyphs", "blstats"), _KNOWN)
        if crop_size < 5 or crop_size % 2 == 0:
            raise ValueError(f"crop_size is {crop_size}, expected an odd number from 5 on")
        self.crop_size, self.out_dim = crop_size, hidden
        self.outside = int(fields["glyphs"].high.max()) + 1  # type: ignore[attr-defined]
        self.glyphs = nn.Embedding(self.outside + 1, embedding)
        nn.init.normal_(self.glyphs.weight, std=embedding**-0.5)
        self.near = nn.Sequential(
            nn.Conv2d(embedding, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3),
            nn.ReLU(),
            nn.Flatten(),
            _linear(32 * (crop_size - 2) ** 2, hidden),
        )
        self.line = nn.Sequential(_linear(STATISTICS, 64), nn.ReLU(), _linear(64, 64))
        width = hidden + 64
        self.far: nn.Module | None = None
        if whole_map:
            height, breadth = fields["glyphs"].shape  # type: ignore[misc]
            convs = nn.Sequential(
                nn.Conv2d(_COARSE, 16, 5, stride=3, padding=2),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
            )
            with torch.no_grad():
                cells = convs(torch.zeros(1, _COARSE, height, breadth)).shape[1]
            self.coarse = nn.Linear(embedding, _COARSE, bias=False)
            self.far = nn.Sequential(convs, _linear(cells, 128))
            width += 128
        self.text = _Characters(32) if "message" in fields else None
        width += 32 if self.text is not None else 0
        self.bag = "inv_glyphs" in fields
        width += embedding if self.bag else 0
        self.join = _linear(width, hidden)

    def forward(self, obs: Obs) -> Tensor:
        """Fields [B, ...] to [B, hidden]."""
        glyphs, blstats = obs["glyphs"], obs["blstats"]
        size = (self.crop_size, self.crop_size)
        around = crop(glyphs, blstats, size, self.outside)  # [B, h, w]
        parts = [
            self.near(self.glyphs(around).permute(0, 3, 1, 2)),  # [B, h, w, E] -> [B, E, h, w]
            self.line(statistics(blstats)),
        ]
        if self.far is not None:
            table = self.coarse(
                self.glyphs.weight
            )  # a small row for each glyph, once for all cells
            level = nn.functional.embedding(glyphs.long(), table)
            parts.append(self.far(level.permute(0, 3, 1, 2)))
        if self.text is not None:
            parts.append(self.text(obs["message"]))
        if self.bag:
            parts.append(self.glyphs(obs["inv_glyphs"].long()).mean(1))  # [B, I, E] -> [B, E]
        return torch.relu(self.join(torch.relu(torch.cat(parts, 1))))


class _Characters(nn.Module):
    """A sentence [B, M] uint8, zeros after its end, as [B, width]: what stands in it anywhere."""

    def __init__(self, width: int, embedding: int = 16):
        super().__init__()
        self.letters = nn.Embedding(256, embedding)
        self.conv = nn.Conv1d(embedding, width, 5, stride=2, padding=2)

    def forward(self, message: Tensor) -> Tensor:
        letters = self.letters(message.long()).transpose(1, 2)  # [B, M, E] -> [B, E, M]
        return torch.relu(self.conv(letters)).amax(2)


def check_fields(
    who: str, fields: dict[str, spaces.Space], needed: tuple[str, ...], known: tuple[str, ...]
) -> None:
    """Raise ValueError for a field that is missing, or that the encoder would not see."""
    for name in needed:
        if name not in fields:
            raise ValueError(f"the encoder {who} needs the observation {name!r}: add it to keys")
    for name in fields:
        if name not in known:
            raise ValueError(
                f"the encoder {who} does not look at {name!r}: leave it out of keys, or take "
                "another encoder"
            )


def _linear(i: int, o: int) -> nn.Linear:
    return orthogonal(nn.Linear(i, o))
