"""Write videos: animated GIFs, and MP4 by an optional package."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import GifImagePlugin, Image

from firstlight.envs.files import replacing

_NO_FRAMES = "no frames: a video needs at least one"
_SAMPLE = 64  # pixels along each side of the thumbnails that the palette is made from


def check_format(path: Path | str) -> None:
    """Raise ValueError for an unknown format, or for a missing package."""
    suffix = Path(path).suffix
    if suffix not in (".gif", ".mp4"):
        raise ValueError(f"a video ends in .gif or .mp4, not {suffix or 'nothing'}: {path}")
    if suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ValueError("an MP4 needs imageio-ffmpeg: pip install 'firstlight[video]'")


def write_video(
    path: Path | str, frames: Sequence[np.ndarray], fps: float = 10, scale: float = 1.0
) -> None:
    """Write `frames` to `path`, atomically, in the format that its name ends in: .gif or .mp4.

    An MP4 (H.264) has even sides, so a last row or column may be there twice.

    Args:
        path: its folder is created if it does not exist.
        frames: at least one, each [H, W, 3] uint8, all of one size.
        fps: frames per second; of a GIF see `write_gif`.
        scale: factor on height and width.

    Raises:
        ValueError: for another format, a missing package, or frames as in `write_gif`.
    """
    check_format(path)
    if Path(path).suffix == ".gif":
        write_gif(path, frames, fps, scale)
        return
    import imageio_ffmpeg

    images = [np.asarray(_image(frame, frames[0].shape, scale)) for frame in frames]
    if not images:
        raise ValueError(_NO_FRAMES)
    height, width = images[0].shape[:2]
    even = ((0, height % 2), (0, width % 2), (0, 0))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        named = temporary.with_suffix(".mp4")  # the encoder reads the format from it
        size = (width + width % 2, height + height % 2)
        options = {"fps": fps, "codec": "libx264", "quality": 8, "macro_block_size": 1}
        writer = imageio_ffmpeg.write_frames(str(named), size, **options)
        writer.send(None)
        for image in images:
            writer.send(np.ascontiguousarray(np.pad(image, even, "edge")))
        writer.close()
        named.replace(temporary)


def write_gif(
    path: Path | str, frames: Sequence[np.ndarray], fps: float = 10, scale: float = 1.0
) -> None:
    """Write `frames` to `path`, atomically, with one palette for all.

    Of each frame only the rectangle that changed is stored. Frames equal to the one before are
    kept, so that frame t of the file is frame t of the episode.

    Args:
        path: its folder is created if it does not exist.
        frames: at least one, each [H, W, 3] uint8, all of one size.
        fps: frames per second, rounded to hundredths of a second each, at most 50.
        scale: factor on height and width.

    Raises:
        ValueError: if there are no frames or one has another shape or dtype.
    """
    images = [_image(frame, frames[0].shape, scale) for frame in frames]
    if not images:
        raise ValueError(_NO_FRAMES)
    palette = _palette(images)
    indexed = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    milliseconds = 10 * max(2, round(100 / fps))
    parts = [_header(indexed[0])]
    shown: np.ndarray | None = None
    for image in indexed:
        pixels = np.asarray(image)
        box = (0, 0, *image.size) if shown is None else _changed(shown, pixels)
        parts += GifImagePlugin.getdata(image.crop(box), box[:2], duration=milliseconds)
        shown = pixels
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join([*parts, b";"]))


def _image(frame: np.ndarray, shape: tuple[int, ...], scale: float) -> Image.Image:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != shape or frame.dtype != np.uint8:
        raise ValueError(
            f"a frame is {frame.dtype} {frame.shape}, expected uint8 [H, W, 3] of one size"
        )
    image = Image.fromarray(np.ascontiguousarray(frame))
    if scale == 1.0:
        return image
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)


def _palette(images: list[Image.Image]) -> Image.Image:
    """Image with the palette of all `images`: their colours, or 256 chosen from thumbnails."""
    if colours := _few_colours(images):
        palette = Image.new("P", (1, 1))
        palette.putpalette([band for colour in sorted(colours) for band in colour])
        return palette
    width, height = (min(_SAMPLE, side) for side in images[0].size)
    strip = Image.new("RGB", (width, height * len(images)))
    for i, image in enumerate(images):
        strip.paste(image.resize((width, height), Image.Resampling.NEAREST), (0, i * height))
    return strip.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def _few_colours(images: list[Image.Image]) -> set[Any]:
    """Colours of all `images`; empty if there are more than 256."""
    colours: set[Any] = set()
    for image in images:
        found = image.getcolors(256)
        colours |= {colour for _, colour in found or ()}
        if found is None or len(colours) > 256:
            return set()
    return colours


def _header(image: Image.Image) -> bytes:
    """GIF header: signature, size, palette, and endless repetition."""
    colours = bytes(image.getpalette() or ()).ljust(3 * 256, b"\0")
    size = struct.pack("<HHBBB", *image.size, 0b1111_0111, 0, 0)
    return b"GIF89a" + size + colours + b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"


def _changed(before: np.ndarray, now: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the change between two [H, W]; one pixel if nothing changed."""
    different = before != now
    if not different.any():
        return 0, 0, 1, 1
    rows, columns = np.flatnonzero(different.any(1)), np.flatnonzero(different.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
