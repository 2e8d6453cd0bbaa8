"""Registered Gymnasium environments by their id, and what to do about an id that is unknown."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import re
from typing import Any

import gymnasium

from firstlight.envs.faults import raise_for_environment

PROVIDERS = {
    "ale_py": "ALE/",
    "gymnasium_robotics": "Fetch|Hand|Adroit|PointMaze|AntMaze|FrankaKitchen",
    "highway_env": "(highway|merge|roundabout|parking|intersection|racetrack|exit|u-turn)-",
    "minigrid": "MiniGrid|BabyAI",
    "minihack": "MiniHack",
    "miniworld": "MiniWorld",
    "nle": "NetHack",
    "panda_gym": "Panda",
    "vizdoom": "Vizdoom",
}
"""Packages that register environments when they are imported, and how their ids begin."""


def check_registered(id: str) -> None:
    """Raise ValueError if there is no registered environment `id`; the message offers near misses.

    Args:
        id: as in `gymnasium.make`; "module:Name-v0" imports the module first.
    """
    module, _, name = id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(
                f"cannot import {module!r} for the environment {id!r}: {error}; is it installed, "
                "or its folder on PYTHONPATH?"
            ) from error
        except Exception as error:
            raise_for_environment(error, f"the module {module}", "while it was imported")
    try:
        gymnasium.spec(name)
    except gymnasium.error.DeprecatedEnv as error:
        raise ValueError(str(error)) from error
    except gymnasium.error.Error as error:
        raise ValueError(f"there is no environment {id!r}{_way_out(module, name)}") from error


def _way_out(module: str, name: str) -> str:
    """End of the message about an unknown environment: where it is, or which are like it."""
    known = {*gymnasium.registry}
    package = next((p for p, start in PROVIDERS.items() if re.match(start, name)), None)
    if package and not module:
        if importlib.util.find_spec(package) is None:
            installed = package.replace("_", "-")
            return (
                f"; the package {package} registers it: pip install {installed} and give "
                f"env.id={package}:{name}"
            )
        with contextlib.suppress(Exception):  # the import is a help only
            importlib.import_module(package)
    if name in gymnasium.registry:
        return f"; {package} registers it: give env.id={package}:{name}"
    close = difflib.get_close_matches(name, [*gymnasium.registry], n=3)
    ids = [one if one in known and not module else f"{module or package}:{one}" for one in close]
    if ids:
        return f"; did you mean {' or '.join(repr(one) for one in ids)}?"
    return "; env.id=module:Name-v0 imports the module that registers it first"


class RegisteredEnv:
    """A picklable factory of a registered environment.

    Args:
        name: as in `gymnasium.make`; "module:Name-v0" imports the module first.
        options: keywords of the environment.
    """

    def __init__(self, name: str, options: dict[str, Any]):
        self.name, self.options = name, options

    def __repr__(self) -> str:
        return self.name

    def __call__(self) -> gymnasium.Env:
        """Make one environment."""
        module, _, name = self.name.rpartition(":")
        if module:
            importlib.import_module(module)
        # the intake checks what it returns
        options = {"disable_env_checker": True, **self.options}
        try:
            return gymnasium.make(name, render_mode="rgb_array", **options)
        except TypeError:  # an environment that knows no render_mode
            return gymnasium.make(name, **options)
