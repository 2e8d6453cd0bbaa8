"""`PseudoCounts`: NGU's episodic half, against counts of states and against a plain loop."""

import pytest
import torch
import vector_walks
from gymnasium import spaces
from vector_walks import ACT_SPACE, OBS_SPACE, walk

from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import NGU, PseudoCounts, RecentScale, check_module

SMALL = {"width": 4, "hidden": 8}


def make(**kwargs):
    return PseudoCounts(OBS_SPACE, ACT_SPACE, **(SMALL | kwargs))


def test_it_is_the_episodic_half_of_ngu():
    """Whose bonus is compared with plain loops in `test_ngu`."""
    one, other = make(seed=3), NGU(OBS_SPACE, ACT_SPACE, **SMALL, lifelong=False, seed=3)
    for rollout in vector_walks.rollouts(3):
        assert torch.equal(one.compute(rollout), other.compute(rollout))
        assert one.update(rollout) == other.update(rollout)


def test_a_pseudo_count_is_the_number_of_visits_of_states_that_are_far_apart():
    """With a small kernel only the same state is near, so ``1 / bonus - c`` is a root of visits."""
    module = make(kernel_epsilon=1e-9, cluster_distance=0.0)
    states = [0, 1, 2, 1, 1, 0, 3, 1, 2]
    bonus = module.compute(walk(*states))[:, 0]
    for t in range(1, len(states)):
        visits = states[:t].count(states[t])
        if visits:
            assert bonus[t - 1].item() == pytest.approx(1 / (visits**0.5 + 1e-3), rel=1e-3)
        else:
            assert bonus[t - 1].item() > 10


def test_what_was_seen_too_often_is_not_rewarded():
    module = make(max_similarity=2.0)
    bonus = module.compute(walk(*[5] * 9))[:, 0]
    assert bonus[:3].all()
    assert not bonus[4:].any()


def test_a_new_episode_begins_with_an_empty_memory():
    module = make()
    once = module.compute(walk(1, 2, 3, 2, 1))
    module.reset()
    assert torch.equal(module.compute(walk(1, 2, 3, 2, 1)), once)
    twice = module.compute(walk(1, 2, 3, 2, 1, is_first=[0, 0, 0, 0, 0]))
    assert twice.sum() < once.sum()


@pytest.mark.parametrize("options", [{}, {"k": 2, "width": None}])
def test_it_is_a_module(options):
    vec = Chain()
    check_module(PseudoCounts(vec.obs_space, vec.act_space, **options))


def test_the_constants_are_the_published_ones():
    module = PseudoCounts(OBS_SPACE, spaces.Discrete(3))
    published = (module.memory.k, module.epsilon, module.cluster_distance, module.pseudo_count)
    assert published == (10, 1e-3, 8e-3, 1e-3)
    assert module.dynamics.out_dim == 32
    term = PseudoCounts.default_term()
    assert term.episodic
    assert isinstance(term.transform, RecentScale)
