"""What one environment returns: accepted forms, what is passed on unchanged, warnings."""

import copy
import logging

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.envs import Chain, GymVec, RandomActor, Runner, VecWrapper, check_vec
from firstlight.envs.faults import EnvironmentFaultError, EnvironmentRaisedError
from firstlight.envs.intake import EnvIntake, describe
from firstlight.envs.vec import checked_actions, left_out

BOX = spaces.Box(-1, 1, (2,), np.float32)
ZEROS = np.zeros(2, np.float32)


def intake(space=BOX, info_space=None, index=0):
    return EnvIntake("mine.Env", index, space, info_space)


def test_an_array_of_the_right_form_is_the_same_object():
    obs, reads = np.zeros(2, np.float32), intake()
    for _ in range(3):
        fields, *rest = reads.step((obs, 1.0, False, True, {}))
        assert fields["obs"] is obs
        assert rest == [1.0, False, True, {}]
    assert intake().reset((obs.astype(np.float64), {}))[0]["obs"].dtype == np.float32


def test_only_the_info_that_is_wanted_is_read():
    class Guarded(dict):
        def __getitem__(self, key):
            assert key == "place"
            return super().__getitem__(key)

    info = Guarded(place=[2], odd=object(), goal=None)
    space = spaces.Dict({"place": spaces.Discrete(3)})
    wanted = intake(info_space=space).reset((ZEROS, info))[1]
    assert {name: int(value) for name, value in wanted.items()} == {"place": 2}
    for value in (3, None, "no", [1, 2], 0.5):
        with pytest.raises(EnvironmentFaultError, match=r"the info 'place' is .*Discrete\(3\)"):
            intake(info_space=space).reset((ZEROS, {"place": value}))


@pytest.mark.parametrize("given", [7, -(2**63), np.int32(7), np.array([7]), 7.0])
def test_numbers_in_info_are_read_in_any_form(given):
    space = spaces.Dict({"turns": spaces.Box(-np.inf, np.inf, (), np.int64)})
    wanted = intake(info_space=space).reset((ZEROS, {"turns": given}))[1]
    assert np.asarray(wanted["turns"], np.int64).item() == int(np.asarray(given).item())


@pytest.mark.parametrize("given", [2**63, -(2**63) - 1, 0.5, "7", None])
def test_info_that_is_no_int64_is_refused(given):
    space = spaces.Dict({"turns": spaces.Box(-np.inf, np.inf, (), np.int64)})
    with pytest.raises(EnvironmentFaultError, match="the info 'turns' is"):
        intake(info_space=space).reset((ZEROS, {"turns": given}))


@pytest.mark.parametrize(
    ("info", "success"),
    [
        ({}, None),
        ({"success": None, "is_success": True}, 1),
        ({"success": False, "is_success": True}, 0),
        ({"is_success": np.array([[0.0]])}, 0),
        ({"success": torch.tensor(True)}, 1),
        ({"success": float("nan")}, None),
    ],
)
def test_success_in_any_form(info, success):
    assert intake().reset((ZEROS, info))[1].get("success") == success


def test_leaving_the_bounds_is_told_once(caplog):
    outside = np.full(2, 2.0, np.float32)
    for index in range(3):
        reads = intake(index=index)
        for _ in range(3):
            reads.reset((outside, {}))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "environment 0 (mine.Env): the observation 'obs' is outside of its space" in caplog.text


def test_fields_left_out_have_a_reason():
    space = spaces.Dict(
        {
            "x": BOX,
            "mission": spaces.Text(9),
            "deep": spaces.Tuple([spaces.Sequence(BOX), spaces.Graph(BOX, None)]),
            "any": spaces.OneOf([BOX, BOX]),
        }
    )
    reasons = {
        "mission": "text",
        "deep.0": "a sequence of any length",
        "deep.1": "a graph",
        "any": "one of several spaces",
    }
    assert left_out(space) == reasons == intake(space).left_out
    obs = {"x": ZEROS, "mission": "go", "deep": ((), None), "any": (0, ZEROS)}
    vec = GymVec([lambda: Answers(space, obs)] * 2)
    assert vec.left_out == VecWrapper(vec).left_out == reasons
    assert Chain(2).left_out == {}


class Answers(gymnasium.Env):
    """Returns what it is given, ends at once."""

    def __init__(self, space, obs, reward=0.0, action_space=None):
        self.observation_space, self.action_space = space, action_space or spaces.Discrete(2)
        self.obs, self.reward = obs, reward

    def reset(self, *, seed=None, options=None):
        return self.obs, {}

    def step(self, action):
        return self.obs, self.reward, True, False, {}


def test_the_check_of_environments_names_these_faults():
    with pytest.raises(EnvironmentFaultError, match=r"test_intake.Answers.*'obs' is float32 of sh"):
        check_vec(GymVec([lambda: Answers(BOX, np.zeros(3, np.float32))] * 2))
    with pytest.raises(EnvironmentFaultError, match="reward is the text 'high'"):
        check_vec(GymVec([lambda: Answers(BOX, ZEROS, reward="high")] * 2))


def test_actions_of_integers_are_rounded():
    space = spaces.Box(0, 9, (4,), np.int64)
    action = torch.tensor([[0.6, 1.4, -3.0, 99.0]])
    assert checked_actions(action, space, 1).tolist() == [[1, 1, 0, 9]]


def test_errors_can_be_made_of_errors():
    """`AsyncVectorEnv` raises ``type(error)(error)``, processes copy errors."""
    for kind in (EnvironmentFaultError, EnvironmentRaisedError):
        assert str(kind(kind("a sentence"))) == str(copy.copy(kind("a sentence"))) == "a sentence"
    assert EnvironmentRaisedError(EnvironmentRaisedError("a", "frames")).frames == "frames"


class Broken(Chain):
    """A vector environment of a user with one fault."""

    fault = "none"

    def reset(self, seed=None):
        obs, info = super().reset(seed)
        if self.fault == "names":
            obs = {"seen": obs["obs"]}
        if self.fault == "shape":
            obs = {"obs": obs["obs"][:, :2]}
        return obs, info

    def step(self, action):
        step = super().step(action)
        if self.fault == "reward":
            object.__setattr__(step, "reward", step.reward.double())
        if self.fault == "code":
            raise KeyError("x")
        return step


@pytest.mark.parametrize(
    ("fault", "error", "sentence"),
    [
        ("names", EnvironmentFaultError, r"obs has the fields \['seen'\], expected \['obs'\]"),
        ("shape", EnvironmentFaultError, r"obs\['obs'\] is torch.uint8 of shape \(2, 2\), exp"),
        ("reward", EnvironmentFaultError, "reward is torch.float64 of shape .*check_vec"),
        ("code", EnvironmentRaisedError, r"Broken raised KeyError: 'x' \(in step, .*test_intake"),
    ],
)
def test_a_runner_checks_the_first_rows_of_any_vector_environment(fault, error, sentence):
    vec = Broken(2, length=3)
    vec.fault = fault
    with pytest.raises(error, match=sentence):
        Runner(vec).collect(RandomActor(vec.act_space), 3)


def test_descriptions_are_short():
    assert describe(np.zeros((2, 9))) == "float64 of shape (2, 9)"
    assert describe({"a": 1}) == "a dict with the keys ['a']"
    assert describe(object()) == "a builtins.object"
