"""The residual network of IMPALA: published sizes, closed forms, and a slow loop."""

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.networks.encoders import Impala, Pixel
from firstlight.networks.spec import describe, rebuild


def box(*shape, dtype=np.uint8):
    return spaces.Box(0, 255, shape, dtype)


def made(*shape, dtype=np.uint8, seed=0, **options):
    torch.manual_seed(seed)
    return Impala(spaces.Dict({"obs": box(*shape, dtype=dtype)}), **options)


def frames(*shape, rows=2):
    return torch.randint(0, 256, (rows, *shape), dtype=torch.uint8)


def expected_parameters(depth, sides, channels=(16, 32, 32), out_dim=256):
    """Closed form: 9 weights a channel pair and a bias for each of five convolutions a stage."""
    total, inputs = 0, depth
    for number in channels:
        total += 9 * inputs * number + number + 4 * (9 * number**2 + number)
        inputs, sides = number, [-(-side // 2) for side in sides]
    return total + inputs * sides[0] * sides[1] * out_dim + out_dim


@pytest.mark.parametrize(
    ("shape", "depth", "sides", "options"),
    [
        ((3, 72, 96), 3, (72, 96), {}),  # the paper's frames
        ((4, 84, 84), 4, (84, 84), {}),
        ((64, 60, 3), 3, (64, 60), {}),
        ((4, 64, 60, 3), 12, (64, 60), {}),
        ((9, 11), 1, (9, 11), {}),
        ((4, 20, 21), 4, (20, 21), {"channels": (8, 24), "out_dim": 10}),
        ((3, 16, 16), 3, (16, 16), {"width": 4}),
    ],
)
def test_the_output_and_the_number_of_parameters(shape, depth, sides, options):
    encoder = made(*shape, **options)
    out = encoder({"obs": frames(*shape)})
    assert out.shape == (2, encoder.out_dim) == (2, options.get("out_dim", 256))
    channels = [options.get("width", 1) * c for c in options.get("channels", (16, 32, 32))]
    count = expected_parameters(depth, sides, channels, encoder.out_dim)
    assert sum(p.numel() for p in encoder.parameters()) == count


def test_the_papers_network_has_fifteen_convolutions_and_a_layer_of_256():
    encoder = made(3, 72, 96)
    convolutions = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [16] * 5 + [32] * 10
    assert {c.kernel_size for c in convolutions} == {(3, 3)}
    assert encoder.linear.weight.shape == (256, 32 * 9 * 12)


def slow(encoder, image):
    """One picture [depth, H, W] in float64, pixel by pixel, by the definition of each layer."""
    weights = {name: p.detach().double().numpy() for name, p in encoder.named_parameters()}

    def convolve(x, name):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        rows, columns = range(x.shape[1]), range(x.shape[2])
        parts = [
            [(weight * padded[None, :, r : r + 3, c : c + 3]).sum((1, 2, 3)) for c in columns]
            for r in rows
        ]
        return np.moveaxis(np.array(parts), 2, 0) + bias[:, None, None]

    def pool(x):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        rows, columns = range(0, x.shape[1], 2), range(0, x.shape[2], 2)
        parts = [[padded[:, r : r + 3, c : c + 3].max((1, 2)) for c in columns] for r in rows]
        return np.moveaxis(np.array(parts), 2, 0)

    x = image / 255
    for stage in range(len(encoder.stages)):
        x = pool(convolve(x, f"stages.{stage}.0"))
        for block in (2, 3):
            name = f"stages.{stage}.{block}"
            inner = convolve(np.maximum(x, 0), f"{name}.first")
            x = x + convolve(np.maximum(inner, 0), f"{name}.second")
    flat = np.maximum(x, 0).reshape(-1)
    return np.maximum(weights["linear.weight"] @ flat + weights["linear.bias"], 0)


def test_it_equals_a_slow_loop():
    encoder = made(3, 9, 12, channels=(4, 6), out_dim=16)
    with torch.no_grad():
        for parameter in encoder.parameters():  # biases too
            parameter += 0.1 * torch.randn_like(parameter)
    images = frames(3, 9, 12, rows=3)
    out = encoder({"obs": images}).detach().numpy()
    expected = np.stack([slow(encoder, image.double().numpy()) for image in images])
    assert expected.std() > 0
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_every_layout_of_a_picture_gives_the_same_features():
    stack = frames(2, 3, 12, 14)  # [B, S, C, H, W]
    last = stack.permute(0, 1, 3, 4, 2)
    joined = stack.flatten(1, 2)
    layouts = (stack, last, joined, joined.permute(0, 2, 3, 1))
    first, *others = (made(*images.shape[1:])({"obs": images}) for images in layouts)
    assert first.std(0).max() > 0
    assert all(torch.equal(other, first) for other in others)


def test_bytes_are_divided_by_255_and_floats_are_not():
    images = frames(3, 36, 40)
    whole = made(3, 36, 40)({"obs": images})
    scaled = made(3, 36, 40, dtype=np.float32)({"obs": images.float() / 255})
    torch.testing.assert_close(whole, scaled)
    told = made(3, 36, 40).describe_fields()
    assert told == {"obs": "residual convolutions over 3 x 36 x 40, divided by 255"}
    assert made(3, 36, 40, divisor=1.0).describe_fields()["obs"].endswith("unscaled")


@pytest.mark.parametrize("shape", [(4, 84, 84), (8, 8, 3)])
def test_gradients_reach_every_parameter(shape):
    encoder = made(*shape)
    encoder({"obs": frames(*shape, rows=4)}).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_features_begin_neither_vanishing_nor_exploding():
    """The deviation of the first features is within a factor of four of the input's."""
    encoder = made(4, 84, 84)
    images = frames(4, 84, 84, rows=4)
    deviation = encoder.stages((images.float() - 127.5) / 73.6).std().item()
    assert 0.25 < deviation < 4


def test_it_is_rebuilt_from_its_description():
    encoder = made(9, 12, 3, channels=(4, 6), width=2, out_dim=8, divisor=100.0)
    other = rebuild(json.loads(json.dumps(describe(encoder))))
    assert type(other) is Impala
    other.load_state_dict(encoder.state_dict())
    images = frames(9, 12, 3)
    assert torch.equal(other({"obs": images}), encoder({"obs": images}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": ()}, "channels is "),
        ({"channels": (16, 0)}, "channels is "),
        ({"width": 0}, "width 0"),
    ],
)
def test_sizes_that_make_no_network_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made(3, 36, 36, **options)


@pytest.mark.parametrize("kind", [Impala, Pixel])
def test_a_field_that_is_no_picture_is_refused(kind):
    space = spaces.Dict({"obs": spaces.Box(0, 1, (4,)), "mode": spaces.Discrete(2)})
    for key in space.spaces:
        with pytest.raises(ValueError, match=f"observation '{key}' is .*, expected a Box of 2"):
            kind(space, key=key)
