"""`NovelD`: the difference by plain loops, first visits, both novelties, and options."""

import copy
from collections import Counter

import hand_made
import pytest
import torch
import vector_walks
from gymnasium import spaces
from vector_walks import walk

from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import NovelD, RecentScale, check_module

NUMBERS = spaces.Dict({"obs": spaces.Discrete(10**6)})
SMALL = {"embedding_dim": 8, "hidden": 8}


def make(**kwargs):
    return NovelD(vector_walks.OBS_SPACE, **(SMALL | kwargs))


def plain_rnd(module, runs, alpha, beta, *, first_visit):
    """The bonus step by step; states are told apart by their vectors."""

    def novelty(x):
        with torch.no_grad():
            return float(module.rnd.error(module.rnd.inputs({"obs": x[None]})))

    seen = {}
    for rollout in runs:
        out, successor = torch.zeros(rollout.valid.shape), rollout.next_obs()["obs"]
        for t in range(rollout.num_steps):
            for n, env in enumerate(rollout.env_ids.tolist()):
                s, after = rollout.obs["obs"][t, n], successor[t, n]
                if rollout.is_first[t, n]:
                    seen[env] = {tuple(s.tolist())}
                if rollout.valid[t, n]:
                    visited = seen.setdefault(env, set())
                    known = first_visit and tuple(after.tolist()) in visited
                    visited.add(tuple(after.tolist()))
                    out[t, n] = 0 if known else max(novelty(after) - alpha * novelty(s), beta)
        yield out


@pytest.mark.parametrize("first_visit", [True, False])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.0), (0.1, 0.0), (1.5, 0.05)])
def test_the_bonus_equals_the_difference_of_prediction_errors(alpha, beta, first_visit):
    runs, module = vector_walks.rollouts(), make(alpha=alpha, beta=beta, first_visit=first_visit)
    assert module.rnd.distance == "l2"
    slow = plain_rnd(module, runs, alpha, beta, first_visit=first_visit)
    for rollout, expected in zip(runs, slow, strict=True):
        torch.testing.assert_close(module.compute(rollout), expected, rtol=1e-4, atol=1e-5)


def plain_count(runs, alpha, power):
    """The bonus by counts, each as of when the state was reached."""
    total, episode, last = Counter(), {}, Counter()
    for rollout in runs:
        out, successor = torch.zeros(rollout.valid.shape), rollout.next_obs()["obs"]
        for t in range(rollout.num_steps):
            opened = []
            for n, env in enumerate(rollout.env_ids.tolist()):
                if rollout.is_first[t, n]:
                    s = int(rollout.obs["obs"][t, n])
                    episode[env], last[env] = {s}, (total[s] + 1) ** -power
                    opened.append(s)
            total.update(opened)
            arrived = []
            for n, env in enumerate(rollout.env_ids.tolist()):
                if rollout.valid[t, n]:
                    s = int(successor[t, n])
                    novelty = (total[s] + 1) ** -power
                    visited = episode.setdefault(env, set())
                    if s not in visited:
                        out[t, n] = max(novelty - alpha * last[env], 0)
                    visited.add(s)
                    last[env] = novelty
                    arrived.append(s)
            total.update(arrived)
        yield out


@pytest.mark.parametrize(("alpha", "power"), [(0.5, 0.5), (1.0, 1.0)])
def test_the_bonus_by_counts_equals_plain_loops(alpha, power):
    numbers = torch.Generator().manual_seed(0)
    runs = [hand_made.random_rollout(numbers, 20, 5, 30) for _ in range(5)]
    module = NovelD(NUMBERS, novelty="count", alpha=alpha, count_power=power)
    for rollout, expected in zip(runs, plain_count(runs, alpha, power), strict=True):
        torch.testing.assert_close(module.compute(rollout), expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"novelty": "count"},
        {"first_visit": False, "lr": 0.01},
        {"alpha": 0.1, "network": "published"},
    ],
)
def test_it_is_a_module(options):
    check_module(NovelD(Chain().obs_space, **SMALL, **options))


def test_going_back_gives_nothing_and_a_new_episode_counts_anew():
    bonus = make(alpha=0.0).compute(walk(0, 1, 0, 1, 2, 0, 1, is_first=[1, 0, 0, 0, 0, 1, 0]))[:, 0]
    assert (bonus > 0).tolist() == [True, False, False, True, False, True]


def test_reset_clears_visits():
    module = make(alpha=0.0)
    module.compute(walk(0, 1))
    going_on = walk(1, 1, is_first=[0, 0])
    assert copy.deepcopy(module).compute(going_on) == 0
    module.reset()
    assert module.compute(going_on) > 0


def test_a_step_out_of_the_known_gives_more_than_one_within():
    module = make(lr=0.01, first_visit=False)
    known = walk(0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1)
    for _ in range(100):
        module.update(known)
    within, out = module.compute(walk(0, 1)), module.compute(walk(0, 5))
    assert out > 5 * within


@pytest.mark.parametrize("novelty", ["rnd", "count"])
def test_a_saved_module_continues_identically(novelty):
    vector_walks.check_saved(make(novelty=novelty), make(novelty=novelty, seed=1))


def test_visited_states_may_be_read_from_info():
    module = NovelD(Chain().obs_space, keys=["position"], alpha=0.0, **SMALL)
    check_module(module)
    obs = {"obs": torch.eye(9, dtype=torch.uint8)[:4, None]}
    position = torch.tensor([0, 1, 1, 0])[:, None]
    bonus = module.compute(hand_made.rollout(obs, info={"position": position}))
    assert (bonus[:, 0] > 0).tolist() == [True, False, False]


def test_invalid_settings_are_rejected():
    with pytest.raises(ValueError, match="novelty is 'icm', expected one of rnd, count"):
        make(novelty="icm")
    unbounded = spaces.Dict({"x": spaces.Box(-torch.inf, torch.inf, (3,))})
    with pytest.raises(ValueError, match="set bits"):
        NovelD(unbounded)
    NovelD(unbounded, first_visit=False)


def test_the_default_term():
    term = NovelD.default_term()
    assert (term.weight, term.gamma, term.episodic) == (0.1, 0.99, True)
    assert isinstance(term.transform, RecentScale)
