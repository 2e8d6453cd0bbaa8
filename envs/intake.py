"""Read what one Gymnasium environment returns: check it, and bring it into one form.

`GymVec`, in this process or in others, and `PoolVec` read every environment through `EnvIntake`, so
that all of them accept and refuse the same things.
"""

from __future__ import annotations

import inspect
import logging
import numbers
import reprlib
from collections.abc import Mapping
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from firstlight.envs.faults import EnvironmentFaultError, class_name, raise_for_environment
from firstlight.envs.text import TextBytes, encode_text, is_text
from firstlight.envs.vec import dotted, leaves, left_out

_SUCCESS = ("success", "is_success")  # the first takes precedence
_USABLE = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
_FIRST_ANSWERS = 2  # reset and step: their observations are compared with the bounds of a Box
_OLD_API = (
    "an environment for Gym before 0.26 can be wrapped in shimmy.GymV21CompatibilityV0, and "
    "gymnasium.utils.env_checker.check_env finds more"
)

log = logging.getLogger(__name__)

_INTEGERS = (int, np.int64)
_INT64 = 2**63  # beyond int64

Fields = dict[str, Any]


class EnvIntake:
    """Check and convert the answers of one environment.

    Shapes, dtypes that cast without loss, and the ranges of discrete fields are checked at every
    answer; the bounds of a Box only at the first ones, with a warning. An array that has the dtype
    and shape of its space is passed on as it is, not copied. Of the info only success and the
    fields of `info_space` are read.

    Args:
        name: of the environment, for messages.
        index: its number.
        obs_space: its observation space, nested as it is.
        info_space: info fields to read besides success.
        observe_text: read texts too, as `TextBytes`.

    Attributes:
        space: observation space with a field for each array, under dotted names.
        left_out: fields that are not read, name to reason.

    Raises:
        EnvironmentFaultError: if no field is an array, or two have one name; from `reset` and
            `step`, if the answer is not what Gymnasium's API and the spaces say.
    """

    def __init__(
        self,
        name: str,
        index: int,
        obs_space: spaces.Space,
        info_space: spaces.Dict | None = None,
        *,
        observe_text: bool = False,
    ):
        self.where, self.index = f"environment {index} ({name})", index
        fields = leaves(obs_space, texts=observe_text)
        found = [(dotted(path), path, space) for path, space in fields]
        names = [name for name, _, _ in found]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            self.refuse(f"two fields of its observation space are called {twice[0]!r}: rename one")
        if not found:
            self.refuse(
                f"no field of its observation space {obs_space} can be a tensor: expected a Box, "
                "Discrete, MultiDiscrete or MultiBinary, or a Dict or Tuple with one"
                + ("; observe_text=True reads a text" if is_text(obs_space) else "")
            )
        self.space = spaces.Dict({name: space for name, _, space in found})
        self.left_out = left_out(obs_space, texts=observe_text)
        self._obs = [(n, p, _field(self, f"the observation {n!r}", space)) for n, p, space in found]
        extra = info_space.spaces if info_space else {}
        self._info = {name: _field(self, f"the info {name!r}", extra[name]) for name in extra}
        self._unseen = _FIRST_ANSWERS if index == 0 else 0

    def reset(self, answer: Any) -> tuple[Fields, Fields]:
        """Read what `reset` returned.

        Returns:
            Fields of the observation; and of the info ``"success"``, 1 or 0 where known, and the
            fields of `info_space`.
        """
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            self.refuse(f"reset returned {describe(answer)}, expected (obs, info); {_OLD_API}")
        obs, info = answer
        if type(info) is not dict and not isinstance(info, Mapping):
            self.refuse(
                f"reset returned {describe(info)} as info, expected a dictionary; {_OLD_API}"
            )
        return self._read_obs(obs), self._read_info(info)

    def step(self, answer: Any) -> tuple[Fields, float, bool, bool, Fields]:
        """Read what `step` returned: observation and info as from `reset`."""
        if not isinstance(answer, tuple | list) or len(answer) != 5:
            self.refuse(
                f"step returned {describe(answer)}, expected (obs, reward, terminated, truncated, "
                f"info); {_OLD_API}"
            )
        obs, reward, terminated, truncated, info = answer
        fields = self._read_obs(obs)
        if type(reward) is not float:
            reward = self._number("the reward", reward)
        if type(terminated) is not bool:
            terminated = self._flag("terminated", terminated)
        if type(truncated) is not bool:
            truncated = self._flag("truncated", truncated)
        if type(info) is not dict and not isinstance(info, Mapping):
            self.refuse(
                f"step returned {describe(info)} as info, expected a dictionary, {{}} if there is "
                "nothing to tell"
            )
        return fields, reward, terminated, truncated, self._read_info(info)

    def refuse(self, sentence: str) -> NoReturn:
        """Raise `EnvironmentFaultError` with a sentence about this environment."""
        raise EnvironmentFaultError(f"{self.where}: {sentence}")

    def _read_obs(self, obs: Any) -> Fields:
        fields = {}
        for name, path, field in self._obs:
            value = obs
            for key in path:
                try:
                    value = value[key]
                except Exception:
                    self.refuse(
                        f"its observation has no field {name!r}, it is {describe(obs)}: return one "
                        "that is in observation_space"
                    )
            if field.scalar and type(value) in _INTEGERS:
                if not field.low <= value <= field.high:
                    field.refuse(value)
                fields[name] = value
                continue
            if (
                type(value) is not np.ndarray
                or value.dtype != field.dtype
                or value.shape != field.shape
            ):
                value = field.convert(value)
            if field.discrete:
                field.check_range(value)
            fields[name] = value
        if self._unseen:
            self._compare_with_bounds(fields)
        return fields

    def _read_info(self, info: Mapping[Any, Any]) -> Fields:
        wanted: Fields = {}
        if not info and not self._info:
            return wanted
        for key in _SUCCESS:
            value = info.get(key)
            if value is not None and "success" not in wanted:
                number = self._number(f"the info {key!r}", value)
                if number == number:  # NaN is unknown
                    wanted["success"] = int(number > 0)
        for name, field in self._info.items():
            if name not in info:
                given = ", ".join(sorted(repr(key) for key in info)) or "none"
                self.refuse(f"it gave no info {name!r}, which is asked for; it gave {given}")
            value = info[name]
            if not field.fits(value):
                value = field.convert(value)
            if field.discrete:
                field.check_range(value)
            wanted[name] = value
        return wanted

    def _number(self, what: str, value: Any) -> float:
        """Value of a number, or of an array of one."""
        if isinstance(value, numbers.Real | np.bool_):
            return float(value)
        try:
            array = np.asarray(value)
        except Exception:  # of an array library, or a ragged list
            array = np.empty(0)
        if array.size != 1 or array.dtype.kind not in "biuf":
            self.refuse(f"{what} is {describe(value)}, expected one number: return a float")
        return float(array.item())

    def _flag(self, what: str, value: Any) -> bool:
        """Value of a bool, 0 or 1, or of an array of one of them."""
        if isinstance(value, np.bool_):
            return bool(value)
        try:
            array = np.asarray(value)
        except Exception:
            array = np.empty(0)
        if array.size != 1 or array.dtype.kind not in "biuf" or array.item() not in (0, 1):
            self.refuse(f"{what} is {describe(value)}, expected True or False: return a bool")
        return bool(array.item())

    def _compare_with_bounds(self, fields: Fields) -> None:
        """Warn of an observation beyond the bounds of its Box: many real environments have some."""
        self._unseen -= 1
        for name, value in fields.items():
            space = self.space[name]
            if isinstance(space, spaces.Box) and ((value < space.low) | (value > space.high)).any():
                log.warning(
                    "%s: the observation %r is outside of its space, %s: it is used as it is; "
                    "mend the bounds in observation_space",
                    self.where,
                    name,
                    space,
                )
                self._unseen = 0


class _Field:
    """Form of one field: dtype and shape of its space, and for a discrete one its range."""

    def __init__(self, intake: EnvIntake, what: str, space: spaces.Space):
        self.intake, self.what, self.space = intake, what, space
        self.dtype, self.shape = np.dtype(space.dtype), tuple(space.shape or ())
        self.size = int(np.prod(self.shape))
        self.discrete = not isinstance(space, spaces.Box)
        self.scalar = isinstance(space, spaces.Discrete)
        self.low: Any = 0
        self.high: Any = 1
        if isinstance(space, spaces.Discrete):
            self.low, self.high = int(space.start), int(space.start + space.n - 1)
        elif isinstance(space, spaces.MultiDiscrete):
            self.low, self.high = space.start, space.start + space.nvec - 1
        self.takes_int = (
            self.dtype == np.int64 and self.shape == () and isinstance(space, spaces.Box)
        )

    def fits(self, value: Any) -> bool:
        """Whether `value` can be used as it is: an array of this form, or an int for one number."""
        if type(value) is int:
            return self.takes_int and -_INT64 <= value < _INT64
        return type(value) is np.ndarray and value.dtype == self.dtype and value.shape == self.shape

    def convert(self, value: Any) -> np.ndarray:
        """Convert `value` to an array of this form; refuse it if that would lose anything."""
        try:
            array = np.asarray(value)
        except Exception:  # of an array library, or a ragged list
            self.refuse(value)
        if array.dtype.kind not in "biuf" or (
            array.shape != self.shape and not array.size == self.size == 1
        ):
            self.refuse(value)
        array = array.reshape(self.shape)
        if array.dtype == self.dtype:
            return array
        with np.errstate(invalid="ignore", over="ignore"):
            cast = array.astype(self.dtype)
        if self.dtype.kind != "f" and not np.array_equal(cast, array):
            self.refuse(value)
        return cast

    def check_range(self, value: np.ndarray) -> None:
        """Refuse a value outside of a discrete space."""
        if self.size and ((value < self.low) | (value > self.high)).any():
            self.refuse(value)

    def refuse(self, value: Any) -> NoReturn:
        """Raise `EnvironmentFaultError` for a value that is not in the space."""
        hint = "; an array of an accelerator must be moved to the CPU" if _is_remote(value) else ""
        self.intake.refuse(
            f"{self.what} is {describe(value)}, expected one in {describe_space(self.space)}{hint}"
        )


class _TextField(_Field):
    """Form of a text: its bytes."""

    def fits(self, value: Any) -> bool:
        """Return False: a text is always encoded."""
        return False

    def convert(self, value: Any) -> np.ndarray:
        """Encode a text; refuse anything else."""
        if not isinstance(value, str):
            self.refuse(value)
        return encode_text(value, self.size)

    def refuse(self, value: Any) -> NoReturn:
        """Raise `EnvironmentFaultError` for a value that is no text."""
        self.intake.refuse(f"{self.what} is {describe(value)}, expected a text")


def _field(intake: EnvIntake, what: str, space: spaces.Space) -> _Field:
    return (_TextField if isinstance(space, TextBytes) else _Field)(intake, what, space)


def check_env(env: Any, index: int) -> str:
    """Check the class, the spaces and the signature of `reset` of one environment.

    Args:
        env: what a factory made.
        index: number of the environment.

    Returns:
        Name of its class.

    Raises:
        EnvironmentFaultError: names what is wrong.
    """
    name = class_name(env)
    where = f"environment {index} ({name})"

    def refuse(sentence: str) -> NoReturn:
        raise EnvironmentFaultError(f"{where}: {sentence}")

    if isinstance(env, VectorEnv):
        raise EnvironmentFaultError(
            f"single environments are reset and seeded here: give a function that makes one for "
            f"each, as in GymVec([make] * 16), not a {type(env).__name__} "
            "(EnvPool's tasks are for firstlight.envs.vector.envpool)"
        )
    if not isinstance(env, gymnasium.Env):
        refuse(f"the factory made a {name}, expected one gymnasium.Env; {_OLD_API}")
    try:
        inner = env.unwrapped
    except Exception as error:
        raise_for_environment(error, where, "in unwrapped")
    name = class_name(inner)
    where = f"environment {index} ({name})"
    try:
        obs_space, act_space = env.observation_space, env.action_space
    except AttributeError as error:
        refuse(f"{error}: set observation_space and action_space in its __init__")
    except Exception as error:
        raise_for_environment(error, where, "in observation_space or action_space")
    for attribute, space in (("observation_space", obs_space), ("action_space", act_space)):
        if not isinstance(space, spaces.Space):
            refuse(f"its {attribute} is {describe(space)}, expected a gymnasium.spaces.Space")
    if not isinstance(act_space, _USABLE):
        refuse(
            f"its action space is {act_space}, expected a Box, Discrete, MultiDiscrete or "
            "MultiBinary: convert actions with a gymnasium.ActionWrapper"
        )
    for layer in _layers(env):
        takes = inspect.signature(layer.reset).parameters.values()
        if not any(p.name == "seed" or p.kind is p.VAR_KEYWORD for p in takes):
            refuse(
                f"reset of {class_name(layer)} takes no seed, expected "
                f"reset(self, *, seed=None, options=None); {_OLD_API}"
            )
    return name


def _layers(env: gymnasium.Env) -> list[gymnasium.Env]:
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    return layers


def describe(value: Any) -> str:
    """Describe a value in a few words.

    >>> describe("no"), describe(None), describe(np.zeros((2, 3))), describe((1, 2, 3, 4))
    ("the text 'no'", 'None', 'float64 of shape (2, 3)', '4 values')
    """
    if isinstance(value, str | bytes):
        return f"the text {reprlib.repr(value)}"
    if isinstance(value, np.ndarray):
        few = f", {reprlib.repr(value.tolist())}" if value.size <= 4 else ""
        return f"{value.dtype} of shape {value.shape}{few}"
    if isinstance(value, tuple):
        return f"{len(value)} values"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {reprlib.repr([*value])}"
    if value is None or isinstance(value, numbers.Number | np.generic | list):
        return reprlib.repr(value)
    return f"a {class_name(value)}"


def describe_space(space: spaces.Space) -> str:
    """Describe a space in a few words, without all the bounds of a large Box."""
    if isinstance(space, spaces.Box):
        return f"Box of shape {space.shape} and dtype {space.dtype}"
    return str(space)


def _is_remote(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] in ("torch", "jax", "jaxlib", "cupy")
