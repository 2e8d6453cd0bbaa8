"""`ObservationQueue` against a list; dtypes, saving, and too many at once."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.intrinsic.observation_queue import ObservationQueue

SPACE = spaces.Dict({"a.b": spaces.Box(0, 255, (2,), np.uint8), "n": spaces.Discrete(5)})


def batch(numbers, size):
    a = torch.randint(256, (size, 2), dtype=torch.uint8, generator=numbers)
    return {"a.b": a, "n": torch.randint(5, (size,), generator=numbers)}


def rows(queue):
    fields = queue.fields()
    return [(*a, n) for a, n in zip(fields["a.b"].tolist(), fields["n"].tolist(), strict=True)]


def test_it_holds_the_newest():
    numbers = torch.Generator().manual_seed(0)
    queue, held = ObservationQueue(SPACE, ["a.b", "n"], 7), []
    for size in (0, 3, 2, 5, 7, 1):
        obs = batch(numbers, size + 2)
        chosen = torch.arange(1, size + 1)
        queue.add(obs, chosen, numbers)
        held += [(*obs["a.b"][i].tolist(), int(obs["n"][i])) for i in chosen]
        held = held[-7:]
        assert len(queue) == len(held)
        assert sorted(map(str, rows(queue))) == sorted(map(str, held))


def test_of_too_many_some_are_drawn():
    numbers = torch.Generator().manual_seed(0)
    queue = ObservationQueue(SPACE, ["n"], 3)
    obs = {"n": torch.arange(100), "a.b": torch.zeros(100, 2)}
    queue.add(obs, torch.arange(100), numbers)
    chosen = queue.fields()["n"]
    assert len(chosen) == len(chosen.unique()) == 3
    assert chosen.tolist() != [97, 98, 99]


def test_it_is_restored_with_its_dtypes():
    numbers = torch.Generator().manual_seed(0)
    kept, loaded = (ObservationQueue(SPACE, ["a.b", "n"], 7) for _ in range(2))
    kept.add(batch(numbers, 5), torch.arange(5), numbers)
    loaded.load_state_dict(kept.state_dict())
    assert rows(kept) == rows(loaded)
    assert [field.dtype for field in loaded.fields().values()] == [torch.uint8, torch.int64]
    more = batch(numbers, 4)
    for queue in (kept, loaded):
        queue.add(more, torch.arange(4), numbers)
    assert rows(kept) == rows(loaded)
    with pytest.raises(ValueError, match="size is 0"):
        ObservationQueue(SPACE, ["n"], 0)
