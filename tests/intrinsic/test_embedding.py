"""`InverseDynamics` and what else turns observations into embeddings."""

import dataclasses
import math

import hand_made
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces

from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic.embedding import (
    InverseDynamics,
    Transitions,
    embed,
    embed_rollout,
    make_encoder,
)
from firstlight.intrinsic.state import Fitter
from firstlight.networks.encoders import MLP, Grid, TwinMLP

VECTOR = spaces.Dict({"obs": spaces.Box(-9, 9, (3,))})
ACTIONS = {
    "discrete": spaces.Discrete(4),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-binary": spaces.MultiBinary(3),
    "box": spaces.Box(-2, 2, (2,)),
    "box of two axes": spaces.Box(-1, 3, (2, 2)),
    "box without bounds": spaces.Box(-np.inf, np.inf, (2,)),
}


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


def small(space):
    return MLP(space, hidden=(8,))


def pairs(B, act_space, seed=0):
    g = numbers(seed)
    act_space.seed(seed)
    actions = torch.stack([torch.as_tensor(act_space.sample()) for _ in range(B)])
    kind = torch.float32 if isinstance(act_space, spaces.Box) else torch.int64
    obs, next_obs = ({"obs": torch.randn(B, 3, generator=g)} for _ in range(2))
    return Transitions(obs, next_obs, actions.to(kind))


def by_hand(dynamics, t, act_space):
    """Mean negative log-likelihood, row by row, in NumPy and plain torch."""
    losses = []
    for i in range(len(t)):
        here, after = (
            dynamics.embedding({"obs": o["obs"][i : i + 1]}) for o in (t.obs, t.next_obs)
        )
        out = dynamics.predictor(torch.cat([here, after], 1))[0]
        action = t.action[i].flatten()
        if isinstance(act_space, spaces.Discrete):
            losses.append(F.cross_entropy(out[None], action))
        elif isinstance(act_space, spaces.MultiDiscrete):
            parts = out.split([int(n) for n in act_space.nvec])
            both = zip(parts, action, strict=True)
            losses.append(sum(F.cross_entropy(p[None], a[None]) for p, a in both))
        elif isinstance(act_space, spaces.MultiBinary):
            losses.append(F.binary_cross_entropy_with_logits(out, action.float(), reduction="sum"))
        else:
            bounded = np.isfinite(act_space.low).all()
            low, high = (torch.as_tensor(b).flatten() for b in (act_space.low, act_space.high))
            middle, half = ((low + high) / 2, (high - low) / 2) if bounded else (0.0, 1.0)
            z = (action.clamp(low, high) - middle) / half - out
            each = 0.5 * z**2 + 0.5 * math.log(2 * math.pi) + torch.as_tensor(half).log()
            losses.append(each.sum())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_loss_is_the_likelihood_of_the_actions(kind):
    act_space = ACTIONS[kind]
    dynamics = InverseDynamics(VECTOR, act_space, encoder=small, width=5, hidden=7)
    torch.nn.init.normal_(dynamics.predictor[2].weight)
    t = pairs(6, act_space)
    if kind == "box":
        t.action[0] = 50.0  # a sampled action may lie outside of the bounds
    torch.testing.assert_close(dynamics.loss(t), by_hand(dynamics, t, act_space))


def test_before_learning_all_actions_are_about_as_likely():
    dynamics = InverseDynamics(VECTOR, spaces.Discrete(4), encoder=small)
    assert dynamics.loss(pairs(50, spaces.Discrete(4))).item() == pytest.approx(
        math.log(4), abs=0.1
    )


def test_actions_are_predicted_from_what_they_change():
    vec = Chain(8, length=6)
    rollout = Runner(vec).collect(RandomActor(vec.act_space), 64)
    dynamics = InverseDynamics(vec.obs_space, vec.act_space, width=8, hidden=32)
    t = Transitions.of(rollout)
    fitter = Fitter(dynamics.parameters(), lr=3e-3, num_epochs=30, num_minibatches=4)
    fitter.fit(len(t), lambda rows: dynamics.loss(t.take(rows)))
    # where both actions lead to the first cell or not, only one of them does so from each cell
    assert dynamics.loss(t).item() < 0.05


def test_transitions_are_valid_and_stay_inside_an_episode():
    """Independent loop over a rollout whose observations are (episode, time)."""
    T, N, g = 30, 3, numbers()
    is_first = torch.rand(T + 1, N, generator=g) < 0.2
    is_first[0] = True
    valid = torch.rand(T, N, generator=g) < 0.8
    obs = torch.zeros(T + 1, N, 2, dtype=torch.int64)
    finals, episode = {}, 0
    for n in range(N):
        for t in range(T + 1):
            episode += int(is_first[t, n])
            obs[t, n] = torch.tensor([episode, t])
            if t < T and is_first[t + 1, n]:
                finals[t, n] = {"obs": torch.tensor([episode, t + 1])}
    rollout = hand_made.rollout({"obs": obs}, is_first=is_first, valid=valid, finals=finals)
    action = torch.arange(T * N).view(T, N)
    t = Transitions.of(dataclasses.replace(rollout, action=action))
    assert torch.equal(t.action, action[valid])
    assert torch.equal(t.obs["obs"], obs[:-1][valid])
    assert torch.equal(t.next_obs["obs"][:, 0], t.obs["obs"][:, 0])
    assert torch.equal(t.next_obs["obs"][:, 1], t.obs["obs"][:, 1] + 1)
    some = t.take(torch.tensor([4, 0]))
    assert some.action.tolist() == [int(t.action[4]), int(t.action[0])]
    assert len(some) == 2


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_embeddings_of_a_rollout_equal_those_one_by_one(rows, monkeypatch):
    monkeypatch.setattr("firstlight.intrinsic.embedding.CHUNK", rows)
    vec = Chain(3, length=3)
    rollout = Runner(vec).collect(RandomActor(vec.act_space), 12)
    assert len(rollout.final_at)
    dynamics = InverseDynamics(vec.obs_space, vec.act_space, width=4)
    here, after = dynamics.embed_rollout(rollout)
    assert not here.requires_grad
    assert here.shape == (13, 3, 4)
    truth = rollout.next_obs()["obs"]
    for t in range(12):
        for n in range(3):
            one = dynamics.embedding({"obs": rollout.obs["obs"][t, n][None]})[0]
            next_one = dynamics.embedding({"obs": truth[t, n][None]})[0]
            torch.testing.assert_close(here[t, n], one)
            torch.testing.assert_close(after[t, n], next_one)
    assert torch.equal(embed_rollout(dynamics.embedding, rollout)[0], here)
    assert torch.equal(embed(dynamics.embedding, rollout.obs, 2), here)


def test_the_encoder_is_an_option():
    grid = spaces.Dict(
        {"image": spaces.Box(0, 255, (7, 7, 3), np.uint8), "direction": spaces.Discrete(4)}
    )
    made = InverseDynamics(grid, spaces.Discrete(7))
    assert isinstance(made.encoder, Grid)
    assert made.out_dim == made.encoder.out_dim == 64
    assert isinstance(make_encoder(grid, keys=["direction"]), MLP)
    assert InverseDynamics(grid, spaces.Discrete(7), encoder=small, width=3).out_dim == 3
    with pytest.raises(ValueError, match="keys is"):
        make_encoder(grid, keys=["img"])
    with pytest.raises(ValueError, match="TwinMLP"):
        make_encoder(grid, TwinMLP)


def test_vectors_are_normalised_once_observed():
    dynamics = InverseDynamics(VECTOR, spaces.Discrete(2), width=4)
    obs = {"obs": 3 + 2 * torch.randn(41, 5, 3, generator=numbers())}
    rollout = hand_made.rollout(obs)
    before = dynamics.embed_rollout(rollout)[0]
    dynamics.observe(rollout)
    assert not torch.allclose(before, dynamics.embed_rollout(rollout)[0])
    seen = obs["obs"][:-1].flatten(0, 1)
    scaled = {"obs": (seen - seen.mean(0)) / seen.std(0, correction=0)}
    layers = dynamics.encoder.layers
    expected = dynamics.projection(layers(scaled["obs"]))
    torch.testing.assert_close(dynamics.embedding({"obs": seen}), expected, rtol=1e-3, atol=1e-4)


def test_it_draws_its_own_random_numbers():
    before = torch.get_rng_state()
    one, same, other = (InverseDynamics(VECTOR, spaces.Discrete(2), seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, one.parameters(), same.parameters()))
    assert not torch.equal(one.predictor[0].weight, other.predictor[0].weight)
