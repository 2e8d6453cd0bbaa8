"""PPO learns tiny tasks of every kind of action; masks and starts hold from end to end."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.agents import MLP, PPO, ActorCritic, SubPO, Trainer
from firstlight.agents.agent import Agent
from firstlight.agents.algorithms.auxiliaries import Rapid
from firstlight.agents.session.run_directory import checkpoint
from firstlight.agents.session.summary import describe_actions
from firstlight.envs import GymVec, RandomActor, Runner
from firstlight.envs.faults import EnvironmentFaultError
from firstlight.networks.spec import describe, rebuild

MULTI = spaces.MultiDiscrete([3, 2, 4], start=[5, 0, -2])
GRID = spaces.MultiDiscrete([[2, 3], [3, 2]])
SWITCHES = spaces.MultiBinary((2, 2))
BOX = spaces.Box(np.float32([[0, -5], [10, -1]]), np.float32([[4, 5], [30, 1]]))


STEPS = 16 * 16  # of an iteration


class Match(gymnasium.Env):
    """Reward is how much of the action equals a target that the observation decides.

    Args:
        act_space: of the actions.
        mask: of the observations, if it has one.
    """

    def __init__(self, act_space, mask=None):
        self.action_space, self.mask = act_space, mask
        fields = {"which": spaces.Discrete(2)}
        if mask is not None:
            fields["action_mask"] = spaces.MultiBinary(np.shape(mask))
        self.observation_space = spaces.Dict(fields)
        act_space.seed(0)
        self.targets = np.stack([act_space.sample() for _ in range(2)])
        self.taken = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.seen(), {}

    def seen(self):
        self.which = int(self.np_random.integers(2))
        mask = {} if self.mask is None else {"action_mask": np.asarray(self.mask, np.int8)}
        return {"which": self.which} | mask

    def step(self, action):
        assert self.action_space.contains(action), action
        self.taken.append(np.array(action))
        target = self.targets[self.which]
        if isinstance(self.action_space, spaces.Box):
            half = (self.action_space.high - self.action_space.low) / 2
            reward = 1 - float(np.abs((action - target) / half).mean())
        else:
            reward = float(np.mean(action == target))
        return self.seen(), reward, True, False, {}


def make(act_space, mask=None, learner=PPO, num_envs=16, policy_options=None, **options):
    envs = [Match(act_space, mask) for _ in range(num_envs)]
    vec = GymVec([lambda env=env: env for env in envs])
    torch.manual_seed(0)
    policy = ActorCritic(
        vec.obs_space,
        vec.act_space,
        encoder=MLP(vec.obs_space, hidden=(16,)),
        **(policy_options or {}),
    )
    defaults = {"lr": 5e-2, "entropy_coef": 0.0}
    if learner is PPO:
        defaults["minibatch_size"] = 128
    return Trainer(vec, learner(policy, **(defaults | options)), num_steps=16), envs


def best_reward(trainer, envs):
    """Mean reward of the most likely actions in both observations."""
    agent, rewards = Agent(trainer.policy.eval()), []
    env = envs[0]
    for which in range(2):
        obs = {"which": np.int64(which)}
        if env.mask is not None:
            obs["action_mask"] = np.asarray(env.mask, np.int8)
        action, _ = agent.act(obs, deterministic=True)
        env.which = which
        rewards.append(env.step(action)[1])
    return np.mean(rewards)


@pytest.mark.parametrize("space", [MULTI, GRID, SWITCHES, spaces.Discrete(5, start=-2)], ids=str)
def test_ppo_learns_discrete_actions_of_every_kind(space):
    trainer, envs = make(space)
    trainer.run(12 * STEPS)
    assert best_reward(trainer, envs) == 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"squash": True},
        {"state_dependent_std": True},
        {"squash": True, "state_dependent_std": True},
        {"squash": True, "scale_actions": False},
    ],
    ids=str,
)
def test_ppo_learns_a_box_of_two_axes(options):
    box = spaces.Box(-1, 1, (2, 2)) if "scale_actions" in options else BOX
    trainer, envs = make(box, policy_options=options)
    before = best_reward(trainer, envs)
    trainer.run(15 * STEPS)
    assert best_reward(trainer, envs) > before + 0.1


def test_a_box_of_no_axes_is_one_number():
    trainer, envs = make(spaces.Box(2, 6, ()))
    trainer.run(12 * STEPS)
    assert best_reward(trainer, envs) > 0.8


def test_a_squashed_policy_never_leaves_the_bounds():
    trainer, _ = make(BOX, policy_options={"squash": True})
    rollout = Runner(trainer.vec).collect(trainer.policy, 64)
    low, high = torch.from_numpy(BOX.low), torch.from_numpy(BOX.high)
    assert ((rollout.action >= low) & (rollout.action <= high)).all()
    assert torch.isfinite(rollout.log_prob).all()
    again = trainer.policy(
        {k: v[:-1] for k, v in rollout.obs.items()}, {}, rollout.is_first[:-1]
    ).dist.log_prob(rollout.action)
    torch.testing.assert_close(again, rollout.log_prob, atol=1e-4, rtol=1e-4)


MASKED = [
    (spaces.Discrete(4, start=3), [1, 0, 1, 1], lambda a: a != 4),
    (MULTI, [1, 0, 1, 1, 0, 0, 1, 1, 1], lambda a: a[0] != 6 and a[1] == 0 and a[2] != -2),
    (spaces.MultiDiscrete([2, 3]), [[0, 1, 1], [1, 0, 0]], lambda a: (a[0] == 0) == (a[1] > 0)),
    (spaces.MultiBinary(3), [1, 0, 1], lambda a: not a[1]),
    (spaces.MultiBinary(2), [[0, 1], [1, 1]], lambda a: a[0] == 1),
]


@pytest.mark.parametrize(
    ("space", "mask", "allowed"), MASKED, ids=lambda part: "" if callable(part) else str(part)[:30]
)
@pytest.mark.parametrize("random", [False, True])
def test_no_environment_gets_an_action_that_its_mask_forbids(space, mask, allowed, random):
    trainer, envs = make(space, mask)
    if random:
        Runner(trainer.vec).collect(RandomActor(space), 64)
    else:
        trainer.run(4 * STEPS)
    taken = [action for env in envs for action in env.taken]
    assert len(taken) >= 1000
    assert all(allowed(action) for action in taken)
    assert len({action.tobytes() for action in taken}) > 1


def test_a_mask_makes_a_needle_findable():
    """Of 1,000 actions the mask leaves three; without it the reward is hardly ever seen."""
    space = spaces.Discrete(1000)
    mask = np.zeros(1000)
    mask[Match(space).targets] = mask[500] = 1
    found = []
    for used in (mask, None):
        trainer, envs = make(space, used, lr=1e-2)
        trainer.run(10 * STEPS)
        found.append(best_reward(trainer, envs))
    assert found[0] == 1
    assert found[1] < 1


def test_masks_that_never_allow_anything_are_refused_and_some_warned_of(caplog):
    trainer, _ = make(MULTI, [0, 0, 0, 1, 1, 1, 1, 1, 1])
    with pytest.raises(EnvironmentFaultError, match="every action of component 0"):
        Runner(trainer.vec).collect(trainer.policy, 4)
    trainer, envs = make(spaces.Discrete(3), [1, 1, 0], num_envs=4)
    envs[0].mask = [0, 0, 0]
    runner = Runner(trainer.vec)
    runner.collect(trainer.policy, 8)
    runner.collect(trainer.policy, 8)
    assert [r.message for r in caplog.records] == [
        "'action_mask' forbids every action in 25 % of the steps of the first rollout: any action "
        "is taken there"
    ]


@pytest.mark.parametrize("space", [MULTI, GRID, SWITCHES, BOX, spaces.Box(0, 1, ())], ids=str)
@pytest.mark.parametrize("squash", [False, True])
def test_a_rebuilt_policy_acts_alike_within_the_space(space, squash):
    trainer, _ = make(space, policy_options={"squash": squash, "state_dependent_std": squash})
    copy = rebuild(describe(trainer.policy))
    copy.load_state_dict(trainer.policy.state_dict())
    for deterministic in (False, True):
        one, two = (Agent(p.eval(), seed=3) for p in (trainer.policy, copy))
        for obs, shape in (({"which": 1}, space.shape), ({"which": [0, 1]}, (2, *space.shape))):
            first, second = (agent.act(obs, deterministic=deterministic)[0] for agent in (one, two))
            np.testing.assert_array_equal(first, second)
            assert np.shape(first) == shape
            for action in [first] if shape == space.shape else first:
                assert space.contains(np.asarray(action, space.dtype))
                assert np.asarray(action).dtype == space.dtype


@pytest.mark.parametrize(("space", "mask"), [(MULTI, None), (SWITCHES, None), (BOX, None)], ids=str)
def test_natural_gradients_and_cloning_take_every_kind(space, mask):
    trainer, envs = make(space, mask, SubPO, natural=True, lr=0.2, damping=0.1)
    before = best_reward(trainer, envs)
    trainer.run(6 * STEPS)
    assert best_reward(trainer, envs) >= before
    trainer, envs = make(space, mask)
    rapid = Rapid(trainer.vec.obs_space, num_steps=1, batch_size=32)
    cloning = PPO(trainer.policy, auxiliaries=[rapid], minibatch_size=128)
    trainer = Trainer(trainer.vec, cloning, num_steps=16)
    trainer.run(2 * STEPS)
    assert rapid.metrics()["rapid/loss"] == rapid.metrics()["rapid/loss"]


def test_a_natural_step_of_a_mask_over_combinations_is_finite():
    trainer, _ = make(spaces.MultiDiscrete([2, 3]), [[0, 1, 1], [1, 0, 0]], SubPO, natural=True)
    trainer.run(2 * STEPS)
    assert all(torch.isfinite(p).all() for p in trainer.policy.parameters())


@pytest.mark.parametrize(
    ("space", "mask", "line"),
    [
        (MULTI, None, "3 independent choices, 1 of 3, 2, 4"),
        (spaces.MultiDiscrete([4, 4]), None, "2 independent choices, 1 of 4 each"),
        (MASKED[2][0], MASKED[2][1], "1 of 6 combinations of 2 choices, 1 of 2, 3"),
        (SWITCHES, None, "4 independent switches, 0 or 1"),
        (spaces.Discrete(3), [1, 1, 1], "1 of 3"),
    ],
    ids=str,
)
def test_the_line_at_the_start_says_what_actions_are(space, mask, line):
    assert describe_actions(make(space, mask)[0].policy) == line


def test_the_line_at_the_start_says_that_a_normal_distribution_is_squashed():
    for squash, kind in ((False, "normal"), (True, "squashed normal")):
        policy = make(spaces.Box(-2, 2, (3, 2)), policy_options={"squash": squash})[0].policy
        line = f"6 numbers of a {kind} distribution, scaled to the bounds -2 to 2"
        assert describe_actions(policy) == line


def test_older_policies_are_neither_squashed_nor_given_deviations_of_states():
    kwargs = describe(make(BOX)[0].policy)["kwargs"]
    new = ("scale_actions", "squash", "state_dependent_std")
    since = (*new, "normalize_value", "core", "critic_core", "bfloat16")
    old = {"target": "x.Y", "kwargs": {k: v for k, v in kwargs.items() if k not in since}}
    done = checkpoint.upgraded({"policy_spec": old}, 2)["policy_spec"]["kwargs"]
    assert [done[name] for name in new] == [False] * 3
