"""Gymnasium environments as vectors: ends, seeds, spaces, success and refused actions."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.envs import minigrid
from firstlight.envs.faults import EnvironmentFaultError
from firstlight.envs.runner import Runner
from firstlight.envs.seeding import derive
from firstlight.envs.types import Step
from firstlight.envs.vector.gym import GymVec, make
from firstlight.envs.wrapper import VecWrapper


class Clock(gymnasium.Env):
    """Shows the time; terminated after `length` steps, or truncated if `cut`, or both."""

    observation_space = spaces.Box(0, 100, (2,), np.float64)
    action_space = spaces.Discrete(3)

    def __init__(self, length=3, cut="terminated"):
        self.length, self.cut = length, cut

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.given = 0, seed
        return self._obs(), self._info()

    def step(self, action):
        self.time += 1
        over = self.time >= self.length
        ends = [over and self.cut in (kind, "both") for kind in ("terminated", "truncated")]
        return self._obs(), self.time + action / 10, *ends, self._info()

    def _obs(self):
        return np.array([self.time, self.length], np.float64)

    def _info(self):
        return {"time": np.array([self.time, self.time**2], np.int64), "seed": self.given}


class Dice(gymnasium.Env):
    """Everything random comes from the seed of the episode."""

    observation_space = spaces.Box(-10, 10, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action):
        over = self.np_random.random() < 0.3
        return self._obs(), float(self.np_random.normal()), over, False, {"success": over}

    def _obs(self):
        return self.np_random.normal(size=3).astype(np.float32)


class Given(gymnasium.Env):
    """One step with whatever spaces, observation and info the test gives; keeps the action."""

    def __init__(self, observation_space=None, obs=0, action_space=None, infos=({}, {})):
        self.observation_space = observation_space or spaces.Discrete(2)
        self.action_space = action_space or spaces.Discrete(2)
        self.obs, self.infos, self.actions = obs, infos, []

    def reset(self, *, seed=None, options=None):
        return self.obs, self.infos[0]

    def step(self, action):
        self.actions.append(action)
        return self.obs, 0.0, False, False, self.infos[1]


def still(num_envs):
    return torch.zeros(num_envs, dtype=torch.int64)


def record(vec, seed, steps):
    """What `vec` says to fixed actions after a reset with `seed`, as plain numbers."""

    def plain(part):
        return {k: plain(v) for k, v in part.items()} if isinstance(part, dict) else part.tolist()

    said = [[plain(part) for part in vec.reset(seed)]]
    for t in range(steps):
        step = vec.step((torch.arange(vec.num_envs) + t) % 2)
        said.append([plain(getattr(step, name)) for name in Step.__slots__])
    return said


def test_ends_of_different_times_show_the_last_observation():
    lengths, cuts = [2, 3, 5, 3], ["terminated", "truncated", "both", "terminated"]
    factories = [lambda i=i: Clock(lengths[i], cuts[i]) for i in range(4)]
    info_space = spaces.Dict({"time": spaces.Box(0, 10_000, (2,), np.int64)})
    vec = GymVec(factories, info_space=info_space)
    obs, info = vec.reset(seed=0)
    assert obs["obs"].tolist() == [[0, length] for length in lengths]
    assert info["time"].tolist() == [[0, 0]] * 4
    time = [0] * 4
    for t in range(30):
        action = (torch.arange(4) + t) % 3
        step = vec.step(action)
        time = [past + 1 for past in time]
        paid = [time[i] + int(action[i]) / 10 for i in range(4)]
        assert step.reward.tolist() == pytest.approx(paid)
        over = [time[i] == lengths[i] for i in range(4)]
        cut = [over[i] and cuts[i] == "truncated" for i in range(4)]
        assert step.truncated.tolist() == cut
        assert step.terminated.tolist() == [over[i] and not cut[i] for i in range(4)]
        ids = [i for i in range(4) if over[i]]
        assert step.final_ids.tolist() == ids
        assert step.final_obs["obs"].tolist() == [[lengths[i], lengths[i]] for i in ids]
        assert step.final_info["time"].tolist() == [[lengths[i], lengths[i] ** 2] for i in ids]
        time = [0 if over[i] else time[i] for i in range(4)]
        assert step.obs["obs"].tolist() == [[time[i], lengths[i]] for i in range(4)]
        assert step.info["time"].tolist() == [[now, now**2] for now in time]
        assert step.is_first.tolist() == over
        assert step.valid.all()


def test_dtypes_are_lawful():
    vec = GymVec([Clock] * 2, info_space=spaces.Dict({"seed": spaces.Box(0, 2**31, (), np.int64)}))
    obs, info = vec.reset(seed=0)
    assert obs["obs"].dtype == torch.float32  # from float64
    for _ in range(3):
        step = vec.step(still(2))
    assert step.final_ids.tolist() == [0, 1]
    assert step.reward.dtype == torch.float32
    assert {step.obs["obs"].dtype, step.final_obs["obs"].dtype} == {torch.float32}
    assert {info["seed"].dtype, step.info["seed"].dtype} == {torch.int64}
    flags = (step.terminated, step.truncated, step.valid, step.is_first)
    assert {flag.dtype for flag in flags} == {torch.bool}
    assert step.final_ids.dtype == torch.int64


def test_every_episode_has_a_seed_of_its_own():
    space = spaces.Dict({"seed": spaces.Box(0, 2**31, (), np.int64)})
    vec = GymVec([lambda n=n: Clock(n) for n in (1, 2, 3)], info_space=space)

    def seeds(reset_with):
        found = [[seed] for seed in vec.reset(reset_with)[1]["seed"].tolist()]
        for _ in range(12):
            step = vec.step(still(3))
            for i in step.final_ids.tolist():
                found[i].append(int(step.info["seed"][i]))
        return found

    first = seeds(5)
    assert [len(episodes) for episodes in first] == [13, 7, 5]
    assert first == [[derive(5, "episode", i, e) for e in range(len(first[i]))] for i in range(3)]
    assert seeds(5) == first
    distinct = {seed for episodes in [*first, *seeds(6)] for seed in episodes}
    assert len(distinct) == 2 * (13 + 7 + 5)
    later = seeds(None)  # without a seed the sequence goes on
    assert later[0][0] == derive(6, "episode", 0, 13)
    assert not distinct & {seed for episodes in later for seed in episodes}


def test_the_seed_decides_the_trajectory():
    first, again, other = (record(GymVec([Dice] * 3), seed, 25) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    vec = GymVec([Dice] * 3)
    record(vec, 9, 4)
    assert record(vec, 1, 25) == first  # and nothing that was before
    starts = [tuple(row) for row in first[0][0]["obs"]]
    assert len(set(starts)) == 3


def test_asynchronous_environments_say_the_same():
    vec = GymVec([Dice, Dice, lambda: Dice()], asynchronous=True)
    try:
        assert record(vec, 1, 25) == record(GymVec([Dice] * 3), 1, 25)
        with pytest.raises(ValueError, match="outside"):
            vec.step(torch.tensor([0, 2, 0]))
        vec.step(still(3))
    finally:
        vec.close()
        vec.close()


INNER = spaces.Dict({"a": spaces.Discrete(5, start=3), "b.c": spaces.MultiBinary(2)})
NESTED = spaces.Dict(
    {
        "deep": spaces.Dict({"inner": INNER}),
        "pair": spaces.Tuple([spaces.Box(-1, 1, (2,), np.float64), spaces.Text(8)]),
        "words": spaces.Text(20),
        "many": spaces.MultiDiscrete([3, 4]),
        "picture": spaces.Box(0, 255, (2, 2, 3), np.uint8),
    }
)
LEAVES = {"deep.inner.a", "deep.inner.b.c", "pair.0", "many", "picture"}


def nested():
    return {
        "deep": {"inner": {"a": np.int64(7), "b.c": np.array([1, 0], np.int8)}},
        "pair": (np.array([0.5, -1.0]), "hello"),
        "words": "go to the door",
        "many": np.array([2, 3]),
        "picture": np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
    }


def test_nested_fields_get_dotted_names_and_text_is_left_out():
    vec = GymVec([lambda: Given(NESTED, nested())] * 2)
    assert set(vec.obs_space) == LEAVES
    obs, _ = vec.reset()
    for fields in (obs, vec.step(still(2)).obs):
        assert set(fields) == LEAVES
        assert fields["deep.inner.a"].tolist() == [7, 7]
        assert fields["deep.inner.b.c"].tolist() == [[1, 0]] * 2
        assert fields["pair.0"].tolist() == [[0.5, -1.0]] * 2
        assert fields["many"].tolist() == [[2, 3]] * 2
        assert fields["picture"].flatten(1).tolist() == [list(range(12))] * 2
        kinds = {name: field.dtype for name, field in fields.items()}
        assert kinds == {
            "deep.inner.a": torch.int64,
            "deep.inner.b.c": torch.int8,
            "pair.0": torch.float32,
            "many": torch.int64,
            "picture": torch.uint8,
        }


@pytest.mark.parametrize(
    ("space", "obs", "wanted"),
    [
        (spaces.Discrete(4, start=2), np.int64(5), 5),
        (spaces.Box(0, 9, (1,), np.int32), np.array([3], np.int32), [3]),
        (spaces.MultiBinary(3), np.array([0, 1, 1], np.int8), [0, 1, 1]),
    ],
)
def test_a_plain_space_is_the_field_obs(space, obs, wanted):
    vec = GymVec([lambda: Given(space, obs)] * 2)
    assert dict(vec.obs_space) == {"obs": space}
    assert vec.reset()[0]["obs"].tolist() == [wanted] * 2


def test_a_tuple_has_numbered_fields():
    space = spaces.Tuple([spaces.Discrete(3), spaces.Tuple([spaces.Discrete(3)] * 2)])
    obs, _ = GymVec([lambda: Given(space, (1, (2, 0)))] * 2).reset()
    assert {name: field.tolist() for name, field in obs.items()} == {
        "0": [1, 1],
        "1.0": [2, 2],
        "1.1": [0, 0],
    }


@pytest.mark.parametrize("space", [spaces.Text(5), spaces.Dict({"words": spaces.Text(5)})])
def test_text_alone_is_nothing_to_see(space):
    with pytest.raises(ValueError, match="no field of"):
        GymVec([lambda: Given(space, "abc")])


def taken(space, action):
    """What two environments are handed when a policy gives `action`."""
    envs = [Given(action_space=space) for _ in range(2)]
    vec = GymVec([lambda env=env: env for env in envs])
    vec.reset()
    vec.step(action)
    return [env.actions[0] for env in envs]


def test_policies_count_from_zero():
    assert taken(spaces.Discrete(3, start=5), torch.tensor([0, 2])) == [5, 7]
    assert taken(spaces.Discrete(3, start=-1), torch.tensor([0, 2])) == [-1, 1]
    space = spaces.MultiDiscrete([2, 3], start=[10, -1])
    rows = taken(space, torch.tensor([[0, 2], [1, 0]]))
    assert [row.tolist() for row in rows] == [[10, 1], [11, -1]]
    rows = taken(spaces.MultiBinary(2), torch.tensor([[0, 1], [1, 1]]))
    assert [row.tolist() for row in rows] == [[0, 1], [1, 1]]


def test_continuous_actions_are_clipped():
    space = spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 5.0]), dtype=np.float64)
    rows = taken(space, torch.tensor([[-3.0, 7.0], [0.25, 1.5]]))
    assert [row.tolist() for row in rows] == [[-1.0, 5.0], [0.25, 1.5]]
    assert rows[0].dtype == np.float64
    half_open = spaces.Box(0.0, np.inf, (1,))
    rows = taken(half_open, torch.tensor([[-1.0], [1024.0]]))
    assert [row.tolist() for row in rows] == [[0], [1024]]


DISCRETE, BOX, MULTI = spaces.Discrete(3, start=5), spaces.Box(-1, 1, (2,)), [2, 3]


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (DISCRETE, torch.tensor([0, 3])),
        (DISCRETE, torch.tensor([-1, 0])),
        (DISCRETE, torch.tensor([0])),
        (DISCRETE, torch.tensor([0, 1, 2])),
        (DISCRETE, torch.tensor([[0], [1]])),
        (DISCRETE, torch.tensor([0.0, 1.0])),
        (BOX, torch.tensor([[0.0, float("nan")], [0.0, 0.0]])),
        (BOX, torch.tensor([[0.0, 0.0], [float("-inf"), 0.0]])),
        (BOX, torch.zeros(1, 2)),
        (BOX, torch.zeros(2)),
        (BOX, torch.zeros(2, 3)),
        (spaces.MultiDiscrete(MULTI), torch.tensor([[0, 0], [0, 3]])),
        (spaces.MultiDiscrete(MULTI), torch.tensor([[2, 0], [0, 0]])),
        (spaces.MultiDiscrete(MULTI), torch.tensor([[0, 0], [-1, 0]])),
        (spaces.MultiBinary(2), torch.tensor([[0, 2], [0, 0]])),
    ],
)
def test_impossible_actions_reach_no_environment(space, action):
    envs = [Given(action_space=space) for _ in range(2)]
    vec = GymVec([lambda env=env: env for env in envs])
    vec.reset()
    with pytest.raises(ValueError, match="action"):
        vec.step(action)
    assert [env.actions for env in envs] == [[], []]


def success_of(*infos):
    """The channel after a reset and after a step, where environment i gives ``infos[i]``."""
    vec = GymVec([lambda given=given: Given(infos=given) for given in infos])
    _, info = vec.reset()
    assert info["success"].dtype == torch.int8
    return info["success"].tolist(), vec.step(still(len(infos))).info["success"].tolist()


def test_success_is_carried_under_either_name():
    yes, no, unknown = 1, 0, -1
    assert success_of(({}, {}), ({}, {})) == ([unknown] * 2, [unknown] * 2)
    for key in ("success", "is_success"):
        assert success_of(
            ({key: False}, {key: True}), ({}, {key: 0.0}), ({}, {}), ({}, {key: np.bool_(True)})
        ) == ([no, unknown, unknown, unknown], [yes, no, unknown, yes])
    assert success_of(({}, {"is_success": True}), ({}, {"success": True, "is_success": False})) == (
        [unknown] * 2,
        [yes, yes],
    )


def test_success_at_an_end_belongs_to_the_episode_that_ended():
    vec = GymVec([Dice] * 4)
    vec.reset(seed=3)
    ends = 0
    for _ in range(20):
        step = vec.step(still(4))
        assert step.final_info["success"].tolist() == [1] * len(step.final_ids)
        assert step.info["success"].tolist() == [-1 if e else 0 for e in step.terminated.tolist()]
        ends += len(step.final_ids)
    assert ends > 10


def test_a_channel_that_is_not_there_is_named():
    vec = GymVec([Clock], info_space=spaces.Dict({"place": spaces.Discrete(3)}))
    assert set(vec.info_space) == {"place", "success"}
    with pytest.raises(EnvironmentFaultError, match=r"'place'.*'seed'.*'time'"):
        vec.reset()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("wide", "is not a side channel of one number"),
        ("deep", "not a side"),
        ("return", "of that name"),
    ],
)
def test_what_cannot_be_reported_is_refused(name, complaint):
    number, wide = spaces.Box(0, 9, (), np.int64), spaces.Box(0, 9, (2,), np.int64)
    channels = spaces.Dict({"depth": number, "wide": wide, "return": number})
    vec = GymVec([Clock], info_space=channels, reported=("depth", name))
    with pytest.raises(ValueError, match=f"{name!r} .*{complaint}"):
        Runner(vec)


def test_a_wrapper_that_leaves_a_channel_out_does_not_report_it():
    channels = spaces.Dict({name: spaces.Box(0, 9, (), np.int64) for name in ("depth", "gold")})
    inner = GymVec([Clock], info_space=channels, reported=("depth", "gold"))
    outer = VecWrapper(inner)
    outer.info_space = spaces.Dict({"gold": channels["gold"]})
    assert inner.reported == ("depth", "gold")
    assert outer.reported == ("gold",)


def test_pictures_need_the_render_mode():
    vec = make("CartPole-v1", num_envs=2)
    vec.reset(seed=0)
    frame = vec.render(1)
    assert frame.dtype == np.uint8
    assert frame.ndim == 3
    assert frame.shape[2] == 3
    assert not np.array_equal(frame, vec.render(0))  # each its own
    vec.close()
    vec.close()
    blind = GymVec([lambda: gymnasium.make("CartPole-v1")])
    blind.reset()
    with pytest.raises(RuntimeError, match='render_mode="rgb_array"'):
        blind.render()


def test_make_passes_options_and_imports_a_module(monkeypatch):
    vec = make("CartPole-v1", num_envs=2, max_episode_steps=4)
    vec.reset(seed=0)
    ends = [vec.step(still(2)).truncated.tolist() for _ in range(4)]
    assert ends == [[False, False]] * 3 + [[True, True]]
    imported = []
    gymnasium.register("test/Clock-v0", Clock)
    monkeypatch.setattr(
        "firstlight.envs.vector.registered.importlib",
        SimpleNamespace(import_module=imported.append),
    )
    vec = make("some.module:test/Clock-v0", num_envs=1, length=2, success_threshold=0.5)
    assert set(imported) == {"some.module"}
    assert vec.success_threshold == 0.5
    vec.reset()
    assert [vec.step(still(1)).terminated.item() for _ in range(2)] == [False, True]


def test_minigrid_in_python():
    vec = minigrid.make("MiniGrid-Empty-5x5-v0", num_envs=2, backend="python")
    assert vec.success_threshold == 0.0
    obs, info = vec.reset(seed=0)
    assert {name: (tuple(f.shape), f.dtype) for name, f in obs.items()} == {
        "image": ((2, 7, 7, 3), torch.uint8),
        "direction": ((2,), torch.int64),
    }
    assert set(info) == {"agent_pos"}  # as with every other backend
    forward, right = 2, 1
    for action in (forward, forward, right, forward, forward):
        step = vec.step(torch.tensor([action, 6]))
    assert step.terminated.tolist() == [True, False]
    assert step.reward[0] > 0.9
    assert step.reward[1] == 0
    assert step.final_obs["direction"].tolist() == [1]
    assert step.obs["direction"].tolist() == [0, 0]
    assert vec.render(0).shape[2] == 3
    vec.close()


def test_an_unknown_minigrid_backend_is_refused():
    with pytest.raises(ValueError, match="'rust'"):
        minigrid.make("MiniGrid-Empty-5x5-v0", backend="rust")


def test_minigrid_in_processes():
    """Its missions fit no shared memory."""
    vec = make("MiniGrid-Empty-5x5-v0", num_envs=2, asynchronous=True)
    try:
        assert set(vec.obs_space) == {"image", "direction"}
        obs, _ = vec.reset(seed=0)
        expected, _ = make("MiniGrid-Empty-5x5-v0", num_envs=2).reset(seed=0)
        assert torch.equal(obs["image"], expected["image"])
    finally:
        vec.close()
