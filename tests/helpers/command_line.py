"""Run commands in this process, and read their output and the files of runs."""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from hydra.core.hydra_config import HydraConfig


@dataclass(frozen=True)
class Done:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str

    def lines(self) -> list[str]:
        """Lines of standard error."""
        return self.err.splitlines()

    def result(self) -> dict:
        """JSON object in the last line of standard output."""
        return json.loads(self.out.splitlines()[-1])


def command(main, *words: str) -> Done:
    """Call `main` with `words` as its command line; exceptions other than SystemExit are raised."""
    out, err = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    status = 0
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.object(sys, "argv", ["command", *words]),
        ):
            main()
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        root.handlers[:], root.level = before
        HydraConfig.instance().cfg = None
    return Done(status, out.getvalue(), err.getvalue())


def checked(main, *words, status: int = 0) -> Done:
    """Call `main` as `command` does, and assert that it ends with `status`."""
    done = command(main, *map(str, words))
    assert done.status == status, done.out + done.err
    return done


def python(*words: str, cwd: Path, **environment: str) -> Done:
    """Run the Python interpreter with `words` in a new process, which takes seconds."""
    done = subprocess.run(
        [sys.executable, "-P", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def metrics(run: Path) -> list[dict[str, float]]:
    """Lines of a run's ``metrics.jsonl``."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Contents of every file below `folder`, by relative path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
