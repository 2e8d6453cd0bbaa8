"""Decorator that makes a command-line program of a function of a Hydra config."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import wraps

import hydra
from omegaconf import DictConfig

from firstlight.scripts.command_help import HELP, help_text, is_help
from firstlight.scripts.errors import FULL_ERROR, print_line, report_errors
from firstlight.scripts.interrupts import defer_signals, end_on_signal


def command(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Compose ``conf/{config_name}.yaml`` from the command line and call the function with it.

    As `hydra.main`, but errors that the user can correct, also Hydra's own, are printed as one
    line.
    """

    def decorate(task: Callable[[DictConfig], None]) -> Callable[[], None]:
        compose = hydra.main(
            version_base="1.3", config_path="pkg://firstlight.conf", config_name=config_name
        )

        @wraps(task)
        def import_and_run(config: DictConfig) -> None:
            with defer_signals():
                importlib.import_module("firstlight.agents")
            task(config)

        # errors are caught inside Hydra too, because Hydra prints a line before re-raising them
        composed = compose(report_errors(import_and_run, is_job=True))

        @wraps(task)
        def main() -> None:
            before = os.environ.get(FULL_ERROR)
            os.environ[FULL_ERROR] = "1"  # makes Hydra raise its errors instead of printing them
            try:
                with end_on_signal():
                    if is_help(words := sys.argv[1:]):
                        overrides = [word for word in words if word not in HELP]
                        summary = (task.__doc__ or "").partition("\n")[0]
                        print_line(help_text(config_name, summary, overrides), sys.stdout)
                    else:
                        composed()
            finally:
                os.environ.pop(FULL_ERROR)
                os.environ.update({} if before is None else {FULL_ERROR: before})

        return report_errors(main)

    return decorate
