"""Derive independent seeds for the parts of a run from its seed and their names."""

from __future__ import annotations

import random
from typing import Any
from zlib import crc32

import numpy as np
import torch


def derive(seed: int, name: str, *numbers: int) -> int:
    """Derive the seed of the part called `name`, or of its i-th episode: 31 bits, never changed.

    Runs with neighbouring seeds have no environment seed in common, as they would if environment
    i were given ``seed + i``.
    """
    return int(derive_many(seed, name, 1, *numbers)[0])


def derive_many(seed: int, name: str, count: int, *numbers: int) -> np.ndarray:
    """Derive `count` seeds for the part called `name`. Returns [count] int64, 31 bits each."""
    sequence = np.random.SeedSequence([seed, crc32(name.encode()), *numbers])
    return (sequence.generate_state(count, np.uint32) >> 1).astype(np.int64)


def splitmix(state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Advance generators of random numbers, one for each row (SplitMix64, Steele et al. 2014).

    Args:
        state: [N] int64.

    Returns:
        Next states [N] int64, and random numbers [N] float64 in [0, 1).
    """
    after = state.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (after ^ (after >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return after.view(np.int64), ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) / 2.0**53


def generator(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Create a torch generator for the part called `name`."""
    return torch.Generator(device).manual_seed(derive(seed, name))


def seed_process(seed: int) -> None:
    """Seed the global generators of torch, numpy and Python in this process.

    Environments may draw from them. firstlight does not: it calls this in the processes of
    environments, and its commands once at their start.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def global_rng_state() -> dict[str, Any]:
    """State of the global generators of torch, numpy and Python.

    firstlight samples from generators of its own; a user's network or module may not.
    """
    algorithm, keys, *rest = np.random.get_state()  # noqa: NPY002
    state = {
        "torch": torch.get_rng_state(),
        "numpy": (algorithm, np.array(keys), *rest),
        "python": random.getstate(),
    }
    return state | ({"cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_initialized() else {})


def set_global_rng_state(state: dict[str, Any]) -> None:
    """Load what `global_rng_state` returned."""
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
