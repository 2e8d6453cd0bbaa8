"""Described objects can be rebuilt, and no other target is called."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
from gymnasium import spaces
from torch import nn

from firstlight.networks.spec import SpecError, describe, rebuild, rebuildable

HERE = ("test_spec",)


@rebuildable
class Holder(nn.Module):
    def __init__(self, value=None, *, other: int = 3, **options):
        super().__init__()
        self.value, self.other, self.options = value, other, options


@rebuildable
class Inner:
    def __init__(self, size):
        self.size = size


class Inherits(Inner):
    pass


class Undecorated(Inner):
    def __init__(self, half):
        super().__init__(half * 2)


@rebuildable
class Outer(Inner):
    def __init__(self, half):
        super().__init__(half * 2)


@rebuildable
@dataclass(frozen=True)
class Frozen:
    size: int = 4


@rebuildable
class Empty(nn.Module):
    pass


class Sub(spaces.Box):
    pass


def through_json(obj):
    return rebuild(json.loads(json.dumps(describe(obj), allow_nan=False)), allow=HERE)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1, "two", 0.1, True, [None]],
        (1, (2, [3])),
        {"width": 3, "deep": {"x": (1,)}},
        {"target": "os.system", "kwargs": {"command": "false"}},
        {"space": 1},
        {"dict": {"class": 2}},
        [math.inf, -math.inf],
        np.float32(0.5),
        nn.Tanh,
        {"activation": nn.GELU},
    ],
)
def test_arguments_survive_a_round_trip(value):
    assert through_json(Holder(value, other=5)).value == value
    assert through_json(Holder(value)).other == 3


def test_variable_keywords_survive_a_round_trip():
    assert through_json(Holder(1, depth=2, other=7)).options == {"depth": 2}


def test_defaults_are_described():
    assert describe(Holder())["kwargs"] == {"value": None, "other": 3}


SPACES = [
    spaces.Box(0, 255, (7, 7, 3), np.uint8),
    spaces.Box(-np.inf, np.inf, (4,), np.float64),
    spaces.Box(-1, 1, (), np.int8),
    spaces.Box(np.array([-1.5, -np.inf, 0.1]), np.array([2.0, 3.0, np.inf]), dtype=np.float64),
    spaces.Box(np.float32([[0.1], [0.2]]), np.float32([[0.3], [np.inf]]), dtype=np.float32),
    spaces.Box(-np.inf, np.inf, (2,), np.int64),
    spaces.Box(-(2**62) - 1, 2**62 + 1, (2,), np.int64),
    spaces.Box(0, 1, (3,), np.bool_),
    spaces.Box(0, 1, (0, 2), np.float32),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [2, 3]]),
    spaces.MultiDiscrete([2, 3], dtype=np.int32),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.Text(9, min_length=0, charset="abc ü"),
    spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Dict({"b": spaces.Box(0, 1, (2,))}))]),
    spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (1,))]),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_survive_a_round_trip(space):
    again = through_json(Holder(space)).value
    assert again == space
    assert type(again) is type(space)
    if isinstance(space, spaces.Dict):
        assert list(again.spaces) == list(space.spaces)
    if isinstance(space, spaces.Box):
        for name in ("low", "high", "bounded_below", "bounded_above"):
            left, right = getattr(space, name), getattr(again, name)
            assert left.dtype == right.dtype
            assert np.array_equal(left, right)
    assert again.dtype == space.dtype
    again.seed(0), space.seed(0)
    if not isinstance(space, spaces.Text):
        assert str(again.sample()) == str(space.sample())


def test_nested_objects_survive_a_round_trip():
    inner = [Inner(2), {"x": Outer(3)}, Frozen(), Empty()]
    again = through_json(Holder(inner)).value
    assert [type(item) for item in (again[0], again[1]["x"], again[2], again[3])] == [
        Inner,
        Outer,
        Frozen,
        Empty,
    ]
    assert (again[0].size, again[1]["x"].size, again[2].size) == (2, 6, 4)


def test_stored_arguments_are_not_submodules():
    holder = Holder(nn.Linear(1, 1))
    assert [name for name, _ in holder.named_children()] == ["value"]


def test_the_arguments_of_the_outermost_class_are_described():
    assert describe(Outer(3)) == {"target": "test_spec.Outer", "kwargs": {"half": 3}}
    assert describe(Inherits(3)) == {"target": "test_spec.Inherits", "kwargs": {"size": 3}}
    with pytest.raises(SpecError, match=r"test_spec\.Undecorated .*@rebuildable"):
        describe(Undecorated(3))


def test_wrong_arguments_raise_the_usual_type_error():
    with pytest.raises(TypeError, match="size"):
        Inner()
    with pytest.raises(TypeError, match="args"):

        @rebuildable
        class Positional:
            def __init__(self, *args):
                pass


def test_an_object_that_cannot_be_described_raises_with_its_name():
    @rebuildable
    class Local:
        def __init__(self):
            pass

    for value, name in [
        (nn.Linear(1, 1), "Linear"),
        (nn.Linear, "Linear"),
        (math.sqrt, "builtin_function"),
        (Sub(0, 1), "Sub"),
        ({1: 2}, "string keys"),
        (Local(), "Local"),
    ]:
        with pytest.raises(SpecError, match=name):
            describe(Holder(value))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "system",
        "firstlightish.Class",
        "test_spec.Inner",
        "test_specious.Inner",
    ],
)
def test_foreign_targets_are_refused(target):
    with pytest.raises(SpecError, match=r"allow=\[") as caught:
        rebuild({"target": target, "kwargs": {}})
    assert target in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "firstlight.agents.session.run_directory.files.os.system",
        "firstlight.agents.session.run_directory.files.os",
        "firstlight.agents.session.run_directory.files.Path",
        "firstlight.agents.session.run_directory.files.write_text",
        "firstlight.agents.session.run_directory.checkpoint.CheckpointError",
        "firstlight.networks.spec.nn",
        "firstlight.nowhere.Class",
        "firstlight.agents.session.run_directory.files.Nothing",
    ],
)
def test_only_rebuildable_classes_are_imported_and_only_from_their_own_module(target, tmp_path):
    with pytest.raises(SpecError, match=target.replace(".", r"\.")):
        rebuild({"target": target, "kwargs": {"path": str(tmp_path / "x"), "text": "y"}})
    assert list(tmp_path.iterdir()) == []


def test_nested_targets_are_checked_before_any_object_is_made():
    spec = describe(Holder(Inner(1)))
    spec["kwargs"]["value"]["target"] = "os.system"
    with pytest.raises(SpecError, match=r"os\.system"):
        rebuild(spec, allow=HERE)


@pytest.mark.parametrize(
    "value",
    [
        {"class": "os.PathLike"},
        {"class": "torch.nn.modules.activation.warnings"},
        {"class": "torch.nn.modules.activation.Module"},
        {"space": "Space"},
        {"space": "Discrete"},
        {"target": 3, "kwargs": {}},
        {"target": "test_spec.Inner", "kwargs": {"length": 1}},
    ],
)
def test_a_damaged_description_is_a_spec_error(value):
    spec = {"target": "test_spec.Holder", "kwargs": {"value": value}}
    with pytest.raises(SpecError):
        rebuild(spec, allow=HERE)
