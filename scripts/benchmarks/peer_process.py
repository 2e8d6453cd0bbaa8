"""Run timed scripts in processes of their own, peers in a virtual environment of their own."""

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
    # RLeXplore pins versions that conflict with the rest, so only what it imports is installed
    ("--no-deps", "rllte-core==1.0.1", "termcolor", "pynvml==11.5.0"),
)
"""Arguments of successive calls of ``pip install``."""
SAMPLE_FACTORY: tuple[tuple[str, ...], ...] = (
    ("torch==2.13.0",),
    # Sample Factory asks for gymnasium < 1.0 and numpy < 2, with which nle's own pins do not fit
    ("numpy<2", "gymnasium<1.0", "minigrid<3", "signal-slot-mp", "threadpoolctl", "colorlog"),
    ("psutil", "tensorboard", "tensorboardx", "filelock", "pyglet", "opencv-python-headless"),
    ("huggingface-hub<1.0", "wandb"),
    ("--no-deps", "sample-factory==2.1.1", "nle==1.3.0"),
)
"""The same for an environment with Sample Factory, without `CONSTRAINTS`, which do not fit it."""


class ScriptError(RuntimeError):
    """A subprocess failed; the message holds its output."""


def peer_python(
    venv: str, packages: Sequence[Sequence[str]] = PEERS, *, constrained: bool = True
) -> str:
    """Return the Python of the peers' environment, after installing what is missing.

    Args:
        venv: folder of the environment.
        packages: arguments of successive calls of ``pip install``.
        constrained: whether `CONSTRAINTS` hold there.

    Raises:
        BadInputError: outside a checkout of the repository.
        ScriptError: if something cannot be installed, with the output of pip.
    """
    if constrained and not CONSTRAINTS.exists():
        raise BadInputError(
            "peers are installed by constraints.txt, which only a checkout of the repository has"
        )
    python, stamp = Path(venv) / "bin" / "python", Path(venv) / ".peers"
    pins = CONSTRAINTS.read_text(encoding="utf-8") if constrained else ""
    wanted = "\n".join([*map(" ".join, packages), pins])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return str(python)
    print(f"installing the peers into {venv}", flush=True)
    if not python.exists():
        _run([sys.executable, "-m", "venv", venv])
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    for words in packages:
        _run([*pip, *(["-c", str(CONSTRAINTS)] if constrained else []), *words])
    stamp.write_text(wanted, encoding="utf-8")
    return str(python)


def run_script(command: Sequence[str]) -> dict[str, Any]:
    """Run a timed script and return the JSON object it prints last."""
    return json.loads(_run(command).strip().splitlines()[-1])


def displayed(command: Sequence[str]) -> str:
    """Format a command for a table: files by name, without folders."""
    return " ".join(
        Path(word).name if "/" in word and "=" not in word else word for word in command
    )


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        output = f"{done.stdout[-500:]}{done.stderr[-2000:]}".strip()
        raise ScriptError(f"{' '.join(command)} failed:\n{output}")
    return done.stdout
