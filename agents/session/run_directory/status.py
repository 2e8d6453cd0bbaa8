"""The state of a run in ``status.json``, for people and schedulers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from firstlight.agents.session.run_directory.files import write_json

STATUSES = ("running", "finished", "interrupted", "failed")


@dataclass(frozen=True, slots=True)
class Status:
    """Content of ``status.json``.

    Args:
        status: one of `STATUSES`.
        step: environment steps so far.
        error: one sentence, if it failed.
        resume: how open episodes would be restored: state, replay, barrier or dropped.
        stage: of the iteration, while it is `stalled`.
        stalled: the stage lasts longer than ``stall_after`` (`Watchdog`).
    """

    status: str
    step: int
    error: str | None = None
    resume: str | None = None
    stage: str | None = None
    stalled: bool = False

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status is {self.status!r}, expected one of {', '.join(STATUSES)}")


def write_status(
    run_dir: Path | str,
    status: str,
    step: int,
    error: str | None = None,
    resume: str | None = None,
) -> None:
    """Write ``status.json`` in `run_dir`, atomically."""
    write_json(Path(run_dir) / "status.json", asdict(Status(status, step, error, resume)))


def read_status(run_dir: Path | str) -> Status | None:
    """Read the status of the run in `run_dir`, None if it has none.

    Raises:
        ValueError: naming a file that holds no status.
    """
    path = Path(run_dir) / "status.json"
    try:
        return Status(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no status: {error}") from error
