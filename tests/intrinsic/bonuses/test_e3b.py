"""`E3B`: the bonus against exact inverses, episodes, saving, options and its embedding."""

import copy

import pytest
import torch
import torch.nn.functional as F
import vector_walks
from vector_walks import ACT_SPACE, OBS_SPACE, walk

from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import E3B, RecentScale, check_module

SMALL = {"width": 6, "hidden": 8}


def make(**kwargs):
    return E3B(OBS_SPACE, ACT_SPACE, **(SMALL | kwargs))


def plain(module, runs, ridge, *, layer_norm=False):
    """Bonuses by inverting C anew at each step, in float64."""

    def embedded(x):
        with torch.no_grad():
            x = module.dynamics.embedding({"obs": x[None]})[0].double()
        return F.layer_norm(x, x.shape) if layer_norm else x

    total = {}
    for rollout in runs:
        out, successor = torch.zeros(rollout.valid.shape), rollout.next_obs()["obs"]
        empty = ridge * torch.eye(module.memory.dim).double()
        for t in range(rollout.num_steps):
            for n, env in enumerate(rollout.env_ids.tolist()):
                if rollout.is_first[t, n]:
                    x = embedded(rollout.obs["obs"][t, n])
                    total[env] = empty + x[:, None] * x
                if rollout.valid[t, n]:
                    x, before = embedded(successor[t, n]), total.get(env, empty)
                    out[t, n] = x @ torch.linalg.solve(before, x)
                    total[env] = before + x[:, None] * x
        yield out


@pytest.mark.parametrize("options", [{}, {"ridge": 1.0}, {"layer_norm": True}, {"width": None}])
def test_the_bonus_equals_exact_inverses(options):
    runs, module = vector_walks.rollouts(), make(**options)
    ridge, layer_norm = module.memory.ridge, module.layer_norm
    slow = plain(module, runs, ridge, layer_norm=layer_norm)
    for rollout, expected in zip(runs, slow, strict=True):
        bonus = module.compute(rollout)
        torch.testing.assert_close(bonus, expected, rtol=1e-3, atol=1e-4)
        assert not bonus[~rollout.valid].any()


def test_log_gives_the_growth_of_the_log_determinant():
    module, rollout = make(log=True), walk(0, 1, 2, 3, 1)
    with torch.no_grad():
        x = module.dynamics.embedding({"obs": rollout.obs["obs"][:, 0]}).double()
    sums = 0.1 * torch.eye(6).double() + (x[:, :, None] * x[:, None]).cumsum(0)
    expected = torch.logdet(sums).diff().float()
    torch.testing.assert_close(module.compute(rollout)[:, 0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"embedding": "random"}, {"layer_norm": True}])
def test_it_is_a_module(options):
    vec = Chain()
    check_module(E3B(vec.obs_space, vec.act_space, **SMALL, **options))


def test_an_episode_does_not_see_the_one_before():
    module = make()
    bonus = module.compute(walk(0, 1, 2, 0, 1, 2, is_first=[1, 0, 0, 1, 0, 0]))
    assert torch.equal(bonus[:2], bonus[3:])
    assert not torch.equal(bonus[2], bonus[3])


def test_a_state_seen_again_gives_less():
    bonus = make().compute(walk(0, 1, 0, 1, 0, 1))[:, 0]
    assert (bonus[2:] < bonus[:-2]).all()


def test_reset_clears_the_episode():
    module = make()
    going_on = walk(1, 2, is_first=[False, False])
    empty = copy.deepcopy(module).compute(going_on)
    module.compute(walk(0, 1))
    module.reset(torch.tensor([0]))
    assert torch.equal(module.compute(going_on), empty)


def test_a_saved_module_continues_identically():
    vector_walks.check_saved(make(), make(seed=1))


def test_the_embedding_learns_to_predict_actions():
    """On a ring of states where the action is the step, the loss falls far below log 3."""
    numbers = torch.Generator().manual_seed(0)
    action = torch.randint(3, (32, 8), generator=numbers)
    states = torch.cat([torch.zeros(1, 8, dtype=torch.int64), action.cumsum(0)]) % 12
    numbered = vector_walks.hand_made.rollout({"obs": states})
    rollout = vector_walks.with_vectors(numbered, action)
    module = make(lr=0.01, num_epochs=4)
    losses = [module.update(rollout)["loss"] for _ in range(30)]
    assert losses[-1] < 0.3 < losses[0]


def test_a_random_embedding_learns_nothing():
    module, (rollout, *_) = make(embedding="random"), vector_walks.rollouts()
    before = copy.deepcopy(module.state_dict())
    assert module.update(rollout) == {}
    assert all(torch.equal(before[name], x) for name, x in module.state_dict().items())


def test_keys_select_the_fields():
    vec = Chain()
    module = E3B(vec.obs_space, vec.act_space, keys=["obs"])
    assert module.dynamics.encoder.out_dim
    with pytest.raises(ValueError, match="keys"):
        E3B(vec.obs_space, vec.act_space, keys=["position"])
    with pytest.raises(ValueError, match="embedding is 'policy', expected one of inverse, random"):
        make(embedding="policy")


def test_the_default_term():
    term = E3B.default_term()
    assert (term.weight, term.gamma, term.episodic) == (0.01, 0.99, True)
    assert isinstance(term.transform, RecentScale)
