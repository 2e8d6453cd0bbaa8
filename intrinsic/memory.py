"""Memories of visits: keys of states, a table over a whole run, and one per episode.

All three live on the CPU wherever the module that holds them goes, and in its `state_dict`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import generator
from firstlight.envs.types import Rollout
from firstlight.intrinsic.memory_kernels import count_visits, hash_words, move_entries
from firstlight.intrinsic.state import GrowingBuffers


def hash_rows(fields: Iterable[Tensor], num_rows: int) -> Tensor:
    """Mix the bytes of all fields into one 64-bit key a row.

    Of n different states some two share a key with probability about n²/2⁶⁵.

    Args:
        fields: each [R, ...] on the CPU, any dtype.
        num_rows: `R`.

    Returns:
        [R] int64.
    """
    columns = [_flat(field, num_rows).contiguous().view(torch.uint8).numpy() for field in fields]
    missing = -sum(column.shape[1] for column in columns) % 8
    columns.append(np.zeros((num_rows, missing), np.uint8))
    words = np.concatenate(columns, axis=1).view(np.uint64)
    keys = np.empty(num_rows, np.uint64)
    with np.errstate(over="ignore"):  # uncompiled, numpy would warn of what is meant to happen
        hash_words(words, keys)
    return torch.from_numpy(keys.view(np.int64))


class StateKeys(GrowingBuffers):
    """Turns observations into 64-bit keys: equal keys, same state.

    Integers and booleans are taken as they are. Floats have to be made coarse: with `bits` by
    SimHash, ``sign(A x)`` with normal A (Tang et al. 2017), else by cutting bounded dimensions into
    `bins`.

    Args:
        obs_space: what policies see.
        info_space: side channels; needed for those that are floats.
        keys: names of the fields that make a state, from `obs_space` or else from the rollout's
            info; default all of `obs_space`.
        bits: length of the SimHash code of all float fields together.
        bins: cuts of a bounded float dimension.
        seed: of A.

    Raises:
        ValueError: for an unbounded float field without `bits`, `bits` without a float field, or
            `keys` that name nothing.
    """

    on_host = True
    projection: Tensor

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        info_space: spaces.Dict | None = None,
        keys: Sequence[str] | None = None,
        bits: int | None = None,
        bins: int = 20,
        seed: int = 0,
    ):
        super().__init__()
        self.names = tuple(k for k in obs_space if k != "action_mask") if keys is None else (*keys,)
        if not self.names:
            raise ValueError("keys is empty: name at least one field")
        self.from_obs = {name for name in self.names if name in obs_space.spaces}
        self.bits, self.bins = bits, bins
        known = {**({} if info_space is None else info_space.spaces), **obs_space.spaces}
        if info_space is not None:
            for name in self.names:
                if name not in known:
                    raise _unknown(name, [*known])
        floats = {n: known[n] for n in self.names if n in known and _is_float(known[n])}
        if bits is not None and not floats:
            raise ValueError(f"bits={bits} does nothing: there is no float field in {self.names}")
        self.boxes = {} if bits else {name: _cuts(name, box, bins) for name, box in floats.items()}
        size = sum(math.prod(box.shape or ()) for box in floats.values()) if bits else 0
        numbers = generator(seed, "simhash")
        projection = torch.randn((size, bits or 0), dtype=torch.float64, generator=numbers)
        self.register_buffer("projection", projection)

    def forward(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Keys of observations [T+1, N] and of true successors [T, N]; int64, on the CPU."""
        T, N = rollout.num_steps, rollout.num_envs
        here = self._hash(rollout.obs, rollout.info, (T + 1, N))
        after = here[1:].clone()
        if len(rollout.final_at):
            t, n = rollout.final_at.cpu().unbind(1)
            after[t, n] = self._hash(rollout.final_obs, rollout.final_info, t.shape)
        return here, after

    def _hash(
        self, obs: Mapping[str, Tensor], info: Mapping[str, Tensor], lead: Sequence[int]
    ) -> Tensor:
        rows = math.prod(lead)
        exact, real = [], []
        for name in self.names:
            field = _flat(self._field(name, obs, info).cpu(), rows)
            if not field.is_floating_point():
                exact.append(field)
            elif name in self.boxes:
                low, scale = self.boxes[name]
                cut = ((field - low) * scale).floor().clamp(0, self.bins - 1)
                exact.append(cut.int())
            elif self.bits:
                real.append(field.double())
            else:
                raise ValueError(
                    f"info {name!r} is a float: give info_space, so its bounds are known"
                )
        if real:  # in float64, so that a code does not depend on the size of the batch
            code = torch.cat(real, 1) @ self.projection > 0  # [R, D] -> [R, bits]
            exact.append(torch.from_numpy(np.packbits(code.numpy(), axis=1)))
        return hash_rows(exact, rows).view(*lead)

    def _field(self, name: str, obs: Mapping[str, Tensor], info: Mapping[str, Tensor]) -> Tensor:
        fields = obs if name in self.from_obs else info
        if name not in fields:
            raise _unknown(name, [*obs, *info])
        return fields[name]


class VisitTable(GrowingBuffers):
    """How often each key was seen in the whole run: a hash table that grows.

    Attributes:
        keys: [C] int64.
        owners: [C] int64.
        counts: [C] int64, 0 in an empty slot.
        used: [] int64, slots that are not empty.
    """

    on_host = True
    keys: Tensor
    owners: Tensor
    counts: Tensor
    used: Tensor

    def __init__(self):
        super().__init__()
        for name in ("keys", "owners", "counts"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))
        self.register_buffer("used", torch.zeros((), dtype=torch.int64))

    def count(self, keys: Tensor, valid: Tensor, owners: Tensor | None = None) -> Tensor:
        """Count visits in time order: all columns of step t see what step t-1 left, then all count.

        Args:
            keys: [T, N] int64.
            valid: [T, N] bool; other rows are not visits.
            owners: [T, N] int64, whose memory it is; default one memory for all.

        Returns:
            [T, N] int64: visits before step t, and this one; 0 where not valid. On the CPU.
        """
        keys, valid = keys.cpu(), valid.cpu()
        owners = torch.zeros_like(keys) if owners is None else owners
        self.reserve(keys.numel())
        out = torch.zeros_like(keys)
        table = (self.keys, self.owners, self.counts)
        arrays = (x.contiguous().numpy() for x in (*table, keys, owners, valid, out))
        self.used += count_visits(*arrays)
        return out

    def reserve(self, extra: int, living: Tensor | None = None) -> None:
        """Make room for `extra` new keys; a table that must grow keeps only `living` owners [*]."""
        if 2 * (int(self.used) + extra) <= len(self.keys):
            return
        kept = self.counts > 0
        if living is not None:
            kept &= torch.isin(self.owners, living)
        old = [buffer[kept] for buffer in (self.keys, self.owners, self.counts)]
        capacity = 1 << (4 * (len(old[0]) + extra) - 1).bit_length()
        new = [torch.zeros(capacity, dtype=torch.int64) for _ in old]
        move_entries(*(x.numpy() for x in (*old, *new)))
        self.keys, self.owners, self.counts = new
        self.used = torch.tensor(len(old[0]))


class EpisodicVisits(GrowingBuffers):
    """How often each key was seen in the running episode of each environment.

    One table serves all: an entry belongs to an episode by its serial number, so a new episode
    forgets the old one by taking the next number. What is forgotten goes when the table grows.

    Attributes:
        episodes: [E] int64, serial number of the running episode by id of the environment.
        next_serial: [] int64.
    """

    on_host = True
    episodes: Tensor
    next_serial: Tensor

    def __init__(self):
        super().__init__()
        self.table = VisitTable()
        self.register_buffer("episodes", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("next_serial", torch.zeros((), dtype=torch.int64))

    def count(self, here: Tensor, after: Tensor, rollout: Rollout) -> Tensor:
        """Count the successors of a rollout, each episode after its first observation.

        Args:
            here: [T+1, N] int64, keys of the observations.
            after: [T, N] int64, keys of the true successors.
            rollout: says where episodes begin, what is valid, and which environments these are.

        Returns:
            [T, N] int64: visits of the successor in its episode, this one included; 0 where not
            valid. On the CPU.
        """
        env_ids = rollout.env_ids.cpu()
        self._know(env_ids)
        opens = rollout.is_first[:-1].cpu()
        serials = self._take(int(opens.sum()))
        self.table.reserve(after.numel() + len(serials), self.episodes)
        owners = torch.zeros_like(after).masked_scatter_(opens, serials)
        owners[0] = torch.where(opens[0], owners[0], self.episodes[env_ids])
        owners = owners.cummax(0).values  # serial numbers rise with time
        opening, every = here[:-1].cpu()[opens], torch.ones_like(serials, dtype=torch.bool)
        self.table.count(opening[None], every[None], serials[None])
        self.episodes[env_ids] = owners[-1]
        return self.table.count(after, rollout.valid, owners)

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Forget the running episodes of `env_ids` [*] int64, or all."""
        ids = torch.arange(len(self.episodes)) if env_ids is None else env_ids.cpu()
        self._know(ids)
        self.episodes[ids] = self._take(len(ids))

    def _take(self, count: int) -> Tensor:
        """The next `count` serial numbers."""
        start = int(self.next_serial)
        self.next_serial = torch.tensor(start + count)
        return torch.arange(start, start + count)

    def _know(self, env_ids: Tensor) -> None:
        """Open an episode for environments never seen before."""
        missing = max(0, int(env_ids.max()) + 1 - len(self.episodes)) if len(env_ids) else 0
        self.episodes = torch.cat([self.episodes, self._take(missing)])


def _flat(field: Tensor, rows: int) -> Tensor:
    """[..., *field] to [R, D]."""
    return field.reshape(rows, field.numel() // max(rows, 1))


def _is_float(space: spaces.Space) -> bool:
    return space.dtype is not None and np.issubdtype(space.dtype, np.floating)


def _cuts(name: str, space: spaces.Space, bins: int) -> tuple[Tensor, Tensor]:
    """Lower bound and bins per unit of each dimension; [D] float64."""
    assert isinstance(space, spaces.Box)
    low, high = (torch.as_tensor(bound).flatten() for bound in (space.low, space.high))
    width = (high.float() - low.float()).double()  # overflows to inf for bounds that are none
    if not width.isfinite().all():
        raise ValueError(
            f"field {name!r} is a float without bounds: give bits (say 32) to hash it by SimHash, "
            "or keys that leave it out"
        )
    return low.double(), torch.where(width > 0, bins / width, 0.0)


def _unknown(name: str, options: Sequence[str]) -> ValueError:
    near = get_close_matches(name, options, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {sorted(options)}"
    return ValueError(f"keys names {name!r}, which is neither observed nor in info: {hint}")
