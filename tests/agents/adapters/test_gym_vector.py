"""Our modules around Gymnasium vector environments: recorded rollouts, rewards, the example."""

import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from page_code import run_page

from firstlight.agents.adapters import IntrinsicRewards, RecordRollouts, field_spaces
from firstlight.agents.adapters.recorder import RolloutRecorder
from firstlight.intrinsic import RND, HashCount, Heads, IntrinsicModule, RewardMixer, Sum, Term

EXAMPLES = Path(__file__).parents[3] / "docs/examples"
MODES = [*AutoresetMode]
N = 3


class Clock(gymnasium.Env):
    """Observes its number, its episode and the step; ends after `length` steps."""

    observation_space = spaces.Dict(
        {
            "where": spaces.Dict({"number": spaces.Discrete(9), "step": spaces.Box(0, 99, (1,))}),
            "episode": spaces.Box(0, 99, (), np.int64),
            "words": spaces.Text(5),
        }
    )
    action_space = spaces.Discrete(4, start=2)

    def __init__(self, number, length, *, terminates):
        self.number, self.length, self.terminates = number, length, terminates
        self.episode = -1

    def observe(self):
        where = {"number": self.number, "step": np.array([self.step_count], np.float32)}
        return {"where": where, "episode": np.array(self.episode), "words": "hello"}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.step_count = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action):
        self.step_count += 1
        over = self.step_count == self.length
        ends = over and self.terminates, over and not self.terminates
        return self.observe(), float(self.step_count), *ends, {}


def clocks(mode):
    """Environments whose episodes have 2, 3 and 4 steps; the second is truncated."""
    lengths = enumerate((2, 3, 4))
    makers = [lambda n=n, k=k: Clock(n, k, terminates=n != 1) for n, k in lengths]
    return RecordRollouts(SyncVectorEnv(makers, autoreset_mode=mode))


def run(envs, steps):
    """Step with actions 2, 3, 4, 5, 2, …; reset what ended if nobody else does."""
    for t in range(steps):
        _, _, terminated, truncated, _ = envs.step(np.full(N, 2 + t % 4))
        over = terminated | truncated
        if envs.autoreset_mode == AutoresetMode.DISABLED and over.any():
            envs.reset(options={"reset_mask": over})
    return envs.rollout()


@pytest.mark.parametrize("mode", MODES)
def test_every_transition_is_recorded_with_its_true_successor(mode):
    """Of what environment n does, all is known: step k of an episode leads to step k + 1."""
    envs = clocks(mode)
    envs.reset(seed=0)
    rollouts = [run(envs, 7), run(envs, 5)]
    for n, length in enumerate((2, 3, 4)):
        begins, ends, steps, action = [], [], [], []
        for rollout in rollouts:
            here, after = rollout.obs["where.step"][:-1, n, 0], rollout.next_obs()["where.step"]
            rows = rollout.valid[:, n]
            assert rollout.is_first[:-1, n][rows].equal(here[rows] == 0)
            same = rollout.next_obs()["episode"][rows, n] == rollout.obs["episode"][:-1][rows, n]
            assert same.all()
            begins += here[rows].tolist()
            ends += after[rows, n, 0].tolist()
            steps += rollout.reward[rows, n].tolist()
            died, cut = rollout.terminated[rows, n], rollout.truncated[rows, n]
            assert (died if n != 1 else cut).equal(after[rows, n, 0] == length)
            assert not (cut if n != 1 else died).any()
            action += rollout.action[:, n].tolist()
        count = len(begins)
        assert begins == [k % length for k in range(count)]
        assert ends == steps == [k % length + 1 for k in range(count)]
        assert action == [t % 4 for t in [*range(7), *range(5)]]
        assert count == 12 if mode != AutoresetMode.NEXT_STEP else count < 12


def test_fields_are_named_and_typed_as_in_our_environments():
    envs = clocks(AutoresetMode.SAME_STEP)
    assert [*envs.obs_space] == ["episode", "where.number", "where.step"]
    envs.reset(seed=0)
    rollout = run(envs, 2)
    assert {n: f.dtype for n, f in rollout.obs.items()} == {
        "episode": torch.int64,
        "where.number": torch.int64,
        "where.step": torch.float32,
    }
    assert field_spaces(spaces.Box(0, 1, (2,)))["obs"].shape == (2,)
    with pytest.raises(ValueError, match="no field"):
        field_spaces(spaces.Text(4))


@pytest.mark.parametrize("mode", MODES)
def test_counts_are_those_of_a_plain_dictionary(mode):
    envs = clocks(mode)
    module = HashCount(envs.obs_space, keys=["where.number", "where.step"], bins=99)
    intrinsic = IntrinsicRewards({"count": module}, RewardMixer({"count": Term(weight=2.0)}, Sum()))
    envs.reset(seed=0)
    seen = {}
    for _ in range(2):
        rollout = run(envs, 6)
        rewards, metrics = intrinsic(rollout)
        after = rollout.next_obs()["where.step"][..., 0].long()
        for t in range(6):
            for n in range(N):
                if rollout.valid[t, n]:
                    key = n, int(after[t, n])
                    seen[key] = seen.get(key, 0) + 1
                    bonus = 2 * seen[key] ** -0.5
                    expected = float(rollout.reward[t, n]) + bonus
                    assert rewards.reward[t, n, 0] == pytest.approx(expected)
        assert metrics["count/states"] == len(seen)


def test_steps_out_of_order_are_refused():
    envs = clocks(AutoresetMode.SAME_STEP)
    with pytest.raises(RuntimeError, match="before reset"):
        RolloutRecorder(N).add(torch.zeros(N), None)
    envs.reset(seed=0)
    with pytest.raises(RuntimeError, match="no steps"):
        envs.rollout()
    envs.step(np.full(N, 2))
    with pytest.raises(RuntimeError, match="take the rollout first"):
        envs.reset()
    assert envs.rollout().num_steps == 1


class Half(IntrinsicModule):
    """Bonus 0.5; counts its calls."""

    warmup_steps, seen, learnt = 5, 0, 0

    def warmup(self, rollout):
        self.seen += rollout.num_steps

    def compute(self, rollout):
        return torch.full_like(rollout.reward, 0.5)

    def update(self, rollout):
        self.learnt += 1
        return {}


def test_warm_up_comes_first_and_without_bonus():
    envs = clocks(AutoresetMode.SAME_STEP)
    envs.reset(seed=0)
    module = Half()
    intrinsic = IntrinsicRewards({"half": module})
    given = []
    for _ in range(3):
        rollout = run(envs, 4)
        rewards, _ = intrinsic(rollout)
        given.append((rewards.reward[..., 0] - rollout.reward).unique().tolist())
    assert given == [[0], [0], [0.5]]  # 5 steps are wanted, which are two rollouts
    assert (module.seen, module.learnt) == (8, 1)


def test_a_module_of_weight_zero_is_not_called_and_changes_nothing():
    envs = clocks(AutoresetMode.NEXT_STEP)
    envs.reset(seed=0)
    module = Half()
    intrinsic = IntrinsicRewards({"half": module}, RewardMixer({"half": Term(weight=0.0)}, Sum()))
    rollout = run(envs, 6)
    rewards, _ = intrinsic(rollout)
    assert torch.equal(rewards.reward[..., 0], rollout.reward)
    assert (module.seen, module.learnt) == (0, 0)


def test_another_reward_is_mixed_while_modules_see_the_environments():
    envs = clocks(AutoresetMode.SAME_STEP)
    envs.reset(seed=0)

    class Given(Half):
        def compute(self, rollout):
            return rollout.reward.clone()

    module = Given()
    module.warmup_steps = 0
    terms = {"reward": Term(weight=3.0), "given": Term(weight=10.0)}
    intrinsic = IntrinsicRewards({"given": module}, RewardMixer(terms, Heads()))
    rollout = run(envs, 4)
    other = torch.rand(4, N)
    rewards, _ = intrinsic(rollout, extrinsic=other)
    assert torch.equal(rewards.reward, torch.stack([other, rollout.reward], -1))
    assert rewards.weight.tolist() == [3, 10]


def test_saved_modules_go_on_as_if_not_interrupted():
    envs = clocks(AutoresetMode.SAME_STEP)
    envs.reset(seed=0)
    space = field_spaces(spaces.Box(0, 99, (1,)))
    assert space["obs"].shape == (1,)

    def make():
        return IntrinsicRewards({"rnd": RND(envs.obs_space, keys=["where.step"], seed=1)})

    intrinsic, other = make(), make()
    intrinsic(run(envs, 8))
    other.load_state_dict(intrinsic.state_dict())
    rollout = run(envs, 8)
    assert torch.equal(intrinsic(rollout)[0].reward, other(rollout)[0].reward)
    assert other.steps == intrinsic.steps == 48


@pytest.fixture
def example(monkeypatch):
    """The script ``docs/examples/single_file_ppo.py``, imported."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield __import__("single_file_ppo")
    del sys.modules["single_file_ppo"]


SMALL = {"env_id": "CartPole-v1", "total_steps": 520, "N": 2, "T": 130}  # of which 260 are warm-up


def same(one, other):
    """Whether two results of the script have equal parameters and advantages."""
    (policy, advantage), (policy2, advantage2) = one, other
    pairs = zip(policy.parameters(), policy2.parameters(), strict=True)
    return [*(torch.equal(p, q) for p, q in pairs), torch.equal(advantage, advantage2)]


def test_the_example_with_weight_zero_is_plain_ppo_and_with_weight_one_is_not(example, monkeypatch):
    zero, one = (example.train(weight=weight, **SMALL) for weight in (0.0, 1.0))
    assert not any(same(zero, one))

    class Nothing:
        """In place of our modules and mixer: the environment's reward."""

        def __init__(self, *_):
            pass

        def __call__(self, rollout, progress):
            return SimpleNamespace(reward=rollout.reward[..., None]), {}

    monkeypatch.setattr(example, "IntrinsicRewards", Nothing)
    assert all(same(zero, example.train(weight=1.0, **SMALL)))


def test_the_code_of_the_page_runs():
    names = run_page("other_trainers.md", 0)
    assert names["reward"].shape == (128, 8)
    assert (names["reward"] > names["rollout"].reward)[names["rollout"].valid].all()
