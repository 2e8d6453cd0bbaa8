"""Visit counts: hash keys of states, a visit table for the whole run, and one per episode.

All of them stay on the CPU when their module is moved, and are part of its `state_dict`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.action_spaces import MASK
from firstlight.envs.seeding import generator
from firstlight.envs.text import TextBytes
from firstlight.envs.types import Rollout
from firstlight.intrinsic.memory_kernels import (
    count_visits,
    hash_words,
    look_up_counts,
    move_entries,
)
from firstlight.intrinsic.state import GrowingBuffers, grow_rows
from firstlight.networks import collective


def hash_rows(fields: Iterable[Tensor], num_rows: int) -> Tensor:
    """Hash the bytes of all fields to one 64-bit key per row.

    Among n different states, a collision has probability of about n²/2⁶⁵.

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
    with np.errstate(over="ignore"):  # without compilation numpy warns of the intended overflow
        hash_words(words, keys)
    return torch.from_numpy(keys.view(np.int64))


class StateKeys(GrowingBuffers):
    """Hashes observations to 64-bit keys; equal keys mean the same state.

    Integers and booleans are hashed exactly. Floats are discretised first: with `bits` by SimHash,
    ``sign(A x)`` with normal A (Tang et al. 2017), otherwise by dividing bounded dimensions into
    `bins`.

    Args:
        obs_space: observation space of the policy.
        info_space: space of the info channels; needed for float channels.
        keys: names of the fields that define a state, from `obs_space` or else from the rollout's
            info; default all of `obs_space` but texts and the mask of actions.
        bits: length of the SimHash code of all float fields together.
        bins: number of bins per bounded float dimension.
        seed: of A.

    Raises:
        ValueError: for an unbounded float field without `bits`, `bits` without a float field, or
            unknown `keys`.
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
        default = (k for k, s in obs_space.items() if k != MASK and not isinstance(s, TextBytes))
        self.names = tuple(default if keys is None else keys)
        if not self.names:
            raise ValueError("keys is empty, expected at least one field")
        self.from_obs = {name for name in self.names if name in obs_space.spaces}
        self.bits, self.bins = bits, bins
        known = {**({} if info_space is None else info_space.spaces), **obs_space.spaces}
        if info_space is not None:
            for name in self.names:
                if name not in known:
                    raise _unknown(name, [*known])
        floats = {n: known[n] for n in self.names if n in known and _is_float(known[n])}
        if bits is not None and not floats:
            raise ValueError(f"bits={bits} has no effect: there is no float field in {self.names}")
        self.boxes = {} if bits else {name: _bins(name, box, bins) for name, box in floats.items()}
        size = sum(math.prod(box.shape or ()) for box in floats.values()) if bits else 0
        numbers = generator(seed, "simhash")
        projection = torch.randn((size, bits or 0), dtype=torch.float64, generator=numbers)
        self.register_buffer("projection", projection)

    def forward(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Hash the observations [T+1, N] and the true successors [T, N]: int64, on the CPU."""
        T, N = rollout.num_steps, rollout.num_envs
        here = self._hash(rollout.obs, rollout.info, (T + 1, N))
        if len(rollout.final_at) == 0:
            return here, here[1:]
        final = self._hash(rollout.final_obs, rollout.final_info, (len(rollout.final_at),))
        return here, rollout.successors(here, final)

    def of(self, obs: Mapping[str, Tensor], info: Mapping[str, Tensor]) -> Tensor:
        """Hash observations with their side channels, each [R, ...]: [R] int64, on the CPU."""
        return self._hash(obs, info, (len(next(iter((obs or info).values()))),))

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
                exact.append(((field - low) * scale).floor().clamp(0, self.bins - 1).int())
            elif self.bits:
                real.append(field.double())
            else:
                raise ValueError(f"info {name!r} is a float: pass info_space, for its bounds")
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
    """Counts the visits of each key over the whole run, in a growing hash table.

    Attributes:
        keys: [C] int64.
        owners: [C] int64.
        counts: [C] int64, 0 in an empty slot.
        used: [] int64, number of occupied slots.
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
        """Count visits in time order: all columns of step t read the table, then all are added.

        Without `owners` the columns are those of all processes of the run, so that each has the
        same table, and counts as one process with all the environments would.

        Args:
            keys: [T, N] int64.
            valid: [T, N] bool; other rows are not visits.
            owners: [T, N] int64, separate counts per owner, of this process; default one count for
                all.

        Returns:
            [T, N] int64: visits before step t plus this one; 0 where not valid. On the CPU.
        """
        keys, valid = keys.cpu(), valid.cpu()
        if owners is None and collective.size() > 1:
            first, width = collective.rank() * keys.shape[1], keys.shape[1]
            keys = collective.gather_columns(keys)
            valid = collective.gather_columns(valid.byte()).bool()
            whole = self.count(keys, valid, torch.zeros_like(keys))
            return whole[:, first : first + width]
        owners = torch.zeros_like(keys) if owners is None else owners
        self.reserve(keys.numel())
        out = torch.zeros_like(keys)
        table = (self.keys, self.owners, self.counts)
        arrays = (x.contiguous().numpy() for x in (*table, keys, owners, valid, out))
        self.used += count_visits(*arrays)
        return out

    def look_up(self, keys: Tensor) -> Tensor:
        """Return the visits so far of `keys` [R] int64, without counting any: [R] int64."""
        out = torch.zeros_like(keys)
        if len(self.keys):
            table = (self.keys.numpy(), self.owners.numpy(), self.counts.numpy())
            look_up_counts(*table, keys.contiguous().numpy(), np.int64(0), out.numpy())
        return out

    def reserve(self, extra: int, living: Tensor | None = None) -> None:
        """Make room for `extra` new keys; if the table grows, it keeps only `living` owners [*]."""
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
    """Counts the visits of each key in the running episode of each environment.

    One table holds all episodes. The owner of an entry is the serial number of its episode, so a
    new episode starts empty by taking the next number; old entries are dropped when the table
    grows.

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
        """Count the first observation of each episode, and the successor of each step.

        Args:
            here: [T+1, N] int64, keys of the observations.
            after: [T, N] int64, keys of the true successors.
            rollout: defines the starts of episodes, the valid rows and the environments.

        Returns:
            [T, N] int64: visits of the successor in its episode, including this one; 0 where not
            valid. On the CPU.
        """
        env_ids = rollout.env_ids.cpu()
        self._open_unknown(env_ids)
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
        """Clear the running episodes of `env_ids` [*] int64, or of all."""
        ids = torch.arange(len(self.episodes)) if env_ids is None else env_ids.cpu()
        self._open_unknown(ids)
        self.episodes[ids] = self._take(len(ids))

    def _take(self, count: int) -> Tensor:
        """Take the next `count` serial numbers."""
        start = int(self.next_serial)
        self.next_serial = torch.tensor(start + count)
        return torch.arange(start, start + count)

    def _open_unknown(self, env_ids: Tensor) -> None:
        """Open an episode for environments without one."""
        known = len(self.episodes)
        self.episodes = grow_rows(self.episodes, env_ids)
        self.episodes[known:] = self._take(len(self.episodes) - known)


def _flat(field: Tensor, rows: int) -> Tensor:
    """Flatten [..., *field] to [R, D]."""
    return field.reshape(rows, field.numel() // max(rows, 1))


def _is_float(space: spaces.Space) -> bool:
    return space.dtype is not None and np.issubdtype(space.dtype, np.floating)


def _bins(name: str, space: spaces.Space, bins: int) -> tuple[Tensor, Tensor]:
    """Lower bound and bins per unit of each dimension; [D] float64."""
    assert isinstance(space, spaces.Box)
    low, high = (torch.as_tensor(bound).flatten() for bound in (space.low, space.high))
    width = (high.float() - low.float()).double()  # inf for the largest float as a bound, too
    if not width.isfinite().all():
        raise ValueError(
            f"field {name!r} is a float without bounds: set bits (for example 32) to hash it by "
            "SimHash, or exclude it by keys"
        )
    return low.double(), torch.where(width > 0, bins / width, 0.0)


def _unknown(name: str, options: Sequence[str]) -> ValueError:
    near = get_close_matches(name, options, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {sorted(options)}"
    return ValueError(f"keys contains {name!r}, which is neither observed nor in info: {hint}")
