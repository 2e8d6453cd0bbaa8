"""The encoder for NetHack and MiniHack."""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.types import Obs
from firstlight.networks.encoders.base import Encoder
from firstlight.networks.encoders.grid_kernels import sum_rows
from firstlight.networks.encoders.nethack_kernels import BestWindows, number_glyphs, patch_rows
from firstlight.networks.encoders.nethack_parts import STATISTICS, STONE, X, Y, crop, statistics
from firstlight.networks.initialisation import orthogonal
from firstlight.networks.spec import rebuildable
from firstlight.networks.tracing import can_use_kernels

FIELDS = ("glyphs", "blstats", "message", "inv_glyphs")
"""Fields that `NetHack` uses."""
_OTHERS = (
    *("chars", "colors", "specials", "program_state", "internal", "misc", "pixel"),
    *("inv_letters", "inv_oclasses", "inv_strs", "screen_descriptions"),
    *("tty_chars", "tty_colors", "tty_cursor", "glyphs_crop", "chars_crop", "colors_crop"),
    *("specials_crop", "pixel_crop", "screen_descriptions_crop"),
)
SCREENS = (*FIELDS, *_OTHERS)
"""Observations of NLE and MiniHack: most repeat what `FIELDS` contain."""
_VIEWS = {
    "glyphs": "embedded, around the hero and on the whole map",
    "blstats": "scaled statistics",
    "message": "a convolution over its characters",
    "inv_glyphs": "embedded and summed",
}


@rebuildable
class NetHack(Encoder):
    """Encodes the hero's surroundings, the map, the bottom line, the message and the inventory.

    Glyphs have an embedding that three views share: a crop centred on the hero, through a
    convolution that keeps cells apart; the whole map, through a convolution with large patches; and
    the inventory, summed. The bottom line enters by `statistics`, the message by a convolution over
    its characters and a maximum over its length. Fields that the observation lacks are left out.

    Blank stone, and so everything outside the map, is all zeros. On the CPU the convolutions look
    up rows of tables (`nethack_kernels`), elsewhere they are torch's; the results are the same.

    Args:
        obs_space: of one environment, with `glyphs` int16 [H, W] and `blstats` [26 or 27];
            `message` uint8 [M] and `inv_glyphs` int16 [I] are optional.
        hidden: width of the features.
        crop_size: rows and columns around the hero, odd.
        embedding: width of the embedding of a glyph.
        whole_map: encode the whole map too.

    Raises:
        ValueError: without `glyphs` and `blstats`, or with a field that it does not use.
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
        check_fields("NetHack", fields, ("glyphs", "blstats"), FIELDS)
        if crop_size < 5 or crop_size % 2 == 0:
            raise ValueError(f"crop_size is {crop_size}, expected an odd number from 5 on")
        self.size, self.out_dim, self._used = (crop_size, crop_size), hidden, frozenset(fields)
        num_glyphs = int(fields["glyphs"].high.max()) + 1  # type: ignore[attr-defined]
        self.glyphs = nn.Embedding(num_glyphs, embedding, padding_idx=STONE)
        with torch.no_grad():
            self.glyphs.weight *= embedding**-0.5
        self.near = _Patches(self.size, embedding, 24, hidden, kernel=(3, 3), stride=(1, 1))
        self.line = nn.Sequential(_linear(STATISTICS, 64), nn.ReLU(), _linear(64, 64), nn.ReLU())
        width = hidden + 64
        self.far: _Patches | None = None
        if whole_map:
            size: tuple[int, int] = fields["glyphs"].shape  # type: ignore[assignment]
            self.far = _Patches(size, embedding, 16, 128, kernel=(5, 7), stride=(4, 6))
            width += 128
        self.text = _Characters(64) if "message" in fields else None
        width += 64 if self.text is not None else 0
        self.items = _linear(embedding, 64) if "inv_glyphs" in fields else None
        width += 64 if self.items is not None else 0
        self.join = _linear(width, hidden)

    def forward(self, obs: Obs) -> Tensor:
        """Encode fields [B, ...] as [B, hidden]."""
        glyphs, blstats = obs["glyphs"], obs["blstats"]
        parts = (self._look_up if can_use_kernels(glyphs) else self._convolve)(glyphs, blstats)
        parts.append(self.line(statistics(blstats)))
        if self.text is not None:
            parts.append(self.text(obs["message"]))
        if self.items is not None:
            items, weight = obs["inv_glyphs"].long(), self.glyphs.weight
            none = len(weight) - 1  # the glyph of an empty inventory slot
            if torch.jit.is_tracing():  # a model file has no bags
                bag = (weight[items] * (items != none).to(weight.dtype)[..., None]).sum(1)
            else:
                bag = nn.functional.embedding_bag(items, weight, mode="sum", padding_idx=none)
            parts.append(torch.relu(self.items(bag)))
        return torch.relu(self.join(torch.cat(parts, 1)))

    def describe_fields(self) -> dict[str, str]:
        """Describe what happens to each field, see `Encoder.describe_fields`."""
        return {name: what for name, what in _VIEWS.items() if name in self._used}

    def _look_up(self, glyphs: Tensor, blstats: Tensor) -> list[Tensor]:
        """Compute the features of `near` and `far` by table look-ups."""
        glyphs = glyphs.contiguous()
        numbers, chosen = number_glyphs(glyphs.numpy(), len(self.glyphs.weight), STONE)
        rows = self.glyphs.weight[torch.from_numpy(chosen)]  # [G, E]
        corner = blstats[:, [Y, X]].long() - self.size[0] // 2
        parts = [self.near.look_up(glyphs, corner, numbers, rows)]
        if self.far is not None:
            parts.append(self.far.look_up(glyphs, torch.zeros_like(corner), numbers, rows))
        return parts

    def _convolve(self, glyphs: Tensor, blstats: Tensor) -> list[Tensor]:
        """Compute the same with torch's convolutions."""
        parts = [self.near.convolve(self.glyphs(crop(glyphs, blstats, self.size, STONE)))]
        if self.far is not None:
            parts.append(self.far.convolve(self.glyphs(glyphs.long())))
        return parts


class _Patches(nn.Module):
    """A convolution over embedded glyphs, then a linear layer over its outputs."""

    def __init__(
        self,
        size: tuple[int, int],
        embedding: int,
        channels: int,
        width: int,
        *,
        kernel: tuple[int, int],
        stride: tuple[int, int],
    ):
        super().__init__()
        self.conv = nn.Conv2d(embedding, channels, kernel, stride)
        self.kernel, self.stride = kernel, stride
        sides = zip(size, kernel, stride, strict=True)
        down, across = (max(math.ceil((n - k) / s), 0) + 1 for n, k, s in sides)
        self.shape = down, across  # enough patches to contain every cell
        over = [(n - 1) * s + k for n, k, s in zip(self.shape, kernel, stride, strict=True)]
        self.padding = (0, over[1] - size[1], 0, over[0] - size[0])
        # [in, out]: torch's layout [out, in] takes twice as long for a few rows
        linear = _linear(down * across * channels, width)
        self.weight = nn.Parameter(linear.weight.detach().T.contiguous())
        self.bias = nn.Parameter(torch.zeros(width))

    def look_up(self, glyphs: Tensor, corner: Tensor, numbers: np.ndarray, rows: Tensor) -> Tensor:
        """Encode maps [B, H, W], from `corner` [B, 2] on, as [B, width].

        `rows` [G, E] are the embeddings of the glyphs that have a number.
        """
        found = patch_rows(
            glyphs.numpy(),
            corner.numpy(),
            numbers,
            kernel=self.kernel,
            stride=self.stride,
            shape=self.shape,
        )
        table = tabulate(rows, self.conv.weight).flatten(0, 1)  # [G * P, C]
        assert self.conv.bias is not None
        seen = sum_rows(*found, table, self.conv.bias[None])
        return self._join(seen.view(len(glyphs), len(self.weight)))

    def convolve(self, embedded: Tensor) -> Tensor:
        """Compute the same from the embeddings [B, H, W, E] of all cells."""
        padded = nn.functional.pad(embedded.permute(0, 3, 1, 2), self.padding)  # [B, E, H, W]
        seen = torch.relu_(self.conv(padded)).permute(0, 2, 3, 1)  # [B, C, h, w] -> [B, h, w, C]
        return self._join(seen.flatten(1))

    def _join(self, seen: Tensor) -> Tensor:
        return torch.relu(torch.addmm(self.bias, seen, self.weight))


class _Characters(nn.Module):
    """Encodes texts [B, M] uint8, zero after their end, as [B, width], wherever words occur."""

    def __init__(self, width: int, embedding: int = 16, places: int = 5):
        super().__init__()
        self.letters = nn.Embedding(256, embedding, padding_idx=0)
        # enough padding that one window is empty, even of an unterminated message
        self.conv = nn.Conv1d(embedding, width, places, padding=places, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, message: Tensor) -> Tensor:
        best = self.look_up if can_use_kernels(message) else self.convolve
        return torch.relu(best(message) + self.bias)

    def look_up(self, message: Tensor) -> Tensor:
        """Compute the maximum of each channel, [B, width], by table look-ups."""
        table = tabulate(self.letters.weight, self.conv.weight)  # [256, K, C]
        return BestWindows.apply(message.contiguous(), table)

    def convolve(self, message: Tensor) -> Tensor:
        """Compute the same with torch's convolution."""
        return self.conv(self.letters(message.long()).transpose(1, 2)).amax(
            2
        )  # over [B, C, M + K + 1]


def tabulate(codes: Tensor, weight: Tensor) -> Tensor:
    """Multiply embeddings by the weights of each place of a kernel.

    Args:
        codes: [G, E], embeddings.
        weight: [C, E, *kernel] of a convolution whose kernel has P places.

    Returns:
        [G, P, C].
    """
    flat = weight.flatten(2).permute(1, 2, 0)  # [C, E, *kernel] -> [E, P, C]
    return (codes @ flat.flatten(1)).view(len(codes), *flat.shape[1:])


def check_fields(
    encoder: str, fields: dict[str, spaces.Space], needed: tuple[str, ...], known: tuple[str, ...]
) -> None:
    """Raise ValueError for a field that is missing, or that the encoder does not use."""
    for name in needed:
        if name not in fields:
            raise ValueError(
                f"the encoder {encoder} needs the observation {name!r}: add it to keys"
            )
    for name in fields:
        if name not in known:
            raise ValueError(
                f"the encoder {encoder} does not use {name!r}: remove it from keys, or choose "
                "another encoder"
            )


def _linear(i: int, o: int) -> nn.Linear:
    return orthogonal(nn.Linear(i, o))
