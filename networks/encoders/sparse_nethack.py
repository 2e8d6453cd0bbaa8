"""The default encoder for NetHack and MiniHack: sums of table rows."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.types import Obs
from firstlight.networks.encoders.base import Encoder
from firstlight.networks.encoders.grid_kernels import SumRows
from firstlight.networks.encoders.nethack import FIELDS, check_fields
from firstlight.networks.encoders.nethack_glyphs import glyph_kinds
from firstlight.networks.encoders.nethack_parts import STATISTICS, X, Y, statistics
from firstlight.networks.encoders.sparse_nethack_kernels import TableLayout, append, bands, map_rows
from firstlight.networks.encoders.words_kernels import hash_bytes
from firstlight.networks.initialisation import orthogonal
from firstlight.networks.spec import rebuildable

_ROWS, _COUNTS, _STATISTICS = "nethack rows", "nethack counts", "nethack statistics"
_FAR_ROWS, _FAR_COLUMNS = (1, 6), (1, 6, 15, 33)  # borders of bands, from the near map's border on
_REACH = 79  # columns of a map
_VIEWS = {
    "glyphs": "by kind and place, around the hero and in wider patches beyond",
    "blstats": "scaled statistics",
    "message": "its words hashed",
    "inv_glyphs": "a row for each item",
}


@rebuildable
class SparseNetHack(Encoder):
    """Sums one table row for each thing that is seen, then applies one more layer.

    This is a first linear layer over one-hot and binary inputs that computes only with the ones:

    - each cell of a square around the hero, by its place and the kind of its glyph, and for a
      monster or an object also by its place and group (`glyph_kinds`). So what is learnt about
      monsters applies to rare ones too;
    - each monster, object and trap in this square, by its species, wherever it is;
    - which kinds occur in each patch of the map beyond, where patches become wider with the
      distance from the hero;
    - each word of the message, by its hash, and each item of the inventory.

    The bottom line enters by a linear layer over `statistics`. Blank stone adds nothing. A learner
    looks the rows up once for a rollout (`prepare`). Fields that the observation lacks are left
    out. `NetHack` is the encoder with convolutions, several times slower.

    Args:
        obs_space: of one environment, with `glyphs` int16 [H, W] and `blstats` [26 or 27];
            `message` uint8 [M] and `inv_glyphs` int16 [I] are optional.
        hidden: width of the features, and of the sum.
        crop_size: rows and columns of the square around the hero, odd.
        buckets: number of hashes of words.

    Raises:
        ValueError: without `glyphs` and `blstats`, with a field that it does not use, or for a size
            that is not positive, or even.
    """

    exportable = False

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        hidden: int = 64,
        crop_size: int = 9,
        buckets: int = 1024,
    ):
        super().__init__()
        fields = {name: s for name, s in obs_space.spaces.items() if name != "action_mask"}
        check_fields("SparseNetHack", fields, ("glyphs", "blstats"), FIELDS)
        if crop_size < 1 or crop_size % 2 == 0:
            raise ValueError(f"crop_size is {crop_size}, expected an odd number from 1 on")
        if min(hidden, buckets) < 1:
            raise ValueError("hidden and buckets must be at least 1")
        self.out_dim, self.buckets, self._used = hidden, buckets, frozenset(fields)
        glyphs, half = glyph_kinds(), crop_size // 2
        num_kinds, num_groups, num_species = glyphs.sizes
        (rows, down), (columns, across) = (
            bands([half + border for border in borders], _REACH)
            for borders in (_FAR_ROWS, _FAR_COLUMNS)
        )
        groups = crop_size**2 * num_kinds
        far = groups + crop_size**2 * num_groups
        species = far + down * across * num_kinds
        words = species + num_species
        self.layout = TableLayout(
            glyphs=np.stack(glyphs),
            num_kinds=num_kinds,
            num_groups=num_groups,
            half=half,
            bands=np.stack([rows, columns]),
            num_bands=across,
            groups=groups,
            far=far,
            species=species,
            words=words,
        )
        self._items = words + (buckets if "message" in fields else 0)
        num_rows = self._items + (num_species if "inv_glyphs" in fields else 0)
        self._dtype = np.int16 if num_rows <= np.iinfo(np.int16).max else np.int32
        self.table = nn.Parameter(torch.randn(num_rows, hidden) / crop_size)
        self.line = orthogonal(nn.Linear(STATISTICS, hidden))
        self.linear = orthogonal(nn.Linear(hidden, hidden))

    def forward(self, obs: Obs) -> Tensor:
        """Encode fields [B, ...] as [B, hidden]."""
        found = obs if _ROWS in obs else self.prepare(obs)
        rows, counts, base = found[_ROWS], found[_COUNTS], self.line(found[_STATISTICS])
        if self.table.device.type == "cpu":
            ids = torch.zeros((len(rows), 0), dtype=torch.int64)
            summed = SumRows.apply(rows, counts, self.table, base, ids, self.table[:0])
        else:
            there = torch.arange(rows.shape[1], device=rows.device) < counts[:, None]
            bag = nn.functional.embedding_bag(
                rows.long(),
                self.table,
                mode="sum",
                per_sample_weights=there.to(self.table.dtype),
            )
            summed = torch.relu(base + bag)
        return torch.relu(self.linear(summed))

    def prepare(self, obs: Obs) -> Obs:
        """Look up the rows, see `Encoder.prepare`; on the CPU wherever `obs` are."""
        lead, device = obs["blstats"].shape[:-1], obs["blstats"].device
        flat = {n: obs[n].flatten(0, len(lead) - 1).cpu().contiguous() for n in self._used}
        rows, counts = self._find(flat)
        return {
            _ROWS: torch.from_numpy(rows).view(*lead, rows.shape[1]).to(device),
            _COUNTS: torch.from_numpy(counts).view(lead).to(device),
            _STATISTICS: statistics(flat["blstats"]).view(*lead, STATISTICS).to(device),
        }

    def describe_fields(self) -> dict[str, str]:
        """Describe what happens to each field, see `Encoder.describe_fields`."""
        return {name: what for name, what in _VIEWS.items() if name in self._used}

    def _find(self, obs: Obs) -> tuple[np.ndarray, np.ndarray]:
        """Find the rows [B, R] and counts [B] of fields [B, ...] on the CPU."""
        words, items = obs.get("message"), obs.get("inv_glyphs")
        room = 0 if words is None else words.shape[1] // 2 + 1
        room += 0 if items is None else items.shape[1]
        hero = obs["blstats"][:, [Y, X]].long().numpy()
        rows, counts = map_rows(obs["glyphs"].numpy(), hero, self.layout, room, self._dtype)
        if words is not None:
            hashes, lengths = hash_bytes(words.numpy(), 1, self.buckets)
            append(hashes, lengths, self.layout.words, rows, counts)
        if items is not None:
            _, _, species = self.layout.glyphs
            lengths = np.full(len(items), items.shape[1])
            append(species[items.numpy().ravel()], lengths, self._items, rows, counts)
        return rows[:, : counts.max(initial=0)].copy(), counts
