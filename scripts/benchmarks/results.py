"""Read and append result lines in ``docs/results``, with commit and hardware."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
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
    append_line(RESULTS / f"{table}.jsonl", line)


def read(table: str) -> list[dict[str, Any]]:
    """Read the result lines of a table."""
    return read_lines(RESULTS / f"{table}.jsonl")


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append a JSON object in one write, so that several processes may append to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, (json.dumps(line) + "\n").encode())
    finally:
        os.close(file)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the JSON objects of a file, one a line; none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
