"""GRU and LSTM cores: equal to loops over torch's cells, and cleared before first observations."""

import json

import pytest
import torch
from torch import nn

from firstlight.networks import GRU, LSTM, Feedforward
from firstlight.networks.recurrences import gru, lstm
from firstlight.networks.spec import describe, rebuild

T, N, IN, H = 9, 5, 3, 4
CORES = [GRU, LSTM]
OPTIONS = [{}, {"num_layers": 2}, {"layer_norm": True, "skip": True}]
CELLS = {GRU: nn.GRUCell, LSTM: nn.LSTMCell}


def make(kind, **options):
    torch.manual_seed(0)
    core = kind(IN, hidden=H, **options)
    for parameter in core.parameters():  # biases too, and gates that saturate
        nn.init.normal_(parameter)
    return core


def inputs(seed=0):
    """Features, a state that is not zero, and episodes that begin anywhere."""
    numbers = torch.Generator().manual_seed(seed)
    is_first = torch.rand(T, N, generator=numbers) < 0.25
    is_first[0, 0], is_first[:, 1] = True, False
    return torch.randn(T, N, IN, generator=numbers), is_first


def some_state(core):
    numbers = torch.Generator().manual_seed(9)
    empty = core.initial_state(N)
    return {name: torch.randn(field.shape, generator=numbers) for name, field in empty.items()}


def looped(core, features, state, is_first):
    """The core by torch's cells, one step and one environment at a time."""
    cells = []
    for outer, memory in zip(core.inputs, core.memories, strict=True):
        cell = CELLS[type(core)](outer.in_features, H)
        cell.weight_ih, cell.bias_ih = outer.weight, outer.bias
        cell.weight_hh, cell.bias_hh = memory.weight, memory.bias
        cells.append(cell)
    outputs, last = torch.zeros(T, N, core.out_dim), {name: [] for name in state}
    columns = []
    for n in range(N):
        memory = [[field[n, layer] for field in state.values()] for layer in range(len(cells))]
        rows = []
        for t in range(T):
            if is_first[t, n]:
                memory = [[torch.zeros(H) for _ in part] for part in memory]
            x = features[t, n]
            for layer, cell in enumerate(cells):
                old = [field[None] for field in memory[layer]]
                new = cell(x[None], old[0] if isinstance(core, GRU) else tuple(old))
                memory[layer] = [f[0] for f in (new if isinstance(new, tuple) else (new,))]
                x = memory[layer][0]
            x = core.norm(x)
            rows.append(torch.cat([x, features[t, n]]) if core.skip else x)
        columns.append(torch.stack(rows))
        for name, fields in zip(last, zip(*memory, strict=True), strict=True):
            last[name].append(torch.stack(fields))
    outputs = torch.stack(columns, 1)
    return outputs, {name: torch.stack(fields) for name, fields in last.items()}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", CORES)
def test_outputs_states_and_gradients_equal_a_loop_over_torchs_cells(kind, options):
    results = []
    for run in (lambda core, *args: core(*args), looped):
        core = make(kind, **options)
        features, is_first = inputs()
        features.requires_grad_()
        state = {name: field.requires_grad_() for name, field in some_state(core).items()}
        output, after = run(core, features, state, is_first)
        numbers = torch.Generator().manual_seed(2)
        loss = (output * torch.randn(output.shape, generator=numbers)).sum()
        for field in after.values():
            loss = loss + (field * torch.randn(field.shape, generator=numbers)).sum()
        sources = [features, *state.values(), *core.parameters()]
        results.append((output, *after.values(), *torch.autograd.grad(loss, sources)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gates", [3, 4])
def test_written_gradients_pass_finite_differences(gates):
    numbers = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=numbers, dtype=torch.float64, requires_grad=True)

    states = [draw(3, 2) for _ in range(gates - 2)]
    weight, bias = draw(gates * 2, 2), draw(gates * 2)
    is_first = torch.rand(4, 3, generator=numbers) < 0.3
    function = gru if gates == 3 else lstm
    tensors = (draw(4, 3, gates * 2), *states)
    assert torch.autograd.gradcheck(function, (*tensors, is_first, weight, bias))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", CORES)
def test_step_by_step_equals_one_pass(kind, options):
    core = make(kind, **options)
    features, is_first = inputs()
    state = some_state(core)
    whole, last = core(features, state, is_first)
    for t in range(T):
        output, state = core(features[t : t + 1], state, is_first[t : t + 1])
        torch.testing.assert_close(output[0], whole[t])
    for name, field in state.items():
        torch.testing.assert_close(field, last[name])


@pytest.mark.parametrize("kind", CORES)
def test_the_memory_is_cleared_before_the_first_observation_of_an_episode_not_after(kind):
    """The bug of peers: what is cleared after a first observation has forgotten that."""
    core = make(kind)
    features, _ = inputs()
    is_first = torch.zeros(T, N, dtype=torch.bool)
    is_first[4, 2] = True
    output, _ = core(features, some_state(core), is_first)
    fresh, _ = core(features[4:], core.initial_state(N), is_first[4:])
    torch.testing.assert_close(output[4:, 2], fresh[:, 2])

    def gradient(t):  # of a later output, by the features of each step
        leaf = features.clone().requires_grad_()
        later, _ = core(leaf, some_state(core), is_first)
        return torch.autograd.grad(later[t, 2].sum(), leaf)[0][:, 2].abs().sum(-1)

    by_step = gradient(5)
    assert (by_step[:4] == 0).all()  # nothing from the episode before
    assert (by_step[4:6] > 0).all()  # the first observation is remembered


@pytest.mark.parametrize("kind", CORES)
def test_permuting_environments_permutes_results(kind):
    core = make(kind, num_layers=2)
    features, is_first = inputs()
    state, order = some_state(core), torch.tensor([3, 0, 4, 1, 2])
    output, after = core(features, state, is_first)
    moved = {name: field[order] for name, field in state.items()}
    output_moved, after_moved = core(features[:, order], moved, is_first[:, order])
    torch.testing.assert_close(output_moved, output[:, order])
    for name, field in after.items():
        torch.testing.assert_close(after_moved[name], field[order])


@pytest.mark.parametrize("kind", CORES)
def test_weights_are_orthogonal_for_each_gate_and_a_new_lstm_remembers(kind):
    torch.manual_seed(0)
    core = kind(IN, hidden=H)
    for part in core.memories[0].weight.chunk(len(core.memories[0].weight) // H):
        torch.testing.assert_close(part @ part.t(), torch.eye(H))
    for part in core.inputs[0].weight.chunk(len(core.inputs[0].weight) // H):
        torch.testing.assert_close(part.t() @ part, torch.eye(IN))
    assert (core.inputs[0].bias == 0).all()
    assert core.memories[0].bias.sum() == (H if kind is LSTM else 0)


@pytest.mark.parametrize("kind", CORES)
def test_a_description_makes_an_equal_core(kind):
    core = make(kind, num_layers=2, skip=True)
    again = rebuild(json.loads(json.dumps(describe(core))))
    again.load_state_dict(core.state_dict())
    features, is_first = inputs()
    assert torch.equal(
        core(features, some_state(core), is_first)[0],
        again(features, some_state(core), is_first)[0],
    )


def test_widths_are_stated_and_bad_ones_are_refused():
    assert GRU(IN, hidden=7).out_dim == 7
    assert LSTM(IN, hidden=7, skip=True).out_dim == 7 + IN
    assert Feedforward(IN).out_dim == IN
    with pytest.raises(ValueError, match="hidden is 0, expected at least 1"):
        GRU(IN, hidden=0)
    with pytest.raises(ValueError, match="num_layers is 0, expected at least 1"):
        LSTM(IN, num_layers=0)
