"""How many threads torch uses in a run."""

from __future__ import annotations

import os

from omegaconf import DictConfig

from firstlight.envs.vector.pool import available_cores

_MOST = 8


def choose_threads(cores: int, busy: float) -> int:
    """Choose a number of threads for torch.

    Half of the free cores, since environments need the others: with a second thread on a machine
    of two cores, a run with the default network is slower by a seventh.

    Args:
        cores: that this process may use.
        busy: cores that other processes keep busy on average.

    Returns:
        A number from 1 to 8.
    """
    free = cores - busy
    return max(1, min(_MOST, int(free / 2)))


def set_threads(cfg: DictConfig) -> None:
    """Set torch's number of threads; ``num_threads=auto`` becomes a number in `cfg`.

    So the config that a run writes holds the number, and the run keeps it when it is resumed.
    """
    import torch

    if cfg.num_threads == "auto":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of this run on this machine
        cores = available_cores() // processes
        cfg.num_threads = choose_threads(cores, os.getloadavg()[0] / processes)
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)
