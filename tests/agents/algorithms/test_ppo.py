"""PPO: weights, invalid rows and streams, and tasks that it solves only with a bonus."""

import copy
import dataclasses
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from firstlight.agents import MLP, PPO, ActorCritic, Trainer, TwinMLP
from firstlight.agents.algorithms.ppo_loss import LOGS
from firstlight.agents.learner import Auxiliary, Batch
from firstlight.envs import Chain, Runner
from firstlight.envs.minigrid.gridworld import GridWorld
from firstlight.envs.minigrid.map_memory import MapMemory
from firstlight.intrinsic import RND, HashCount, Heads, MapChange, RewardMixer, Sum, Term
from firstlight.intrinsic.mixer import Lagrangian
from firstlight.networks.cores import Core
from firstlight.networks.encoders import Grid

TORQUE = spaces.Box(-1, 1, (2,), np.float32)


def make_policy(vec, num_streams=1, seed=0):
    torch.manual_seed(seed)
    encoder = MLP(vec.obs_space, hidden=(32,))
    return ActorCritic(vec.obs_space, vec.act_space, encoder=encoder, num_streams=num_streams)


def make_vec(module):
    """Make environments whose observations suit a module."""
    if module is MapChange:
        return MapMemory(GridWorld("MiniGrid-DoorKey-5x5-v0", num_envs=8), show=False)
    return Chain(8, length=3)


def train(combine, weight, *, module=RND, iterations=3, seed=0):
    """Return parameters after training with a module of this weight; None for no module."""
    vec = make_vec(module)
    modules = {} if weight is None else {"extra": module(vec.obs_space)}
    for extra in modules.values():
        extra.warmup_steps = 0
    terms = {"reward": Term()} | {n: Term(weight=weight, clip=5.0) for n in modules}
    mixer = RewardMixer(terms, combine)
    learner = PPO(make_policy(vec, mixer.num_streams, seed), minibatch_size=64)
    trainer = Trainer(vec, learner, modules, mixer, num_steps=32, seed=seed)
    for _ in range(iterations):
        trainer.iterate(10_000)
    return dict(learner.policy.state_dict())


@pytest.mark.parametrize("module", [RND, HashCount, MapChange])
def test_weight_zero_under_sum_is_bit_identical_to_no_module(module):
    without, zero = train(Sum(), None, module=module), train(Sum(), 0.0, module=module)
    assert all(torch.equal(without[name], zero[name]) for name in without)


@pytest.mark.parametrize("module", [RND, HashCount, MapChange])
def test_weight_one_changes_the_update(module):
    without, one = train(Sum(), None, module=module), train(Sum(), 1.0, module=module)
    assert any(not torch.equal(without[name], one[name]) for name in without)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_policy_changes_under_heads_only_if_the_weight_is_not_zero(weight):
    """A stream of weight 0 has no value loss; the policy and other heads agree to 1e-6."""
    vec = Chain(8, length=3)
    policy = make_policy(vec, num_streams=2)
    rollout = Runner(vec).collect(policy, 32)
    bonus = {"b": torch.rand(rollout.reward.shape)}

    def updated(terms, live):
        copied = copy.deepcopy(policy)
        mixer = RewardMixer(terms, Heads())
        PPO(copied, minibatch_size=64).update(rollout, mixer(rollout, live))
        return copied

    zero = updated({"reward": Term(), "b": Term(weight=0.0)}, {})
    other = updated({"reward": Term(), "b": Term(weight=weight)}, bonus if weight else {})
    assert torch.equal(zero.value_head.weight[1], policy.value_head.weight[1])
    gap = (zero.policy_head.weight - other.policy_head.weight).abs().max()
    assert gap <= 1e-6 if weight == 0 else gap > 1e-4
    single = make_policy(vec, num_streams=1)
    single.load_state_dict(
        {
            k: v[:1] if k.startswith(("value_head", "returns")) else v
            for k, v in policy.state_dict().items()
        }
    )
    alone = dataclasses.replace(rollout, value=rollout.value[..., :1])
    PPO(single, minibatch_size=64).update(alone, RewardMixer({"reward": Term()})(alone, {}))
    torch.testing.assert_close(
        single.policy_head.weight, zero.policy_head.weight, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        single.value_head.weight[0], zero.value_head.weight[0], atol=1e-6, rtol=0
    )


def test_rows_that_are_not_valid_change_nothing():
    vec = Chain(8, length=3, autoreset="next_step")
    policy = make_policy(vec)
    rollout = Runner(vec).collect(policy, 32)
    assert not rollout.valid.all()
    scrambled = dataclasses.replace(
        rollout,
        action=torch.where(rollout.valid, rollout.action, 1 - rollout.action),
        log_prob=torch.where(rollout.valid, rollout.log_prob, -50.0),
        reward=torch.where(rollout.valid, rollout.reward, 1e6),
    )
    updated = []
    for case in (rollout, scrambled):
        copied = copy.deepcopy(policy)
        PPO(copied, minibatch_size=64).update(case, RewardMixer({})(case, {}))
        updated.append(copied.state_dict())
    assert all(torch.equal(updated[0][name], updated[1][name]) for name in updated[0])


def test_a_loaded_learner_repeats_the_next_update():
    vec = Chain(8, length=3)
    learner = PPO(make_policy(vec), minibatch_size=64)
    rollout = Runner(vec).collect(learner.policy, 32)
    rewards = RewardMixer({})(rollout, {})
    learner.update(rollout, rewards)
    twin = PPO(make_policy(vec, seed=9), minibatch_size=64)
    twin.load_state_dict(copy.deepcopy(learner.state_dict()))
    learner.update(rollout, rewards)
    twin.update(rollout, rewards)
    ours, theirs = learner.policy.state_dict(), twin.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_first_epoch_on_policy_has_ratio_one():
    vec = Chain(8, length=3)
    learner = PPO(make_policy(vec), minibatch_size=10**6, num_epochs=1)
    rollout = Runner(vec).collect(learner.policy, 32)
    metrics = learner.update(rollout, RewardMixer({})(rollout, {}))
    assert metrics["train/approx_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["train/clipfrac"] == 0


def naive_advantages(rollout, rewards, lam=0.95):
    """Compute advantages [T, N, K] by plain loops; all rows valid, every end a termination."""
    T, N, K = rewards.reward.shape
    out = torch.zeros(T, N, K)
    for n in range(N):
        for k in range(K):
            later = 0.0
            for t in reversed(range(T)):
                ended = bool(rollout.terminated[t, n])
                after = rollout.value[t + 1, n, k].item()
                if ended:
                    after = 0.0
                delta = (
                    rewards.reward[t, n, k].item() + 0.99 * after - rollout.value[t, n, k].item()
                )
                later = delta + (0.0 if ended else 0.99 * lam * later)
                out[t, n, k] = later
    return out


@pytest.mark.parametrize("normalize", [True, False])
def test_streams_are_normalised_one_by_one_before_they_are_weighted(normalize):
    """The advantages in the loss equal loops over episodes and streams."""

    class Recorder(Auxiliary):
        def loss(self, policy, batch):
            rows = zip(batch.rows[0].tolist(), batch.advantage[0].tolist(), strict=True)
            seen.update(rows)

    seen: dict[int, float] = {}
    vec = Chain(8, length=3, horizon=10**6)  # nothing is truncated
    mixer = RewardMixer(
        {"b": Term(weight=0.5)}, Lagrangian(thresholds={"b": 1.0}, normalize=normalize)
    )
    rollout = Runner(vec).collect(make_policy(vec, 2), 32)
    rewards = mixer(rollout, {"b": 100 * torch.rand(rollout.reward.shape)})
    assert not rollout.truncated.any()
    assert rollout.terminated.any()
    learner = PPO(
        make_policy(vec, 2), normalize_advantage=False, num_epochs=1, auxiliaries=[Recorder()]
    )
    learner.update(rollout, rewards)
    assert len(seen) == rollout.reward.numel()
    streams = naive_advantages(rollout, rewards).flatten(0, 1)
    if normalize:
        streams = (streams - streams.mean(0)) / streams.std(0, correction=0)
    expected = 0.5 * streams[:, 0] + 0.5 * 0.5 * streams[:, 1]  # lambda begins at 1/2
    got = torch.tensor([seen[row] for row in range(len(seen))])
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)


def test_normalised_streams_make_the_policy_independent_of_reward_units():
    vec = Chain(8, length=3, horizon=10**6)  # nothing is truncated, no value enters
    policy = make_policy(vec, num_streams=2)
    rollout = Runner(vec).collect(policy, 32)
    rollout = dataclasses.replace(rollout, value=torch.zeros_like(rollout.value))
    bonus, moved = torch.rand(rollout.reward.shape), {}
    for normalize in (True, False):
        for scale in (1e-3, 1e3):
            mixer = RewardMixer({"b": Term()}, Heads(normalize=normalize))
            learner = PPO(copy.deepcopy(policy), minibatch_size=64, value_coef=0.0)
            learner.update(rollout, mixer(rollout, {"b": scale * bonus}))
            moved[normalize, scale] = learner.policy.policy_head.weight - policy.policy_head.weight
    torch.testing.assert_close(moved[True, 1e-3], moved[True, 1e3], atol=1e-4, rtol=0)
    assert (moved[False, 1e-3] - moved[False, 1e3]).abs().max() > 1e-3


def test_auxiliaries_add_to_advantage_and_loss():
    class Both(Auxiliary):
        adds_advantage = True

        def advantage(self, rollout, out):
            assert out.value.shape[:2] == rollout.reward.shape
            return torch.randn(rollout.reward.shape, generator=torch.Generator().manual_seed(0))

        def loss(self, policy, batch):
            return policy.value_head.bias.sum() * 100

    vec = Chain(8, length=3)
    policy = make_policy(vec)
    rollout = Runner(vec).collect(policy, 32)
    rewards = RewardMixer({})(rollout, {})
    plain, extra = copy.deepcopy(policy), copy.deepcopy(policy)
    PPO(plain, minibatch_size=64).update(rollout, rewards)
    PPO(extra, minibatch_size=64, auxiliaries=[Both()]).update(rollout, rewards)
    assert (extra.value_head.bias < plain.value_head.bias).all()
    assert not torch.equal(extra.policy_head.weight, plain.policy_head.weight)


def test_the_loss_subtracts_the_entropy_times_its_coefficient():
    vec = Chain(8, length=3)
    learner = PPO(make_policy(vec))
    rollout = Runner(vec).collect(learner.policy, 16)
    batch = learner._batch(rollout, RewardMixer({})(rollout, {}))
    without, loss = (
        learner._add_gradients(batch, 1.0, torch.ones(1), coef)[LOGS.index("loss")]
        for coef in (0.0, 0.5)
    )
    entropy = learner.policy(batch.obs, batch.state, batch.is_first).dist.entropy().mean()
    assert entropy.item() > 0.1
    assert (loss - without).item() == pytest.approx(-0.5 * entropy.item(), rel=1e-4)


def grid(space):
    image = spaces.Box(0, 255, (3, 3, 3), np.uint8)
    return Grid(spaces.Dict(image=image, direction=spaces.Discrete(4)), hidden=8)


@pytest.mark.parametrize("normalize_value", ["none", "popart"])
@pytest.mark.parametrize(
    "make",
    [grid, MLP, TwinMLP, partial(MLP, activation=nn.ReLU), partial(TwinMLP, activation=nn.ReLU)],
    ids=["grid", "mlp", "twin", "mlp-relu", "twin-relu"],
)
def test_gradients_by_hand_equal_those_of_autograd(make, normalize_value, monkeypatch):
    """Also in parts that add up, and with a stream that does not learn."""
    R, A, K = 40, 5, 3
    space = spaces.Dict(vector=spaces.Box(-1, 1, (6,)))
    torch.manual_seed(0)
    policy = ActorCritic(
        space,
        spaces.Discrete(A),
        encoder=make(space),
        num_streams=K,
        normalize_value=normalize_value,
    )
    for parameter in policy.parameters():
        nn.init.normal_(parameter, std=0.5)
    policy.observe_returns(*(torch.randn(R, K) * 7 + 3 for _ in range(2)))
    learner = PPO(policy, clip_range_vf=0.5)
    obs = {"vector": torch.randn(1, R, 6), "image": torch.randint(0, 6, (1, R, 3, 3, 3)).byte()}
    obs["direction"] = torch.randint(0, 4, (1, R))
    batch = Batch(
        obs=obs,
        state={},
        is_first=torch.zeros(1, R, dtype=torch.bool),
        action=torch.randint(0, A, (1, R)),
        log_prob=-2 + 0.3 * torch.randn(1, R),
        value=torch.randn(1, R, K),
        advantage=torch.randn(1, R),
        target=3 * torch.randn(1, R, K),
        valid=torch.ones(1, R, dtype=torch.bool),
    )
    found = []
    for by_hand in (True, False):
        assert (policy.vjp(obs) is not None) == by_hand
        policy.zero_grad()
        logs = [
            learner._add_gradients(part, factor, torch.tensor([1.0, 0.0, 1.0]), 0.1)
            for part, factor in zip([batch, batch.take(torch.arange(9))], [1.0, 0.3], strict=True)
        ]
        found.append((torch.stack(logs), {n: p.grad for n, p in policy.named_parameters()}))
        monkeypatch.setattr(policy, "vjp", lambda obs: None)
    torch.testing.assert_close(found[0][0], found[1][0])
    assert all(gradient.abs().sum() > 0 for gradient in found[1][1].values())
    for name, gradient in found[1][1].items():
        torch.testing.assert_close(found[0][1][name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("bonus", "seed"), [("none", 0), *product(("count", "rnd"), range(3))], ids=str
)
def test_the_combination_lock_is_solved_only_with_a_bonus(bonus, seed):
    """Random actions succeed with probability 2^-24: plain PPO never sees a reward."""
    vec = Chain(32, length=24)
    modules = {}
    if bonus == "count":
        modules["bonus"] = HashCount(vec.obs_space)
    if bonus == "rnd":
        small = {"embedding_dim": 32, "warmup_steps": 64, "num_epochs": 1}
        modules["bonus"] = RND(vec.obs_space, seed=seed, **small)
    changes = {"weight": 0.5, "episodic": False}
    terms = {n: dataclasses.replace(m.default_term(), **changes) for n, m in modules.items()}
    mixer = RewardMixer(terms, Heads())
    learner = PPO(make_policy(vec, mixer.num_streams, seed), lr=2e-3, minibatch_size=512, seed=seed)
    trainer = Trainer(vec, learner, modules, mixer, num_steps=64, seed=seed)
    returns = []

    def solved(run, metrics):
        returns.append(metrics.get("rollout/return_mean", 0.0))
        return returns[-1] > 0.9

    trainer.run(100_000 if bonus == "none" else 160_000, [solved])
    if bonus == "none":
        assert max(returns) == 0
    else:
        assert max(returns) > 0.9


def test_solves_a_continuous_bandit():
    """One step, reward -(a - 0.5)^2: the mean goes to 0.5."""
    import gymnasium
    import numpy as np

    from firstlight.envs import GymVec

    class Bandit(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (1,))
        action_space = gymnasium.spaces.Box(-1, 1, (1,))

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), -float((action[0] - 0.5) ** 2), True, False, {}

    vec = GymVec([Bandit] * 16)
    policy = make_policy(vec)
    Trainer(vec, PPO(policy, lr=2e-2, minibatch_size=256), num_steps=32).run(10_000)
    first = torch.ones((1, 1), dtype=torch.bool)
    mean = policy({"obs": torch.zeros(1, 1, 1)}, {}, first).dist.mode()
    assert mean.item() == pytest.approx(0.5, abs=0.1)


def test_masked_actions_are_never_taken():
    from gymnasium import spaces

    space = spaces.Dict({"obs": spaces.Box(0, 1, (3,)), "action_mask": spaces.MultiBinary(4)})
    policy = ActorCritic(space, spaces.Discrete(4), encoder=MLP(space))
    nn.init.normal_(policy.policy_head.weight)
    mask = torch.tensor([True, False, True, False]).expand(1, 500, 4)
    obs = {"obs": torch.rand(1, 500, 3), "action_mask": mask}
    out = policy(obs, {}, torch.ones((1, 500), dtype=torch.bool))
    assert set(out.dist.sample().unique().tolist()) <= {0, 2}
    assert torch.isfinite(out.dist.entropy()).all()


# --- policies with a memory


class Memory(Core):
    """A recurrent core: a running sum of features through a linear layer."""

    def __init__(self, in_dim):
        super().__init__()
        self.out_dim, self.cell = in_dim, nn.GRUCell(in_dim, in_dim)

    def initial_state(self, num_envs):
        return {"hidden": torch.zeros(num_envs, self.out_dim)}

    def forward(self, features, state, is_first):
        hidden, out = state["hidden"], []
        for feature, first in zip(features, is_first, strict=True):
            hidden = self.cell(feature, hidden * ~first[:, None])
            out.append(hidden)
        return torch.stack(out), {"hidden": hidden}


def recurrent_policy(vec):
    policy = make_policy(vec)
    policy.core = Memory(policy.core.out_dim)
    policy.policy_head.weight.data *= 100  # probabilities that depend on the state
    return policy


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_sequences_reproduce_the_log_probabilities_of_collection(autoreset):
    """With unchanged parameters the ratio is 1, so each sequence starts from its state."""
    vec = Chain(8, length=3, autoreset=autoreset)
    policy = recurrent_policy(vec)
    runner, mixer = Runner(vec), RewardMixer({})
    runner.collect(policy, 5)  # so the next rollout begins with a state
    rollout = runner.collect(policy, 16)
    learner = PPO(policy, lr=0.0, minibatch_size=32, num_epochs=1)
    metrics = learner.update(rollout, mixer(rollout, {}))
    assert metrics["train/approx_kl"] == pytest.approx(0, abs=1e-6)
    forgetful = dataclasses.replace(rollout, state=policy.initial_state(8))
    assert learner.update(forgetful, mixer(forgetful, {}))["train/approx_kl"] > 1e-5


def test_rows_of_sequences_that_are_not_valid_change_nothing():
    vec = Chain(8, length=3, autoreset="next_step")
    policy, mixer = recurrent_policy(vec), RewardMixer({})
    rollout = Runner(vec).collect(policy, 16)
    assert (~rollout.valid).any()
    noise = torch.where(rollout.valid, 0.0, 7.0)
    changed = dataclasses.replace(rollout, log_prob=rollout.log_prob + noise)
    updated = []
    for case in (rollout, changed):
        copied = copy.deepcopy(policy)
        PPO(copied, minibatch_size=32, num_epochs=1).update(case, mixer(case, {}))
        updated.append(copied.state_dict())
    assert all(torch.equal(updated[0][name], updated[1][name]) for name in updated[0])
    assert any(not torch.equal(updated[0][n], v) for n, v in policy.state_dict().items())


def update_once(**options):
    """Return a learner after an update on rewards of a chain, and its metrics."""
    vec = Chain(8, length=3)
    learner = PPO(make_policy(vec), minibatch_size=64, num_epochs=6, **options)
    rollout = Runner(vec).collect(learner.policy, 32)
    reward = (rollout.action == 1).float()
    rollout = dataclasses.replace(rollout, reward=reward)
    return learner, learner.update(rollout, RewardMixer({})(rollout, {}), 0.75)


def test_epochs_after_one_beyond_the_target_kl_are_left_out():
    assert "train/epochs" not in update_once(lr=0.05)[1]
    assert update_once(lr=0.05, target_kl=1e9)[1]["train/epochs"] == 6
    few = update_once(lr=0.05, target_kl=0.01)[1]["train/epochs"]
    assert 1 <= few < 6
    learner, _ = update_once(lr=0.05, target_kl=0.01)
    assert learner.gradient_steps(32, 8) is None
    short, _ = update_once(lr=0.05, target_kl=0.01)
    short.num_epochs = few
    assert all(
        torch.equal(p, q)
        for p, q in zip(learner.policy.parameters(), short.policy.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("lr", "factor"), [(0.05, 1 / 1.5), (1e-6, 1.5)], ids=["too far", "not far enough"]
)
def test_the_learning_rate_follows_the_kl_of_the_update_before(lr, factor):
    learner, first = update_once(lr=lr, adaptive_kl=0.005)
    assert first["train/lr"] == lr
    twin = PPO(make_policy(Chain(8, length=3), seed=3), lr=lr, adaptive_kl=0.005)
    twin.load_state_dict(copy.deepcopy(learner.state_dict()))
    for each in (learner, twin):
        rollout = Runner(Chain(8, length=3)).collect(each.policy, 32)
        later = each.update(rollout, RewardMixer({})(rollout, {}))
        assert later["train/lr"] == pytest.approx(lr * factor)


def test_the_learning_rate_stays_within_a_factor_of_ten():
    learner, _ = update_once(lr=1e-9, adaptive_kl=0.01)
    vec = Chain(8, length=3)
    for _ in range(8):
        rollout = Runner(vec).collect(learner.policy, 8)
        metrics = learner.update(rollout, RewardMixer({})(rollout, {}))
    assert metrics["train/lr"] == pytest.approx(1e-8)


def test_the_learning_rate_falls_to_zero_over_the_run():
    assert update_once(lr=0.01, lr_decay="linear")[1]["train/lr"] == pytest.approx(0.0025)
    assert update_once(lr=0.01)[1]["train/lr"] == 0.01
    with pytest.raises(ValueError, match="lr_decay is 'cosine', expected one of none, linear"):
        update_once(lr_decay="cosine")


@pytest.mark.parametrize(
    ("act_space", "num_streams", "expected"),
    [(spaces.Discrete(2), 1, 4), (TORQUE, 1, 10), (TORQUE, 2, 4)],
)
def test_epochs_that_are_not_given_depend_on_actions_and_streams(act_space, num_streams, expected):
    obs_space = spaces.Dict(obs=spaces.Box(-1, 1, (3,), np.float32))
    options = {"encoder": MLP(obs_space), "num_streams": num_streams}
    policy = ActorCritic(obs_space, act_space, **options)
    assert PPO(policy).num_epochs == expected
    assert PPO(policy, num_epochs=3).num_epochs == 3
