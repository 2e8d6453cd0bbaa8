"""`ICM` and the forward models: bonus and losses by hand, gradients, and kinds of actions."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import vector_walks
from gymnasium import spaces
from vector_walks import ACT_SPACE, OBS_SPACE

from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import ICM, RecentScale, check_module
from firstlight.intrinsic.embedding import Transitions
from firstlight.intrinsic.forward_models import ActionFeatures, ForwardModels

SMALL = {"width": 4, "hidden": 8}


def make(**kwargs):
    return ICM(OBS_SPACE, ACT_SPACE, **(SMALL | kwargs))


def leaky(x):
    return np.where(x > 0, x, 0.01 * x)


def predicted(models, member, x, taken):
    """One prediction [E] of one member from embedding x and action features, in NumPy."""
    layers = [
        (w[member].detach().numpy(), b[member, 0].detach().numpy())
        for w, b in zip(models.weights, models.biases, strict=True)
    ]

    def apply(x, layer):
        return np.concatenate([x, taken]) @ layer[0] + layer[1]

    x = leaky(apply(x, layers[0]))
    for one, two in zip(layers[1:-1:2], layers[2:-1:2], strict=True):
        x = x + apply(leaky(apply(x, one)), two)
    return apply(x, layers[-1])


@pytest.mark.parametrize("num_blocks", [0, 2])
def test_an_ensemble_equals_its_members_one_by_one(num_blocks):
    models = ForwardModels(3, 4, ACT_SPACE, hidden=6, num_blocks=num_blocks)
    numbers = torch.Generator().manual_seed(0)
    for bias in models.biases:
        torch.nn.init.normal_(bias, generator=numbers)
    x, action = torch.randn(5, 4, generator=numbers), torch.tensor([0, 1, 2, 2, 0])
    out = models(x, action)
    assert out.shape == (3, 5, 4)
    for m in range(3):
        for i in range(5):
            expected = predicted(models, m, x[i].numpy(), np.eye(3)[action[i]])
            np.testing.assert_allclose(out[m, i].detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (spaces.Discrete(3), [2, 0], [[0, 0, 1], [1, 0, 0]]),
        (spaces.MultiDiscrete([2, 3]), [[1, 2]], [[0, 1, 0, 0, 1]]),
        (spaces.MultiBinary(2), [[1, 0]], [[0, 1, 1, 0]]),
        (spaces.Box(0, 4, (2,)), [[0.0, 3.0], [9.0, 2.0]], [[-1, 0.5], [1, 0]]),
        (spaces.Box(-np.inf, np.inf, (1, 2)), [[[0.5, -7.0]]], [[0.5, -1]]),
    ],
)
def test_features_of_actions(space, action, expected):
    features = ActionFeatures(space)
    out = features(torch.tensor(action))
    assert out.tolist() == expected
    assert out.dtype == torch.float32
    assert features.out_dim == len(expected[0])


def test_an_unknown_action_space_is_refused():
    with pytest.raises(ValueError, match="no features"):
        ActionFeatures(spaces.Text(3))


@pytest.mark.parametrize("num_blocks", [0, 1])
def test_the_bonus_is_half_the_squared_error(num_blocks):
    module = make(num_blocks=num_blocks)
    for rollout in vector_walks.rollouts(2):
        bonus, successor = module.compute(rollout), rollout.next_obs()["obs"]
        for t, n in rollout.valid.nonzero().tolist():
            with torch.no_grad():
                here, after = (
                    module.dynamics.embedding({"obs": x[t, n][None]})[0].numpy()
                    for x in (rollout.obs["obs"], successor)
                )
            guess = predicted(module.model, 0, here, np.eye(3)[rollout.action[t, n]])
            expected = 0.5 * ((guess - after) ** 2).sum()
            assert bonus[t, n].item() == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert not bonus[~rollout.valid].any()


@pytest.mark.parametrize("beta", [0.0, 0.2, 1.0])
def test_the_loss_joins_inverse_and_forward_loss(beta):
    module, rollout = make(beta=beta), vector_walks.rollouts(1)[0]
    steps = Transitions.of(rollout)
    here, after = (module.dynamics.embedding(obs) for obs in (steps.obs, steps.next_obs))
    logits = module.dynamics.predictor(torch.cat([here, after], 1))
    inverse = F.cross_entropy(logits, steps.action)
    forward = module.compute(rollout)[rollout.valid].mean()
    expected = (1 - beta) * inverse + beta * forward
    torch.testing.assert_close(module._loss(steps), expected)


@pytest.mark.parametrize("stop_gradient", [False, True])
def test_the_forward_loss_shapes_the_embedding_unless_stopped(stop_gradient):
    module = make(beta=1.0, stop_gradient=stop_gradient)
    module._loss(Transitions.of(vector_walks.rollouts(1)[0])).backward()
    gradients = [p.grad for p in module.dynamics.encoder.parameters()]
    assert any(g is not None and bool(g.any()) for g in gradients) != stop_gradient
    assert all(p.grad is not None for p in module.model.parameters())


def test_a_random_embedding_is_frozen():
    module, rollout = make(embedding="random"), vector_walks.rollouts(1)[0]
    before = copy.deepcopy(module)
    losses = [module.update(rollout)["loss"] for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]
    pairs = zip(module.named_parameters(), before.parameters(), strict=True)
    changed = {name.split(".")[0] for (name, new), old in pairs if not torch.equal(new, old)}
    assert changed == {"model"}


def test_what_was_learnt_is_no_longer_rewarded():
    """A deterministic walk: its transitions become predictable, others stay surprising."""
    module = make(embedding="random", lr=1e-2)
    seen, other = vector_walks.walk(*[1, 2, 3] * 20), vector_walks.walk(8, 5, 9, 6)
    before = [float(module.compute(r).mean()) for r in (seen, other)]
    for _ in range(150):
        module.update(seen)
    after = [float(module.compute(r).mean()) for r in (seen, other)]
    assert after[0] < 0.01 * before[0]
    assert after[1] > 0.2 * before[1]


@pytest.mark.parametrize("options", [{}, {"embedding": "random"}, {"num_blocks": 1}])
def test_it_is_a_module(options):
    vec = Chain()
    check_module(ICM(vec.obs_space, vec.act_space, **options))


def test_defaults_and_refusals():
    module, term = make(), ICM.default_term()
    assert (module.beta, module.stop_gradient) == (0.2, False)  # as published
    assert isinstance(term.transform, RecentScale)
    with pytest.raises(ValueError, match="embedding is 'pixels'"):
        make(embedding="pixels")
    with pytest.raises(ValueError, match="beta is 2"):
        make(beta=2)
