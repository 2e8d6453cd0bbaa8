"""A rollout for tests of the mixer."""

import pytest

from firstlight import envs


@pytest.fixture
def rollout():
    """[40, 6] of a random agent on a chain, with some reward and some invalid rows."""
    vec = envs.Chain(6, length=3, autoreset="next_step")
    rollout = envs.Runner(vec).collect(envs.RandomActor(vec.act_space), 40)
    assert rollout.reward.any()
    assert not rollout.valid.all()
    return rollout
