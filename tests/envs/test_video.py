"""`write_gif` keeps every frame."""

import numpy as np
import pytest
from PIL import Image

from firstlight.envs.video import write_gif, write_video


def read(path):
    with Image.open(path) as image:
        frames, durations = [], []
        for i in range(image.n_frames):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
        return frames, durations, image.info.get("loop")


def grid_world(steps, size=60):
    """Frames of a square that moves every third step, on a floor with lines."""
    frames = []
    for t in range(steps):
        frame = np.full((size, size + 12, 3), 30, np.uint8)
        frame[::12] = frame[:, ::12] = 90
        at = (t // 3 * 12) % size
        frame[at : at + 12, 12:24] = (250, 40, 40)
        frames.append(frame)
    return frames


def test_a_gif_keeps_the_count_size_and_pixels_of_frames(tmp_path):
    frames = grid_world(20)
    write_gif(tmp_path / "videos" / "a.gif", frames, fps=5)
    again, durations, loop = read(tmp_path / "videos" / "a.gif")
    assert len(again) == 20
    assert durations == [200] * 20
    assert loop == 0
    for before, after in zip(frames, again, strict=True):
        assert np.array_equal(before, after)
    assert [p.name for p in (tmp_path / "videos").iterdir()] == ["a.gif"]


def test_identical_frames_are_kept(tmp_path):
    frames = [np.full((5, 9, 3), 7, np.uint8)] * 6
    write_gif(tmp_path / "a.gif", frames)
    assert [frame.shape for frame in read(tmp_path / "a.gif")[0]] == [(5, 9, 3)] * 6


def test_more_than_256_colours_are_approximated(tmp_path):
    x = np.linspace(0, 255, 80).astype(np.uint8)
    frames = [
        np.stack(
            [np.tile(x, (80, 1)), np.tile(x[:, None], 80), np.full((80, 80), 40 * t, np.uint8)], 2
        )
        for t in range(5)
    ]
    write_gif(tmp_path / "a.gif", frames)
    for before, after in zip(frames, read(tmp_path / "a.gif")[0], strict=True):
        assert np.abs(before.astype(int) - after).mean() < 12


def test_identical_frames_take_few_bytes(tmp_path):
    frames = grid_world(30)
    write_gif(tmp_path / "moving.gif", frames)
    write_gif(tmp_path / "still.gif", frames + [frames[-1]] * 300)
    extra = (tmp_path / "still.gif").stat().st_size - (tmp_path / "moving.gif").stat().st_size
    assert extra < 300 * 30
    assert (tmp_path / "moving.gif").stat().st_size < 8_000


@pytest.mark.parametrize(("scale", "shape"), [(2.0, (120, 144, 3)), (0.5, (30, 36, 3))])
def test_scale_changes_height_and_width(tmp_path, scale, shape):
    write_gif(tmp_path / "a.gif", grid_world(4), scale=scale)
    assert {frame.shape for frame in read(tmp_path / "a.gif")[0]} == {shape}


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [np.zeros((4, 4), np.uint8)],
        [np.zeros((4, 4, 4), np.uint8)],
        [np.zeros((4, 4, 3), np.float32)],
        [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)],
    ],
)
def test_invalid_frames_are_refused(tmp_path, frames):
    with pytest.raises(ValueError, match="frame"):
        write_gif(tmp_path / "a.gif", frames)
    assert list(tmp_path.iterdir()) == []


def test_an_mp4_holds_the_frames_at_even_sides(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    shades = (10, 90, 170, 250)
    frames = [np.full((33, 47, 3), shade, np.uint8) for shade in shades]
    write_video(tmp_path / "v" / "a.mp4", frames, fps=5)
    assert [path.name for path in (tmp_path / "v").iterdir()] == ["a.mp4"]
    reader = ffmpeg.read_frames(tmp_path / "v" / "a.mp4")
    about = next(reader)
    assert (about["size"], about["fps"], about["codec"]) == ((48, 34), 5, "h264")
    again = [np.frombuffer(data, np.uint8).mean() for data in reader]
    assert again == pytest.approx(shades, abs=4)


def test_another_format_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"a video ends in \.gif or \.mp4, not \.avi"):
        write_video(tmp_path / "a.avi", [np.zeros((2, 2, 3), np.uint8)])
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "a.gif", [])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_encoder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'firstlight\[video\]'"):
        write_video(tmp_path / "a.mp4", [np.zeros((2, 2, 3), np.uint8)])
