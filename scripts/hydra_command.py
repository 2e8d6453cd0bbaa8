"""Decorator that makes a command-line program of a function of a Hydra config."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import wraps

import hydra
from omegaconf import DictConfig

from firstlight.scripts.errors import FULL_ERROR, report_errors
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
                    composed()
            finally:
                os.environ.pop(FULL_ERROR)
                os.environ.update({} if before is None else {FULL_ERROR: before})

        return report_errors(main)

    return decorate
