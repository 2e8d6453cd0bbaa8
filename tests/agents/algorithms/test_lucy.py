"""Lucy-SKG's auxiliary heads: losses against loops, gradients, saving and loading."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces

from firstlight.agents import MLP, PPO, ActorCritic, Trainer
from firstlight.agents.algorithms.auxiliaries import RewardPrediction, StateReconstruction
from firstlight.agents.session.run_directory import checkpoint
from firstlight.envs import Chain, GymVec, Runner
from firstlight.intrinsic import RewardMixer

WIDTH = 16


class Mood(gymnasium.Env):
    """Rewards the sign of the observation two steps before; nine steps an episode."""

    observation_space = spaces.Dict(
        {"mood": spaces.Discrete(3, start=-1), "noise": spaces.Box(-1, 1, (2,), np.float32)}
    )
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.moods = [0, 0, 0]
        self.left = 9
        return self.seen(), {}

    def step(self, action):
        paid = self.moods[-3]
        self.left -= 1
        self.moods.append(int(self.np_random.integers(-1, 2)))
        return self.seen(), float(paid), False, self.left == 0, {}

    def seen(self):
        return {"mood": self.moods[-1], "noise": self.np_random.random(2, np.float32)}


WORLDS = [
    lambda: GymVec([Mood] * 3),
    lambda: Chain(3, length=2),
    lambda: Chain(3, length=2, autoreset="next_step"),
]


def heads(vec, **options):
    prediction = RewardPrediction(WIDTH, **{"length": 4, **options})
    return [prediction, StateReconstruction(vec.obs_space, WIDTH)]


def make_learner(vec, auxiliaries=(), seed=0, **options):
    torch.manual_seed(seed)
    policy = ActorCritic(
        vec.obs_space,
        vec.act_space,
        encoder=MLP(vec.obs_space, hidden=(WIDTH,)),
        critic_encoder=MLP(vec.obs_space, hidden=(WIDTH,)),
    )
    return PPO(policy, seed=seed, auxiliaries=auxiliaries, **{"minibatch_size": 64, **options})


def learnt(learner, vec, iterations=1, T=16):
    trainer = Trainer(vec, learner, num_steps=T)
    for _ in range(iterations):
        metrics = trainer.iterate(10**6)
    return trainer, metrics


def rollout_and_batch(vec, learner, T=16):
    """Return a rollout, and all its valid rows as one batch."""
    rollout = Runner(vec).collect(learner.policy, T)
    batch = learner._batch(rollout, RewardMixer({})(rollout, {}))
    return rollout, batch.take(batch.valid[0].nonzero()[:, 0])


def predicted_by_a_loop(head, policy, rollout, t, n):
    """Compute the logits [3] of one step, its past gathered step by step."""
    past = [t]
    while len(past) < head.length and past[0] > 0 and not rollout.is_first[past[0], n]:
        past.insert(0, past[0] - 1)
    sequence = torch.zeros(head.length, 1, WIDTH)
    for i, s in enumerate(past):
        x = policy.encoder({k: f[s, n][None] for k, f in rollout.obs.items()})
        mixed = F.layer_norm(x + head.mix.linear(x), (WIDTH,))
        sequence[head.length - len(past) + i] = mixed
    return head.head(head.lstm(sequence)[0][-1, 0])


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("make_vec", WORLDS)
def test_reward_prediction_is_cross_entropy_over_sequences_of_an_episode(make_vec, balanced):
    vec = make_vec()
    head = RewardPrediction(WIDTH, length=4, balanced=balanced, coef=0.5)
    learner = make_learner(vec, [head])
    rollout, batch = rollout_and_batch(vec, learner)
    head.observe(rollout, 0.0)
    rows = rollout.valid.nonzero().tolist()
    label = [{1: 0, -1: 1, 0: 2}[int(rollout.reward[t, n])] for t, n in rows]
    counts = [label.count(c) for c in range(3)]
    present = sum(c > 0 for c in counts)
    assert present >= 2
    losses = []
    for (t, n), c in zip(rows, label, strict=True):
        logits = predicted_by_a_loop(head, learner.policy, rollout, t, n)
        weight = len(rows) / present / counts[c] if balanced else 1.0
        losses.append(-weight * logits.log_softmax(-1)[c].item())
    expected = 0.5 * sum(losses) / len(rows)
    assert head.loss(learner.policy, batch).item() == pytest.approx(expected, rel=1e-4)
    assert head.metrics()["reward_prediction/loss"] == pytest.approx(2 * expected, rel=1e-4)


def test_a_reward_within_the_band_is_labelled_as_zero():
    vec = Chain(4, length=3)
    rollout, _ = rollout_and_batch(vec, make_learner(vec))
    head = RewardPrediction(WIDTH)
    small = torch.tensor([0.005, -0.005, 0.006, -0.006]).expand_as(rollout.reward)
    head.observe(dataclasses.replace(rollout, reward=small), 0.0)
    assert head._steps.label.view(-1, 4)[0].tolist() == [2, 2, 0, 1]


@pytest.mark.parametrize("normalize", [True, False])
def test_state_reconstruction_is_smooth_l1_to_the_observation(normalize):
    vec = GymVec([Mood] * 3)
    head = StateReconstruction(vec.obs_space, WIDTH, normalize=normalize, coef=2.0)
    learner = make_learner(vec, [head])
    rollout, batch = rollout_and_batch(vec, learner)
    head.observe(rollout, 0.0)
    mood, noise = batch.obs["mood"][0], batch.obs["noise"][0]
    target = torch.cat([F.one_hot(mood + 1, 3).float(), noise], 1)
    if normalize:
        wanted = (target - target.mean(0)) / target.std(0, correction=0)
        target = wanted.clamp(-5, 5)
    x = learner.policy.encoder({"mood": mood, "noise": noise})
    x = F.layer_norm(x + head.mix.linear(x), (WIDTH,))
    widths = []
    for layer in head.layers:
        x = layer(x)
        widths += [layer.out_features] if isinstance(layer, torch.nn.Linear) else []
    error = (x - target).abs()
    expected = 2 * torch.where(error < 1, error.square() / 2, error - 0.5).mean().item()
    assert head.loss(learner.policy, batch).item() == pytest.approx(expected, rel=1e-3)
    assert widths == [128, 32, 16, 32, 128, 512, 512, 5]
    assert x.min() < 0  # negative observations can be reconstructed


@pytest.mark.parametrize("which", [0, 1])
def test_gradients_reach_only_the_encoder_and_the_head(which):
    vec = GymVec([Mood] * 3)
    head = heads(vec)[which]
    learner = make_learner(vec, [head])
    rollout, batch = rollout_and_batch(vec, learner)
    head.observe(rollout, 0.0)
    head.loss(learner.policy, batch).backward()
    for name, parameter in learner.policy.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == name.startswith("encoder."), name
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("which", [0, 1])
def test_losses_of_parts_of_a_batch_add_up_to_the_loss_of_the_batch(which):
    vec = GymVec([Mood] * 3)
    head = heads(vec)[which]
    learner = make_learner(vec, [head])
    rollout, batch = rollout_and_batch(vec, learner)
    head.observe(rollout, 0.0)
    rows = torch.arange(batch.valid.shape[1])
    parts = sum(
        len(part) / len(rows) * head.loss(learner.policy, batch.take(part))
        for part in rows.tensor_split(3)
    )
    assert head.loss(learner.policy, batch).item() == pytest.approx(parts.item(), rel=1e-5)


def test_processing_minibatches_in_two_parts_gives_the_same_update():
    parameters = []
    for passes in (1, 2):
        vec = GymVec([Mood] * 3)
        learner = make_learner(vec, heads(vec), minibatch_size=17)
        learner._passes = passes
        learnt(learner, vec)
        parameters.append(torch.cat([p.flatten() for p in learner._parameters]))
    torch.testing.assert_close(*parameters, atol=1e-4, rtol=0)


def test_coefficient_zero_equals_no_auxiliary():
    states = []
    for coef in (None, 0.0):
        vec = GymVec([Mood] * 3)
        none = [
            RewardPrediction(WIDTH, coef=0.0),
            StateReconstruction(vec.obs_space, WIDTH, coef=0.0),
        ]
        learner = make_learner(vec, [] if coef is None else none)
        learnt(learner, vec, 2)
        states.append(learner.policy.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_training_reduces_the_losses_of_the_heads():
    vec = GymVec([Mood] * 8)
    learner = make_learner(vec, heads(vec), lr=3e-3, num_epochs=8)
    _, first = learnt(learner, vec, 1, T=32)
    _, last = learnt(learner, vec, 8, T=32)
    for name in ("reward_prediction/loss", "state_reconstruction/loss"):
        assert last[name] < 0.7 * first[name], name
    assert last["reward_prediction/accuracy"] > 0.6  # chance level is 1/3


def test_loaded_heads_continue_bit_for_bit(tmp_path):
    vec = GymVec([Mood] * 3)
    learner = make_learner(vec, heads(vec))
    trainer, _ = learnt(learner, vec, 2)
    path = checkpoint.save(tmp_path, learner.state_dict(), 0)
    twin = make_learner(vec, heads(vec, seed=5), seed=5)
    twin.load_state_dict(checkpoint.load(path))
    rollout = trainer.runner.collect(learner.policy, 16)
    rewards = RewardMixer({})(rollout, {})
    assert learner.update(rollout, rewards) == twin.update(rollout, rewards)
    pairs = zip(learner._parameters, twin._parameters, strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    moments = zip(learner.auxiliaries[1].buffers(), twin.auxiliaries[1].buffers(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in moments)


def test_constructing_heads_leaves_the_global_generator_unchanged():
    vec = Chain(2, length=3)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two, three = (RewardPrediction(WIDTH, seed=seed) for seed in (0, 0, 1))
    StateReconstruction(vec.obs_space, WIDTH)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.head.weight, two.head.weight)
    assert not torch.equal(one.head.weight, three.head.weight)
