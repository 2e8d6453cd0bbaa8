"""Encoders of vectors and grids against independent computations."""

from itertools import product

import numpy as np
import pytest
import torch
from gymnasium import spaces
from minigrid.core import world_object
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX
from python_kernels import use_python_kernels
from torch import nn

from firstlight.agents.policy import ActorCritic
from firstlight.networks.encoders import (
    MLP,
    Flat,
    Grid,
    Pixel,
    TwinEncoder,
    TwinMLP,
    auto_normalized,
    grid_kernels,
)
from firstlight.networks.encoders.grid import cell_ids

H, W = 3, 4


def grid_space(**more):
    return spaces.Dict({"image": spaces.Box(0, 255, (H, W, 3), np.uint8), **more})


def valid_codes():
    """Return every (object, colour, state) that MiniGrid encodes, computed by MiniGrid."""
    objects = [
        world_object.Wall(),
        world_object.Goal(),
        world_object.Lava(),
        *(
            kind(colour)
            for kind in (
                world_object.Floor,
                world_object.Key,
                world_object.Ball,
                world_object.Box,
            )
            for colour in COLOR_TO_IDX
        ),
        *(
            world_object.Door(colour, is_open=state == "open", is_locked=state == "locked")
            for colour in COLOR_TO_IDX
            for state in STATE_TO_IDX
        ),
    ]
    agents = [(OBJECT_TO_IDX["agent"], COLOR_TO_IDX["red"], way) for way in range(4)]
    return [(OBJECT_TO_IDX["empty"], 0, 0), *agents, *(thing.encode() for thing in objects)]


def random_images(batch, seed=0, unseen=0.3):
    """Draw grids [B, H, W, 3] uint8 of valid codes, some cells out of view."""
    rng = np.random.default_rng(seed)
    codes = np.array(valid_codes(), np.uint8)
    images = codes[rng.integers(len(codes), size=(batch, H, W))]
    images[rng.random((batch, H, W)) < unseen] = (0, 0, 0)
    return torch.from_numpy(images)


def numbers_of(code):
    """Return the ids of a cell with this (object, colour, state)."""
    return {number for number in np.ravel(cell_ids()[0][tuple(code)]).tolist() if number >= 0}


def test_minigrid_codes_have_distinct_ids():
    _, count = cell_ids()
    codes = valid_codes()
    assert len(codes) == len(set(codes)) == 4 + 4 * 6 + 6 * 3 + 4
    sets = [frozenset(numbers_of(code)) for code in codes]
    assert len(set(sets)) == len(codes)
    assert set().union(*sets) == set(range(1, count))  # every id is used; 0 is for other codes


def test_cells_out_of_view_have_no_id_and_unknown_codes_share_one():
    ids, _ = cell_ids()
    assert (ids[0] == -1).all()
    used = {code[0] for code in valid_codes()} | {OBJECT_TO_IDX["unseen"]}
    for code, colour, state in product(set(range(16)) - used, range(8), range(4)):
        assert numbers_of((code, colour, state)) == {0}


def test_the_two_ids_of_a_cell_never_coincide():
    """Kind ids and content ids are disjoint, so both can index one table."""
    ids, _ = cell_ids()
    columns = ids.reshape(16 * 8 * 4, -1).T
    numbers = [number for column in columns for number in set(column.tolist()) - {-1}]
    assert len(numbers) == len(set(numbers))


def test_every_cell_in_real_levels_has_an_id():
    """In observations of real levels no cell has the id of unused codes."""
    from firstlight.envs import minigrid

    found = set()
    for task in ("MiniGrid-ObstructedMaze-2Dlhb-v0", "MiniGrid-LavaCrossingS9N1-v0"):
        vec = minigrid.make(task, num_envs=16, num_threads=1)
        obs, _ = vec.reset(0)
        g = torch.Generator().manual_seed(0)
        for _ in range(40):
            obs = vec.step(torch.randint(0, 6, (16,), generator=g)).obs
            found |= {tuple(cell) for cell in obs["image"].flatten(0, 2).tolist()}
    assert len(found) > 15
    assert found - {(0, 0, 0)} <= set(valid_codes())
    assert all(0 not in numbers_of(code) for code in found)


def one_hot_sum(grid, images):
    """Compute relu(bias + sum over cells of onehot(cell, ids) @ table), as one matrix product."""
    _, count = cell_ids()
    hot = torch.zeros(len(images), H * W * count)
    for b, cell in product(range(len(images)), range(H * W)):
        for number in numbers_of(images[b].reshape(H * W, 3)[cell].tolist()):
            hot[b, cell * count + number] = 1
    return torch.relu(hot @ grid.table + grid.bias)


@pytest.mark.parametrize("batch", [1, 5, 300])  # the last one is split over threads
@pytest.mark.parametrize("path", ["_sum_cpu", "_sum"])
def test_both_paths_equal_a_product_with_one_hot_codes(batch, path):
    torch.manual_seed(batch)
    grid = Grid(grid_space(), hidden=8)
    nn.init.normal_(grid.bias)
    images = random_images(batch, seed=batch)
    weight = torch.randn(batch, 8)
    expected = one_hot_sum(grid, images)
    wanted = torch.autograd.grad((expected * weight).sum(), [grid.table, grid.bias])
    got = getattr(grid, path)({"image": images})
    grads = torch.autograd.grad((got * weight).sum(), [grid.table, grid.bias])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    for grad, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, other, atol=1e-5, rtol=1e-5)


def test_numba_and_torch_agree_through_the_whole_encoder():
    torch.manual_seed(0)
    space = grid_space(direction=spaces.Discrete(4))
    grid = Grid(space, hidden=16)
    obs = {"image": random_images(400), "direction": torch.randint(0, 4, (400,))}
    outs, grads = [], []
    for path in ("_sum_cpu", "_sum"):
        grid._sum_cpu = getattr(Grid, path).__get__(grid)
        grid.zero_grad()
        outs.append(grid(obs))
        outs[-1].square().mean().backward()
        grads.append({name: p.grad.clone() for name, p in grid.named_parameters()})
    torch.testing.assert_close(outs[0], outs[1], atol=1e-5, rtol=1e-5)
    assert outs[0].shape == (400, 16)
    assert all(grad.abs().sum() > 0 for grad in grads[0].values())
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("path", ["_sum_cpu", "_sum"])
def test_unseen_cells_contribute_nothing(path):
    torch.manual_seed(0)
    grid = Grid(grid_space(), hidden=8)
    nn.init.constant_(grid.bias, 9.0)  # so that no sum is negative
    dark = torch.zeros(2, H, W, 3, dtype=torch.uint8)
    total = getattr(grid, path)({"image": dark})
    assert torch.equal(total, grid.bias.expand(2, 8))
    total.sum().backward()
    assert grid.table.grad.abs().sum() == 0
    codes = torch.tensor(valid_codes(), dtype=torch.uint8)[: H * W]
    lit = dark.clone()
    lit.flatten(1, 2)[0, 5] = codes[5]
    with torch.no_grad():
        rows = getattr(grid, path)({"image": lit}) - grid.bias
    wanted = sum(grid.table[5 * grid.num_ids + number] for number in numbers_of(codes[5].tolist()))
    torch.testing.assert_close(rows[0], wanted.detach())
    assert rows[1].abs().sum() == 0


def test_features_depend_on_position_colour_and_state():
    """Moving an object, or changing its colour or state, changes the features."""
    torch.manual_seed(0)
    grid = Grid(grid_space(), hidden=32)
    codes = valid_codes()
    images = torch.zeros(len(codes) * H * W, H, W, 3, dtype=torch.uint8)
    for i, (code, cell) in enumerate(product(codes, range(H * W))):
        images[i].flatten(0, 1)[cell] = torch.tensor(code, dtype=torch.uint8)
    out = grid._sum_cpu({"image": images})
    apart = torch.cdist(out, out) + 1e9 * torch.eye(len(out))
    assert apart.min() > 1e-3


def test_other_fields_change_the_features_and_masks_do_not():
    torch.manual_seed(0)
    space = grid_space(direction=spaces.Discrete(4), action_mask=spaces.MultiBinary(3))
    grid = Grid(space, hidden=8)
    image = random_images(1).expand(4, -1, -1, -1)
    mask = torch.ones(4, 3, dtype=torch.int8)
    out = grid({"image": image, "direction": torch.arange(4), "action_mask": mask})
    assert len(out.unique(dim=0)) == 4
    assert torch.equal(
        out, grid({"image": image, "direction": torch.arange(4), "action_mask": 0 * mask})
    )
    alone = Grid(grid_space(), hidden=8)
    assert alone({"image": image}).unique(dim=0).shape == (1, 8)


@pytest.mark.usefixtures("restored_threads")
def test_the_number_of_threads_changes_no_bit():
    torch.manual_seed(0)
    grid = Grid(grid_space(), hidden=24)
    images = {"image": random_images(1000)}
    weight = torch.randn(1000, 24)
    outs, grads = [], []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        total = grid._sum_cpu(images)
        outs.append(total.detach().clone())
        grads.append(torch.autograd.grad((total * weight).sum(), grid.table)[0])
    for other in outs[1:]:
        assert torch.equal(outs[0], other)
    for other in grads[1:]:
        assert torch.equal(grads[0], other)


@pytest.fixture(params=["compiled", "python"])
def kernels(request, monkeypatch):
    """Test a kernel both as compiled and as the Python function that it is compiled from."""
    if request.param == "python":
        use_python_kernels(monkeypatch, grid_kernels)


def kernel_inputs(batch, seed=0, same_base=True):
    """Make up to 6 of 30 table rows each, in increasing order; the rest must not be read."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 7, batch).astype(np.int32)
    rows = np.full((batch, 6), 10**6, np.int32)
    for b, count in enumerate(counts):
        rows[b, :count] = np.sort(rng.choice(30, count, replace=False))
    table, base, id_table = (
        rng.normal(size=(n, 4)).astype(np.float32) for n in (30, 1 if same_base else batch, 5)
    )
    return rows, counts, table, base, rng.integers(0, 5, (batch, 2)), id_table


def plain_sums(rows, counts, table, base, ids, id_table):
    """Rectified sums by plain loops, in float64."""
    sums = np.zeros((len(rows), 4)) + base
    for b in range(len(rows)):
        for k in rows[b, : counts[b]]:
            sums[b] += table[k]
        for k in ids[b]:
            sums[b] += id_table[k]
    return np.maximum(sums, 0)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("same_base", [True, False])
@pytest.mark.parametrize("batch", [0, 1, 40, 300])
def test_sums_and_their_gradients_equal_plain_loops(batch, same_base):
    """Of 300 rows, the work is split over threads."""
    inputs = kernel_inputs(batch, seed=batch, same_base=same_base)
    rows, counts, _, base, ids, _ = inputs
    tensors = [torch.from_numpy(x) for x in inputs]
    for learnt in (2, 3, 5):
        tensors[learnt].requires_grad_()
    out = grid_kernels.SumRows.apply(*tensors)
    sums = plain_sums(*inputs)
    np.testing.assert_allclose(out.detach(), sums, atol=1e-5)
    grad = np.random.default_rng(9).normal(size=(batch, 4)).astype(np.float32)
    out.backward(torch.from_numpy(grad))
    through = grad * (sums > 0)
    wanted = np.zeros((30, 4)), np.zeros((5, 4))
    for b in range(batch):
        for k in rows[b, : counts[b]]:
            wanted[0][k] += through[b]
        for k in ids[b]:
            wanted[1][k] += through[b]
    base_grad = through.sum(0, keepdims=True) if len(base) == 1 else through
    for learnt, expected in ((2, wanted[0]), (5, wanted[1]), (3, base_grad)):
        np.testing.assert_allclose(tensors[learnt].grad, expected, atol=1e-4)


@pytest.mark.usefixtures("kernels")
def test_kernels_write_only_their_range():
    inputs = kernel_inputs(10)
    out, table_grad = np.full((10, 4), 7, np.float32), np.zeros((30, 4), np.float32)
    grid_kernels.gather(*inputs, out, 3, 6)
    assert (out[:3] == 7).all()
    assert (out[6:] == 7).all()
    assert not (out[3:6] == 7).all(1).any()
    grid_kernels.scatter(*inputs[:2], np.ones((10, 4), np.float32), table_grad, 10, 15)
    assert table_grad[10:15].any()
    table_grad[10:15] = 0
    assert not table_grad.any()


@pytest.mark.parametrize(
    "others",
    [{}, {"direction": spaces.Discrete(4, start=2), "held": spaces.Discrete(3)},
     {"direction": spaces.Discrete(4), "speed": spaces.Box(-1, 1, (2,))}],
    ids=["alone", "discrete", "mixed"],
)  # fmt: skip
def test_prepared_grids_grids_without_gradients_and_fused_heads_agree(others):
    torch.manual_seed(0)
    grid = Grid(grid_space(**others), hidden=8)
    obs = {"image": random_images(12).unflatten(0, (3, 4))}
    for name, space in others.items():
        space.seed(1)
        values = np.stack([space.sample() for _ in range(12)])
        obs[name] = torch.from_numpy(values).unflatten(0, (3, 4))
    prepared = grid.prepare(obs)
    assert all(field.shape[:2] == (3, 4) for field in prepared.values())
    whole, known = ({k: v.flatten(0, 1) for k, v in o.items()} for o in (obs, prepared))
    expected = grid(whole)
    torch.testing.assert_close(grid(known), expected)
    with torch.no_grad():
        torch.testing.assert_close(grid(whole), expected)
    torch.testing.assert_close(torch.relu(grid.linear(grid._sum(whole))), expected)
    weight, bias = torch.randn(5, 8), torch.randn(5)
    torch.testing.assert_close(
        grid.fuse_heads(weight, bias)(whole), expected.detach() @ weight.T + bias
    )


@pytest.mark.usefixtures("kernels")
def test_lookup_equals_a_plain_loop():
    table, count = cell_ids()
    images = random_images(20).flatten(1, 2).numpy()
    images[0, 0] = (255, 255, 255)  # wraps around instead of reading outside the table
    images[1] = 0
    rows, counts = grid_kernels.lookup_rows(images, table, count)
    for b in range(20):
        expected = []
        for c, f in product(range(H * W), range(table.shape[3])):
            obj, colour, state = (int(x) for x in images[b, c])
            number = table[obj % 16, colour % 8, state % 4, f]
            if number >= 0:
                expected.append(c * count + number)
        assert rows[b, : counts[b]].tolist() == expected
    assert counts[1] == 0
    assert (table[0] == -1).all()  # so a cell out of view may be skipped


def test_a_grid_without_three_channels_raises():
    with pytest.raises(ValueError, match="'image' has 4 channels"):
        Grid(spaces.Dict({"image": spaces.Box(0, 255, (5, 5, 4), np.uint8)}))


MIXED = spaces.Dict(
    {
        "box": spaces.Box(-1, 1, (2, 2)),
        "bytes": spaces.Box(0, 255, (2,), np.uint8),
        "choice": spaces.Discrete(3, start=5),
        "choices": spaces.MultiDiscrete([2, 3], start=[0, 1]),
        "bits": spaces.MultiBinary(3),
        "scalar": spaces.Box(-1, 1, ()),
        "action_mask": spaces.MultiBinary(4),
    }
)


def mixed(batch=2):
    obs = {
        "box": torch.tensor([[0.5, -1], [0, 0.25]]),
        "bytes": torch.tensor([7, 255], dtype=torch.uint8),
        "choice": torch.tensor(6),
        "choices": torch.tensor([1, 3]),
        "bits": torch.tensor([1, 0, 1], dtype=torch.int8),
        "scalar": torch.tensor(0.75),
        "action_mask": torch.ones(4, dtype=torch.int8),
    }
    return {name: field.expand(batch, *field.shape) for name, field in obs.items()}


def test_flat_concatenates_fields_in_the_order_of_the_space():
    flat = Flat(MIXED)
    parts = {
        "box": [0.5, -1, 0, 0.25],
        "bytes": [7, 255],
        "choice": [0, 1, 0],  # counted from its start
        "choices": [0, 1, 0, 0, 1],
        "bits": [1, 0, 1],
        "scalar": [0.75],
    }
    row = [number for name in MIXED if name != "action_mask" for number in parts[name]]
    out = flat(mixed())
    assert out.dtype == torch.float32
    assert out.tolist() == [row, row]
    assert flat.out_dim == len(row) == 18


@pytest.mark.parametrize("n", range(3))
def test_every_discrete_value_has_a_column(n):
    flat = Flat(spaces.Dict({"obs": spaces.Discrete(3, start=-1)}))
    assert flat({"obs": torch.tensor([n - 1])}).tolist() == [[float(i == n) for i in range(3)]]


def test_a_field_that_cannot_be_flattened_raises_with_its_name():
    with pytest.raises(ValueError, match="'words' is a Text"):
        Flat(spaces.Dict({"words": spaces.Text(4)}))


def test_mlp_applies_layers_to_the_flat_observation():
    torch.manual_seed(0)
    mlp = MLP(MIXED, hidden=(6, 5), activation=nn.ReLU)
    out = mlp(mixed(3))
    assert out.shape == (3, mlp.out_dim) == (3, 5)
    x = mlp.flat(mixed(3))
    linears = [layer for layer in mlp.layers if isinstance(layer, nn.Linear)]
    for layer in linears:
        x = torch.relu(x @ layer.weight.T + layer.bias)
        product_ = layer.weight @ layer.weight.T  # rows orthogonal, of gain sqrt(2)
        torch.testing.assert_close(product_, 2 * torch.eye(len(product_)), atol=1e-5, rtol=0)
        assert not layer.bias.any()
    torch.testing.assert_close(out, x)
    assert MLP(MIXED, hidden=()).out_dim == 18


@pytest.mark.parametrize("hidden", [(6,), (6, 5), (6, 5, 7)])
def test_a_twin_mlp_equals_two_mlps(hidden):
    """With the parameters of two MLPs it computes their features and gradients."""
    torch.manual_seed(0)
    twin, both = TwinMLP(MIXED, hidden=hidden), [MLP(MIXED, hidden=hidden) for _ in range(2)]
    for i, mlp in enumerate(both):
        linear = [layer for layer in mlp.layers if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            for layer in linear:
                layer.bias.normal_()
            for weight, bias, layer in zip(twin.weights, twin.biases, linear, strict=True):
                weight[i], bias[i, 0] = layer.weight.T, layer.bias
    out = twin(mixed(3))
    assert out.shape == (2, 3, twin.out_dim)
    for i, mlp in enumerate(both):
        torch.testing.assert_close(out[i], mlp(mixed(3)))
    (out[1].square().sum() + out[0].sum()).backward()
    (both[1](mixed(3)).square().sum() + both[0](mixed(3)).sum()).backward()
    for i, mlp in enumerate(both):
        torch.testing.assert_close(twin.weights[0].grad[i].T, mlp.layers[0].weight.grad)
    with pytest.raises(ValueError, match="at least one layer"):
        TwinMLP(MIXED, hidden=())


def test_a_twin_mlp_is_initialised_as_two_mlps():
    """Both are orthogonal with gain sqrt(2) and bias 0, and differ."""
    twin = TwinMLP(MIXED, hidden=(6, 5))
    for weight in (*twin.weights[0].mT, *twin.weights[1].mT):
        torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(len(weight)), atol=1e-5, rtol=0)
    assert not any(bias.any() for bias in twin.biases)
    assert not torch.equal(*twin.weights[0])


def test_policy_and_values_share_no_gradient_in_a_twin_mlp():
    encoder = TwinMLP(MIXED, normalize_obs=False)
    policy = ActorCritic(MIXED, spaces.Discrete(4), encoder=encoder, normalize_value="none")
    obs = {name: field[None] for name, field in mixed(3).items()}
    out = policy(obs, {}, torch.zeros(1, 3, dtype=torch.bool))
    out.value.sum().backward()
    ours, theirs = policy.encoder.weights[0].grad
    assert not ours.any()
    assert theirs.any()
    with pytest.raises(ValueError, match="TwinMLP has features for the values"):
        ActorCritic(MIXED, spaces.Discrete(4), encoder=TwinMLP(MIXED), critic_encoder=MLP(MIXED))


@pytest.mark.parametrize("encoder", [Flat(MIXED, scale_bytes=True), MLP(MIXED).flat])
def test_bytes_are_scaled_and_other_fields_are_not(encoder):
    raw, scaled = Flat(MIXED)(mixed()), encoder(mixed())
    places = torch.tensor([number in (7, 255) for number in raw[0].tolist()])
    assert places.sum() == 2
    torch.testing.assert_close(scaled[:, places], raw[:, places] / 255)
    assert torch.equal(scaled[:, ~places], raw[:, ~places])


def test_codes_of_minigrid_are_not_scaled():
    space = grid_space(direction=spaces.Discrete(4))
    images = random_images(2)
    obs = {"image": images, "direction": torch.zeros(2, dtype=torch.int64)}
    assert MLP(space).flat(obs).max() == images.max()


def test_each_row_is_encoded_independently():
    """Shuffling a batch shuffles the features: no encoder mixes observations."""
    torch.manual_seed(0)
    order = torch.randperm(300)
    cases = [
        (Grid(grid_space()), {"image": random_images(300)}),
        (MLP(spaces.Dict({"obs": spaces.Box(-1, 1, (5,))})), {"obs": torch.randn(300, 5)}),
        (
            Pixel(spaces.Dict({"obs": spaces.Box(0, 255, (1, 36, 36), np.uint8)}), out_dim=8),
            {"obs": torch.randint(0, 256, (300, 1, 36, 36), dtype=torch.uint8)},
        ),
    ]
    for encoder, obs in cases:
        shuffled = encoder({name: field[order] for name, field in obs.items()})
        torch.testing.assert_close(shuffled, encoder(obs)[order], atol=1e-5, rtol=1e-5)


def test_with_continuous_actions_the_commands_encoder_of_vectors_has_features_for_each():
    vector = spaces.Dict(obs=spaces.Box(-1, 1, (3,), np.float32))
    torque = spaces.Box(-1, 1, (2,), np.float32)
    made = auto_normalized(vector, torque)
    assert type(made) is TwinMLP
    assert made.flat.normaliser is not None
    image = spaces.Dict(obs=spaces.Box(0, 255, (64, 64, 3), np.uint8))
    for other in (
        auto_normalized(vector),
        auto_normalized(vector, spaces.Discrete(2)),
        auto_normalized(vector, torque, twin=False),
        auto_normalized(image, torque),
    ):
        assert not isinstance(other, TwinEncoder)
