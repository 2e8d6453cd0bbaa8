"""Atomic writes: after a crash a file holds its old or its new content, never a part."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.envs.files import replacing


def to_json(value: Any, indent: int | None = None) -> str:
    """Return `value` as strict JSON: numbers that are not finite become null, tuples lists.

    >>> to_json({"return": float("nan"), "shape": (7, 7)})
    '{"return": null, "shape": [7, 7]}'
    """
    return json.dumps(_strict(value), allow_nan=False, indent=indent)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` to `path` as strict JSON, atomically."""
    write_text(path, to_json(value, indent=2) + "\n")


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` in UTF-8, atomically."""
    path = Path(path)
    with replacing(path) as temporary:
        write_bytes(temporary, text.encode())
    sync(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to a new file and sync it to disk. Not atomic by itself."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Sync the names in `folder` to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _strict(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value
