"""Timed scripts: each in a process of its own, peers in an environment of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firstlight.scripts.errors import BadInputError

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"

PEERS: tuple[tuple[str, ...], ...] = (
    ("torch",),  # first and by its pin, so that nothing later brings another build of it
    ("gymnasium", "envpool", "stable-baselines3"),
    # RLeXplore pins versions that do not go with the rest, so it gets only what it imports
    ("--no-deps", "rllte-core==1.0.1", "termcolor", "pynvml==11.5.0"),
)
"""Arguments of pip, call by call."""


class ScriptError(RuntimeError):
    """A command ended badly; the message is what it said."""


def peer_python(venv: str) -> str:
    """Python of the peers' own environment, which is made or completed if need be.

    Raises:
        BadInputError: outside a checkout of the repository.
        ScriptError: if something cannot be installed, with what pip said.
    """
    if not CONSTRAINTS.exists():
        raise BadInputError(
            "peers have the versions of constraints.txt: a checkout has it, no wheel"
        )
    python, stamp = Path(venv) / "bin" / "python", Path(venv) / ".peers"
    wanted = "\n".join([*map(" ".join, PEERS), CONSTRAINTS.read_text(encoding="utf-8")])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return str(python)
    print(f"installing the peers into {venv}", flush=True)
    if not python.exists():
        _run([sys.executable, "-m", "venv", venv])
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    for words in PEERS:
        _run([*pip, "-c", str(CONSTRAINTS), *words])
    stamp.write_text(wanted, encoding="utf-8")
    return str(python)


def result(command: Sequence[str]) -> dict[str, Any]:
    """The JSON object that a timed script prints last."""
    return json.loads(_run(command).strip().splitlines()[-1])


def shown(command: Sequence[str]) -> str:
    """A command as it stands in a table: files by name, without folders."""
    return " ".join(Path(word).name if "/" in word else word for word in command)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = f"{done.stdout[-500:]}{done.stderr[-2000:]}".strip()
        raise ScriptError(f"{' '.join(command)} failed:\n{said}")
    return done.stdout
