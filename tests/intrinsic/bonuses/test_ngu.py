"""`NGU`: the bonus by plain loops, running means, episodes, saving and options."""

import copy

import pytest
import torch
import vector_walks
from vector_walks import ACT_SPACE, OBS_SPACE, walk

from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import NGU, RND, RecentScale, check_module

SMALL = {"width": 4, "hidden": 8, "embedding_dim": 8}


def make(**kwargs):
    return NGU(OBS_SPACE, ACT_SPACE, **(SMALL | kwargs))


def plain(module, runs, k, *, capacity=1024, c=1e-3, eps=1e-3, cluster=8e-3, bound=8.0, L=5.0):
    """The bonus step by step from lists of embeddings, with the means that are stored now."""
    mean = float(module.mean_distance) or 1.0

    def embedded(x):
        return module.dynamics.embedding({"obs": x[None]})[0].double()

    held = {}
    for rollout in runs:
        out, successor = torch.zeros(rollout.valid.shape), rollout.next_obs()["obs"]
        error = None if module.rnd is None else module.rnd.compute(rollout)
        for t in range(rollout.num_steps):
            for n, env in enumerate(rollout.env_ids.tolist()):
                if rollout.is_first[t, n]:
                    held[env] = [embedded(rollout.obs["obs"][t, n])]
                if not rollout.valid[t, n]:
                    continue
                x, memory = embedded(successor[t, n]), held.get(env, [])
                near = sorted(float((m - x).square().sum()) for m in memory)[:k]
                kernels = [eps / (max(d / mean - cluster, 0) + eps) for d in near]
                similarity = sum(kernels) ** 0.5 + c
                bonus = 1 / similarity if memory and similarity <= bound else 0.0
                if error is not None and float(module.errors.weight) > 0:
                    away = (error[t, n] - module.errors.mean) / module.errors.var.sqrt()
                    bonus *= min(max(1 + float(away), 1), L)
                out[t, n] = bonus
                held[env] = [*memory, x][-capacity:]
        yield out


@pytest.mark.parametrize(
    ("options", "constants"),
    [
        ({}, {}),
        ({"lifelong": False}, {}),
        ({"kernel_epsilon": 1e-2, "pseudo_count": 0.1}, {"eps": 1e-2, "c": 0.1}),
        ({"max_similarity": 0.05, "cluster_distance": 0.5}, {"bound": 0.05, "cluster": 0.5}),
        ({"max_lifelong": 1.2, "capacity": 6}, {"L": 1.2, "capacity": 6}),
    ],
)
@pytest.mark.parametrize("warm", [True, False])
@torch.no_grad()
def test_the_bonus_equals_a_computation_step_by_step(options, constants, warm):
    first, *runs = vector_walks.rollouts(4)
    module = make(k=3, **options)
    if warm:
        module.warmup(first)
        assert module.mean_distance > 0
    for rollout, expected in zip(runs, plain(module, runs, 3, **constants), strict=True):
        bonus = module.compute(rollout)
        torch.testing.assert_close(bonus, expected, rtol=1e-3, atol=1e-4)
        assert not bonus[~rollout.valid].any()


@pytest.mark.parametrize("options", [{}, {"lifelong": False, "k": 2, "lr": 1e-5}])
def test_it_is_a_module(options):
    vec = Chain()
    check_module(NGU(vec.obs_space, vec.act_space, **SMALL, **options))


def test_means_change_in_update_alone_and_with_the_decay():
    first, second, _ = vector_walks.rollouts()
    module = make(k=2, decay=0.75)
    module.warmup(first)
    mean, error_mean = module.mean_distance.clone(), module.errors.mean.clone()
    distances = copy.deepcopy(module)._distances(second)[..., -1]
    error = module.rnd.compute(second)[second.valid].double()
    module.compute(second)
    assert torch.equal(module.mean_distance, mean)
    module.update(second)
    found = distances[distances.isfinite() & second.valid].double().mean()
    torch.testing.assert_close(module.mean_distance, 0.75 * mean + 0.25 * found)
    weight = 0.75 * 0.25 + 0.25
    expected = error_mean + 0.25 / weight * (error.mean() - error_mean)
    torch.testing.assert_close(module.errors.mean, expected)


def test_a_state_of_the_episode_gives_less_than_a_new_one():
    module = make(lifelong=False)
    module.warmup(vector_walks.rollouts()[0])
    bonus = module.compute(walk(0, 1, 2, 3, 4, 5, 0, 1))[:, 0]
    assert bonus[-2:].max() < bonus[:-2].min()


def test_an_episode_does_not_see_the_one_before():
    bonus = make().compute(walk(0, 1, 2, 0, 1, 2, is_first=[1, 0, 0, 1, 0, 0]))
    assert torch.equal(bonus[:2], bonus[3:])


def test_reset_clears_the_episode():
    module, going_on = make(), walk(1, 2, 3, is_first=[0, 0, 0])
    empty = copy.deepcopy(module).compute(going_on)
    assert empty[0] == 0
    module.compute(walk(0, 1))
    module.reset(torch.tensor([0]))
    assert torch.equal(module.compute(going_on), empty)


def test_a_saved_module_continues_identically():
    vector_walks.check_saved(make(), make(seed=1))


def test_constants_are_the_published_ones():
    module = make()
    assert (module.memory.k, module.epsilon, module.cluster_distance) == (10, 1e-3, 8e-3)
    assert (module.pseudo_count, module.max_similarity, module.max_lifelong) == (1e-3, 8, 5)
    assert isinstance(module.rnd, RND)
    term = NGU.default_term()
    assert (term.weight, term.gamma, term.episodic) == (0.1, 0.99, True)
    assert isinstance(term.transform, RecentScale)
