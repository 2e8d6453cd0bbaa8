"""RAPID: cloning, its schedule, saving and resuming, and a distant reward that it finds."""

import copy

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from nested import differing

from firstlight.agents import MLP, PPO, ActorCritic, Trainer
from firstlight.agents.algorithms.auxiliaries import Rapid
from firstlight.agents.session.run_directory import checkpoint
from firstlight.envs import Chain, GymVec, Runner
from firstlight.intrinsic import Linear, RewardMixer


def make_learner(vec, seed=0, auxiliaries=(), **options):
    torch.manual_seed(seed)
    policy = ActorCritic(vec.obs_space, vec.act_space, encoder=MLP(vec.obs_space, hidden=(32,)))
    options = {"minibatch_size": 64, "adaptive_kl": None} | options
    return PPO(policy, seed=seed, auxiliaries=auxiliaries, **options)


def trained(learner, vec, iterations, seed=0):
    trainer = Trainer(vec, learner, num_steps=32, seed=seed)
    for _ in range(iterations):
        metrics = trainer.iterate(10**6)
    return trainer, metrics


class Blind(gymnasium.Env):
    """Seven steps of noise without a reward."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 7
        return self.np_random.random(3, np.float32), {}

    def step(self, action):
        self.left -= 1
        return self.np_random.random(3, np.float32), 0.0, False, self.left == 0, {}


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.Box(-1, 1, (2,))], ids=str)
def test_cloning_raises_the_probability_of_stored_actions(space):
    losses = {}
    for num_steps in (0, 20):
        vec = GymVec([lambda: Blind(space)] * 4)
        rapid = Rapid(vec.obs_space, size=4, num_steps=num_steps, batch_size=16, bins=4)
        learner = make_learner(vec, auxiliaries=[rapid], lr=3e-3)
        rollout = Runner(vec).collect(learner.policy, 32)
        learner.update(rollout, RewardMixer({})(rollout, {}))
        rapid._due = 1.0
        (batch,) = rapid.batches()
        losses[num_steps] = rapid.loss(learner.policy, batch).item()
        dist = learner.policy(batch.obs, batch.state, batch.is_first).dist
        if isinstance(space, spaces.Discrete):
            assert losses[num_steps] == pytest.approx(-dist.log_prob(batch.action).mean().item())
        else:
            error = (dist.mode() - batch.action).square().mean().item()
            assert losses[num_steps] == pytest.approx(error)
    assert losses[20] < 0.7 * losses[0]


def test_each_finished_episode_adds_the_scheduled_number_of_gradient_steps():
    vec = Chain(4, length=3)
    runner, policy = Runner(vec), make_learner(vec).policy
    rapid = Rapid(vec.obs_space, num_steps=Linear(4, 0), batch_size=8)
    rapid.observe(runner.collect(policy, 16), 0.75)
    ended = rapid.ranking.episodes
    assert ended >= 5
    assert len(list(rapid.batches())) == ended
    rapid.observe(runner.collect(policy, 16), 1.0)
    assert rapid.ranking.episodes > ended
    assert list(rapid.batches()) == []


def test_zero_gradient_steps_equal_no_auxiliary():
    states = []
    for auxiliaries in (lambda space: [], lambda space: [Rapid(space, num_steps=0)]):
        vec = Chain(8, length=3)
        learner = make_learner(vec, auxiliaries=auxiliaries(vec.obs_space))
        trained(learner, vec, 3)
        states.append({k: learner.state_dict()[k] for k in ("policy", "optimizer", "generator")})
    assert differing(*states) is None


def test_processing_cloning_minibatches_in_two_parts_gives_the_same_update():
    parameters = []
    for passes in (1, 2):
        vec = Chain(8, length=3)
        learner = make_learner(vec, auxiliaries=[Rapid(vec.obs_space, batch_size=33)])
        learner._passes = passes
        trained(learner, vec, 1)
        parameters.append(torch.cat([p.flatten() for p in learner.policy.parameters()]))
    torch.testing.assert_close(*parameters, atol=2e-5, rtol=0)


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_loaded_rapid_continues_bit_for_bit(autoreset, tmp_path):
    vec = Chain(8, length=5, autoreset=autoreset)
    learner = make_learner(vec, auxiliaries=[Rapid(vec.obs_space, size=100, num_steps=0.7)])
    trainer, _ = trained(learner, vec, 4)
    path = checkpoint.save(tmp_path, learner.state_dict(), 0)
    twin = make_learner(vec, seed=9, auxiliaries=[Rapid(vec.obs_space, size=100, num_steps=0.7)])
    twin.load_state_dict(checkpoint.load(path))
    assert differing(learner.state_dict(), twin.state_dict()) is None
    for _ in range(3):
        rollout = trainer.runner.collect(learner.policy, 32)
        rewards = RewardMixer({})(rollout, {})
        assert learner.update(rollout, rewards) == twin.update(rollout, rewards)
        assert differing(learner.state_dict(), twin.state_dict()) is None
    assert differing(learner.state_dict(), checkpoint.load(path)) is not None
    with pytest.raises(ValueError, match="has 1 auxiliaries, this one 0"):
        make_learner(vec).load_state_dict(learner.state_dict())


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_a_resumed_run_equals_an_uninterrupted_run(autoreset, tmp_path):
    finals = []
    for stops in ([1280], [640, 1280]):
        for part, total in enumerate(stops):
            vec = Chain(4, length=5, autoreset=autoreset)
            rapid = Rapid(vec.obs_space, size=60, num_steps=1, batch_size=32)
            learner = make_learner(vec, auxiliaries=[rapid])
            path, resume = tmp_path / str(len(stops)), part > 0
            trainer = Trainer(vec, learner, run_dir=path, resume=resume, num_steps=16)
            trainer.run(total)
        finals.append(learner.state_dict())
    assert differing(*finals) is None


def test_a_rolled_back_update_leaves_rapid_unchanged():
    vec = Chain(8, length=5)
    learner = make_learner(vec, auxiliaries=[Rapid(vec.obs_space, size=60)])
    trainer, _ = trained(learner, vec, 2)
    before = copy.deepcopy(learner.state_dict())
    rollout = trainer.runner.collect(learner.policy, 32)
    learner.update(rollout, RewardMixer({})(rollout, {}))
    assert differing(learner.state_dict(), before) is not None
    learner.load_state_dict(before)
    assert differing(learner.state_dict(), before) is None


class Path(gymnasium.Env):
    """Forty cells in a row: one action moves on, the other back; the last cell has a reward."""

    length = 40
    cells = np.eye(length + 1, dtype=np.uint8)
    observation_space = spaces.Box(0, 1, (length + 1,), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.cell = self.steps = 0
        return self.cells[0], {}

    def step(self, action):
        on = action == self.cell * 7 % 3 % 2
        self.cell = self.cell + 1 if on else max(self.cell - 1, 0)
        self.steps += 1
        there = self.cell == self.length
        return self.cells[self.cell], float(there), there, self.steps == 2 * self.length, {}


@pytest.mark.parametrize(("cloning", "seed"), [(False, 0), (True, 0), (True, 1)], ids=str)
def test_a_distant_reward_is_found_only_with_cloning(cloning, seed):
    vec = GymVec([Path] * 16)
    rapid = [Rapid(vec.obs_space, size=400, num_steps=2, seed=seed)] if cloning else []
    learner = make_learner(vec, seed, rapid, lr=1e-3, minibatch_size=512)
    returns = []

    def solved(run, metrics):
        returns.append(metrics.get("rollout/return_mean", 0.0))
        return returns[-1] > 0.9

    Trainer(vec, learner, num_steps=80, seed=seed).run(60_000 if cloning else 30_000, [solved])
    assert max(returns) > 0.9 if cloning else max(returns) == 0
