"""`DRND`: both parts of the bonus by hand, targets, learning, and published constants."""

import copy

import numpy as np
import pytest
import torch
import vector_walks
from gymnasium import spaces
from torch import nn
from vector_walks import OBS_SPACE, TABLE, walk

from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import DRND, RecentScale, check_module

SMALL = {"embedding_dim": 4, "hidden": 8, "normalize_obs": False}


def make(**kwargs):
    return DRND(OBS_SPACE, **(SMALL | kwargs))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_bonus_equals_a_computation_by_hand(shared, alpha, reduction):
    module = make(shared=shared, alpha=alpha, reduction=reduction, num_targets=3)
    for rollout in vector_walks.rollouts(2):
        bonus, successor = module.compute(rollout), rollout.next_obs()["obs"]
        for t, n in rollout.valid.nonzero().tolist():
            inputs = {"obs": successor[t, n][None]}
            targets = module.all_targets(inputs)[0].numpy().astype(np.float64)
            f = module.predictor(inputs)[0].detach().numpy().astype(np.float64)
            away = [(f[e] - targets[:, e].mean()) ** 2 for e in range(4)]
            first = sum(away) if reduction == "sum" else sum(away) / 4
            second = 0.0
            for e in range(4):
                mean = targets[:, e].mean()
                quotient = abs(f[e] ** 2 - mean**2) / ((targets[:, e] ** 2).mean() - mean**2)
                second += np.sqrt(min(max(quotient, 1e-3), 1.0)) / 4
            expected = alpha * first + (1 - alpha) * second
            assert bonus[t, n].item() == pytest.approx(expected, rel=1e-3)
        assert not bonus[~rollout.valid].any()


def test_separate_targets_are_different_networks():
    module = make(shared=False, num_targets=3)
    assert len(module.targets) == 3
    x = {"obs": TABLE}
    outputs = module.all_targets(x)
    for i, network in enumerate(module.targets):
        assert torch.equal(outputs[:, i], network(x))
    assert not torch.allclose(outputs[:, 0], outputs[:, 1])
    assert make(num_targets=3).all_targets(x).shape == outputs.shape


def test_the_predictor_learns_the_mean_of_the_targets():
    """From drawn targets alone, so b1 of what was seen falls far below the targets' spread."""
    module, rollout = make(alpha=1.0, num_targets=4), walk(*[3, 4] * 300)
    before = copy.deepcopy(module)
    for _ in range(150):
        module.update(rollout)
    targets = module.all_targets({"obs": TABLE[3:5]})
    f = module.predictor({"obs": TABLE[3:5]})
    spread = targets.var(1, correction=0).mean()
    assert (f - targets.mean(1)).square().mean() < 0.1 * spread
    pairs = zip(module.named_parameters(), before.parameters(), strict=True)
    changed = {name.split(".")[0] for (name, new), old in pairs if not torch.equal(new, old)}
    assert changed == {"predictor"}


def test_the_second_part_falls_with_visits():
    """About one over the root of the number of visits, so slower than the first."""
    module = make(alpha=0.0, num_targets=10, embedding_dim=32)
    rollout, sizes = walk(*[3, 4] * 64), []
    for _ in range(60):
        sizes.append(float(module.compute(rollout).mean()))
        module.update(rollout)
    assert sizes[-1] < 0.7 * sizes[0]
    assert float(module.compute(walk(8, 9)).mean()) > 1.2 * sizes[-1]


@pytest.mark.parametrize("options", [{}, {"shared": False, "num_targets": 2}, {"network": "mlp"}])
def test_it_is_a_module(options):
    check_module(DRND(Chain().obs_space, embedding_dim=8, **options))


def test_published_networks_from_pixels():
    frames = spaces.Dict({"obs": spaces.Box(0, 255, (4, 84, 84), np.uint8)})
    options = {"shared": False, "num_targets": 2, "embedding_dim": 512}
    module = DRND(frames, network="published", **options)
    assert [f.out_features for f in module.predictor if isinstance(f, nn.Linear)] == [512] * 3
    for target in module.targets:
        assert [f.out_features for f in target if isinstance(f, nn.Linear)] == [512]
    assert module.warmup_steps == 128


def test_a_restored_module_draws_the_same_targets():
    one, two = make(), make(seed=1)
    one.update(vector_walks.rollouts(1)[0])
    two.load_state_dict(one.state_dict())
    rollout = vector_walks.rollouts(2)[1]
    assert one.update(rollout) == two.update(rollout)
    assert torch.equal(one.compute(rollout), two.compute(rollout))


def test_defaults_and_refusals():
    term = DRND.default_term()
    assert (term.gamma, term.episodic) == (0.99, False)
    assert isinstance(term.transform, RecentScale)
    assert make().num_targets == 10  # as published
    with pytest.raises(ValueError, match="reduction is 'max'"):
        make(reduction="max")
    with pytest.raises(ValueError, match="num_targets is 1"):
        make(num_targets=1)
