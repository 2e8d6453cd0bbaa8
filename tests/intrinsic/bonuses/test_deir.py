"""`DEIR`: the bonus by plain loops, the discriminator, novel observations, saving and options."""

import copy

import pytest
import torch
import torch.nn.functional as F
import vector_walks
from vector_walks import ACT_SPACE, OBS_SPACE, walk

from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import DEIR, RecentScale, check_module
from firstlight.intrinsic.embedding import Transitions

SMALL = {"width": 6, "hidden": 8, "update_proportion": 1.0}


def make(**kwargs):
    return DEIR(OBS_SPACE, ACT_SPACE, **(SMALL | kwargs))


def plain(module, runs):
    """The bonus step by step, with lists of pairs (e, h)."""
    held, trajectory = {}, {}
    for rollout in runs:
        out, successor = torch.zeros(rollout.valid.shape), rollout.next_obs()["obs"]
        for t in range(rollout.num_steps):
            for n, env in enumerate(rollout.env_ids.tolist()):
                with torch.no_grad():
                    e = module.embedding({"obs": rollout.obs["obs"][t, n, None]})[0]
                    after = module.embedding({"obs": successor[t, n, None]})[0]
                    if rollout.is_first[t, n]:
                        trajectory[env] = torch.zeros_like(e)
                        held[env] = [(e, trajectory[env])]
                    if not rollout.valid[t, n]:
                        continue
                    h = module.cell(e, trajectory.get(env, torch.zeros_like(e)))
                    memory = held.setdefault(env, [])
                    if memory:
                        out[t, n] = min(
                            (after - m).norm() ** 2 / ((h - g).norm() + 1e-6)
                            if module.scaled
                            else (after - m).norm()
                            for m, g in memory
                        )
                    memory.append((after, h))
                    trajectory[env] = h
        yield out


@pytest.mark.parametrize("options", [{}, {"scaled": False}, {"layer_norm": True}])
def test_the_bonus_equals_plain_loops(options):
    runs, module = vector_walks.rollouts(opens=0.3), make(**options)
    for rollout, expected in zip(runs, plain(module, runs), strict=True):
        bonus = module.compute(rollout)
        torch.testing.assert_close(bonus, expected, rtol=5e-3, atol=1e-3)
        assert not bonus[~rollout.valid].any()


@pytest.mark.parametrize("options", [{}, {"scaled": False}, {"layer_norm": True}])
def test_it_is_a_module(options):
    vec = Chain()
    check_module(DEIR(vec.obs_space, vec.act_space, **options))


def test_an_episode_does_not_see_the_one_before():
    module = make()
    bonus = module.compute(walk(0, 1, 2, 0, 1, 2, is_first=[1, 0, 0, 1, 0, 0]))
    torch.testing.assert_close(bonus[:2], bonus[3:])
    assert (bonus[:2] > 0).all()


def test_reset_clears_memory_and_trajectory():
    module, going_on = make(), walk(1, 2, 3, is_first=[0, 0, 0])
    empty = copy.deepcopy(module).compute(going_on)
    for ids in (torch.tensor([0]), None):
        module.compute(walk(0, 1, 4))
        module.reset(ids)
        assert torch.equal(module.compute(going_on), empty)
        module.reset()


def test_the_divisor_is_the_distance_of_trajectories():
    """Of two steps between equal observations the one whose trajectory is nearer counts more."""
    module, query = make(), torch.ones(1, 1, 6)
    near, far = (torch.cat([torch.zeros(1, 1, 6), torch.full((1, 1, 6), h)], -1) for h in (0.1, 2))
    rollout = walk(0, 1)
    found = []
    for past in (near, far):
        module.memory.reset()
        now = torch.cat([query, torch.zeros(1, 1, 6)], -1)
        found.append(module.memory.distances(past, now, rollout).item())
    assert found == pytest.approx([6 / (0.1 * 6**0.5), 6 / (2 * 6**0.5)], rel=1e-4)


def test_the_loss_tells_successors_from_replacements():
    module, rollout = make(), vector_walks.rollouts()[0]
    steps = Transitions.of(rollout)
    B = len(steps)
    before = torch.randn(B, 6, generator=torch.Generator().manual_seed(1))
    fakes = {"obs": vector_walks.TABLE[:4]}
    again = torch.Generator()
    again.set_state(module.fitter.generator.get_state())
    loss = module._loss(steps, before, fakes)
    true = torch.rand(B, generator=again) < 0.5
    drawn = torch.randint(4, (2, B), generator=again)
    total = []
    for i in range(B):
        right, fake = steps.next_obs["obs"][i], fakes["obs"][drawn[0, i]]
        if torch.equal(right, fake):
            fake = fakes["obs"][drawn[1, i]]
        if not true[i] and torch.equal(right, fake):
            continue
        shown = right if true[i] else fake
        e, after = module.embedding({"obs": torch.stack([steps.obs["obs"][i], shown])})
        h = module.cell(e, before[i])
        hot = F.one_hot(steps.action[i], 3).float()
        logit = module.discriminator(torch.cat([h, hot, module.cell(after, h)]))[0]
        total.append(-F.logsigmoid(logit if true[i] else -logit))
    torch.testing.assert_close(loss, torch.stack(total).mean(), rtol=1e-4, atol=1e-5)
    assert len(total) < B


def test_only_observations_of_at_least_the_mean_bonus_are_novel():
    module, obs = make(decay=0.5), {"obs": vector_walks.TABLE[:4]}
    module._remember(obs, torch.tensor([0.0, 1.0, 2.0, 5.0]))
    assert torch.equal(module.queue.fields()["obs"], obs["obs"])  # all of the first rollout
    assert module.mean_bonus == 2
    module._remember(obs, torch.tensor([1.0, 2.0, 0.5, 0.5]))
    assert torch.equal(module.queue.fields()["obs"][4:], obs["obs"][1:2])
    assert module.mean_bonus == 1.5


def test_the_discriminator_learns():
    module = make(lr=0.01, num_epochs=2)
    rollout = walk(*(list(range(6)) * 8))
    losses = []
    for _ in range(60):
        module.compute(rollout)
        losses.append(module.update(rollout)["loss"])
    assert sum(losses[-10:]) / 10 < 0.45 < losses[0]


def test_a_saved_module_continues_identically():
    vector_walks.check_saved(make(), make(seed=1))


def test_settings():
    term = DEIR.default_term()
    assert (term.weight, term.gamma, term.episodic) == (0.03, 0.99, True)
    assert isinstance(term.transform, RecentScale)
    assert DEIR(OBS_SPACE, ACT_SPACE, scaled=False).memory.vectors.shape[1] == 64
