"""A small network over NetHack's glyphs, the same for us and for a peer.

Does not import firstlight: the Python of a peer's environment imports it as well.
"""

import torch
from torch import Tensor, nn

NUM_GLYPHS = 5976
_ROWS, _COLUMNS, _RADIUS = 21, 79, 4


class GlyphNetwork(nn.Module):
    """Embeds the 9 x 9 glyphs around the hero, and joins them with the status line.

    Args:
        width: of the features.
    """

    around: Tensor

    def __init__(self, width: int = 128):
        super().__init__()
        self.out_dim = width
        side = 2 * _RADIUS + 1
        self.embedding = nn.Embedding(NUM_GLYPHS + 1, 16)  # the last: outside of the level
        self.net = nn.Sequential(
            nn.Linear(16 * side * side + 27, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        around = torch.arange(-_RADIUS, _RADIUS + 1)
        self.register_buffer("around", around, persistent=False)

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Encode "glyphs" [B, 21, 79] and "blstats" [B, 27] as features [B, width]."""
        glyphs, status = obs["glyphs"].long(), obs["blstats"]
        x, y = status[:, 0].long(), status[:, 1].long()
        rows = y[:, None] + self.around  # [B, 9]
        columns = x[:, None] + self.around
        inside = ((rows >= 0) & (rows < _ROWS))[:, :, None]
        inside = inside & ((columns >= 0) & (columns < _COLUMNS))[:, None]
        cells = rows.clamp(0, _ROWS - 1)[:, :, None] * _COLUMNS
        cells = cells + columns.clamp(0, _COLUMNS - 1)[:, None]  # [B, 9, 9]
        crop = glyphs.flatten(1).gather(1, cells.flatten(1))
        crop = torch.where(inside.flatten(1), crop, NUM_GLYPHS)
        numbers = status.float().sign() * status.float().abs().log1p()
        return self.net(torch.cat([self.embedding(crop).flatten(1), numbers], 1))
