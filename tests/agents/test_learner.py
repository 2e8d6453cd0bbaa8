"""Minibatches partition the valid rows into parts of equal size, in a new order each epoch."""

import dataclasses

import pytest
import torch

from firstlight.agents.learner import Batch, minibatches


def make_batch(rows, invalid=0.0, seed=0):
    """Make rows [1, B] in which every field contains the row's index."""
    g = torch.Generator().manual_seed(seed)
    name = torch.arange(rows)[None]
    return Batch(
        obs={"id": name, "image": name[..., None].expand(1, rows, 3).to(torch.uint8)},
        state={},
        is_first=name % 5 == 0,
        action=name + 1000,
        log_prob=-name.float(),
        value=torch.stack([name.float(), 2.0 * name], -1),
        advantage=name.float() / 10,
        target=torch.stack([3.0 * name, 4.0 * name], -1),
        valid=torch.rand(1, rows, generator=g) >= invalid,
    )


def order_of(batch, size, generator):
    return [part.obs["id"][0].tolist() for part in minibatches(batch, size, generator)]


CASES = [
    (rows, size, invalid)
    for rows in (1, 2, 63, 64, 65, 97, 100, 640, 1000)
    for size in (1, 7, 64, 5000)
    for invalid in (0.0, 0.3)
]


@pytest.mark.parametrize(("rows", "size", "invalid"), CASES)
def test_every_valid_row_comes_exactly_once(rows, size, invalid):
    batch = make_batch(rows, invalid, seed=rows)
    batch.valid[0, 0] = True
    wanted = [i for i in range(rows) if batch.valid[0, i]]
    parts = order_of(batch, size, torch.Generator().manual_seed(0))
    assert sorted(row for part in parts for row in part) == wanted


@pytest.mark.parametrize(("rows", "size", "invalid"), CASES)
def test_minibatch_sizes_differ_by_at_most_one(rows, size, invalid):
    batch = make_batch(rows, invalid, seed=rows)
    batch.valid[0, 0] = True
    sizes = [len(part) for part in order_of(batch, size, torch.Generator().manual_seed(0))]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(size * 1.5, 1)
    if invalid == 0:
        assert min(sizes) >= min(size, rows) * 0.6


@pytest.mark.parametrize("size", [7, 64, 256])
def test_the_number_of_gradient_steps_does_not_depend_on_which_rows_are_valid(size):
    numbers = {
        len(order_of(make_batch(1024, invalid), size, torch.Generator().manual_seed(0)))
        for invalid in (0.0, 0.1, 0.5)
    }
    assert numbers == {round(1024 / size)}


def test_no_minibatch_has_fewer_than_two_valid_rows():
    batch = make_batch(1024)
    batch.valid[:] = torch.arange(1024) < 5
    sizes = [len(part) for part in order_of(batch, 16, torch.Generator().manual_seed(0))]
    assert sorted(sizes) == [2, 3]


def test_sequences_stay_complete_with_their_states():
    L, B = 6, 10
    step = torch.arange(L * B).view(L, B)
    batch = dataclasses.replace(
        make_batch(L * B),
        **{
            name: step if name != "value" else step[..., None].float()
            for name in ("action", "log_prob", "advantage", "value", "target")
        },
        obs={"id": step},
        state={"hidden": torch.arange(B)[:, None]},
        is_first=step < 0,
        valid=step % 7 != 0,
    )
    parts = list(minibatches(batch, 2 * L, torch.Generator().manual_seed(0)))
    assert len(parts) == B // 2
    columns = [part.state["hidden"][:, 0].tolist() for part in parts]
    assert sorted(column for part in columns for column in part) == list(range(B))
    for part, chosen in zip(parts, columns, strict=True):
        assert torch.equal(part.obs["id"], step[:, chosen])
        assert torch.equal(part.valid, batch.valid[:, chosen])


def test_fields_of_a_row_stay_together():
    for part in minibatches(make_batch(100, 0.2), 16, torch.Generator().manual_seed(1)):
        rows = part.obs["id"]
        size = rows.shape[1]
        assert rows.shape == (1, size)
        assert torch.equal(part.obs["image"], rows[..., None].expand(1, size, 3).to(torch.uint8))
        assert part.obs["image"].dtype == torch.uint8
        assert torch.equal(part.is_first, rows % 5 == 0)
        assert torch.equal(part.action, rows + 1000)
        assert torch.equal(part.log_prob, -rows.float())
        assert torch.equal(part.value, torch.stack([rows.float(), 2.0 * rows], -1))
        assert torch.equal(part.advantage, rows.float() / 10)
        assert torch.equal(part.target, torch.stack([3.0 * rows, 4.0 * rows], -1))
        assert part.valid.all()
        assert part.state == {}


def test_continuous_actions_keep_their_axis():
    batch = make_batch(50)
    action = torch.arange(100.0).view(1, 50, 2)
    for part in minibatches(
        dataclasses.replace(batch, action=action), 16, torch.Generator().manual_seed(1)
    ):
        assert torch.equal(part.action, action[:, part.obs["id"][0]])


def test_each_epoch_has_a_different_order():
    batch, generator = make_batch(200), torch.Generator().manual_seed(3)
    epochs = [order_of(batch, 50, generator) for _ in range(4)]
    flat = [tuple(row for part in epoch for row in part) for epoch in epochs]
    assert len(set(flat)) == 4
    assert all(list(order) != sorted(order) for order in flat)
    companions = [frozenset(epoch[0]) for epoch in epochs]  # nor are the parts the same
    assert len(set(companions)) == 4


def test_orders_are_uniformly_distributed():
    """Every row is equally often in the first part."""
    batch, generator = make_batch(20), torch.Generator().manual_seed(0)
    counts = torch.zeros(20)
    for _ in range(2000):
        counts[order_of(batch, 5, generator)[0]] += 1
    assert counts.sum() == 2000 * 5
    assert (counts - 500).abs().max() < 5 * (2000 * 0.25 * 0.75) ** 0.5


def test_the_result_depends_on_the_generator_alone():
    batch = make_batch(100)
    first = order_of(batch, 30, torch.Generator().manual_seed(5))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert order_of(batch, 30, torch.Generator().manual_seed(5)) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert order_of(batch, 30, torch.Generator().manual_seed(6)) != first


def test_the_batch_is_not_modified():
    batch, again = make_batch(60, 0.2), make_batch(60, 0.2)
    for part in minibatches(batch, 20, torch.Generator()):
        part.advantage.zero_()
        part.obs["id"].zero_()
    assert torch.equal(batch.advantage, again.advantage)
    assert torch.equal(batch.obs["id"], again.obs["id"])
