"""Read and append result lines in ``docs/results``, with commit and hardware."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

RESULTS = Path("docs/results")


def commit() -> str:
    """Short hash of the current commit, with a + if anything but the docs has changed since."""
    try:
        name = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ".", ":!docs"])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.stdout.strip() + ("+" if changed.returncode else "")


def hardware() -> str:
    """Name of the processor and number of cores."""
    name = platform.processor() or platform.machine()
    for line in (
        Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    ):
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return f"{name}, {os.cpu_count()} cores"


def append(table: str, line: dict[str, Any]) -> None:
    """Append one result line to a table."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{table}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read(table: str) -> list[dict[str, Any]]:
    """Read the result lines of a table."""
    path = RESULTS / f"{table}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
