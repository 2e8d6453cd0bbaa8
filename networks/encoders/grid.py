"""The encoder for symbolic grids as in MiniGrid."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.minigrid.cells import (
    AGENT,
    BALL,
    BOX,
    COLOURS,
    DOOR,
    EMPTY,
    FLOOR,
    GOAL,
    KEY,
    LAVA,
    WALL,
)
from firstlight.envs.types import Obs
from firstlight.networks.encoders.base import Encoder
from firstlight.networks.encoders.grid_kernels import (
    SumRows,
    encode_grids,
    encode_heads,
    gather_rows,
    lookup_rows,
    scatter_rows,
)
from firstlight.networks.encoders.mlp import Flat
from firstlight.networks.initialisation import orthogonal
from firstlight.networks.spec import rebuildable
from firstlight.networks.tracing import can_use_kernels
from firstlight.networks.vjp import VJP, SequentialVJP, add_gradient, has_vjp

_ROWS, _COUNTS = "grid rows", "grid counts"  # fields that `Grid.prepare` makes of a grid
_DOOR_STATES, _DIRECTIONS = 3, 4
_RELU = nn.ReLU(inplace=True)
_WIDEST, _MOST = 64, 256  # width and rows up to which loops act faster than products of matrices
_PLAIN, _COLOURED = (EMPTY, WALL, GOAL, LAVA), (FLOOR, KEY, BALL, BOX)


def cell_ids() -> tuple[np.ndarray, int]:
    """Assign ids to the contents of a MiniGrid cell; also return the number of ids.

    A cell has up to two ids: its kind (object and state), and, if it has a colour, its content
    (object, colour and state). So what is learnt about open doors applies to rare colours too.

    Returns:
        [16, 8, 4, 2] int32, -1 for none (both for a cell out of view); id 0 is for codes that
        MiniGrid does not use.
    """
    ids, number = np.full((16, 8, 4, 2), -1, np.int32), itertools.count(1)
    ids[1:, :, :, 0] = 0
    for code in (*_PLAIN, *_COLOURED):
        ids[code, :, :, 0] = next(number)
    for code, states in ((DOOR, _DOOR_STATES), (AGENT, _DIRECTIONS)):
        for state in range(states):
            ids[code, :, state, 0] = next(number)
    for code, colour in itertools.product(_COLOURED, range(len(COLOURS))):
        ids[code, colour, :, 1] = next(number)
    for colour, state in itertools.product(range(len(COLOURS)), range(_DOOR_STATES)):
        ids[DOOR, colour, state, 1] = next(number)
    return ids, next(number)


@rebuildable
class Grid(Encoder):
    """Sums one table row for each id of each cell, then applies one more layer.

    This is a first linear layer over one-hot cells that computes only with the ones: a grid of 49
    cells costs about 49 additions of rows, and only for cells in view, instead of a product with a
    matrix of thousands of columns. `cell_ids` defines the rows. Other fields enter by a linear
    layer.

    Args:
        obs_space: of one environment, with a field `key`, Box uint8 [H, W, 3].
        hidden: width of the features.
        key: name of the grid field.
    """

    def __init__(self, obs_space: spaces.Dict, *, hidden: int = 64, key: str = "image"):
        super().__init__()
        height, width, channels = obs_space[key].shape  # type: ignore[misc]
        if channels != 3:
            raise ValueError(f"observation {key!r} has {channels} channels, a symbolic grid has 3")
        self.key, self.cells = key, height * width
        lut, self.num_ids = cell_ids()
        self.lut: Tensor
        self.register_buffer("lut", torch.from_numpy(lut), persistent=False)
        rest = {n: s for n, s in obs_space.spaces.items() if n not in (key, "action_mask")}
        self.table = nn.Parameter(torch.randn(self.cells * self.num_ids, hidden) / self.cells**0.5)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.rest = Flat(spaces.Dict(rest)) if rest else None
        self.rest_linear = orthogonal(nn.Linear(self.rest.out_dim, hidden)) if self.rest else None
        fields = {} if self.rest is None else self.rest.fields  # without texts
        discrete = [space for space in fields.values() if isinstance(space, spaces.Discrete)]
        starts = [0, *itertools.accumulate(int(space.n) for space in discrete)]
        self._ids = {  # name to the row of a value 0, where rows can replace the linear layer
            name: start - int(space.start)  # type: ignore[attr-defined]
            for (name, space), start in zip(fields.items(), starts, strict=False)
            if len(discrete) == len(fields)
        }
        self.linear = orthogonal(nn.Linear(hidden, hidden))
        self.out_dim = hidden

    def forward(self, obs: Obs) -> Tensor:
        """Encode fields [B, ...] as [B, hidden]; `prepare` may have processed them."""
        summed = (self._sum_cpu if can_use_kernels(self.table) else self._sum)(obs)
        return torch.relu_(self.linear(summed))

    @torch.no_grad()
    def fuse_heads(self, weight: Tensor, bias: Tensor) -> Callable[[Obs], Tensor] | None:
        """Return compiled loops on the CPU, see `Encoder.fuse_heads`; None for a subclass."""
        if type(self) is not Grid or not can_use_kernels(self.table) or self.out_dim > _WIDEST:
            return None
        layer, heads = self.linear.weight.T.contiguous().numpy(), weight.T.contiguous().numpy()
        layer_bias, shift = self.linear.bias.detach().numpy(), bias.numpy()
        table, id_table = self.table.detach().numpy(), self._id_table().detach().numpy()
        base = self._base_of({}).numpy() if self.rest is None or self._ids else None

        @torch.inference_mode()
        def outputs(obs: Obs) -> Tensor:
            if len(obs[self.key]) > _MOST:  # there products of matrices are faster
                return torch.addmm(bias, self(obs), weight.T)
            cells = obs[self.key].flatten(1, 2).contiguous().numpy()
            out = torch.empty(len(cells), len(shift))
            encode_heads(
                cells,
                self.lut.numpy(),
                self.num_ids,
                table,
                self._base_of(obs).numpy() if base is None else base,
                self._ids_of(obs).numpy(),
                id_table,
                layer,
                layer_bias,
                heads,
                shift,
                out.numpy(),
            )
            return out

        return outputs

    @torch.no_grad()
    def vjp(self, obs: Obs) -> VJP | None:
        """Compute features and gradients by hand on the CPU, see `Encoder.vjp`.

        None for a subclass, and with other fields that are not Discrete.
        """
        by_ids = self.rest is None or bool(self._ids)
        linear = [layer for layer in (self.linear, self.rest_linear) if layer is not None]
        if type(self) is not Grid or not by_ids or not has_vjp(*linear):
            return None
        if not can_use_kernels(self.table) or not isinstance(self.table, nn.Parameter):
            return None
        rows, counts = (obs[_ROWS], obs[_COUNTS]) if _ROWS in obs else self._lookup(obs[self.key])
        base, ids, id_table = self._rest_of(obs)
        sums = gather_rows(rows, counts, self.table, base, ids, id_table)
        last = SequentialVJP([self.linear, _RELU], sums)
        sizes = len(self.table), len(id_table)

        @torch.no_grad()
        def add_gradients(grad: Tensor) -> None:
            by_sums = last.add_gradients(grad)
            torch.ops.aten.threshold_backward.grad_input(by_sums, sums, 0.0, grad_input=by_sums)
            table, id_table = scatter_rows(rows, counts, ids, by_sums, *sizes)
            add_gradient(self.table, table)
            add_gradient(self.bias, by_sums.sum(0))
            if self.rest_linear is not None:
                add_gradient(self.rest_linear.weight, id_table.T)
                add_gradient(self.rest_linear.bias, by_sums.sum(0))

        return last.out, add_gradients

    def prepare(self, obs: Obs) -> Obs:
        """Look up the rows of grids, see `Encoder.prepare`."""
        image = obs[self.key]
        if image.device.type != "cpu":
            return obs
        rows, counts = self._lookup(image.flatten(0, -4))
        lead, rest = image.shape[:-3], {} if self.rest is None else self.rest.fields
        return {
            _ROWS: rows.view(*lead, -1),
            _COUNTS: counts.view(lead),
            **{name: obs[name] for name in rest},
        }

    def describe_fields(self) -> dict[str, str]:
        """Describe what happens to each field, see `Encoder.describe_fields`."""
        rest = {} if self.rest is None else self.rest.describe_fields()
        return {self.key: f"symbolic grid of {self.cells} cells, one-hot", **rest}

    def _lookup(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Find the rows [B, R] and counts [B] of grids [B, H, W, 3] on the CPU."""
        cells = image.flatten(1, 2).contiguous().numpy()
        rows, counts = lookup_rows(cells, self.lut.numpy(), self.num_ids)
        return torch.from_numpy(rows), torch.from_numpy(counts)

    def _sum_cpu(self, obs: Obs) -> Tensor:
        """Compute the rectified sums [B, hidden] with compiled loops."""
        base, ids, id_table = self._rest_of(obs)
        if _ROWS in obs or torch.is_grad_enabled():
            found = (obs[_ROWS], obs[_COUNTS]) if _ROWS in obs else self._lookup(obs[self.key])
            return SumRows.apply(*found, self.table, base, ids, id_table)
        cells = obs[self.key].flatten(1, 2).contiguous().numpy()
        tables = (x.detach().numpy() for x in (self.table, base, ids, id_table))
        return torch.from_numpy(encode_grids(cells, self.lut.numpy(), self.num_ids, *tables))

    def _rest_of(self, obs: Obs) -> tuple[Tensor, Tensor, Tensor]:
        """Return what other fields [B, ...] add: a base, and ids with their table, see `gather`."""
        return self._base_of(obs), self._ids_of(obs), self._id_table()

    def _base_of(self, obs: Obs) -> Tensor:
        """Return the base, [B, hidden], or [1, hidden] if it is the same for all."""
        if self.rest is None or self.rest_linear is None:
            return self.bias[None]
        if self._ids:
            return (self.bias + self.rest_linear.bias)[None]
        return self.bias + self.rest_linear(self.rest(obs))

    def _ids_of(self, obs: Obs) -> Tensor:
        """Return the rows [B, I] of `_id_table` that other fields select."""
        columns = [obs[name][:, None] + start for name, start in self._ids.items()]
        if not columns:
            return torch.zeros((len(next(iter(obs.values()))), 0), dtype=torch.int64)
        return columns[0] if len(columns) == 1 else torch.cat(columns, 1)

    def _id_table(self) -> Tensor:
        if self._ids and self.rest_linear is not None:
            return self.rest_linear.weight.T.contiguous()
        return self.table[:0]

    def _sum(self, obs: Obs) -> Tensor:
        """Compute the rectified sums [B, hidden] with torch, on any device."""
        image = obs[self.key].flatten(1, 2)  # [B, H, W, 3] -> [B, cells, 3]
        obj, colour, state = image.long().unbind(-1)
        ids = self.lut[obj % 16, colour % 8, state % 4].long()  # [B, cells, 2]
        cell = torch.arange(self.cells, device=image.device)[:, None]
        rows = torch.where(ids >= 0, ids + cell * self.num_ids, 0).flatten(1)  # [B, cells * 2]
        seen = (ids >= 0).flatten(1).to(self.table.dtype)
        if torch.jit.is_tracing():  # a model file has no bags
            total = (self.table[rows] * seen[..., None]).sum(1)
        else:
            total = nn.functional.embedding_bag(
                rows, self.table, mode="sum", per_sample_weights=seen
            )
        if self.rest is not None and self.rest_linear is not None:
            total = total + self.rest_linear(self.rest(obs))
        return torch.relu_(total + self.bias)
