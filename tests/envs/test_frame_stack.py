"""`FrameStack`: a slow loop over episodes, Gymnasium's own wrapper, saving, spaces and errors."""

import copy
import dataclasses
import functools

import gymnasium
import numpy as np
import pytest
import torch
from adapters import PassingVec, cartpole, pool
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from omegaconf import OmegaConf

from firstlight.envs import FrameStack, GymVec, RandomActor, Runner, check_vec
from firstlight.envs.fields import picture_axes
from firstlight.envs.types import check
from firstlight.envs.worlds.chain import Chain
from firstlight.networks.encoders import Impala, MultiInput, Pixel, auto
from firstlight.scripts.build_env import make_vec
from firstlight.scripts.errors import BadInputError

LAYOUTS = {"last": (8, 9, 3), "first": (3, 8, 9), "grey": (8, 9), "stacked": (2, 3, 9, 10)}


class Camera(gymnasium.Env):
    """Random pictures and numbers; every episode has a length of its own."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape=(8, 9, 3), only=None):
        fields = {
            "camera": spaces.Box(0, 255, shape, np.uint8),
            "speed": spaces.Box(np.array([-1, -np.inf]), np.array([1, np.inf]), dtype=np.float64),
            "mode": spaces.Discrete(3, start=2),
            "switch": spaces.MultiBinary(2),
            "gear": spaces.MultiDiscrete([2, 5]),
            "clock": spaces.Box(0, 9, (), np.float32),
            "action_mask": spaces.MultiBinary(2),
        }
        self.only = only
        self.observation_space = spaces.Dict(fields) if only is None else fields[only]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.left = int(self.np_random.integers(1, 7))
        return self.observation_space.sample(), {}

    def step(self, action):
        self.left -= 1
        return self.observation_space.sample(), 1.0, self.left == 0, False, {}


class Crashing(PassingVec):
    """Environment 1 crashes in every fourth step."""

    taken = 0

    def step(self, action):
        step = super().step(action)
        self.taken += 1
        if self.taken % 4:
            return step
        gone = torch.arange(self.num_envs) == 1
        self.begin(gone.numpy())
        self.over[1] = 0
        kept = step.final_ids != 1
        flags = {name: getattr(step, name) & ~gone for name in ("terminated", "truncated", "valid")}
        return dataclasses.replace(
            step,
            obs=self.obs(),
            info=self.info(),
            **flags,
            reward=torch.where(gone, 0, step.reward),
            is_first=step.is_first | gone,
            final_ids=step.final_ids[kept],
            final_obs={k: v[kept] for k, v in step.final_obs.items()},
            final_info={k: v[kept] for k, v in step.final_info.items()},
            crashed_ids=torch.tensor([1]),
        )


def camera(shape=(8, 9, 3), num_envs=3, **options):
    return GymVec([functools.partial(Camera, shape, **options)] * num_envs)


VECS = {
    "gym": camera,
    "gym, channels first": functools.partial(camera, (3, 8, 9)),
    "gym, CartPole": lambda: GymVec([functools.partial(cartpole, 12)] * 3),
    "same-step": PassingVec,
    "next-step": functools.partial(PassingVec, "next-step"),
    "crashes, same-step": Crashing,
    "crashes, next-step": functools.partial(Crashing, "next-step"),
    "envpool": pool("CartPole-v1"),
    "envpool, named fields": pool("CartpoleSwingup-v1"),
}


def actions_for(vec, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    space = vec.act_space
    if isinstance(space, spaces.Box):
        return list(torch.rand((steps, vec.num_envs, *space.shape), generator=generator) * 2 - 1)
    return list(torch.randint(0, int(space.n), (steps, vec.num_envs), generator=generator))


def stack_of(history, count, space):
    """The last `count` observations of one episode, its first one repeated where it is shorter."""
    padded = [history[0]] * count + history
    frames = torch.stack(padded[-count:])
    return frames.reshape(space.shape)


@pytest.mark.parametrize(("name", "count"), zip(VECS, [2, 3, 4] * 3, strict=True))
def test_stacks_equal_a_slow_loop_over_each_environments_episodes(name, count):
    plain, stacked = VECS[name](), FrameStack(VECS[name](), count)
    keys, steps = stacked.keys, 40
    assert keys
    obs, info = plain.reset(3)
    got, got_info = stacked.reset(3)
    histories = [{k: [obs[k][n]] for k in keys} for n in range(plain.num_envs)]
    ends = firsts = 0
    for action in actions_for(plain, steps):
        for n, history in enumerate(histories):
            for k in keys:
                expected = stack_of(history[k], count, stacked.obs_space[k])
                assert torch.equal(got[k][n], expected), (name, k, n)
        others = obs.keys() - set(keys)
        assert all(torch.equal(got[k], obs[k]) for k in others)
        assert all(torch.equal(got_info[k], info[k]) for k in info)
        step, seen = plain.step(action), stacked.step(action)
        for row, n in enumerate(step.final_ids.tolist()):
            for k in keys:
                last = [*histories[n][k], step.final_obs[k][row]]
                expected = stack_of(last, count, stacked.obs_space[k])
                assert torch.equal(seen.final_obs[k][row], expected)
                ends += 1
        for n in range(plain.num_envs):
            for k in keys:
                fresh = bool(step.is_first[n])
                firsts += fresh
                histories[n][k] = [*([] if fresh else histories[n][k]), step.obs[k][n]]
        for field in ("reward", "terminated", "truncated", "valid", "is_first", "final_ids"):
            assert torch.equal(getattr(seen, field), getattr(step, field))
        assert torch.equal(seen.crashed_ids, step.crashed_ids)
        obs, info, got, got_info = step.obs, step.info, seen.obs, seen.info
    assert firsts
    assert bool(ends) is ("gym" in name or name.endswith("same-step"))
    plain.close()
    stacked.close()


@pytest.mark.parametrize("field", ["camera", "speed", "clock"])
def test_stacks_equal_those_of_gymnasiums_wrapper(field):
    make = functools.partial(Camera, only=field)
    theirs = GymVec([lambda: FrameStackObservation(make(), 3)] * 2)
    ours = FrameStack(GymVec([make] * 2), 3)
    a, b = theirs.reset(1)[0]["obs"], ours.reset(1)[0]["obs"]
    for action in actions_for(ours, 40):
        assert torch.equal(a.flatten(1), b.flatten(1))
        assert a.shape == b.shape or field == "speed"
        one, two = theirs.step(action), ours.step(action)
        finals = one.final_obs["obs"].flatten(1), two.final_obs["obs"].flatten(1)
        assert torch.equal(*finals)
        a, b = one.obs["obs"], two.obs["obs"]


@pytest.mark.parametrize("name", ["gym", "same-step", "next-step", "envpool"])
def test_check_vec_passes(name):
    check_vec(FrameStack(VECS[name](), 3), steps=24)


def test_check_vec_passes_for_every_kind_of_field():
    keys = ["camera", "speed", "mode", "switch", "gear", "clock"]
    check_vec(FrameStack(camera(num_envs=1), 2, keys), steps=16)


def test_a_rollout_of_stacks_has_the_true_last_observations():
    runner = Runner(FrameStack(camera(), 2, ["clock"]), seed=1)
    rollout = check(runner.collect(RandomActor(runner.vec.act_space), 30))
    following = rollout.next_obs()["clock"]  # [T, N, 2]
    now = rollout.obs["clock"][:-1]
    assert torch.equal(following[..., 0], now[..., 1])  # the frame before is the same
    first = rollout.obs["clock"][rollout.is_first]
    assert torch.equal(first[:, 0], first[:, 1])
    assert rollout.is_first.sum() > 10


# --- saving


@pytest.mark.parametrize("name", ["gym", "same-step", "next-step"])
def test_a_stack_continues_exactly_from_a_saved_state(name):
    vec, other = (FrameStack(VECS[name](), 3) for _ in range(2))
    actions = actions_for(vec, 30)
    vec.reset(5)
    for action in actions[:11]:
        before = vec.step(action)
    state = copy.deepcopy(vec.state_dict())
    snapshots = copy.deepcopy(vec.snapshots())
    obs, _, restarted = other.load_state_dict(state)  # before any reset
    assert not restarted.any()
    assert all(torch.equal(obs[k], before.obs[k]) for k in obs)
    for action in actions[11:]:
        one, two = vec.step(action), other.step(action)
        for k in one.obs:
            assert torch.equal(one.obs[k], two.obs[k])
            assert torch.equal(one.final_obs[k], two.final_obs[k])
    later = {k: field.clone() for k, field in one.obs.items()}
    ids = torch.tensor([2, 0])
    obs, _, restarted = vec.restore(ids, [snapshots[i] for i in ids.tolist()])
    assert not restarted.any()
    assert all(torch.equal(obs[k], before.obs[k][ids]) for k in obs)
    assert all(torch.equal(one.obs[k], later[k]) for k in later)  # what was returned stays


def test_a_replay_that_differs_begins_with_a_new_stack():
    vec = FrameStack(camera(), 3)
    vec.reset(0)
    for action in actions_for(vec, 3):
        vec.step(action)
    snapshots = vec.snapshots()
    snapshots[1] = dataclasses.replace(snapshots[1], digest=1)
    obs, _, restarted = vec.restore(torch.arange(3), snapshots)
    assert restarted.tolist() == [False, True, False]
    frames = obs["camera"][1]
    assert all(torch.equal(frame, frames[0]) for frame in frames)


def test_snapshots_of_other_environments_are_refused():
    vec = FrameStack(camera(), 3)
    vec.reset(0)
    with pytest.raises(ValueError, match="holds no arrays of a frame stack"):
        vec.restore(torch.tensor([0]), vec._vec.snapshots()[:1])


# --- spaces


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stacked_picture_is_read_as_one_with_more_channels(layout):
    vec = FrameStack(camera(LAYOUTS[layout]), 4, ["camera"])
    shape = LAYOUTS[layout]
    expected = (8, *shape[1:]) if layout == "stacked" else (4, *shape)
    assert vec.obs_space["camera"].shape == expected
    assert picture_axes(vec.obs_space["camera"]) is not None
    only = spaces.Dict({"obs": vec.obs_space["camera"]})
    assert type(auto(only)) is Pixel
    sides = sorted(shape)[-2:]
    depth = 4 * int(np.prod(shape)) // int(np.prod(sides))
    assert Impala(only).stages[0][0].in_channels == depth
    assert type(auto(vec.obs_space)) is MultiInput
    obs, _ = vec.reset(0)
    assert auto(vec.obs_space)(obs).isfinite().all()


def test_spaces_of_stacks():
    vec = FrameStack(camera(), 2, ["speed", "mode", "switch", "gear", "clock"])
    space = vec.obs_space
    bounds = np.array([-1, -np.inf, -1, -np.inf])
    assert space["speed"] == spaces.Box(bounds, -bounds, dtype=np.float64)
    assert space["speed"].bounded_below.tolist() == [True, False] * 2
    assert space["mode"] == spaces.MultiDiscrete([3, 3], start=[2, 2])
    assert space["switch"] == spaces.MultiBinary((4,))
    assert space["gear"] == spaces.MultiDiscrete([2, 5, 2, 5])
    assert space["clock"] == spaces.Box(0, 9, (2,), np.float32)
    assert [*space] == [*camera().obs_space]
    obs, _ = vec.reset(0)
    assert all(space[k].contains(f[0].numpy().astype(space[k].dtype)) for k, f in obs.items())


def test_pictures_and_floats_are_stacked_by_default():
    assert set(FrameStack(camera(), 2).keys) == {"camera", "speed", "clock"}


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (camera, {"count": 1}, "count is 1, expected at least 2"),
        (camera, {"count": 2, "keys": ["view"]}, "there is no observation 'view'"),
        (camera, {"count": 2, "keys": ["action_mask"]}, "'action_mask' is a mask of actions"),
        (camera, {"count": 9}, "9 frames of the observation 'camera' .* use fewer"),
        (functools.partial(Chain, 2), {"count": 2}, "none of the observations \\['obs'\\]"),
        (lambda: FrameStack(camera(), 2), {"count": 2}, "stacked already"),
        (pool("MiniGrid-DoorKey-5x5-v0"), {"count": 2, "keys": ["image"]}, "symbolic grid"),
    ],
)
def test_stacks_that_make_no_sense_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        FrameStack(make(), **options)


# --- from the config


def test_an_option_of_the_environment_stacks_frames():
    node = {"_target_": "firstlight.envs.vector.gym.make", "id": "CartPole-v1", "num_envs": 2}
    assert make_vec(OmegaConf.create({**node, "frame_stack": None})).obs_space["obs"].shape == (4,)
    for given in (3, {"count": 3, "keys": ["obs"]}):
        vec = make_vec(OmegaConf.create({**node, "frame_stack": given}))
        assert vec.obs_space["obs"].shape == (12,)
    for given in (1, 2.5, {"number": 3}, {"count": "4"}, {"count": 4, "keys": ["eye"]}):
        with pytest.raises(BadInputError, match=r"env\.frame_stack="):
            make_vec(OmegaConf.create({**node, "frame_stack": given}))


def own_stack(num_envs, frame_stack):
    return Chain(num_envs, length=frame_stack)


def test_a_target_with_an_option_of_that_name_gets_it():
    node = {"_target_": f"{__name__}.own_stack", "num_envs": 2, "frame_stack": 7}
    assert make_vec(OmegaConf.create(node)).obs_space["obs"].shape == (8,)
