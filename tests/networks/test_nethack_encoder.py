"""Encoders of NetHack observations against plain loops, and which inputs change the features."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.envs.nethack.draw import PALETTE
from firstlight.networks.encoders import NetHack, ONINet, SparseNetHack, auto
from firstlight.networks.encoders.nethack_parts import STATISTICS, STONE, crop, statistics
from firstlight.networks.encoders.oni import PIXELS, SIZE, small_letters
from firstlight.networks.spec import describe, rebuild

H, W, GLYPHS = 21, 79, 5976
FIELDS = {
    "glyphs": spaces.Box(0, GLYPHS, (H, W), np.int16),
    "blstats": spaces.Box(-(2**31), 2**31 - 1, (27,), np.int64),
    "message": spaces.Box(0, 255, (256,), np.uint8),
    "inv_glyphs": spaces.Box(0, GLYPHS, (55,), np.int16),
    "chars": spaces.Box(0, 255, (H, W), np.uint8),
    "colors": spaces.Box(0, 15, (H, W), np.uint8),
}
PLAIN = ("glyphs", "blstats", "message")
ONI = ("chars", "colors", "blstats", "message")


def space_of(*keys):
    return spaces.Dict({key: FIELDS[key] for key in keys})


def random_obs(keys, batch=6, seed=0):
    """Draw plausible observations, with the hero also in the corners."""
    rng = np.random.default_rng(seed)
    line = rng.integers(0, 20, (batch, 27))
    line[:, 0], line[:, 1] = rng.integers(0, W, batch), rng.integers(0, H, batch)
    line[0, :2], line[1, :2] = (0, 0), (W - 1, H - 1)
    line[:, 25] = 1 << rng.integers(0, 13, batch)
    message = rng.integers(32, 127, (batch, 256))
    message[:, 40:] = 0
    fields = {
        "glyphs": rng.integers(0, GLYPHS, (batch, H, W)).astype(np.int16),
        "blstats": line.astype(np.int64),
        "message": message.astype(np.uint8),
        "inv_glyphs": rng.integers(0, GLYPHS, (batch, 55)).astype(np.int16),
        "chars": rng.integers(32, 127, (batch, H, W)).astype(np.uint8),
        "colors": rng.integers(0, 16, (batch, H, W)).astype(np.uint8),
    }
    return {key: torch.from_numpy(fields[key]) for key in keys}


ENCODERS = {
    "default": lambda: (NetHack(space_of(*PLAIN)), PLAIN),
    "least": lambda: (NetHack(space_of("glyphs", "blstats"), whole_map=False), PLAIN[:2]),
    "inventory": lambda: (
        NetHack(space_of(*PLAIN, "inv_glyphs"), hidden=64, crop_size=5),
        (*PLAIN, "inv_glyphs"),
    ),
    "sparse": lambda: (SparseNetHack(space_of(*PLAIN), hidden=64), PLAIN),
    "oni": lambda: (ONINet(space_of(*ONI)), ONI),
}


@pytest.fixture(params=ENCODERS)
def made(request):
    """Return an encoder and the names of its fields."""
    torch.manual_seed(0)
    return ENCODERS[request.param]()


@pytest.mark.parametrize("size", [(9, 9), (12, 12), (5, 7)])
def test_the_crop_is_centred_on_the_hero_and_padded(size):
    obs = random_obs(PLAIN, batch=12)
    out = crop(obs["glyphs"], obs["blstats"], size, GLYPHS + 1)
    assert out.shape == (12, *size)
    for b in range(12):
        x, y = obs["blstats"][b, :2].tolist()
        for i in range(size[0]):
            for j in range(size[1]):
                r, c = y - size[0] // 2 + i, x - size[1] // 2 + j
                inside = 0 <= r < H and 0 <= c < W
                wanted = int(obs["glyphs"][b, r, c]) if inside else GLYPHS + 1
                assert int(out[b, i, j]) == wanted


def test_glyph_constants_equal_those_of_nle():
    nethack = pytest.importorskip("nle.nethack")
    assert nethack.GLYPH_CMAP_OFF == STONE
    assert nethack.NO_GLYPH == GLYPHS  # the largest glyph, an empty inventory slot


def test_empty_inventory_slots_add_nothing():
    keys = (*PLAIN, "inv_glyphs")
    encoder, obs = NetHack(space_of(*keys)), random_obs(keys)
    obs["inv_glyphs"][:, 5:] = GLYPHS
    fewer = {**obs, "inv_glyphs": obs["inv_glyphs"][:, :5]}
    torch.testing.assert_close(encoder(obs), encoder(fewer))


def test_statistics_are_of_unit_size_and_separate_conditions():
    line = torch.zeros(3, 27, dtype=torch.int64)
    line[0, 9], line[0, 13], line[0, 20] = 10**6, 10**5, 10**5  # score, gold, time
    line[:, 10], line[:, 11] = torch.tensor([5, 10, 2]), 10
    line[1, 25], line[2, 25] = 512, 512 | 1
    out = statistics(line)
    assert out.shape == (3, STATISTICS)
    assert out.isfinite().all()
    assert out.abs().max() <= 3
    assert out[:, 0].tolist() == pytest.approx([0.5, 1.0, 0.2])  # hit points / maximum
    assert out[:, -13:].nonzero().tolist() == [[1, 9], [2, 0], [2, 9]]
    assert (statistics(line[:, :26]) == out).all()


def test_features_have_width_out_dim(made):
    encoder, keys = made
    out = encoder(random_obs(keys))
    assert out.shape == (6, encoder.out_dim)
    assert out.isfinite().all()
    assert ONINet.out_dim == 794


def test_each_row_is_encoded_independently(made):
    encoder, keys = made
    obs, order = random_obs(keys), torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = {key: field[order] for key, field in obs.items()}
    torch.testing.assert_close(encoder(shuffled), encoder(obs)[order], rtol=1e-4, atol=1e-5)
    alone = {key: field[2:3] for key, field in obs.items()}
    torch.testing.assert_close(encoder(alone), encoder(obs)[2:3], rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter(made):
    encoder, keys = made
    encoder(random_obs(keys, batch=16)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_every_field_changes_the_features(made):
    encoder, keys = made
    obs, other = random_obs(keys), random_obs(keys, seed=1)
    for key in keys:
        moved = encoder({**obs, key: other[key]})
        assert (moved != encoder(obs)).any(1).all(), key


def test_distant_cells_change_only_the_features_of_the_whole_map():
    torch.manual_seed(0)
    obs = random_obs(PLAIN)
    obs["blstats"][:, :2] = torch.tensor([5, 5])
    far = {**obs, "glyphs": obs["glyphs"].clone()}
    far["glyphs"][:, 10:, 60:] = 7
    near = NetHack(space_of(*PLAIN), whole_map=False)
    assert (near(far) == near(obs)).all()
    whole = NetHack(space_of(*PLAIN))
    assert (whole(far) != whole(obs)).any(1).all()


def test_a_rebuilt_encoder_gives_the_same_features(made):
    encoder, keys = made
    again = rebuild(describe(encoder))
    again.load_state_dict(encoder.state_dict())
    obs = random_obs(keys)
    assert (again(obs) == encoder(obs)).all()


def test_auto_chooses_the_sparse_encoder_for_glyphs_and_blstats():
    assert isinstance(auto(space_of(*PLAIN)), SparseNetHack)
    assert isinstance(auto(space_of("glyphs", "blstats")), SparseNetHack)
    assert not isinstance(auto(space_of("blstats", "message")), SparseNetHack)


def test_the_picture_of_oni_equals_the_crop_drawn_character_by_character():
    obs = random_obs(ONI, batch=3)
    picture = ONINet(space_of(*ONI)).picture(obs)
    assert picture.shape == (3, 3, 72, 72)
    font = torch.from_numpy(small_letters())
    for b in range(3):
        x, y = obs["blstats"][b, :2].tolist()
        for i in range(SIZE):
            for j in range(SIZE):
                r, c = y - SIZE // 2 + i, x - SIZE // 2 + j
                cell = picture[b, :, i * PIXELS : (i + 1) * PIXELS, j * PIXELS : (j + 1) * PIXELS]
                if not (0 <= r < H and 0 <= c < W):
                    assert not cell.any()
                    continue
                colour = torch.from_numpy(PALETTE[obs["colors"][b, r, c]].astype(np.float32) / 255)
                wanted = colour[:, None, None] * font[int(obs["chars"][b, r, c])]
                torch.testing.assert_close(cell, wanted)


@pytest.mark.parametrize(
    ("kind", "keys", "complaint"),
    [
        (NetHack, ("glyphs", "message"), "needs the observation 'blstats'"),
        (NetHack, (*PLAIN, "chars"), "does not use 'chars'"),
        (ONINet, PLAIN, "needs the observation 'chars'"),
    ],
)
def test_missing_and_unused_fields_raise(kind, keys, complaint):
    with pytest.raises(ValueError, match=complaint):
        kind(space_of(*keys))


@pytest.mark.parametrize("size", [3, 8])
def test_a_crop_of_even_size_raises(size):
    with pytest.raises(ValueError, match=f"crop_size is {size}"):
        NetHack(space_of(*PLAIN), crop_size=size)
