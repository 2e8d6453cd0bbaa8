"""What the state of another library's object holds, and what it refuses."""

from collections import deque

import numpy as np
import pytest

from firstlight.agents.search.object_state import (
    UnsavedError,
    load_object_state,
    object_state,
)


class Inner:
    def __init__(self):
        self.array, self.random = np.zeros(3), np.random.default_rng(0)


class Outer:
    def __init__(self):
        self.number, self.text, self.nothing = 1, "a", None
        self.inner, self.also, self.parts = Inner(), None, [Inner(), Inner()]
        self.recent, self.old = deque([1], maxlen=2), np.random.RandomState(0)
        self.function, self.kind = len, np.dtype(float)
        self.also = self.inner  # shared


def changed():
    outer = Outer()
    outer.number, outer.text, outer.nothing = 2, "b", np.ones(2)
    outer.inner.array[:] = 5
    outer.parts[1].array = np.full(3, 7.0)
    outer.recent.extend([2, 3])
    outer.inner.random.random(9)
    outer.old.rand(9)
    return outer


def test_a_restored_object_continues_as_the_one_that_was_saved():
    one, other = changed(), Outer()
    package = [__name__.partition(".")[0]]
    state = object_state(one, package)
    assert "also.array" not in state
    load_object_state(other, state, package)
    assert (other.number, other.text, other.recent) == (2, "b", deque([2, 3], maxlen=2))
    assert other.also is other.inner
    assert other.inner.array.tolist() == [5, 5, 5]
    assert other.parts[1].array.tolist() == [7, 7, 7]
    assert other.nothing.tolist() == [1, 1]
    for draw in (lambda o: o.inner.random.random(), lambda o: o.old.rand()):
        assert draw(one) == draw(other)


def test_parts_that_are_left_out_are_neither_saved_nor_changed():
    one, other = changed(), Outer()
    package = [__name__.partition(".")[0]]
    state = object_state(one, package, without=[one.inner])
    assert not any(key.startswith(("inner", "also")) for key in state)
    load_object_state(other, state, package, without=[other.inner])
    assert other.inner.array.tolist() == [0, 0, 0]
    assert other.number == 2


def test_what_cannot_be_saved_is_named():
    outer = Outer()
    outer.inner.file = object()
    with pytest.raises(UnsavedError, match=r"inner\.file is a object"):
        object_state(outer, [__name__.partition(".")[0]])
