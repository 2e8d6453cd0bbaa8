"""Write every scalar of a run to ``metrics.jsonl`` and to TensorBoard."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from firstlight.agents.session.run_directory.files import to_json, write_text

_ROOM = 1 << 20  # bytes free before TensorBoard is tried again

log = logging.getLogger(__name__)


class MetricsWriter:
    """Writes scalars to ``metrics.jsonl`` and, under the same tags, to TensorBoard event files.

    Each line of the former is a JSON object: ``step``, ``time`` in seconds since the run began
    (without the pauses between its parts), and the tags. Numbers that are not finite become null.

    Args:
        run_dir: made if it is not there.
        purge_step: step that a resumed run starts from; entries about later steps are removed.

    Attributes:
        dropped: number of writes that found no room on the disk; the run continues without them.
    """

    def __init__(self, run_dir: Path | str, purge_step: int | None = None):
        self.path, self.dropped = Path(run_dir) / "metrics.jsonl", 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = _purge(self.path, purge_step) if self.path.exists() else 0.0
        self._start = time.perf_counter() - kept
        self._file = self.path.open("ab", buffering=0)
        self._size = self._file.seek(0, os.SEEK_END)
        # TensorBoard also drops `purge_step` itself
        self._board = self._open_board(None if purge_step is None else purge_step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write `metrics` at `step` environment steps; drop and count them if the disk is full."""
        if self.dropped:
            metrics = {**metrics, "perf/dropped_logs": self.dropped}
        scalars = {tag: float(value) for tag, value in metrics.items()}
        seconds = round(time.perf_counter() - self._start, 3)
        self._write_line(to_json({"step": step, "time": seconds, **scalars}) + "\n")
        try:
            if self._board is None and shutil.disk_usage(self.path.parent).free > _ROOM:
                self._board = self._open_board()
            for tag, value in scalars.items() if self._board else ():
                self._board.add_scalar(tag, value, step)
        except OSError as error:  # of TensorBoard's own thread, which has ended
            self._drop(error)
            self._close_board()

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """Write `pixels` [H, W, 3] uint8 to TensorBoard, unless the disk is full."""
        try:
            if self._board is not None:
                self._board.add_image(tag, pixels, step, dataformats="HWC")
        except OSError as error:
            self._drop(error)
            self._close_board()

    def close(self) -> None:
        """Write what is buffered and close the files; may be called twice."""
        self._file.close()
        self._close_board()

    def _write_line(self, line: str) -> None:
        data = line.encode()
        try:
            if self._file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._size += len(data)
        except OSError as error:
            self._file.truncate(self._size)  # remove what was half written
            self._drop(error)

    def _open_board(self, purge: int | None = None) -> Any:
        return SummaryWriter(str(self.path.parent), purge_step=purge, flush_secs=10)

    def _close_board(self) -> None:
        board, self._board = self._board, None
        if board is not None:
            with contextlib.suppress(OSError):
                board.close()

    def _drop(self, error: OSError) -> None:
        if not self.dropped:
            log.warning("metrics are being dropped and counted: %s", error)
        self.dropped += 1


def _purge(path: Path, step: int | None) -> float:
    """Remove lines about later steps, and an incomplete last one. Returns the last line's time."""
    kept, seconds = [], 0.0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            late = step is not None and entry["step"] > step
        except (ValueError, LookupError, TypeError):
            continue
        if not late:
            kept.append(line)
            seconds = entry["time"]
    write_text(path, "".join(f"{line}\n" for line in kept))
    return seconds
