"""Our modules in Stable-Baselines3: the callback, `VecNormalize`, ends of episodes."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip(
    "stable_baselines3", reason="needs stable-baselines3: pip install 'firstlight[sb3]'"
)

from page_code import run_page
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from firstlight.agents.adapters import field_spaces
from firstlight.agents.adapters.sb3 import IntrinsicCallback
from firstlight.intrinsic import HashCount, IntrinsicModule, RewardMixer, Sum, Term

N, T = 2, 16
GAMMA, LAM = 0.9, 0.8


class Line(gymnasium.Env):
    """Cells in a row: an episode ends in cell 3 with reward 5, or is cut after 7 steps.

    Cell c is observed as c + 1.
    """

    observation_space = spaces.Box(0, 9, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = self.elapsed = 0
        return np.array([1], np.float32), {}

    def step(self, action):
        self.cell = max(0, self.cell + (1 if action == 1 else -1))
        self.elapsed += 1
        goal = self.cell == 3
        obs = np.array([self.cell + 1], np.float32)
        return obs, 5.0 * goal - 0.25, goal, self.elapsed == 7, {}


class Kept(BaseCallback):
    """Keeps, of each rollout, what the algorithm is about to learn from."""

    def __init__(self):
        super().__init__()
        self.rollouts = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        names = ("rewards", "advantages", "returns", "values", "episode_starts")
        kept = {name: getattr(buffer, name).copy() for name in names}
        kept["last_values"] = self.locals["values"].numpy().ravel().copy()
        kept["dones"] = self.locals["dones"].copy()
        self.rollouts.append(kept)


class Shown(IntrinsicModule):
    """Bonus of 1; keeps the rollouts that it gets."""

    def __init__(self):
        super().__init__()
        self.rollouts = []

    def compute(self, rollout):
        self.rollouts.append(rollout)
        return torch.ones_like(rollout.reward)


def make_env(normalize=False, norm_obs=True):
    vec = DummyVecEnv([Line] * N)
    return VecNormalize(vec, norm_obs=norm_obs, gamma=GAMMA) if normalize else vec


def mixer(weight):
    return RewardMixer({"reward": Term(gamma=GAMMA), "bonus": Term(weight=weight)}, Sum())


def train(callback=None, *, normalize=False, rollouts=3, algorithm=PPO, env=None):
    """Train; return the algorithm and what it learnt from."""
    options = {"batch_size": 8, "n_epochs": 2} if algorithm is PPO else {}
    model = algorithm(
        *("MlpPolicy", make_env(normalize) if env is None else env),
        n_steps=T,
        gamma=GAMMA,
        gae_lambda=LAM,
        policy_kwargs={"net_arch": [8]},
        seed=0,
        device="cpu",
        **options,
    )
    kept = Kept()
    model.learn(rollouts * N * T, callback=[*([] if callback is None else [callback]), kept])
    return model, kept.rollouts


def counts(**options):
    return HashCount(field_spaces(Line.observation_space), bins=9, **options)


def parameters(model):
    return [p.detach().clone() for p in model.policy.parameters()]


@pytest.mark.parametrize("algorithm", [PPO, A2C])
@pytest.mark.parametrize("normalize", [False, True])
def test_weight_zero_is_no_callback_bit_for_bit_and_weight_one_is_not(algorithm, normalize):
    options = {"normalize": normalize, "algorithm": algorithm}
    plain, without = train(**options)
    zero, absent = train(IntrinsicCallback({"bonus": counts()}, mixer(0.0)), **options)
    assert len(without) == len(absent) == 3
    for one, other in zip(without, absent, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    pairs = zip(parameters(plain), parameters(zero), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)

    trained, changed = train(IntrinsicCallback({"bonus": counts()}, mixer(1.0)), **options)
    assert not np.array_equal(changed[0]["advantages"], without[0]["advantages"])
    assert not torch.equal(parameters(trained)[0], parameters(plain)[0])


@pytest.mark.parametrize("normalize", [False, True])
def test_rewards_and_advantages_are_those_of_slow_loops(normalize):
    """In the first rollout both runs act alike, so the difference of rewards is the bonus."""
    _, without = train(normalize=normalize)
    shown = Shown()
    modules = {"bonus": counts(), "shown": shown}
    terms = {"reward": Term(gamma=GAMMA), "bonus": Term(weight=0.5), "shown": Term(weight=1e-30)}
    _, given = train(IntrinsicCallback(modules, RewardMixer(terms, Sum())), normalize=normalize)
    after = shown.rollouts[0].next_obs()["obs"][..., 0].round().int()
    seen, bonus = {}, np.zeros((T, N))
    for t in range(T):
        for n in range(N):
            cell = int(after[t, n])
            bonus[t, n] = seen.get(cell, 0) + 1
        for n in range(N):
            seen[int(after[t, n])] = seen.get(int(after[t, n]), 0) + 1
    expected = without[0]["rewards"] + 0.5 * bonus**-0.5
    one = given[0]
    np.testing.assert_allclose(one["rewards"], expected, rtol=1e-5, atol=1e-7)

    goes_on = 1.0 - np.concatenate([one["episode_starts"], one["dones"][None]])[1:]
    value = np.concatenate([one["values"], one["last_values"][None]])
    advantage = np.zeros(N)
    for t in reversed(range(T)):
        delta = one["rewards"][t] + GAMMA * value[t + 1] * goes_on[t] - value[t]
        advantage = delta + GAMMA * LAM * goes_on[t] * advantage
        np.testing.assert_allclose(one["advantages"][t], advantage, rtol=1e-4, atol=1e-5)


def test_the_value_after_a_truncated_episode_stays_in_its_reward():
    shown = Shown()
    _, given = train(IntrinsicCallback({"bonus": shown}, mixer(1.0)), rollouts=1)
    _, without = train(rollouts=1)
    rollout = shown.rollouts[0]
    cut = rollout.truncated.numpy()
    assert cut.any()
    assert rollout.terminated.any()
    added = without[0]["rewards"] - rollout.reward.numpy()  # by Stable-Baselines3
    assert (added[cut] != 0).all()
    assert not added[~cut].any()
    np.testing.assert_allclose(given[0]["rewards"] - without[0]["rewards"], 1, rtol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_modules_see_what_the_environment_did(normalize):
    shown = Shown()
    train(IntrinsicCallback({"bonus": shown}, mixer(1.0)), normalize=normalize)
    clipped = 0
    for n in range(N):
        cell = elapsed = 0
        for rollout in shown.rollouts:
            after = rollout.next_obs()["obs"]
            for t in range(T):
                assert rollout.obs["obs"][t, n, 0] == cell + 1
                assert bool(rollout.is_first[t, n]) == (elapsed == 0)
                cell = max(0, cell + (1 if rollout.action[t, n] == 1 else -1))
                elapsed += 1
                goal, over = cell == 3, elapsed == 7
                if normalize and (goal or over) and abs(after[t, n, 0] - cell - 1) > 1e-3:
                    clipped += 1
                else:
                    assert after[t, n, 0] == pytest.approx(cell + 1, abs=1e-4)
                assert rollout.reward[t, n] == 5.0 * goal - 0.25
                assert bool(rollout.terminated[t, n]) == goal
                assert bool(rollout.truncated[t, n]) == (over and not goal)
                if goal or over:
                    cell = elapsed = 0
    assert clipped == 0


def test_the_statistics_of_vec_normalize_are_of_the_environments_reward_only():
    statistics = []
    for callback in (None, IntrinsicCallback({"bonus": counts()}, mixer(100.0))):
        model, _ = train(callback, normalize=True, rollouts=1)
        vec = model.get_vec_normalize_env()
        statistics.append((vec.ret_rms.mean, vec.ret_rms.var, vec.ret_rms.count, vec.returns))
    assert all(np.array_equal(one, other) for one, other in zip(*statistics, strict=True))


def test_counts_continue_from_one_call_of_learn_to_the_next():
    module = counts()
    callback = IntrinsicCallback({"bonus": module}, mixer(1.0))
    model, _ = train(callback, rollouts=2)
    model.learn(2 * N * T, callback=callback, reset_num_timesteps=False)
    assert int(module.table.counts.sum()) == 4 * N * T
    assert callback.intrinsic.steps == 4 * N * T


def test_what_cannot_be_learnt_is_refused():
    callback = IntrinsicCallback({"bonus": Shown()}, mixer(1.0))
    with pytest.raises(TypeError, match="DQN has no rollouts"):
        DQN("MlpPolicy", make_env(), device="cpu").learn(8, callback=callback)
    other = RewardMixer({"reward": Term(gamma=0.5), "bonus": Term()}, Sum())
    with pytest.raises(ValueError, match=r"\(0.5, True\).*learns one, \(0.9, True\)"):
        train(IntrinsicCallback({"bonus": Shown()}, other))
    heads = RewardMixer({"reward": Term(gamma=GAMMA), "bonus": Term(gamma=GAMMA)})
    with pytest.raises(ValueError, match="use Sum"):
        train(IntrinsicCallback({"bonus": Shown()}, heads))
    stacked = VecFrameStack(make_env(normalize=True), 2)
    with pytest.raises(ValueError, match="outermost"):
        train(IntrinsicCallback({"bonus": Shown()}, mixer(1.0)), env=stacked)


def test_the_default_mixer_has_the_algorithms_discount():
    callback = IntrinsicCallback({"bonus": Shown()})
    train(callback, rollouts=1)
    (stream,) = callback.intrinsic.mixer.streams
    assert (stream.gamma, stream.episodic) == (GAMMA, True)


def test_the_code_of_the_page_runs():
    names = run_page("other_trainers.md", 1)
    assert names["callback"].intrinsic.steps == 2_048
    assert np.median(names["model"].rollout_buffer.rewards) > -1  # -1 without a bonus
