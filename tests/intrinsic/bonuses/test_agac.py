"""`AGAC`'s bonus: first visits by plain loops, episodes, saving."""

import copy

import hand_made
import pytest
import torch
from gymnasium import spaces

from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import AGAC, check_module

NUMBERS = spaces.Dict({"obs": spaces.Discrete(10**6)})


def plain(runs):
    seen = {}
    for rollout in runs:
        out, successor = torch.zeros(rollout.valid.shape), rollout.next_obs()["obs"]
        for t in range(rollout.num_steps):
            for n, env in enumerate(rollout.env_ids.tolist()):
                if rollout.is_first[t, n]:
                    seen[env] = {int(rollout.obs["obs"][t, n])}
                if rollout.valid[t, n]:
                    visited = seen.setdefault(env, set())
                    out[t, n] = int(successor[t, n]) not in visited
                    visited.add(int(successor[t, n]))
        yield out


def test_the_bonus_equals_plain_loops_and_is_restored():
    numbers = torch.Generator().manual_seed(0)
    runs = [hand_made.random_rollout(numbers, 20, 5, 9) for _ in range(4)]
    module, loaded = AGAC(NUMBERS), AGAC(NUMBERS)
    for rollout, expected in zip(runs, plain(runs), strict=True):
        loaded.load_state_dict(copy.deepcopy(module.state_dict()))
        assert torch.equal(module.compute(rollout), expected)
        assert torch.equal(loaded.compute(rollout), expected)


@pytest.mark.parametrize("options", [{}, {"keys": ["position"]}])
def test_it_is_a_module(options):
    check_module(AGAC(Chain().obs_space, **options))


def test_reset_clears_visits():
    module, going_on = AGAC(NUMBERS), torch.zeros(2, 1, dtype=torch.bool)
    module.compute(hand_made.rollout({"obs": torch.tensor([[0], [1]])}))
    again = hand_made.rollout({"obs": torch.tensor([[0], [1]])}, is_first=going_on)
    assert module.compute(again) == 0
    module.reset()
    assert module.compute(again) == 1


def test_the_default_term_is_the_published_one():
    term = AGAC.default_term()
    assert (term.weight, term.transform, term.gamma, term.episodic) == (0.0125, None, 0.99, True)
