"""`RE3`: distances by a slow loop, the memory, its switches, and an entropy estimate."""

import math

import numpy as np
import pytest
import torch
import vector_walks
from gymnasium import spaces
from vector_walks import OBS_SPACE

from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import RE3, Exponential, RecentScale, check_module
from firstlight.networks.encoders import MLP, Encoder


class Identity(Encoder):
    """The field itself."""

    def __init__(self, space):
        super().__init__()
        self.out_dim = space["obs"].shape[0]

    def forward(self, obs):
        return obs["obs"]


def make(**kwargs):
    options = {
        "encoder": lambda space: MLP(space, hidden=(6,), normalize_obs=False),
        "samples": 20,
        "capacity": 50,
    }
    return RE3(OBS_SPACE, **(options | kwargs))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_bonus_equals_a_slow_loop(k, average, log, normalize):
    module, seen = make(k=k, average=average, log=log, normalize=normalize), []
    for i, rollout in enumerate(vector_walks.rollouts(4)):
        bonus, successor = module.compute(rollout), rollout.next_obs()["obs"]
        scale = float(np.std(seen)) if normalize and seen else 0.0
        scale = scale or 1.0
        memory, new = module.states.numpy(), []
        for t, n in rollout.valid.nonzero().tolist():
            x = module.encoder({"obs": successor[t, n][None]})[0].numpy()
            away = sorted(np.linalg.norm(memory - x, axis=1))[:k]
            distance = (np.mean(away) if average else away[-1]) if i else 0.0
            new.append(distance)
            expected = math.log(1 + distance / scale) if log else distance / scale
            assert bonus[t, n].item() == pytest.approx(expected, rel=1e-3, abs=1e-4)
        seen += new
        assert not bonus[~rollout.valid].any()
        assert module.update(rollout)["distance"] == pytest.approx(np.mean(new), rel=1e-3, abs=1e-5)


def test_the_memory_is_a_ring_of_states_drawn_from_rollouts():
    module = make(samples=20, capacity=50)
    for i, rollout in enumerate(vector_walks.rollouts(4)):
        before = module.states.clone()
        module.compute(rollout)
        assert torch.equal(module.states, before)
        module.update(rollout)
        assert len(module.states) == min(20 * (i + 1), 50)
        new = module.states[[j % 50 for j in range(20 * i, 20 * (i + 1))]]
        states = module.encoder({"obs": rollout.next_obs()["obs"][rollout.valid]})
        distance = (new[:, None] - states).norm(dim=-1).amin(1)  # cdist may lose half of the digits
        assert distance.max() < 1e-4  # each is a state of the rollout
        kept = [
            j for j in range(len(before)) if j not in {m % 50 for m in range(20 * i, 20 * i + 20)}
        ]
        assert torch.equal(module.states[kept], before[kept])
    assert int(module.added) == 80


def test_the_bonus_estimates_the_entropy():
    """``D * mean log d`` grows by ``D log 3`` if uniform states spread three times as wide."""
    means = []
    for width in (1.0, 3.0):
        numbers = torch.Generator().manual_seed(0)
        obs = width * torch.rand(41, 50, 2, generator=numbers)
        space = spaces.Dict({"obs": spaces.Box(0, 9, (2,))})
        module = RE3(
            space, encoder=Identity, k=3, log=False, normalize=False, capacity=1000, samples=1000
        )
        rollout = vector_walks.hand_made.rollout({"obs": obs})
        module.warmup(rollout)
        distance = module.compute(vector_walks.hand_made.rollout({"obs": obs.flip(0)}))
        means.append(2 * distance.clamp(min=1e-6).log().mean().item())
    assert means[1] - means[0] == pytest.approx(2 * math.log(3), abs=1e-3)


def test_known_states_have_no_distance():
    """Also in float32, where ``|x|^2 - 2 x m + |m|^2`` would cancel badly."""
    module = RE3(OBS_SPACE, encoder=Identity, k=1, normalize=False)
    rollout = vector_walks.walk(*range(12))
    assert not module.compute(rollout).any()
    module.update(rollout)
    assert module.compute(rollout).max() == 0
    assert (
        module.compute(vector_walks.walk(0, 0))[0, 0] > 0.1
    )  # a first state is nobody's successor


def test_the_encoder_is_frozen_and_the_state_is_restored():
    module, other = make(), make(seed=1)
    assert not any(p.requires_grad for p in module.parameters())
    runs = vector_walks.rollouts(3)
    for rollout in runs[:2]:
        module.compute(rollout)
        module.update(rollout)
    other.load_state_dict(module.state_dict())
    assert torch.equal(module.compute(runs[2]), other.compute(runs[2]))


@pytest.mark.parametrize("options", [{}, {"average": True}, {"log": False}])
def test_it_is_a_module(options):
    check_module(RE3(Chain().obs_space, **options))


def test_defaults_and_refusals():
    assert make().k == 3  # as published
    assert isinstance(RE3.default_term().transform, RecentScale)
    with pytest.raises(ValueError, match="k is 51"):
        make(k=51)


def test_a_weight_may_fall_exponentially():
    """The published ``β_0 (1 - ρ)^t``."""
    beta, rho, steps = 0.05, 1e-5, 500_000
    weight = Exponential(beta, beta * (1 - rho) ** steps)
    for t in (0, 1000, 250_000, 500_000):
        assert weight(t / steps) == pytest.approx(beta * (1 - rho) ** t)
    with pytest.raises(ValueError, match="more than 0"):
        Exponential(1.0, 0.0)
