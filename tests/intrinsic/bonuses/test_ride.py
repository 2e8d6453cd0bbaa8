"""`RIDE`: the impact by plain loops, both models, visits, saving and options."""

import copy
from collections import Counter

import hand_made
import pytest
import torch
import torch.nn.functional as F
import vector_walks
from gymnasium import spaces
from vector_walks import ACT_SPACE, OBS_SPACE, walk

from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import RIDE, RecentScale, check_module
from firstlight.intrinsic.embedding import Transitions

SMALL = {"width": 6, "hidden": 8}


def make(**kwargs):
    return RIDE(OBS_SPACE, ACT_SPACE, **(SMALL | kwargs))


def plain(module, runs, scaling):
    episode = {}
    for rollout in runs:
        out, successor = torch.zeros(rollout.valid.shape), rollout.next_obs()["obs"]
        for t in range(rollout.num_steps):
            for n, env in enumerate(rollout.env_ids.tolist()):
                s, after = rollout.obs["obs"][t, n], successor[t, n]
                if rollout.is_first[t, n]:
                    episode[env] = Counter([tuple(s.tolist())])
                if not rollout.valid[t, n]:
                    continue
                visits = episode.setdefault(env, Counter())
                visits[tuple(after.tolist())] += 1
                number = visits[tuple(after.tolist())]
                factor = {"count": number**-0.5, "first_visit": number == 1, "none": 1}[scaling]
                with torch.no_grad():
                    before, now = module.dynamics.embedding({"obs": torch.stack([s, after])})
                out[t, n] = (now - before).norm() * factor
        yield out


@pytest.mark.parametrize("scaling", ["count", "first_visit", "none"])
def test_the_bonus_equals_the_impact_by_plain_loops(scaling):
    runs, module = vector_walks.rollouts(), make(scaling=scaling)
    for rollout, expected in zip(runs, plain(module, runs, scaling), strict=True):
        torch.testing.assert_close(module.compute(rollout), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"scaling": "count"}, {"scaling": "none"}])
def test_it_is_a_module(options):
    vec = Chain()
    check_module(RIDE(vec.obs_space, vec.act_space, **SMALL, **options))


def test_a_step_that_changes_nothing_gives_nothing():
    assert (make(scaling="none").compute(walk(0, 0, 0)) < 1e-5).all()


def test_going_back_and_forth_gives_less_and_less_until_the_episode_ends():
    bonus = make(scaling="count").compute(
        walk(0, 1, 0, 1, 0, 0, 1, is_first=[1, 0, 0, 0, 0, 1, 0])
    )[:, 0]
    expected = bonus[0] * torch.tensor([1, 2**-0.5, 2**-0.5, 3**-0.5])
    torch.testing.assert_close(bonus[:4], expected)
    torch.testing.assert_close(bonus[5], bonus[0])


def test_reset_clears_visits():
    module = make(scaling="count")
    module.compute(walk(0, 1))
    going_on = walk(0, 1, is_first=[0, 0])
    again = copy.deepcopy(module).compute(going_on)
    module.reset(torch.tensor([0]))
    torch.testing.assert_close(module.compute(going_on), again * 2**0.5)


def test_the_loss_weights_a_forward_and_an_inverse_model():
    rollout = vector_walks.rollouts()[0]
    module = make(forward_coef=3.0, inverse_coef=0.2)
    steps = Transitions.of(rollout)
    here, after = (module.dynamics.embedding(obs) for obs in (steps.obs, steps.next_obs))
    hot = F.one_hot(steps.action, 3).float()
    away = module.forward_model(torch.cat([here, hot], 1)) - after
    logits = module.dynamics.predictor(torch.cat([here, after], 1))
    expected = 1.5 * away.square().sum(1).mean() + 0.2 * F.cross_entropy(logits, steps.action)
    torch.testing.assert_close(module._loss(steps), expected)


def test_it_learns():
    rollout = vector_walks.rollouts()[0]
    module = make(lr=0.01, forward_coef=10.0, inverse_coef=0.1)
    losses = [module.update(rollout)["loss"] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_continuous_actions_enter_the_forward_model():
    box = spaces.Box(-1, 1, (2,))
    rollout = vector_walks.rollouts()[0]
    action = torch.rand(*rollout.valid.shape, 2) * 2 - 1
    rollout = vector_walks.dataclasses.replace(rollout, action=action)
    module = RIDE(OBS_SPACE, box, **SMALL)
    assert module.forward_model[0].in_features == 6 + 2
    module.compute(rollout)
    assert module.update(rollout)["loss"] > 0


def test_a_saved_module_continues_identically():
    vector_walks.check_saved(make(), make(seed=1))


def test_visited_states_may_be_read_from_info():
    vec = Chain()
    module = RIDE(vec.obs_space, vec.act_space, count_keys=["position"], scaling="count", **SMALL)
    obs = {"obs": torch.eye(9, dtype=torch.uint8)[:4, None]}
    info = {"position": torch.zeros(4, 1, dtype=torch.int64)}
    counted = module.compute(hand_made.rollout(obs, info=info))[:, 0]
    plain_ = RIDE(vec.obs_space, vec.act_space, scaling="none", **SMALL)
    impact = plain_.compute(hand_made.rollout(obs, info=info))[:, 0]
    torch.testing.assert_close(counted, impact * torch.tensor([2.0, 3, 4]).rsqrt())


def test_settings():
    with pytest.raises(ValueError, match="scaling is 'knn', expected one of count, first_visit"):
        make(scaling="knn")
    term = RIDE.default_term()
    assert (term.weight, term.gamma, term.episodic) == (0.1, 0.99, True)
    assert isinstance(term.transform, RecentScale)
