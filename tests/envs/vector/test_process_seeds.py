"""Seeds reach the global generators of environments' processes, and no others."""

import random

import numpy as np
import pytest
import torch
from odd import Draws, draws

from firstlight.envs import GymVec, Isolated, PoolVec
from firstlight.envs.check_rows import difference, record_of

BACKENDS = {
    "processes": lambda: GymVec([Draws] * 2, asynchronous=True),
    "pool": lambda: PoolVec(Draws, num_envs=2, num_workers=1),
    "isolated": lambda: Isolated(draws),
}


def play(vec, seed):
    still = torch.zeros(2, dtype=torch.int64)
    return [record_of(vec.reset(seed)), *(record_of(vec.step(still)) for _ in range(9))]


@pytest.mark.parametrize("name", BACKENDS)
def test_equal_seeds_give_equal_numbers_in_every_process(name):
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    found = []
    for _ in range(2):  # in new processes
        vec = BACKENDS[name]()
        try:
            found.append([play(vec, seed) for seed in (1, 1, 2)])
            if name == "processes":  # so each episode depends on its seed alone, as a replay needs
                assert not vec.restore(torch.arange(2), vec.snapshots())[2].any()
            if name == "isolated":
                state = vec.state_dict()
                later = play(vec, None)
                vec.load_state_dict(state)
                assert all(
                    difference(a, b) is None for a, b in zip(later, play(vec, None), strict=True)
                )
        finally:
            vec.close()
    (one, again, other), second = found
    for a, b in zip([one, one], [again, second[0]], strict=True):
        assert all(difference(x, y) is None for x, y in zip(a, b, strict=True))
    assert difference(one[0], other[0]) is not None
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


def test_environments_in_this_process_leave_its_generators_alone():
    vec = GymVec([Draws] * 2)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    first = play(vec, 1)
    assert difference(first[0], play(vec, 1)[0]) is not None
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    assert difference(first[0], play(vec, 2)[0]) is None
