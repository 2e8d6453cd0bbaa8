"""`Disagreement`: the variance by hand, what vanishes, and what members leave out."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import vector_walks
from vector_walks import ACT_SPACE, OBS_SPACE, TABLE

from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import Disagreement, RecentScale, check_module
from firstlight.intrinsic.embedding import Transitions

SMALL = {"width": 4, "hidden": 8}


def make(**kwargs):
    return Disagreement(OBS_SPACE, ACT_SPACE, **(SMALL | kwargs))


def test_the_bonus_is_the_variance_of_the_predictions():
    module = make(num_models=3)
    for rollout in vector_walks.rollouts(2):
        bonus = module.compute(rollout)
        for t, n in rollout.valid.nonzero().tolist():
            with torch.no_grad():
                x = module.dynamics.embedding({"obs": rollout.obs["obs"][t, n][None]})
                guesses = module.models(x, rollout.action[t, n][None])[:, 0].numpy()
            expected = np.mean([np.var(guesses[:, e]) for e in range(4)])
            assert bonus[t, n].item() == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert not bonus[~rollout.valid].any()


def test_it_does_not_look_at_what_came_next():
    module, rollout = make(), vector_walks.rollouts(1)[0]
    obs = {"obs": rollout.obs["obs"].clone()}
    obs["obs"][-1] = 99.0
    other = dataclasses.replace(rollout, obs=obs)
    torch.testing.assert_close(module.compute(rollout), module.compute(other))


def test_it_vanishes_also_where_the_next_state_is_random():
    """The same state and action, followed by one of two states at random: the models agree."""
    numbers = torch.Generator().manual_seed(0)
    states = torch.zeros(401, dtype=torch.int64)
    states[1::2] = 4 + torch.randint(2, (200,), generator=numbers)
    noisy = vector_walks.walk(*states.tolist())
    module = make(lr=1e-2)
    before = float(module.compute(noisy).mean())
    for _ in range(150):
        loss = module.update(noisy)["loss"]
    _, after = module.dynamics.embed_rollout(noisy)
    assert loss > 0.2 * after[::2, 0].var(0, correction=0).mean()  # they cannot predict it
    assert float(module.compute(noisy).mean()) < 0.02 * before
    other = vector_walks.walk(8, 9, 10, 11)
    assert float(module.compute(other).mean()) > 5 * float(module.compute(noisy).mean())


def test_members_learn_from_different_transitions():
    module = make(num_models=4, member_proportion=0.5)
    first = [w[0].detach().clone() for w in module.models.weights]
    for weight, copied in zip(module.models.weights, first, strict=True):
        with torch.no_grad():
            weight[:] = copied  # equal members
    rollout = vector_walks.rollouts(1)[0]
    assert not module.compute(rollout).any()
    module.update(rollout)
    assert module.compute(rollout)[rollout.valid].all()
    whole = make(num_models=4, member_proportion=1.0)
    for weight, copied in zip(whole.models.weights, first, strict=True):
        with torch.no_grad():
            weight[:] = copied
    whole.update(rollout)
    assert whole.compute(rollout).max() < 1e-8


def test_the_loss_is_the_mean_error_of_the_members():
    module = make(member_proportion=1.0)
    steps = Transitions.of(vector_walks.rollouts(1)[0])
    here, after = (module.dynamics.embedding(obs) for obs in (steps.obs, steps.next_obs))
    error = (module.models(here, steps.action) - after).square().mean()
    torch.testing.assert_close(module._loss(steps), error)


@pytest.mark.parametrize("embedding", ["random", "inverse"])
def test_only_a_learnt_embedding_changes(embedding):
    module = make(embedding=embedding)
    before = copy.deepcopy(module)
    module.update(vector_walks.rollouts(1)[0])
    pairs = zip(module.named_parameters(), before.parameters(), strict=True)
    changed = {name.split(".")[0] for (name, new), old in pairs if not torch.equal(new, old)}
    assert changed == ({"models"} if embedding == "random" else {"models", "dynamics"})


@pytest.mark.parametrize("options", [{}, {"embedding": "inverse"}, {"num_blocks": 1}])
def test_it_is_a_module(options):
    vec = Chain()
    check_module(Disagreement(vec.obs_space, vec.act_space, **options))


def test_defaults_and_refusals():
    assert make().models.num_models == 5  # as published
    assert isinstance(Disagreement.default_term().transform, RecentScale)
    assert TABLE.shape[1] == OBS_SPACE["obs"].shape[0]
    with pytest.raises(ValueError, match="embedding is 'vae'"):
        make(embedding="vae")
    with pytest.raises(ValueError, match="num_models is 1"):
        make(num_models=1)
