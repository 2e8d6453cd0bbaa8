"""What encoders of NetHack's observations are made of."""

from __future__ import annotations

import torch
from torch import Tensor

# where the fields of NLE's bottom line (blstats) lie
X, Y = 0, 1
ATTRIBUTES = slice(3, 9)
SCORE, HP, MAX_HP, DEPTH, GOLD, ENERGY, MAX_ENERGY, ARMOUR = 9, 10, 11, 12, 13, 14, 15, 16
EXPERIENCE_LEVEL, EXPERIENCE, TIME, HUNGER, BURDEN, DUNGEON, CONDITION = 18, 19, 20, 21, 22, 23, 25
HUNGERS, BURDENS, DUNGEONS, CONDITIONS = 7, 6, 8, 13
STATISTICS = 21 + HUNGERS + BURDENS + DUNGEONS + CONDITIONS


def crop(field: Tensor, blstats: Tensor, size: tuple[int, int], outside: int) -> Tensor:
    """The part of a map around the hero, who stands at row and column ``size // 2``.

    Args:
        field: [B, H, W] integers.
        blstats: [B, 26 or 27], columns X and Y say where the hero stands.
        size: rows and columns of the part.
        outside: number for cells beyond the map.

    Returns:
        [B, *size] int64.
    """
    _, H, W = field.shape
    rows, columns = (torch.arange(n, device=field.device) - n // 2 for n in size)
    y = blstats[:, Y, None].long() + rows  # [B, h]
    x = blstats[:, X, None].long() + columns  # [B, w]
    inside = ((y >= 0) & (y < H))[:, :, None] & ((x >= 0) & (x < W))[:, None, :]
    cell = y.clamp(0, H - 1)[:, :, None] * W + x.clamp(0, W - 1)[:, None, :]  # [B, h, w]
    part = field.flatten(1).gather(1, cell.flatten(1)).view(cell.shape).long()
    return torch.where(inside, part, outside)


def statistics(blstats: Tensor) -> Tensor:
    """The bottom line as features of about unit size: ratios, logarithms and one-hot codes.

    Args:
        blstats: [B, 26 or 27] integers.

    Returns:
        [B, STATISTICS] float32.
    """
    line = blstats.float()

    def many(*fields: int) -> Tensor:
        """What has no upper end, by its logarithm."""
        return torch.log1p(line[:, list(fields)].clamp(min=0)) / 5

    hp = line[:, HP] / line[:, MAX_HP].clamp(min=1)
    energy = line[:, ENERGY] / line[:, MAX_ENERGY].clamp(min=1)
    scaled = [
        line[:, X] / 79,
        line[:, Y] / 21,
        hp,
        hp.lt(0.33).float(),
        energy,
        line[:, ARMOUR] / 10,
        line[:, EXPERIENCE_LEVEL] / 30,
        line[:, DEPTH] / 50,
    ]
    codes = [
        torch.nn.functional.one_hot(blstats[:, field].long().clamp(0, count - 1), count)
        for field, count in ((HUNGER, HUNGERS), (BURDEN, BURDENS), (DUNGEON, DUNGEONS))
    ]
    bits = torch.arange(CONDITIONS, device=blstats.device)
    condition = (blstats[:, CONDITION, None].long() >> bits) & 1  # [B, CONDITIONS]
    parts = [
        torch.stack(scaled, 1),  # 8
        line[:, ATTRIBUTES] / 18,  # 6
        many(SCORE, HP, MAX_HP, GOLD, ENERGY, EXPERIENCE, TIME),  # 7
        *codes,
        condition,
    ]
    return torch.cat([part.float() for part in parts], 1)
