"""Play episodes of a trained policy, and describe those that fail."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from firstlight.agents.agent import load
from firstlight.agents.evaluation import frozen
from firstlight.envs.seeding import derive
from firstlight.intrinsic.design.episode_records import describe_failures
from firstlight.intrinsic.design.recording import record_transitions
from firstlight.scripts.build import make_modules, make_vec, needed_options

_ENVS, _LONGEST, _UNKNOWN_LIMIT = 8, 1000, 500


def describe_failed_episodes(run_dir: Path) -> list[str]:
    """Describe episodes in which the newest policy of a run fails.

    Args:
        run_dir: of a training that this command started, so its config has the rights of this
            command line.
    """
    config = OmegaConf.load(run_dir / "config.yaml")
    assert isinstance(config, DictConfig)
    packages = sorted(_packages(OmegaConf.to_container(config)))
    policy = load(run_dir, which="newest", allow=packages).policy
    vec = make_vec(config.env, num_envs=_ENVS, **needed_options(config))
    with closing(make_modules(config.intrinsic, vec, 0)[1]) as vec, frozen(policy):
        steps = min((vec.max_steps or _UNKNOWN_LIMIT) + 1, _LONGEST)
        recording = record_transitions(vec, steps, policy, seed=derive(0, "failures"))
        return describe_failures(recording, vec.obs_space)


def _packages(node: Any) -> set[str]:
    """Packages of all targets in a config."""
    if isinstance(node, list):
        return set().union(*map(_packages, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    own = {str(node["_target_"]).partition(".")[0]} if "_target_" in node else set()
    return own.union(*map(_packages, node.values()))
