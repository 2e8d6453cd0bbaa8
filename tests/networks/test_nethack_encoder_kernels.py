"""Table look-ups for NetHack against plain loops and against torch's convolutions."""

from itertools import product

import numpy as np
import pytest
import torch
from gymnasium import spaces
from python_kernels import use_python_kernels

from firstlight.networks.encoders import NetHack, nethack_kernels
from firstlight.networks.encoders.nethack_parts import STONE

H, W, GLYPHS = 21, 79, 5976
SPACE = spaces.Dict(
    {
        "glyphs": spaces.Box(0, GLYPHS, (H, W), np.int16),
        "blstats": spaces.Box(-(2**31), 2**31 - 1, (27,), np.int64),
        "message": spaces.Box(0, 255, (64,), np.uint8),
        "inv_glyphs": spaces.Box(0, GLYPHS, (55,), np.int16),
    }
)


def levels(batch=8, seed=0):
    """Make mostly blank levels, heroes also in the corners, messages also empty or unterminated."""
    rng = np.random.default_rng(seed)
    glyphs = np.where(
        rng.random((batch, H, W)) < 0.2, rng.integers(0, GLYPHS, (batch, H, W)), STONE
    )
    line = rng.integers(0, 20, (batch, 27))
    line[:2, :2] = (0, 0), (W - 1, H - 1)
    message = rng.integers(1, 256, (batch, 64))
    for b, end in enumerate(rng.integers(0, 64, batch)):
        message[b, end:] = 0
    message[0], message[1] = 0, 65  # "AAA…": every window is the best one
    message[2, 3], message[2, 9] = 0, 70
    obs = {
        "glyphs": glyphs.astype(np.int16),
        "blstats": line.astype(np.int64),
        "message": message.astype(np.uint8),
        "inv_glyphs": rng.integers(0, GLYPHS + 1, (batch, 55)).astype(np.int16),
    }
    return {key: torch.from_numpy(field) for key, field in obs.items()}


def learn(encoder, obs, paths):
    """Return features and gradients, computed by the methods named in `paths`."""
    look, read = paths
    encoder._look_up = getattr(NetHack, look).__get__(encoder)
    text = encoder.text
    text.look_up = getattr(type(text), read).__get__(text)
    encoder.zero_grad()
    out = encoder(obs)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return out.detach(), {name: p.grad.clone() for name, p in encoder.named_parameters()}


@pytest.mark.parametrize("crop_size", [5, 9])
def test_tables_and_convolutions_agree(crop_size):
    torch.manual_seed(0)
    encoder = NetHack(SPACE, hidden=32, crop_size=crop_size)
    for bias in (encoder.near.conv.bias, encoder.far.conv.bias, encoder.text.bias):
        torch.nn.init.normal_(bias)
    obs = levels()
    out, grads = learn(encoder, obs, ("_look_up", "look_up"))
    other, wanted = learn(encoder, obs, ("_convolve", "convolve"))
    torch.testing.assert_close(out, other, atol=1e-5, rtol=1e-4)
    for name, grad in grads.items():
        assert grad.abs().sum() > 0, name
        torch.testing.assert_close(grad, wanted[name], atol=1e-4, rtol=1e-3, msg=name)
    assert grads["glyphs.weight"][STONE].abs().sum() == 0


def test_the_number_of_threads_changes_no_bit():
    torch.manual_seed(0)
    encoder, obs = NetHack(SPACE, hidden=32), levels(32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(learn(encoder, obs, ("_look_up", "look_up")))
            out, grads = learn(encoder, obs, ("_look_up", "look_up"))
            assert torch.equal(out, results[-1][0])
            assert all(torch.equal(grad, grads[name]) for name, grad in results[-1][1].items())
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


@pytest.mark.parametrize("batch", [0, 2])
def test_blank_observations_give_finite_features(batch):
    encoder = NetHack(SPACE, hidden=32)
    obs = levels()
    obs["glyphs"][:] = STONE
    obs["message"][:] = 0
    out = encoder({key: field[:batch] for key, field in obs.items()})
    assert out.shape == (batch, 32)
    assert out.isfinite().all()
    out.sum().backward()


def test_a_glyph_out_of_range_raises():
    obs = levels()
    for glyph in (-1, GLYPHS + 1):
        obs["glyphs"][1, 2, 3] = glyph
        with pytest.raises(IndexError, match=f"outside of 0 to {GLYPHS}"):
            NetHack(SPACE, hidden=32)(obs)


@pytest.fixture(params=["compiled", "python"])
def kernels(request, monkeypatch):
    """Test a kernel both as compiled and as the Python function that it is compiled from."""
    if request.param == "python":
        use_python_kernels(monkeypatch, nethack_kernels)


@pytest.mark.usefixtures("kernels")
def test_kernels_number_the_glyphs_that_occur():
    glyphs = np.array([[7, 3, 9], [3, 7, 0]], np.int16)
    numbers, chosen = nethack_kernels.number_glyphs(glyphs, 11, 9)
    assert chosen.tolist() == [0, 3, 7]
    assert numbers[chosen].tolist() == [0, 1, 2]
    assert (np.delete(numbers, chosen) == -1).all()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
def test_kernels_find_the_rows_of_every_patch(stride):
    rng = np.random.default_rng(0)
    glyphs = rng.integers(0, 5, (3, 6, 7)).astype(np.int16)
    corner = np.array([[0, 0], [-2, 3], [4, -1]])
    numbers, kernel, shape = np.array([-1, 0, 1, -1, 2], np.int32), (2, 3), (4, 3)
    rows, counts = nethack_kernels.patch_rows(
        glyphs, corner, numbers, kernel=kernel, stride=stride, shape=shape
    )
    for n, (b, i, j) in enumerate(product(range(3), range(4), range(3))):
        wanted = []
        for u, v in product(range(2), range(3)):
            y, x = corner[b] + (i * stride[0] + u, j * stride[1] + v)
            if 0 <= y < 6 and 0 <= x < 7 and numbers[glyphs[b, y, x]] >= 0:
                wanted.append(numbers[glyphs[b, y, x]] * 6 + u * 3 + v)
        assert rows[n, : counts[n]].tolist() == wanted


@pytest.mark.usefixtures("kernels")
def test_kernels_find_the_best_window():
    rng = np.random.default_rng(0)
    text = levels()["message"].numpy()[:4, :12]
    table = rng.normal(size=(256, 3, 5)).astype(np.float32)
    best, at = np.empty((4, 5), np.float32), np.empty((4, 5), np.int32)
    nethack_kernels.best_windows(text, table, best, at)
    for b, c in product(range(4), range(5)):
        sums = {12: 0.0}  # the empty window
        for start in range(-2, 12):
            letters = [(p, text[b, start + p]) for p in range(3) if 0 <= start + p < 12]
            sums[start] = sum(table[letter, p, c] for p, letter in letters if letter)
        assert best[b, c] == pytest.approx(max(sums.values()), rel=1e-5)
        assert sums[at[b, c]] == pytest.approx(max(sums.values()), rel=1e-5)
    tensor = torch.from_numpy(table).requires_grad_()
    nethack_kernels.BestWindows.apply(torch.from_numpy(text), tensor).sum().backward()
    # the sum of the best is linear in the table, so its gradient gives it back
    assert float((tensor.grad * tensor.detach()).sum()) == pytest.approx(best.sum(), rel=1e-4)
