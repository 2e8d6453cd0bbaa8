"""The encoder that is chosen for a space, and encoders of pictures and of several fields."""

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from firstlight.networks.encoders import MLP, Grid, MultiInput, Pixel, auto
from firstlight.networks.spec import describe, rebuild


def image(*shape, dtype=np.uint8):
    return spaces.Box(0, 255, shape, dtype)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"image": image(7, 7, 3), "direction": spaces.Discrete(4)}, Grid),
        ({"direction": spaces.Discrete(4), "other": image(25, 25, 3)}, Grid),
        ({"obs": image(4, 84, 84)}, Pixel),
        ({"obs": image(3, 36, 40)}, Pixel),
        ({"obs": image(7, 7, 3, dtype=np.float32)}, MLP),
        ({"obs": image(4, 20, 20)}, Pixel),
        ({"obs": image(84, 84, 3)}, Pixel),
        ({"obs": image(84, 84, 3), "action_mask": spaces.MultiBinary(2)}, Pixel),
        ({"obs": image(16, 16, 3)}, Pixel),
        ({"obs": image(24, 40)}, Pixel),
        ({"obs": image(4, 40, 36, 3)}, Pixel),
        ({"obs": image(36, 40, 3, dtype=np.float32)}, Pixel),
        ({"obs": image(2, 9)}, MLP),
        ({"obs": image(9, 9, 9)}, MLP),
        ({"obs": image(84, 84, dtype=np.float32)}, MLP),
        ({"camera": image(36, 36, 3), "goal": spaces.Box(-1, 1, (2,))}, MultiInput),
        ({"left": image(36, 36, 3), "right": image(3, 20, 20)}, MultiInput),
        ({"image": image(7, 7, 3), "ram": image(16)}, MultiInput),
        (
            {"image": image(9, 9, 3), "direction": spaces.Discrete(4), "cam": image(8, 8)},
            MultiInput,
        ),
        ({"obs": spaces.Box(-1, 1, (4,))}, MLP),
        ({"obs": spaces.Discrete(3)}, MLP),
        ({"obs": image(49)}, MLP),
    ],
)
def test_auto_chooses_an_encoder_by_the_space(fields, kind):
    space = spaces.Dict(fields)
    encoder = auto(space)
    assert type(encoder) is kind
    obs = {name: torch.from_numpy(np.stack([s.sample()] * 2)) for name, s in fields.items()}
    assert encoder(obs).shape == (2, encoder.out_dim)
    assert encoder.describe_fields().keys() == fields.keys() - {"action_mask"}
    assert through_json(encoder).init_kwargs == encoder.init_kwargs


def through_json(encoder):
    return rebuild(json.loads(json.dumps(describe(encoder))))


@pytest.mark.parametrize("side", [12, 40])
def test_every_layout_of_a_picture_gives_the_same_features(side):
    """[H, W, C], [S, H, W, C] and [S, C, H, W] are read as the [C, H, W] they contain."""
    frames = torch.randint(0, 256, (2, 2, 3, side, side + 2), dtype=torch.uint8)  # [B, S, C, H, W]
    features = []
    for stack in (frames.flatten(1, 2), frames.flatten(1, 2).permute(0, 2, 3, 1), frames):
        torch.manual_seed(0)
        pixel = Pixel(spaces.Dict({"obs": image(*stack.shape[1:])}), out_dim=8)
        features.append(pixel({"obs": stack}))
    torch.manual_seed(0)
    stack = frames.permute(0, 1, 3, 4, 2)
    features.append(Pixel(spaces.Dict({"obs": image(*stack.shape[1:])}), out_dim=8)({"obs": stack}))
    assert all(torch.equal(other, features[0]) for other in features[1:])
    assert features[0].std(0).max() > 0


def test_float_pictures_are_not_scaled():
    space = spaces.Dict({"obs": image(36, 36, 3, dtype=np.float32)})
    frames = torch.rand(2, 36, 36, 3)
    torch.manual_seed(0)
    same = Pixel(space)({"obs": frames})
    torch.manual_seed(0)
    divided = Pixel(space, divisor=255.0)({"obs": frames * 255})
    torch.testing.assert_close(same, divided)


def test_every_field_changes_the_features_of_multi_input():
    torch.manual_seed(0)
    space = spaces.Dict(
        {
            "camera": image(36, 36, 3),
            "small": image(3, 10, 12),
            "goal": spaces.Box(-1, 1, (2,)),
            "ram": image(9),
            "mode": spaces.Discrete(3),
            "action_mask": spaces.MultiBinary(2),
        }
    )
    encoder = auto(space)
    one, two = (
        {name: torch.from_numpy(np.stack([s.sample()])) for name, s in space.spaces.items()}
        for _ in range(2)
    )
    two["mode"] = (one["mode"] + 1) % 3
    for name in space.spaces:
        changed = encoder({**one, name: two[name]})
        assert torch.equal(changed, encoder(one)) is (name == "action_mask"), name
    encoder(one).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    told = encoder.describe_fields()
    assert told["camera"] == "convolutions over 36 x 36 x 3, divided by 255"
    assert told["ram"] == "flattened, scaled to [0, 1]"
    assert told["mode"] == "one-hot"


@pytest.mark.parametrize("shape", [(4, 84, 84), (1, 36, 36), (3, 64, 48)])
def test_pixel_encodes_scaled_frames_and_trains_every_layer(shape):
    torch.manual_seed(0)
    pixel = Pixel(spaces.Dict({"frame": image(*shape)}), key="frame", out_dim=32)
    frames = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    out = pixel({"frame": frames})
    assert out.shape == (3, 32)
    side = [((((n - 8) // 4 + 1) - 4) // 2 + 1) - 3 + 1 for n in shape[1:]]
    assert pixel.linear.in_features == 64 * side[0] * side[1]
    assert not torch.equal(out[0], out[1])
    out.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in pixel.parameters())
    scaled = nn.functional.relu(pixel.linear(pixel.convs(frames.double().float() / 255)))
    torch.testing.assert_close(out, scaled)
