"""Rollouts hold what the environments returned, and continue where the last one stopped."""

import dataclasses
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.agents import MLP, ActorCritic
from firstlight.envs.action_spaces import choices
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.seeding import derive
from firstlight.envs.types import check
from firstlight.envs.vec import VecEnv
from firstlight.envs.vector.envpool import EnvPoolVec
from firstlight.envs.vector.gym import GymVec
from firstlight.envs.worlds.chain import Chain

VECS = {
    "same step": lambda: Chain(5, length=2, horizon=3),
    "next step": lambda: Chain(5, length=2, horizon=3, autoreset="next_step"),
    "gym": lambda: GymVec([lambda: gymnasium.make("CartPole-v1", max_episode_steps=7)] * 3),
    "envpool": lambda: EnvPoolVec(
        "MiniGrid-Empty-5x5-v0",
        num_envs=4,
        num_threads=1,
        max_episode_steps=5,
        obs_keys=("image", "direction"),
    ),
}
each_vec = pytest.mark.parametrize("name", VECS)


class Recorder(VecEnv):
    """Wrapper that records all calls and results."""

    def __init__(self, vec):
        self.num_envs, self.vec = vec.num_envs, vec
        self.obs_space, self.info_space = vec.obs_space, vec.info_space
        self.seeds, self.opened, self.actions, self.steps = [], [], [], []

    def reset(self, seed=None):
        self.seeds.append(seed)
        self.opened.append(self.vec.reset(seed))
        return self.opened[-1]

    def step(self, action):
        self.actions.append(action.clone())
        self.steps.append(self.vec.step(action))
        return self.steps[-1]


class Background(Recorder):
    """Recorder that only supports `send` and `recv`."""

    def send(self, action):
        assert self.waiting is None
        self.waiting = action

    def recv(self):
        action, self.waiting = self.waiting, None
        return super().step(action)

    def step(self, action):
        raise AssertionError("a runner calls send and recv, not step")

    waiting = None


class Counter:
    """Random actor whose state and value are the number of steps of the episode."""

    def __init__(self, num_actions):
        self.num_actions, self.given = num_actions, []

    def initial_state(self, num_envs):
        return {"count": torch.full((num_envs,), -100)}

    def __call__(self, obs, state, is_first):
        assert all(field.shape[:2] == is_first.shape for field in obs.values())
        count = torch.where(is_first[0], 0, state["count"])
        self.given.append((state["count"].clone(), is_first[0].clone()))
        self.lead = is_first.shape
        return SimpleNamespace(
            dist=self, value=count[None, :, None].float(), state={"count": count + 1}
        )

    def draw(self, generator):
        action = torch.randint(0, self.num_actions, self.lead, generator=generator)
        return action, action.float()


def make_policy(vec, seed=0, num_streams=2):
    torch.manual_seed(seed)
    encoder = MLP(vec.obs_space, hidden=(16,))
    policy = ActorCritic(vec.obs_space, vec.act_space, encoder=encoder, num_streams=num_streams)
    torch.nn.init.normal_(policy.policy_head.weight)  # so that observations matter
    torch.nn.init.normal_(policy.value_head.weight)
    return policy


def flat(rollout):
    """Tensors of a rollout by name."""
    fields = {f.name: getattr(rollout, f.name) for f in dataclasses.fields(rollout)}
    return {
        f"{name}.{key}" if key else name: tensor
        for name, value in fields.items()
        for key, tensor in (value.items() if isinstance(value, dict) else [("", value)])
        if isinstance(tensor, torch.Tensor)
    }


def equal(first, second):
    first, second = flat(first), flat(second)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@each_vec
def test_two_short_rollouts_equal_one_long_rollout(name):
    vec = VECS[name]()
    policy = make_policy(vec)
    T = 9
    whole = Runner(vec, seed=4).collect(policy, 2 * T)
    runner = Runner(VECS[name](), seed=4)
    head, tail = runner.collect(policy, T), runner.collect(policy, T)
    ended = whole.terminated | whole.truncated
    assert ended[: T - 1].any()
    assert ended[T:].any()
    assert equal(whole.slice(0, T), head)
    assert equal(whole.slice(T, 2 * T), tail)


@each_vec
def test_equal_seeds_give_equal_rollouts(name):
    policy = make_policy(VECS[name]())
    first, again, other = (
        Runner(VECS[name](), seed=seed).collect(policy, 30) for seed in (1, 1, 2)
    )
    assert equal(first, again)
    assert not torch.equal(first.action, other.action)
    if name in ("same step", "next step"):
        assert not torch.equal(first.reward, other.reward)
    if name == "gym":  # the others have one initial observation
        assert not torch.equal(first.obs["obs"][0], other.obs["obs"][0])


@each_vec
@pytest.mark.parametrize("kind", [Recorder, Background])
def test_a_rollout_holds_the_steps_of_the_environments(name, kind):
    """Compare row by row, over two rollouts, with `step` or with `send` and `recv`."""
    vec = kind(VECS[name]())
    runner = Runner(vec, seed=3)
    policy = make_policy(vec.vec)
    T = 8
    rollouts = [check(runner.collect(policy, T)) for _ in range(2)]
    assert vec.seeds == [derive(3, "envs", 0)]
    assert len(vec.steps) == 2 * T
    is_first = torch.ones(vec.num_envs, dtype=torch.bool)
    obs, info = vec.opened[0]
    for i, rollout in enumerate(rollouts):
        assert rollout.env_ids.tolist() == list(range(vec.num_envs))
        hidden = []
        for t in range(T):
            step = vec.steps[i * T + t]
            assert all(torch.equal(rollout.obs[k][t], obs[k]) for k in obs)
            assert all(torch.equal(rollout.info[k][t], info[k]) for k in info)
            assert torch.equal(rollout.is_first[t], is_first)
            assert torch.equal(rollout.action[t], vec.actions[i * T + t])
            assert torch.equal(rollout.reward[t], step.reward)
            assert torch.equal(rollout.terminated[t], step.terminated)
            assert torch.equal(rollout.truncated[t], step.truncated)
            assert torch.equal(rollout.valid[t], step.valid)
            for d, n in enumerate(step.final_ids.tolist()):
                for k, field in rollout.final_obs.items():
                    assert torch.equal(field[len(hidden)], step.final_obs[k][d])
                for k, field in rollout.final_info.items():
                    assert torch.equal(field[len(hidden)], step.final_info[k][d])
                hidden.append([t, n])
            obs, info, is_first = step.obs, step.info, step.is_first
        assert all(torch.equal(rollout.obs[k][T], obs[k]) for k in obs)
        assert torch.equal(rollout.is_first[T], is_first)
        assert rollout.final_at.tolist() == hidden
        ended = rollout.terminated | rollout.truncated
        assert len(hidden) == (ended.sum() if name in ("same step", "gym") else 0)


@each_vec
def test_is_first_marks_the_first_observation_of_each_episode(name):
    """Compare with a loop over each environment that reads only ends and invalid rows."""
    rollout = Runner(VECS[name]()).collect(make_policy(VECS[name]()), 40)
    ended = rollout.terminated | rollout.truncated
    next_step = name in ("next step", "envpool")
    assert bool(rollout.valid.all()) != next_step
    for n in range(rollout.num_envs):
        opens, waiting = True, False
        for t in range(40):
            assert bool(rollout.is_first[t, n]) == opens
            assert bool(rollout.valid[t, n]) != waiting
            if next_step:
                opens, waiting = waiting, bool(ended[t, n])
                assert not (opens and waiting)
            else:
                opens = bool(ended[t, n])
        assert bool(rollout.is_first[40, n]) == opens
    assert ended.any(0).all()


@each_vec
def test_log_prob_and_value_are_those_of_the_observation_in_their_row(name):
    vec = VECS[name]()
    policy = make_policy(vec)
    runner = Runner(vec, keep_dist_params=True)
    for T in (6, 1, 5):
        rollout = runner.collect(policy, T)
        with torch.no_grad():
            out = policy(rollout.obs, {}, rollout.is_first)
            past = policy({k: v[:-1] for k, v in rollout.obs.items()}, {}, rollout.is_first[:-1])
        torch.testing.assert_close(rollout.value, out.value)
        torch.testing.assert_close(rollout.log_prob, past.dist.log_prob(rollout.action))
        torch.testing.assert_close(rollout.dist_params, past.dist.params)
        assert rollout.value.var() > 0
    assert Runner(vec).collect(policy, 2).dist_params is None


@each_vec
def test_rollouts_share_no_memory(name):
    vec = VECS[name]()
    runner, policy = Runner(vec), Counter(int(vec.act_space.n))
    rollout = runner.collect(policy, 12)
    before = {key: tensor.clone() for key, tensor in flat(rollout).items()}
    later = runner.collect(policy, 12)
    for key, tensor in flat(later).items():  # nor does writing into one reach the environments
        if not key.startswith("env_ids"):
            tensor.zero_()
    runner.collect(policy, 12)
    for key, tensor in flat(rollout).items():
        assert torch.equal(tensor, before[key]), key
        assert not tensor.is_inference(), key  # a learner may differentiate through it


def test_writing_into_a_rollout_does_not_change_the_next():
    policy = make_policy(VECS["same step"]())
    plain, spoilt = (Runner(VECS["same step"](), seed=1) for _ in range(2))
    plain.collect(policy, 7)
    for tensor in flat(spoilt.collect(policy, 7)).values():
        tensor.zero_()
    assert equal(plain.collect(policy, 7), spoilt.collect(policy, 7))


@each_vec
def test_recurrent_state_is_passed_on_between_steps_and_rollouts(name):
    vec = VECS[name]()
    actor, runner, T = Counter(int(vec.act_space.n)), Runner(vec, seed=2), 7
    count = [0] * vec.num_envs  # steps of the open episode, idle calls included
    for rollout in [runner.collect(actor, T) for _ in range(3)]:
        given, actor.given = actor.given[: T + 1], actor.given[T + 1 :]
        assert torch.equal(given[0][0], rollout.state["count"])
        finals = {tuple(at): d for d, at in enumerate(rollout.final_at.tolist())}
        for t in range(T + 1):
            state, is_first = given[t]
            assert torch.equal(is_first, rollout.is_first[t])
            for n in range(vec.num_envs):
                if rollout.is_first[t, n]:
                    count[n] = 0
                else:
                    assert state[n] == count[n]
                assert rollout.value[t, n, 0] == count[n]
                if t < T:
                    count[n] += 1
                    if (t, n) in finals:
                        assert rollout.final_state["count"][finals[t, n]] == count[n]
        assert len(finals) == len(rollout.final_state["count"])
    assert actor.given == []


def test_restart_state_drops_the_recurrent_state_and_continues_episodes():
    vec = VECS["gym"]()
    before, after = Counter(int(vec.act_space.n)), Counter(int(vec.act_space.n))
    runner = Runner(vec, seed=2)
    first = runner.collect(before, 3)
    runner.restart_state()
    second = runner.collect(after, 3)
    assert torch.equal(after.given[0][0], after.initial_state(vec.num_envs)["count"])
    assert torch.equal(second.state["count"], after.given[0][0])
    assert torch.equal(second.obs["obs"][0], first.obs["obs"][-1])
    assert not second.is_first[0].any()


def test_actions_are_sampled_from_a_given_generator():
    vec = VECS["same step"]()
    one, two = (
        Runner(vec, seed=s, generator=torch.Generator().manual_seed(4)).collect(
            RandomActor(vec.act_space), 9
        )
        for s in (0, 1)
    )
    assert torch.equal(one.action, two.action)


def test_a_restored_runner_samples_the_same_actions_in_new_episodes():
    policy = make_policy(VECS["gym"]())
    vec = Recorder(VECS["gym"]())
    runner = Runner(vec, seed=6)
    runner.collect(policy, 5)
    state = runner.state_dict()
    state = {key: value.clone() if key == "generator" else value for key, value in state.items()}
    runner.collect(policy, 5)
    other = Recorder(VECS["gym"]())
    restored = Runner(other, seed=6)
    restored.load_state_dict(state)
    assert torch.equal(restored.generator.get_state(), state["generator"])
    rollout = restored.collect(policy, 5)
    assert rollout.is_first[0].all()
    restored.load_state_dict(restored.state_dict())
    assert restored.collect(policy, 5).is_first[0].all()
    seeds = vec.seeds + other.seeds
    assert seeds == [derive(6, "envs", i) for i in range(3)]


def test_a_rollout_holds_the_policy_version():
    vec = VECS["same step"]()
    assert Runner(vec).collect(RandomActor(vec.act_space), 2, version=9).version == 9


def test_a_random_actor_is_uniform():
    lead = torch.ones((1, 20_000), dtype=torch.bool)
    g = torch.Generator().manual_seed(0)
    actor = RandomActor(spaces.Discrete(4, start=7), num_streams=3)
    out = actor({}, actor.initial_state(20_000), lead)
    action = out.dist.sample(g)
    assert action.dtype == torch.int64
    share = torch.bincount(action.flatten(), minlength=4) / action.numel()
    assert share.tolist() == pytest.approx([0.25] * 4, abs=0.015)  # counted from 0
    assert out.dist.log_prob(action).exp().mean().item() == pytest.approx(0.25)
    assert out.value.shape == (1, 20_000, 3)
    assert not out.value.any()
    box = spaces.Box(torch.tensor([-2.0, 1.0]).numpy(), torch.tensor([0.0, 5.0]).numpy())
    out = RandomActor(box)({}, {}, lead)
    action = out.dist.sample(g)
    assert action.shape == (1, 20_000, 2)
    assert action.amin((0, 1)).tolist() == pytest.approx([-2, 1], abs=0.01)
    assert action.amax((0, 1)).tolist() == pytest.approx([0, 5], abs=0.01)
    assert action.mean((0, 1)).tolist() == pytest.approx([-1, 3], abs=0.05)
    assert out.dist.log_prob(action).exp().mean().item() == pytest.approx(1 / 8)


def test_a_random_actor_covers_every_shape_and_kind():
    lead, g = torch.ones((1, 20_000), dtype=torch.bool), torch.Generator().manual_seed(0)
    for space, size in (
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), 120),
        (spaces.MultiBinary((2, 2)), 16),
        (spaces.Box(-2, 2, (2, 1)), 16),
        (spaces.Box(0, 2, ()), 2),
    ):
        out = RandomActor(space)({}, {}, lead)
        action = out.dist.sample(g)
        assert action.shape == (1, 20_000, *space.shape)
        torch.testing.assert_close(
            out.dist.log_prob(action).exp(), torch.full(lead.shape, 1 / size)
        )
        if not isinstance(space, spaces.Box):
            top = np.asarray(choices(space)).reshape(space.shape)
            for value in range(int(top.max())):
                share = (action == value).double().mean((0, 1)).numpy()
                np.testing.assert_allclose(share, np.where(value < top, 1 / top, 0), atol=0.02)


def test_a_random_actor_draws_normal_numbers_where_there_are_no_bounds():
    lead, g = torch.ones((1, 40_000), dtype=torch.bool), torch.Generator().manual_seed(0)
    high = np.array([3, np.inf], np.float32)
    dist = RandomActor(spaces.Box(-1, high))({}, {}, lead).dist
    action = dist.sample(g)
    assert -1 <= action[..., 0].min() < action[..., 0].max() <= 3
    assert action[..., 1].std().item() == pytest.approx(1, abs=0.02)
    normal = torch.distributions.Normal(0, 1).log_prob(action[..., 1])
    torch.testing.assert_close(dist.log_prob(action), normal - np.log(4))
    with pytest.raises(ValueError, match="no uniform action"):
        RandomActor(spaces.Text(3))({}, {}, lead)


@pytest.mark.parametrize(
    ("space", "mask", "allowed"),
    [
        (spaces.Discrete(3, start=4), [1, 0, 1], {(0,), (2,)}),
        (spaces.MultiDiscrete([2, 3]), [0, 1, 1, 0, 1], {(1, 0), (1, 2)}),
        (spaces.MultiDiscrete([2, 3]), [[0, 1, 1], [0, 0, 1]], {(0, 1), (0, 2), (1, 2)}),
        (spaces.MultiDiscrete([3, 3]), [[0, 1, 1], [0, 0, 1]], {(1, 2), (2, 2)}),
        (spaces.MultiBinary(2), [1, 0], {(0, 0), (1, 0)}),
        (spaces.MultiBinary(2), [[0, 1], [1, 1]], {(1, 0), (1, 1)}),
    ],
    ids=str,
)
def test_a_random_actor_is_uniform_over_what_the_mask_allows(space, mask, allowed):
    mask = torch.tensor(mask).expand(1, 20_000, *np.shape(mask))
    lead, g = torch.ones((1, 20_000), dtype=torch.bool), torch.Generator().manual_seed(0)
    dist = RandomActor(space)({"action_mask": mask}, {}, lead).dist
    action = dist.sample(g)
    taken, counts = action.reshape(20_000, -1).unique(dim=0, return_counts=True)
    assert {tuple(row) for row in taken.tolist()} == allowed
    share = counts / 20_000
    torch.testing.assert_close(share, torch.full_like(share, 1 / len(allowed)), atol=0.02, rtol=0)
    expected = torch.full(lead.shape, 1 / len(allowed))
    torch.testing.assert_close(dist.log_prob(action).exp(), expected)
