"""Parts shared by the encoders of NetHack observations."""

from __future__ import annotations

import torch
from torch import Tensor

STONE = 2359  # the glyph of a cell where nothing is shown

# indices of the fields of NLE's bottom line (blstats)
X, Y = 0, 1
ATTRIBUTES = range(3, 9)
SCORE, HP, MAX_HP, DEPTH, GOLD, ENERGY, MAX_ENERGY, ARMOUR = 9, 10, 11, 12, 13, 14, 15, 16
EXPERIENCE_LEVEL, EXPERIENCE, TIME, HUNGER, BURDEN, DUNGEON, CONDITION = 18, 19, 20, 21, 22, 23, 25
CONDITIONS = 13

# inputs of `statistics`: fields with their scale factors, unbounded fields, and codes with the
# number of values of each
_SCALED = {X: 1 / 79, Y: 1 / 21, ARMOUR: 1 / 10, EXPERIENCE_LEVEL: 1 / 30, DEPTH: 1 / 50}
_SCALED |= dict.fromkeys(ATTRIBUTES, 1 / 18)
_MANY = (SCORE, HP, MAX_HP, GOLD, ENERGY, EXPERIENCE, TIME)
_CODES = {HUNGER: 7, BURDEN: 6, DUNGEON: 8}
_VALUES = [value for count in _CODES.values() for value in range(count)]
_GROUPS = (
    (HP, ENERGY),
    (MAX_HP, MAX_ENERGY),
    tuple(_SCALED),
    _MANY,
    tuple(field for field, count in _CODES.items() for _ in range(count)),
)
STATISTICS = 3 + len(_SCALED) + len(_MANY) + len(_VALUES) + CONDITIONS


def crop(field: Tensor, blstats: Tensor, size: tuple[int, int], outside: int) -> Tensor:
    """Cut out the part of a map around the hero, who is at row and column ``size // 2``.

    Args:
        field: [B, H, W] integers.
        blstats: [B, 26 or 27], columns X and Y are the hero's position.
        size: rows and columns of the part.
        outside: number for cells outside the map.

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
    """Turn the bottom line into features of about unit size: ratios, logarithms, one-hot codes.

    Args:
        blstats: [B, 26 or 27] integers.

    Returns:
        [B, STATISTICS] float32.
    """
    device = blstats.device
    fields = blstats[:, [field for group in _GROUPS for field in group]].float()
    now, most, scaled, many, codes = fields.split([len(group) for group in _GROUPS], 1)
    ratio = now / most.clamp(min=1)
    bits = torch.arange(CONDITIONS, device=device)
    parts = [
        ratio,
        ratio[:, :1] < 0.33,
        scaled * torch.tensor(list(_SCALED.values()), device=device),
        torch.log1p(many.clamp(min=0)) / 5,
        codes == torch.tensor(_VALUES, device=device),
        (blstats[:, CONDITION, None].long() >> bits) % 2,
    ]
    return torch.cat(parts, 1)
