"""State of reward modules: isolated random numbers, `Fitter`, and growing buffers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from firstlight.intrinsic.state import (
    Fitter,
    GrowingBuffers,
    grow_rows,
    isolated_rng,
    read_rows,
    write_rows,
)


class Regression(nn.Module):
    """A linear regression with its `Fitter`."""

    def __init__(self, **kwargs):
        super().__init__()
        with isolated_rng(0):
            self.net = nn.Linear(3, 1)
        self.fitter = Fitter(self.net.parameters(), lr=0.01, **kwargs)

    def learn(self, x, y):
        return self.fitter.fit(len(x), lambda rows: F.mse_loss(self.net(x[rows]), y[rows]))


@pytest.fixture
def data():
    numbers = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=numbers)
    return x, x @ torch.tensor([[1.0], [-2.0], [3.0]])


def test_isolated_rng_restores_the_global_generator():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with isolated_rng(0):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with isolated_rng(0):
        assert torch.equal(torch.rand(3), inside)
    with isolated_rng(1):
        assert not torch.equal(torch.rand(3), inside)
    torch.manual_seed(7)
    with pytest.raises(RuntimeError, match="x"), isolated_rng(0):
        raise RuntimeError("x")
    assert torch.equal(torch.rand(3), expected)


def test_one_minibatch_is_full_batch_adam(data):
    x, y = data
    ours, net = Regression(num_epochs=5), copy.deepcopy(Regression().net)
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        loss = F.mse_loss(net(x), y)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert ours.learn(x, y) == pytest.approx(sum(losses) / 5, rel=1e-5)
    torch.testing.assert_close(ours.net.weight, net.weight)


def test_every_epoch_uses_every_row_once_in_a_new_order():
    seen = []
    fitter = Fitter([nn.Parameter(torch.zeros(1))], num_epochs=3, num_minibatches=4)

    def loss(rows):
        seen.append(rows)
        return fitter.optimizer.param_groups[0]["params"][0].sum()

    fitter.fit(10, loss)
    assert [len(rows) for rows in seen] == [3, 3, 3, 1] * 3
    epochs = torch.cat(seen).view(3, 10)
    assert torch.equal(epochs.sort(1).values, torch.arange(10).expand(3, 10))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


@pytest.mark.parametrize("proportion", [0.0, 0.25, 1.0])
def test_proportion_is_the_probability_that_a_row_is_used(proportion):
    seen = []
    fitter = Fitter([nn.Parameter(torch.zeros(1))], num_epochs=4, proportion=proportion)

    def loss(rows):
        seen.append(len(rows))
        return fitter.optimizer.param_groups[0]["params"][0].sum()

    fitter.fit(5000, loss)
    assert sum(seen) / 20_000 == pytest.approx(proportion, abs=0.02)


def test_without_rows_no_step_is_taken(data):
    x, y = data
    model = Regression()
    before = model.net.weight.clone()
    assert model.learn(x[:0], y[:0]) == 0
    assert torch.equal(model.net.weight, before)


@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_restored_fitter_takes_the_same_next_step(data, steps_before):
    settings = {"num_epochs": 2, "num_minibatches": 3, "proportion": 0.7}
    kept, loaded = Regression(**settings, seed=1), Regression(**settings, seed=2)
    loaded.learn(*data)
    for _ in range(steps_before):
        kept.learn(*data)
    loaded.load_state_dict(copy.deepcopy(kept.state_dict()))
    for _ in range(2):
        assert kept.learn(*data) == loaded.learn(*data)
        assert torch.equal(kept.net.weight, loaded.net.weight)


def test_loading_copies_the_state(data):
    kept, loaded = Regression(), Regression()
    kept.learn(*data)
    loaded.load_state_dict(kept.state_dict())
    expected = copy.deepcopy(kept)
    loaded.learn(*data)
    assert kept.learn(*data) == expected.learn(*data)
    assert torch.equal(kept.net.weight, expected.net.weight)


def test_adam_moments_move_with_the_parameters(data):
    x, y = data
    model = Regression()
    model.learn(x, y)
    model.double()
    model.learn(x.double(), y.double())
    (moments, *_) = model.fitter.optimizer.state.values()
    assert moments["exp_avg"].dtype == torch.float64
    assert model.state_dict()["fitter._extra_state"]["adam"]["0"]["exp_avg"].dtype == torch.float64


def test_fitting_does_not_use_the_global_generator(data):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with torch.no_grad():
        Regression(num_minibatches=2, proportion=0.5).learn(*data)
    assert torch.equal(torch.get_rng_state(), before)


class Memory(GrowingBuffers):
    def __init__(self, size, on_host):
        super().__init__()
        self.on_host = on_host
        self.register_buffer("cells", torch.arange(size))


def test_growing_buffers_load_any_size():
    small, large = nn.Sequential(Memory(2, False)), nn.Sequential(Memory(5, False))
    small.load_state_dict(large.state_dict())
    assert torch.equal(small[0].cells, torch.arange(5))
    small[0].cells[0] = 9
    assert large[0].cells[0] == 0


def test_on_host_buffers_stay_on_the_cpu():
    both = nn.Sequential(Memory(2, True), Memory(2, False)).to("meta")
    assert [memory.cells.device.type for memory in both] == ["cpu", "meta"]


def test_rows_of_unknown_environments_are_zero_and_are_kept_once_written():
    memory = torch.arange(4.0).view(2, 2)
    assert grow_rows(memory, torch.tensor([1, 0])) is memory
    assert read_rows(memory, torch.tensor([3, 1])).tolist() == [[0, 0], [2, 3]]
    for ids in ([1], [3, 0]):
        written = write_rows(memory, torch.tensor(ids), torch.full((len(ids), 2), 9.0))
        expected = [
            [9.0, 9.0] if i in ids else memory.tolist()[i] if i < 2 else [0.0, 0.0]
            for i in range(max(2, max(ids) + 1))
        ]
        assert written.tolist() == expected
    assert memory.tolist() == [[0, 1], [2, 3]]  # copied
