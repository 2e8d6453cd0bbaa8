"""Running observation statistics: closed forms, which rows and fields count, and when."""

import copy
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.agents import MLP, PPO, ActorCritic, MultiInput, Trainer, TwinMLP, load
from firstlight.agents.evaluation import evaluate
from firstlight.envs import GymVec, Runner
from firstlight.intrinsic import RND, RewardMixer
from firstlight.networks import auto
from firstlight.networks.normalisation import (
    Moments,
    ObservationNormaliser,
    RunningMoments,
    merge_moments,
)

SPACE = spaces.Dict(
    {
        "byte": spaces.Box(0, 255, (2,), np.uint8),
        "kind": spaces.Discrete(3),
        "place": spaces.Box(-np.inf, np.inf, (2, 2), np.float32),
        "real": spaces.Box(-1, 1, (1,), np.float64),
        "whole": spaces.Box(-9, 9, (1,), np.int64),
    }
)
T, N = 7, 5
FLOATS = [5, 6, 7, 8, 9]  # columns of `place` and `real` in the flat vector


def rows(seed=0, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return {
        "byte": torch.randint(0, 256, (T, N, 2), generator=g, dtype=torch.uint8),
        "kind": torch.randint(0, 3, (T, N), generator=g),
        "place": torch.randn(T, N, 2, 2, generator=g) * scale * 40 + 1000 * scale,
        "real": torch.rand(T, N, 1, generator=g) * scale * 1e-4,
        "whole": torch.randint(-9, 10, (T, N, 1), generator=g),
    }


def flat(obs):
    return {name: field.flatten(0, 1) for name, field in obs.items()}


ALL = torch.ones(T, N, dtype=torch.bool)


def mlp(**options):
    torch.manual_seed(0)
    return MLP(SPACE, hidden=(8,), normalize_obs=True, **options)


def test_only_fields_of_floats_are_normalised():
    encoder, plain = mlp(), MLP(SPACE)
    obs = rows()
    encoder.observe(obs, ALL)
    ours, theirs = encoder.flat(flat(obs)), plain.flat(flat(obs))
    others = [i for i in range(ours.shape[1]) if i not in FLOATS]
    assert torch.equal(ours[:, others], theirs[:, others])
    z = ours[:, FLOATS].double()
    torch.testing.assert_close(z.mean(0), torch.zeros(5).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(5).double(), atol=1e-3, rtol=0)
    told = encoder.describe_fields()
    assert {name for name, what in told.items() if "running mean" in what} == {"place", "real"}


def test_the_statistics_are_those_of_all_rows_in_float64():
    encoder, seen = mlp(), []
    for seed in range(4):
        encoder.observe(rows(seed, scale=seed + 1), ALL)
        obs = flat(rows(seed, scale=seed + 1))
        seen.append(torch.cat([obs["place"].flatten(1), obs["real"]], 1).double().numpy())
    x = np.concatenate(seen)
    moments = encoder.flat.normaliser.moments
    assert moments.mean.dtype == moments.var.dtype == torch.float64
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.var, x.var(0), rtol=1e-9)
    assert moments.count == len(x)


def test_neither_order_nor_batches_matter():
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).double() * 5 + 1e4
    orders = (x, x.flip(0), x[torch.randperm(60, generator=torch.Generator().manual_seed(1))])
    found = []
    for order, sizes in zip(orders, ([60], [1] * 60, [7, 50, 0, 3]), strict=True):
        normaliser = ObservationNormaliser([True] * 3)
        for part in order.split(sizes):
            normaliser.update(part)
        found.append(normaliser.state_dict())
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-9, atol=1e-12)


def test_moments_of_several_processes_merge_to_those_of_all_rows():
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double() * 3 - 7
    merged = Moments(*torch.zeros(3, dtype=torch.float64).unbind())
    for part in x.split([20, 1, 29]):
        own = RunningMoments((2,), prior=0.0)
        own.update(part)
        merged = merge_moments(merged, Moments(own.count, own.mean, own.var))
    torch.testing.assert_close(merged.mean, x.mean(0))
    torch.testing.assert_close(merged.var, x.var(0, correction=0))


def test_rows_that_are_not_valid_are_not_counted():
    valid = torch.rand(T, N, generator=torch.Generator().manual_seed(1)) < 0.6
    one, two = mlp(), mlp()
    obs = rows()
    one.observe(obs, valid)
    spoilt = {k: torch.where(valid.view(T, N, *[1] * (f.ndim - 2)), f, 99) for k, f in obs.items()}
    two.observe(spoilt, valid)
    torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=0, atol=0)
    assert one.flat.normaliser.moments.count == valid.sum()
    before = copy.deepcopy(one.state_dict())
    one.observe(obs, torch.zeros_like(valid))
    torch.testing.assert_close(one.state_dict(), before, rtol=0, atol=0)


def test_what_lies_far_outside_is_clipped_and_constants_are_centred():
    normaliser = ObservationNormaliser([True, True, False])
    x = torch.stack([torch.tensor([1.0, 3.0]), torch.tensor([1e6, 1e6])], 1)
    normaliser.update(x)
    z = normaliser(torch.tensor([[2.0, 1e6, 500.0], [1e9, 1e6 + 1, -500.0], [-1e9, 0, 0]]))
    assert z.tolist() == [[0, 0, 500], [10, 1, -500], [-10, -10, 0]]


def test_before_any_statistics_numbers_are_only_clipped():
    normaliser = ObservationNormaliser([True, False])
    assert normaliser(torch.tensor([[0.25, 70.0], [70.0, 0.25]])).tolist() == [
        [0.25, 70],
        [10, 0.25],
    ]


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_do_not_matter_once_there_are_statistics(scale):
    one, other = mlp(), mlp()
    one.observe(rows(), ALL)
    other.observe(rows(scale=scale), ALL)
    torch.testing.assert_close(
        other(flat(rows(scale=scale))), one(flat(rows())), rtol=1e-3, atol=1e-3
    )


def test_a_twin_normalises_for_both():
    torch.manual_seed(0)
    twin = TwinMLP(SPACE, hidden=(8,), normalize_obs=True)
    before = twin(flat(rows()))
    twin.observe(rows(), ALL)
    after = twin(flat(rows()))
    assert not torch.isclose(before, after).all(-1).any()


def test_pictures_and_grids_keep_their_numbers():
    space = spaces.Dict(
        {
            "film": spaces.Box(0, 1, (3, 48, 48), np.float32),
            "speed": spaces.Box(-1, 1, (2,), np.float32),
        }
    )
    for encoder in (auto(space, normalize_obs=True), MultiInput(space, normalize_obs=True)):
        told = encoder.describe_fields()
        assert "running mean" in told["speed"]
        assert "running mean" not in told["film"]
    assert MLP(spaces.Dict({"film": space["film"]}), normalize_obs=True).flat.normaliser is None


def test_it_can_be_turned_off():
    off = {"normalize_obs": False}
    for encoder in (MLP(SPACE, **off), TwinMLP(SPACE, **off), auto(SPACE, **off)):
        assert encoder.flat.normaliser is None
        before = copy.deepcopy(encoder.state_dict())
        encoder.observe(rows(), ALL)
        torch.testing.assert_close(encoder.state_dict(), before, rtol=0, atol=0)


# ------------------------------------------------------------------------------ in training


def cart_pole(num_envs=4):
    return GymVec([partial(gymnasium.make, "CartPole-v1")] * num_envs)


def make_trainer(tmp_path=None, modules=None, *, separate=False, resume=False, **ppo):
    vec = cart_pole()
    torch.manual_seed(0)
    encoders = [MLP(vec.obs_space, hidden=(16,), normalize_obs=True) for _ in range(1 + separate)]
    mixer = RewardMixer.from_modules(modules or {})
    policy = ActorCritic(
        vec.obs_space,
        vec.act_space,
        encoder=encoders[0],
        critic_encoder=encoders[1] if separate else None,
        num_streams=mixer.num_streams,
    )
    learner = PPO(policy, **{"minibatch_size": 32, "num_epochs": 2, **ppo})
    return Trainer(vec, learner, modules, mixer, num_steps=16, run_dir=tmp_path, resume=resume)


def statistics(policy):
    return {k: v.clone() for k, v in policy.state_dict().items() if "normaliser" in k}


def test_acting_and_learning_use_the_same_statistics():
    """The probability ratio is 1 before the first gradient step of every update."""
    trainer = make_trainer(minibatch_size=10**6, num_epochs=1)
    for _ in range(4):
        before = statistics(trainer.policy)
        metrics = trainer.iterate(10_000)
        assert metrics["train/approx_kl"] == pytest.approx(0, abs=1e-6)
        assert metrics["train/clipfrac"] == 0
        after = statistics(trainer.policy)
        assert all(not torch.equal(before[name], after[name]) for name in before)


def test_a_rollout_enters_once_whatever_the_epochs():
    trainer = make_trainer(separate=True, num_epochs=3)
    for _ in range(2):
        trainer.iterate(10_000)
    for encoder in (trainer.policy.encoder, trainer.policy.critic_encoder):
        moments = encoder.flat.normaliser.moments
        assert moments.count == trainer.session.steps == 2 * 16 * 4


def test_the_rollouts_of_a_warm_up_count():
    module = RND(cart_pole().obs_space, warmup_steps=64)
    trainer = make_trainer(modules={"rnd": module})
    trainer.warm_up(64)
    assert trainer.policy.encoder.flat.normaliser.moments.count == 64


def test_an_evaluation_changes_no_statistics():
    trainer = make_trainer()
    trainer.iterate(10_000)
    before = statistics(trainer.policy)
    evaluate(trainer.policy, cart_pole(2), episodes=3, seed=0)
    Runner(cart_pole(2)).collect(trainer.policy, 8)
    torch.testing.assert_close(statistics(trainer.policy), before, rtol=0, atol=0)


def test_a_resumed_run_and_a_loaded_agent_have_the_statistics(tmp_path):
    unbroken = make_trainer(tmp_path / "one")
    unbroken.run(64 * 4)
    make_trainer(tmp_path / "two").run(64 * 2)
    resumed = make_trainer(tmp_path / "two", resume=True)
    resumed.run(64 * 4)
    theirs, ours = unbroken.policy.state_dict(), resumed.policy.state_dict()
    assert statistics(resumed.policy)
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    agent = load(tmp_path / "two", which="newest")
    assert agent.policy.encoder.init_kwargs["normalize_obs"] is True
    torch.testing.assert_close(agent.policy.state_dict(), ours, rtol=0, atol=0)
