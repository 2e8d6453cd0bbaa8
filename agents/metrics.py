"""What a run reports: statistics of finished episodes, and every scalar in two places at once."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from firstlight.agents.files import to_json, write_text
from firstlight.envs.types import Rollout

_ROOM = 1 << 20  # bytes free before TensorBoard is tried again

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished episode.

    Args:
        ret: sum of the environment's rewards.
        length: steps; calls that only reset the environment do not count.
        success: None where nobody knows.
    """

    ret: float
    length: int
    success: bool | None


class Tally:
    """Sums up the open episode of each environment, step by step.

    Args:
        num_envs: environments.
        success_threshold: an episode whose return exceeds it succeeded; None for no such rule.
    """

    def __init__(self, num_envs: int, success_threshold: float | None):
        self.success_threshold = success_threshold
        self.ret = np.zeros(num_envs)  # float64: a sum of many float32
        self.length = np.zeros(num_envs, np.int64)

    def add(
        self,
        reward: np.ndarray,
        done: np.ndarray,
        valid: np.ndarray,
        success: np.ndarray | None = None,
        env_ids: np.ndarray | slice = slice(None),
    ) -> list[tuple[int, Episode]]:
        """Count one step.

        Args:
            reward: [N] float32.
            done: [N] bool, terminated or truncated.
            valid: [N] bool; other rows do not count at all.
            success: [N] int8 after the step, 1 yes, 0 no, -1 unknown; outranks the threshold.
            env_ids: [N] int64, the environment behind each column.

        Returns:
            Column and episode of each end.
        """
        self.ret[env_ids] += np.where(valid, reward, 0.0)
        self.length[env_ids] += valid
        ended = np.flatnonzero(done & valid)
        if not ended.size:
            return []
        closed = np.arange(len(self.ret))[env_ids][ended]
        rets, lengths = self.ret[closed].tolist(), self.length[closed].tolist()
        told = np.full(len(ended), -1) if success is None else success[ended]
        self.drop(closed)
        return [
            (column, Episode(ret, length, self._success(ret, flag)))
            for column, ret, length, flag in zip(
                ended.tolist(), rets, lengths, told.tolist(), strict=True
            )
        ]

    def drop(self, env_ids: np.ndarray) -> None:
        """Forget the open episodes of `env_ids` [*] int64."""
        self.ret[env_ids] = 0.0
        self.length[env_ids] = 0

    def _success(self, ret: float, flag: int) -> bool | None:
        if flag >= 0:
            return flag > 0
        return None if self.success_threshold is None else ret > self.success_threshold


class EpisodeStatistics:
    """Mean return, length and success of the last episodes, of the environment's own reward.

    Episodes run on from rollout to rollout. Rows that are not valid are skipped, so both kinds of
    autoreset give the same numbers. What died with its environment is in none of them.

    Args:
        num_envs: environments, however many of them a rollout brings.
        success_threshold: of the vector environment.
        window: how many of the last episodes the means are over.

    Attributes:
        last: episodes that the latest `update` closed, in order of time, then of column.
        episodes: how many were closed so far.
    """

    def __init__(self, num_envs: int, success_threshold: float | None, window: int = 100):
        self.last: list[Episode] = []
        self.episodes = 0
        self._tally = Tally(num_envs, success_threshold)
        self._window: deque[Episode] = deque(maxlen=window)

    def update(self, rollout: Rollout) -> None:
        """Count every valid row of `rollout`."""
        reward, valid, ids = (
            x.cpu().numpy() for x in (rollout.reward, rollout.valid, rollout.env_ids)
        )
        done = (rollout.terminated | rollout.truncated).cpu().numpy()
        reopened = None  # by a death: nothing else opens an episode before the last one ended
        if rollout.lost is not None:
            done &= ~rollout.lost.cpu().numpy()
            reopened = ~valid & rollout.is_first[1:].cpu().numpy()
        success = _success_after(rollout)
        self.last = []
        for t in range(rollout.num_steps):
            told = None if success is None else success[t]
            self.last += [e for _, e in self._tally.add(reward[t], done[t], valid[t], told, ids)]
            if reopened is not None:
                self._tally.drop(ids[reopened[t]])
        self.episodes += len(self.last)
        self._window.extend(e for e in self.last if math.isfinite(e.ret))

    def metrics(self) -> dict[str, float]:
        """Scalars over the window; ``rollout/episodes`` counts all so far."""
        scalars = {"rollout/episodes": float(self.episodes)}
        if not self._window:
            return scalars
        rets = [episode.ret for episode in self._window]
        scalars["rollout/return_mean"] = float(np.mean(rets))
        scalars["rollout/return_std"] = float(np.std(rets))
        scalars["rollout/length_mean"] = float(np.mean([e.length for e in self._window]))
        known = [episode.success for episode in self._window if episode.success is not None]
        if known:
            scalars["rollout/success_rate"] = float(np.mean(known))
        return scalars

    def drop(self, env_ids: Tensor) -> None:
        """Forget the open episodes of `env_ids` [*] int64; they never enter the statistics."""
        self._tally.drop(env_ids.cpu().numpy())

    def state_dict(self) -> dict[str, Any]:
        """Open and remembered episodes, for a checkpoint."""
        return {
            "open_return": torch.tensor(self._tally.ret),
            "open_length": torch.tensor(self._tally.length),
            "window": [[e.ret, e.length, e.success] for e in self._window],
            "episodes": self.episodes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        if state["open_return"].shape != self._tally.ret.shape:
            raise ValueError(
                f"the statistics are of {len(state['open_return'])} environments, "
                f"expected {len(self._tally.ret)}"
            )
        self._tally.ret[:] = state["open_return"].numpy()
        self._tally.length[:] = state["open_length"].numpy()
        self._window.clear()
        self._window.extend(Episode(*fields) for fields in state["window"])
        self.episodes, self.last = state["episodes"], []


def _success_after(rollout: Rollout) -> np.ndarray | None:
    """[T, N] int8, the channel "success" after each step, if there is one."""
    if "success" not in rollout.info:
        return None
    only = dataclasses.replace(  # the other channels may be large
        rollout,
        info={"success": rollout.info["success"]},
        final_info={"success": rollout.final_info["success"]},
    )
    return only.next_info()["success"].cpu().numpy()


class MetricsWriter:
    """Writes scalars to ``metrics.jsonl`` and, under the same tags, to TensorBoard event files.

    Each line of the former is a JSON object: ``step``, ``time`` in seconds since the run began
    (without the pauses between its parts), and the tags. Numbers that are not finite become null.

    Args:
        run_dir: made if it is not there.
        purge_step: step that a resumed run starts from; what was written about later ones goes.

    Attributes:
        dropped: how often there was no room on the disk; a run goes on without its logs.
    """

    def __init__(self, run_dir: Path | str, purge_step: int | None = None):
        self.path, self.dropped = Path(run_dir) / "metrics.jsonl", 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = _purge(self.path, purge_step) if self.path.exists() else 0.0
        self._start = time.perf_counter() - kept
        self._file = self.path.open("ab", buffering=0)
        self._size = self._file.seek(0, os.SEEK_END)
        # TensorBoard drops `purge_step` itself too, which we keep
        self._board = self._open_board(None if purge_step is None else purge_step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report `metrics` at `step` environment steps, as far as the disk takes them."""
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
        except OSError as error:  # of TensorBoard's own thread, which does not come back
            self._drop(error)
            self._close_board()

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """Show `pixels` [H, W, 3] uint8 in TensorBoard, as far as the disk takes them."""
        try:
            if self._board is not None:
                self._board.add_image(tag, pixels, step, dataformats="HWC")
        except OSError as error:
            self._drop(error)
            self._close_board()

    def close(self) -> None:
        """Write what is still in memory; may be called twice."""
        self._file.close()
        self._close_board()

    def _write_line(self, line: str) -> None:
        data = line.encode()
        try:
            if self._file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._size += len(data)
        except OSError as error:
            self._file.truncate(self._size)  # what there was room for
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
    """Drop lines about later steps, and a torn last one. Returns the time of the last line left."""
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
