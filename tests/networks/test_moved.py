"""Old import paths are translated to current ones."""

import contextlib
import importlib
from importlib.util import find_spec

import pytest

from firstlight.networks.moved import MODULES, NAMES, current


@pytest.mark.parametrize("old", MODULES)
def test_an_old_module_is_gone_and_its_new_path_exists(old):
    assert find_spec(f"firstlight.{MODULES[old]}") is not None
    with contextlib.suppress(ModuleNotFoundError):  # its parent may be gone too
        assert find_spec(f"firstlight.{old}") is None


@pytest.mark.parametrize("old", NAMES)
def test_an_old_name_is_translated_to_an_existing_object(old):
    module, _, name = NAMES[old].rpartition(".")
    assert name in vars(importlib.import_module(f"firstlight.{module}"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("firstlight.agents.ppo.PPO", "firstlight.agents.algorithms.ppo.PPO"),
        ("firstlight.agents.encoders.Grid", "firstlight.networks.encoders.Grid"),
        ("firstlight.agents.encoders.grid.Grid", "firstlight.networks.encoders.grid.Grid"),
        ("firstlight.envs.minihack.make", "firstlight.envs.nethack.minihack.make"),
        ("firstlight.agents.policy.ActorCritic", "firstlight.agents.policy.ActorCritic"),
        ("firstlight.envs.minigrid.make", "firstlight.envs.minigrid.make"),
        ("elsewhere.agents.ppo.PPO", "elsewhere.agents.ppo.PPO"),
    ],
)
def test_paths_are_translated(old, new):
    assert current(old) == new
    assert current(new) == new
