"""A checkpoint is complete or absent, and restores exactly the saved state."""

import logging
import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from firstlight.agents.session.run_directory import checkpoint
from firstlight.agents.session.run_directory.checkpoint import CheckpointError


def state_of(number):
    return {"weight": torch.full((5,), float(number)), "number": number}


def bits(value):
    if isinstance(value, torch.Tensor):
        value = value.reshape(-1).contiguous().view(torch.uint8).numpy()
    return value.tobytes()


def assert_same(left, right, path="state"):
    """Check that two states have the same types and bits."""
    if isinstance(left, dict):
        assert isinstance(right, dict), path
        assert list(left) == list(right), path
        for key in left:
            assert_same(left[key], right[key], f"{path}/{key}")
        return
    assert type(left) is type(right), path
    if isinstance(left, list | tuple):
        assert len(left) == len(right), path
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{path}/{i}")
    elif isinstance(left, torch.Tensor | np.ndarray):
        assert left.dtype == right.dtype, path
        assert left.shape == right.shape, path
        assert bits(left) == bits(right), path
    elif isinstance(left, float):
        assert left.hex() == right.hex(), path
    else:
        assert left == right, path


def test_a_loaded_state_equals_the_saved_one(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "learner": {
            "policy": {
                "encoder.weight": base,
                "a/b": base[1],
                "a~1b": base.t(),
                "view": base[:, 1],
            },
            "scalar": torch.tensor(2**62 + 1),
            "empty": torch.zeros(0, 3, dtype=torch.int16),
            "mask": torch.tensor([True, False]),
            "bytes": torch.get_rng_state(),
            "half": torch.tensor([math.nan, -0.0, 1e-40]).bfloat16(),
            "expanded": torch.ones(1).expand(3),
        },
        "numpy": {
            "zero_d": np.array(3.5),
            "reversed": np.arange(5, dtype=np.int32)[::-1],
            "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "u64": np.array([2**64 - 1], dtype=np.uint64),
        },
        "plain": [
            None,
            True,
            3,
            -0.0,
            0.1,
            "text",
            math.inf,
            -math.inf,
            math.nan,
            2**127,
            (1, [2]),
        ],
        "a": {"b": torch.ones(1)},
        "a/b": torch.zeros(1),
        "__metadata__": torch.ones(2),
        "": {"": torch.ones(3)},
        "keys": {1: torch.ones(1), "1": torch.zeros(1), (2, "x"): None, "$tensor": "weight"},
        "dollar": {"$float": "1.0", "x": torch.ones(1)},
    }
    path = checkpoint.save(tmp_path, state, 10)
    assert path == tmp_path / "step_000000000010"
    assert checkpoint.step_of(path) == 10
    assert_same(state, checkpoint.load(path))
    assert_same(checkpoint.load(path), checkpoint.load(checkpoint.save(tmp_path, state, 11)))


def test_numpy_scalars_become_python_numbers(tmp_path):
    state = {"f": np.float32(0.1), "i": np.int64(7), "b": np.bool_(True), "n": np.float64("nan")}
    read = checkpoint.load(checkpoint.save(tmp_path, state, 0))
    assert [type(value) for value in read.values()] == [float, int, bool, float]
    assert read["f"] == float(np.float32(0.1))


def test_big_endian_arrays_keep_their_values(tmp_path):
    read = checkpoint.load(checkpoint.save(tmp_path, {"x": np.arange(3, dtype=">i4")}, 0))
    assert read["x"].tolist() == [0, 1, 2]


def test_a_loaded_optimizer_continues_exactly(tmp_path):
    def make():
        torch.manual_seed(0)
        net = nn.Linear(3, 2)
        return net, torch.optim.Adam(net.parameters(), lr=0.1)

    def update(net, optimizer):
        optimizer.zero_grad()
        net(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()

    net, optimizer = make()
    update(net, optimizer)
    path = checkpoint.save(tmp_path, {"net": net.state_dict(), "opt": optimizer.state_dict()}, 1)
    update(net, optimizer)
    other, other_optimizer = make()
    state = checkpoint.load(path)
    other.load_state_dict(OrderedDict(state["net"]))
    other_optimizer.load_state_dict(state["opt"])
    update(other, other_optimizer)
    assert torch.equal(net.weight, other.weight)
    assert_same(optimizer.state_dict(), other_optimizer.state_dict())


def test_loaded_tensors_are_writable(tmp_path):
    read = checkpoint.load(checkpoint.save(tmp_path, state_of(1) | {"a": np.zeros(2)}, 0))
    read["weight"].add_(1)
    read["a"] += 1
    assert read["weight"][0] == 2


@pytest.mark.parametrize("leaf", [object(), {1, 2}, b"raw", np.array(["x"]), torch.ones(1) * 1j])
def test_a_leaf_that_cannot_be_saved_is_named_and_nothing_is_written(tmp_path, leaf):
    with pytest.raises(CheckpointError, match="cannot hold 'learner/odd'"):
        checkpoint.save(tmp_path / "new", {"learner": {"odd": leaf}}, 0)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "tensors.safetensors"])
def test_any_flipped_byte_is_detected(tmp_path, caplog, name):
    older = checkpoint.save(tmp_path, state_of(1), 1)
    newer = checkpoint.save(tmp_path, state_of(2), 2)
    whole = (newer / name).read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 23)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x01
        (newer / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=newer.name):
            checkpoint.load(newer)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            assert checkpoint.newest(tmp_path) == older
        assert newer.name in caplog.text
    (newer / name).write_bytes(whole)
    assert checkpoint.newest(tmp_path) == newer


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "tensors.safetensors"])
def test_a_missing_or_truncated_file_is_detected(tmp_path, name):
    older = checkpoint.save(tmp_path, state_of(1), 1)
    newer = checkpoint.save(tmp_path, state_of(2), 2)
    (newer / name).write_bytes((newer / name).read_bytes()[:-1])
    assert checkpoint.newest(tmp_path) == older
    (newer / name).unlink()
    with pytest.raises(CheckpointError, match=newer.name):
        checkpoint.load(newer)
    assert checkpoint.newest(tmp_path) == older


def test_a_folder_without_checkpoints_has_no_newest_one(tmp_path):
    assert checkpoint.newest(tmp_path / "nowhere") is None
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.best(tmp_path) is None
    with pytest.raises(CheckpointError, match="nowhere"):
        checkpoint.load(tmp_path / "nowhere")


def test_retention_keeps_the_newest_and_never_deletes_the_last_one_written(tmp_path):
    for step in (5, 100, 20, 3, 1000):
        checkpoint.save(tmp_path, state_of(step), step, keep=2)
        assert (tmp_path / f"step_{step:012d}").exists()
    left = sorted(int(p.name[5:]) for p in tmp_path.iterdir())
    assert left == [100, 1000]
    with pytest.raises(ValueError, match="keep"):
        checkpoint.save(tmp_path, {}, 1, keep=0)


def test_saving_after_a_damaged_checkpoint_keeps_the_good_ones(tmp_path):
    good = checkpoint.save(tmp_path, state_of(10), 10, keep=1)
    checkpoint.save(tmp_path / "other", {}, 30)
    (tmp_path / "other" / "step_000000000030").rename(tmp_path / "step_000000000030")
    (tmp_path / "step_000000000030" / "state.json").write_text("damaged")
    assert checkpoint.newest(tmp_path) == good
    again = checkpoint.save(tmp_path, state_of(20), 20, keep=1)
    assert checkpoint.newest(tmp_path) == again


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_an_interrupted_write_leaves_the_old_checkpoints(tmp_path, monkeypatch, calls):
    old = checkpoint.save(tmp_path, state_of(1), 1)
    written = []

    def stop(path, data):
        if len(written) == calls:
            raise KeyboardInterrupt
        written.append(path)
        path.write_bytes(data)

    monkeypatch.setattr(checkpoint, "write_bytes", stop)
    for step in (1, 2):
        written.clear()
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, state_of(9), step)
        assert [p.name for p in tmp_path.iterdir()] == [old.name]
    assert checkpoint.load(old)["number"] == 1


def test_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".step_000000000001.tmp").mkdir()
    (tmp_path / ".step_000000000001.tmp" / "state.json").write_text("{")
    assert checkpoint.newest(tmp_path) is None
    path = checkpoint.save(tmp_path, state_of(2), 2)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stop_at", [1, 2])
@pytest.mark.parametrize("which", ["step", "best"])
def test_an_interrupted_replacement_loses_no_checkpoint(tmp_path, monkeypatch, stop_at, which):
    def write(number):
        if which == "best":
            return checkpoint.save_best(tmp_path, state_of(number), number)
        return checkpoint.save(tmp_path, state_of(number), 7)

    def found():
        path = checkpoint.best(tmp_path) if which == "best" else checkpoint.newest(tmp_path)
        return checkpoint.load(path)["number"]

    write(1)
    rename, calls = Path.rename, []

    def stop(self, target):
        calls.append(target)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            write(2)
    assert found() == 1
    path = write(3)
    assert found() == 3
    assert list(tmp_path.iterdir()) == [path]


def test_best_is_replaced_and_exempt_from_retention(tmp_path):
    for number in (1, 2):
        assert checkpoint.save_best(tmp_path, state_of(number), number) == tmp_path / "best"
    for step in range(5):
        checkpoint.save(tmp_path, state_of(step), step, keep=1)
    assert checkpoint.load(checkpoint.best(tmp_path))["number"] == 2
    assert checkpoint.newest(tmp_path).name == "step_000000000004"
    (tmp_path / "best" / "state.json").write_text("{}")
    assert checkpoint.best(tmp_path) is None


def test_a_newer_format_raises_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    path = checkpoint.save(tmp_path, {}, 0)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 99, which needs a newer firstlight"):
        checkpoint.load(path)
