"""Draw a terminal as a picture."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PALETTE = np.array(  # the sixteen colours of a terminal; NetHack's black is shown as dark grey
    [
        *((70, 70, 70), (205, 60, 60), (60, 170, 60), (170, 110, 40)),
        *((80, 100, 230), (190, 70, 190), (50, 170, 170), (190, 190, 190)),
        *((130, 130, 130), (255, 140, 40), (100, 240, 100), (250, 240, 90)),
        *((130, 160, 255), (255, 130, 255), (100, 240, 240), (255, 255, 255)),
    ],
    np.uint8,
)
HEIGHT, WIDTH = 11, 6  # of a character


@functools.cache
def letters() -> np.ndarray:
    """Render Pillow's bitmap font, [256, 11, 6] bool; all but printable ASCII is blank."""
    font = ImageFont.load_default_imagefont()
    out = np.zeros((256, HEIGHT, WIDTH), bool)
    for code in range(33, 127):
        image = Image.new("1", (WIDTH, HEIGHT))
        ImageDraw.Draw(image).text((0, 0), chr(code), fill=1, font=font)
        out[code] = np.asarray(image)
    return out


def draw_terminal(
    chars: np.ndarray, colors: np.ndarray, cursor: tuple[int, int] | None = None
) -> np.ndarray:
    """Draw characters in their colours on black.

    Args:
        chars: [R, C] uint8.
        colors: [R, C] integers; the last four bits name the colour.
        cursor: row and column of a cell to invert.

    Returns:
        [R * 11, C * 6, 3] uint8.
    """
    rows, columns = chars.shape
    ink = letters()[chars]  # [R, C, 11, 6]
    if cursor is not None and cursor[0] < rows and cursor[1] < columns:
        ink[cursor] = ~ink[cursor]
    picture = ink[..., None] * PALETTE[colors.astype(np.int64) & 15][:, :, None, None]
    return picture.transpose(0, 2, 1, 3, 4).reshape(rows * HEIGHT, columns * WIDTH, 3)
