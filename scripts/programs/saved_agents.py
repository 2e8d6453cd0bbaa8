"""Play with the policies that a search trained: descriptions of failures, and videos."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from firstlight.agents.agent import load
from firstlight.agents.evaluation import frozen, record
from firstlight.agents.policy import Policy
from firstlight.envs.seeding import derive
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.design.episode_records import describe_failures
from firstlight.intrinsic.design.recording import record_transitions
from firstlight.scripts.build import make_modules
from firstlight.scripts.build_env import make_vec, needed_options
from firstlight.scripts.saved_run import load_persistent_state

_ENVS, _LONGEST, _UNKNOWN_LIMIT = 8, 1000, 500
_EPISODES, _FRAMES, _PIXELS = 3, 400, 256  # of a video


def describe_failed_episodes(run_dir: Path) -> list[str]:
    """Describe episodes in which the newest policy of a run fails.

    Args:
        run_dir: of a training that this command started, so its config has the rights of this
            command line.
    """
    with _saved_agent(run_dir, _ENVS) as (policy, vec), frozen(policy):
        steps = min((vec.max_steps or _UNKNOWN_LIMIT) + 1, _LONGEST)
        recording = record_transitions(vec, steps, policy, seed=derive(0, "failures"))
        return describe_failures(recording, vec.obs_space)


def record_agent(run_dir: Path, path: Path) -> None:
    """Write a GIF of the newest policy of a run, in the same episodes for every run.

    Args:
        run_dir: as in `describe_failed_episodes`.
        path: of the GIF.

    Raises:
        ValueError: if the environment cannot be drawn.
    """
    with _saved_agent(run_dir, 1) as (policy, vec):
        try:
            vec.enable_rendering()
            vec.reset(0)
            scale = min(1.0, _PIXELS / max(vec.render(0).shape[:2]))
            seed = derive(0, "videos")
            options: dict[str, Any] = {"episodes": _EPISODES, "max_steps": _FRAMES, "scale": scale}
            record(policy, vec, path, seed=seed, **options)
        except (RuntimeError, NotImplementedError) as error:
            raise ValueError(str(error)) from error


@contextmanager
def _saved_agent(run_dir: Path, num_envs: int) -> Iterator[tuple[Policy, VecEnv]]:
    """Load the newest policy of a run, and make environments for it."""
    config = OmegaConf.load(run_dir / "config.yaml")
    assert isinstance(config, DictConfig)
    packages = sorted(_packages(OmegaConf.to_container(config)))
    policy = load(run_dir, which="newest", allow=packages).policy
    vec = make_vec(config.env, num_envs=num_envs, **needed_options(config))
    with closing(make_modules(config.intrinsic, vec, 0)[1]) as vec:
        load_persistent_state(run_dir, "newest", vec)
        yield policy, vec


def _packages(node: Any) -> set[str]:
    """Packages of all targets in a config."""
    if isinstance(node, list):
        return set().union(*map(_packages, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    own = {str(node["_target_"]).partition(".")[0]} if "_target_" in node else set()
    return own.union(*map(_packages, node.values()))
