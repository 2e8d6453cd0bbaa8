"""Runs a command in this process, as a shell would run it in one of its own."""

import contextlib
import io
import logging
import sys
from dataclasses import dataclass
from unittest import mock

from hydra.core.hydra_config import HydraConfig


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    def lines(self) -> list[str]:
        return self.err.splitlines()


def command(main, *words: str) -> Done:
    """What `main` does with `words`; errors that would end in a traceback come through."""
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
