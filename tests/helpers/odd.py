"""Odd environments by name: what they return, and what is said about those that are refused."""

import functools
import random

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from firstlight.envs import GymVec

TWO = spaces.Box(-1, 1, (2,), np.float32)
ACTS = spaces.Discrete(2)
LENGTH = 4


class Odd(gymnasium.Env):
    """An ordinary environment of `LENGTH` steps, but for what it is given.

    Args:
        space: of observations; None for an environment without.
        acts: space of actions.
        obs: an observation, or a function of the step that returns one.
        reward: of each step, or a function.
        ends: terminated and truncated of each step, or a function; default at `LENGTH`.
        info: of each step, or a function.
        answers: replaces what the method of that name returns; a function of what it would return.
        raises: name of the method that raises, with the step at which it does.
    """

    def __init__(
        self,
        space=TWO,
        acts=ACTS,
        obs=None,
        reward=0.0,
        ends=None,
        info=None,
        answers=None,
        raises=("nothing", 0),
    ):
        self.time, self.raises, self.answers = 0, raises, answers or {}
        self._fail("init")
        if space is not None:
            self.observation_space = space
        if acts is not None:
            self.action_space = acts
        self.obs = np.zeros(2, np.float32) if obs is None else obs
        self.reward, self.info = reward, {} if info is None else info
        self.ends = ends or (lambda time: (time >= LENGTH, False))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        self._fail("reset")
        answer = self._now(self.obs), self._now(self.info)
        return self.answers.get("reset", lambda answer: answer)(answer)

    def step(self, action):
        self.time += 1
        self._fail("step")
        ends = self._now(self.ends)
        answer = self._now(self.obs), self._now(self.reward), *ends, self._now(self.info)
        return self.answers.get("step", lambda answer: answer)(answer)

    def close(self):
        self._fail("close")

    def _now(self, value):
        return value(self.time) if callable(value) else value

    def _fail(self, method):
        name, time = self.raises
        if name == method and self.time >= time:
            raise ZeroDivisionError(f"no {method}")


class Seedless(Odd):
    """Has the signature of Gym before 0.26."""

    def reset(self):
        return super().reset()


class NoOptions(Odd):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class Reuses(Odd):
    """Returns the same array again and again, and changes it."""

    def reset(self, *, seed=None, options=None):
        self.array = np.zeros(2, np.float32)
        super().reset(seed=seed)
        return self.array, {}

    def step(self, action):
        answer = super().step(action)
        self.array += 0.125
        return (self.array, *answer[1:])


def box(*shape, dtype=np.float32, low=0, high=1):
    return spaces.Box(low, high, shape, dtype)


def shown(space, obs):
    return {"space": space, "obs": obs}


def told(**info):
    return {"info": info}


NESTED = spaces.Dict(
    {"a": spaces.Dict({"b": spaces.Discrete(3, start=5)}), "c": spaces.Tuple([TWO, spaces.Text(5)])}
)
GRAPH = spaces.Graph(box(2), None)
NUMBER = "expected one number"
FLAG = "expected True or False"
FITS = "expected one in "

WORKS = {
    "ordinary": {},
    "nested": shown(NESTED, {"a": {"b": np.int64(7)}, "c": (np.ones(2, np.float32), "hi")}),
    "text beside": shown(spaces.Dict({"x": TWO, "t": spaces.Text(5)}), {"x": [0, 0], "t": "go"}),
    "sequence beside": shown(
        spaces.Dict({"x": TWO, "s": spaces.Sequence(TWO)}), {"x": [0, 0], "s": (np.zeros(2),)}
    ),
    "graph beside": shown(
        spaces.Dict({"x": TWO, "g": GRAPH}),
        {"x": [0, 0], "g": spaces.GraphInstance(np.zeros((3, 2)), None, None)},
    ),
    "one of beside": shown(
        spaces.Dict({"x": TWO, "o": spaces.OneOf([TWO, TWO])}), {"x": [0, 0], "o": (0, [0, 0])}
    ),
    "fields left over": shown(spaces.Dict({"x": TWO}), {"x": [0, 0], 3: None, "y": object}),
    "discrete with a start": shown(spaces.Discrete(3, start=-1), -1),
    "discrete as an array of one": shown(spaces.Discrete(3), np.array([2])),
    "multi-discrete": shown(spaces.MultiDiscrete([2, 3], start=[1, 0]), [2, 2]),
    "multi-binary": shown(spaces.MultiBinary(3), np.array([True, False, True])),
    "integers": shown(box(2, dtype=np.int32, high=9), np.array([3, 4])),
    "uint16": shown(box(2, dtype=np.uint16, high=9), np.array([3, 4], np.uint16)),
    "float64 for float32": shown(TWO, np.array([0.1, 0.2])),
    "float64": shown(box(2, dtype=np.float64), np.array([0.1, 0.2])),
    "float16": shown(box(2, dtype=np.float16), np.zeros(2, np.float16)),
    "bool": shown(box(2, dtype=np.bool_), np.array([True, False])),
    "number": shown(box(), 0.5),
    "number for an array of one": shown(box(1), 0.5),
    "list": shown(TWO, [0.5, 0.25]),
    "tensor": shown(TWO, torch.zeros(2)),
    "nothing": shown(box(0), np.zeros(0, np.float32)),
    "picture": shown(box(8, 8, dtype=np.uint8, high=255), np.full((8, 8), 200, np.uint8)),
    "picture, channels last": shown(
        box(8, 8, 3, dtype=np.uint8, high=255), np.zeros((8, 8, 3), int)
    ),
    "picture, channels first": shown(
        box(3, 8, 8, dtype=np.uint8, high=255), np.zeros((3, 8, 8), np.uint8)
    ),
    "one-sided": shown(box(2, high=np.inf), np.full(2, 1e6, np.float32)),
    "unbounded": shown(box(2, low=-np.inf, high=np.inf), np.full(2, -1e6, np.float32)),
    "outside of its bounds": shown(TWO, np.array([2.0, 0.0], np.float32)),
    "not contiguous": shown(box(2, 3), np.zeros((3, 2), np.float32).T),
    "info None now and then": {"info": lambda time: {"goal": None if time % 2 else 3}},
    "info of mixed types": {"info": lambda time: {"x": [3, "a", np.zeros(time)][time % 3]}},
    "info of many forms": told(deep={"a": {"b": None}}, huge=np.zeros(10**5), odd=object),
    "info keys that are no text": {"info": {3: 1, None: 2, ("a", 1): 3}},
    "success as an array": told(is_success=np.array(True)),
    "success as an array of one": told(success=np.array([1.0])),
    "success unknown": told(success=None, is_success=None),
    "reward an array of one": {"reward": np.array([1.0])},
    "reward an int": {"reward": 1},
    "reward a float64": {"reward": np.float64(0.5)},
    "reward a bool": {"reward": np.bool_(True)},
    "reward a tensor": {"reward": torch.tensor(0.5)},
    "both ends": {"ends": lambda time: (time >= LENGTH, time >= LENGTH)},
    "ends as numbers": {"ends": lambda time: (np.bool_(time >= LENGTH), int(time >= LENGTH))},
    "ends as arrays": {"ends": lambda time: (np.array([time >= LENGTH]), np.array(0))},
    "never ends": {"ends": (False, False)},
    "ends at once": {"ends": (True, False)},
    "lists for tuples": {"answers": {"reset": list, "step": list}},
    "reset without options": {"kind": NoOptions},
    "the same array": {"kind": Reuses},
    "raises in close": {"raises": ("close", 0)},
    "raises in render": {"raises": ("render", 0)},
    "actions of integers": {"acts": box(2, dtype=np.int64, high=9)},
}
"""What differs from `Odd`'s defaults, for environments that work."""

REFUSED = {
    "text alone": (shown(spaces.Text(5), "go"), "no field of its observation space"),
    "graph alone": (shown(GRAPH, None), "can be a tensor"),
    "one name twice": (
        {"space": spaces.Dict({"a.b": TWO, "a": spaces.Dict({"b": TWO})})},
        "two fields .* called 'a.b'",
    ),
    "no observation space": ({"space": None}, "set observation_space"),
    "no action space": ({"acts": None}, "set observation_space and action_space"),
    "a space that is none": ({"space": (2,)}, "observation_space is .* expected a gymnasium.space"),
    "actions of text": ({"acts": spaces.Text(5)}, "action space is .* gymnasium.ActionWrapper"),
    "actions of several kinds": ({"acts": spaces.Dict({"a": TWO})}, "gymnasium.ActionWrapper"),
    "four values": ({"answers": {"step": lambda a: a[:4]}}, "step returned 4 values, .*shimmy"),
    "six values": ({"answers": {"step": lambda a: (*a, 1)}}, "step returned 6 values"),
    "no info at reset": ({"answers": {"reset": lambda a: a[0]}}, r"expected \(obs, info\).*shimmy"),
    "two values that are an observation": (
        shown(TWO, [0, 0]) | {"answers": {"reset": lambda a: a[0]}},
        "reset returned .*as info, expected a dictionary|expected .obs, info.",
    ),
    "nothing at all": ({"answers": {"step": lambda a: None}}, "step returned None"),
    "no seed": ({"kind": Seedless}, r"takes no seed, expected reset\(self, \*, seed=None"),
    "another shape": (shown(TWO, np.zeros(3, np.float32)), f"'obs' .*{FITS}Box of shape .2,."),
    "another shape later": (
        shown(TWO, lambda time: np.zeros(2 + (time > 1), np.float32)),
        f"float32 of shape .3,.*{FITS}",
    ),
    "ragged": (shown(TWO, [[1], [1, 2]]), FITS),
    "observation of text": (shown(TWO, np.array(["a", "b"])), FITS),
    "observation None": (shown(TWO, lambda time: None), "'obs' is None"),
    "observation complex": (shown(TWO, np.zeros(2, complex)), FITS),
    "fractions in integers": (shown(box(2, dtype=np.uint8, high=255), np.full(2, 0.5)), FITS),
    "beyond uint8": (shown(box(2, dtype=np.uint8, high=255), np.array([0, 256])), FITS),
    "NaN in integers": (shown(box(2, dtype=np.int64), np.full(2, np.nan)), FITS),
    "out of a Discrete": (shown(spaces.Discrete(3), 3), "'obs' is 3, .*Discrete"),
    "below the start": (shown(spaces.Discrete(3, start=1), np.int64(0)), "'obs' is"),
    "out of a MultiDiscrete": (shown(spaces.MultiDiscrete([2, 3]), [2, 0]), FITS),
    "out of a MultiBinary": (shown(spaces.MultiBinary(2), [2, 0]), FITS),
    "a field that lacks": (shown(spaces.Dict({"x": TWO, "y": TWO}), {"x": [0, 0]}), "no field 'y'"),
    "an array for a Dict": (shown(spaces.Dict({"x": TWO}), np.zeros(2)), "no field 'x'"),
    "info None": ({"info": lambda time: None}, "None as info, expected a dictionary"),
    "info a list": ({"info": [1]}, "as info, expected a dictionary"),
    "success as text": (told(is_success="no"), f"info 'is_success' is the text 'no', {NUMBER}"),
    "success of several": (told(success=np.ones(3)), f"info 'success' .*{NUMBER}"),
    "reward as text": ({"reward": "1.0"}, f"reward is the text '1.0', {NUMBER}"),
    "reward None": ({"reward": lambda time: None}, f"reward is None, {NUMBER}"),
    "reward complex": ({"reward": 1j}, f"reward is 1j, {NUMBER}"),
    "reward of two": ({"reward": [1.0, 2.0]}, f"reward is .1.0, 2.0., {NUMBER}"),
    "ends as text": ({"ends": ("False", False)}, f"terminated is the text 'False', {FLAG}"),
    "ends None": ({"ends": (False, None)}, f"truncated is None, {FLAG}"),
    "ends a two": ({"ends": (2, False)}, f"terminated is 2, {FLAG}"),
    "ends of two": ({"ends": (np.zeros(2, bool), False)}, f"terminated is .*{FLAG}"),
    "raises in init": ({"raises": ("init", 0)}, "raised ZeroDivisionError: no init .*odd.py, line"),
    "raises in reset": ({"raises": ("reset", 0)}, "raised ZeroDivisionError: no reset .in reset"),
}
"""What differs, for environments that are refused, and what the sentence matches."""

RAISES = {
    "raises in step": {"raises": ("step", 1)},
    "raises in a later step": {"raises": ("step", 3)},
}
"""Environments whose exceptions cost a pool only their episodes."""


def make(name):
    """Make an odd environment."""
    known = WORKS | RAISES | {key: given for key, (given, _) in REFUSED.items()}
    options = dict(known[name])
    return options.pop("kind", Odd)(**options)


def factory(name):
    return functools.partial(make, name)


class Draws(Odd):
    """Observes numbers of the global generators, and so depends on its process."""

    def __init__(self):
        super().__init__(obs=lambda time: [random.random(), np.random.random()])  # noqa: NPY002


def draws():
    return GymVec([Draws] * 2)
