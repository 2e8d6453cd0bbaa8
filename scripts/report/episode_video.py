"""Write a video of an episode of a trained policy, with or without its rewards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from firstlight.scripts.errors import BadInputError
from firstlight.scripts.saved_run import load_persistent_state, load_rewards, load_teachers

if TYPE_CHECKING:
    from firstlight.agents.policy import Policy


def record_episode(
    cfg: DictConfig, config: DictConfig, policy: Policy, step: int, seed: int
) -> Path:
    """Write a GIF or an MP4 of an episode; with ``rewards=true`` it shows every reward.

    Args:
        cfg: options of the command.
        config: of the run.
        policy: from the checkpoint.
        step: environment steps at that checkpoint, for the file's name.
        seed: of the episode.

    Returns:
        The file.
    """
    from firstlight.agents.diagnostics.reward_video import record_rewards
    from firstlight.agents.evaluation import record
    from firstlight.intrinsic.design.lint import ProgramError
    from firstlight.scripts.build import make_mixer, make_modules
    from firstlight.scripts.build_env import make_vec, needed_options

    folder, suffix = Path(cfg.run) / "videos", "mp4" if cfg.video == "mp4" else "gif"
    vec = make_vec(config.env, num_envs=1, **needed_options(config))
    try:
        modules, vec = make_modules(config.intrinsic, vec, config.get("seed", cfg.seed))
        load_teachers(Path(cfg.run), cfg.which, modules)
        load_persistent_state(Path(cfg.run), cfg.which, vec)
        options: dict[str, Any] = {"seed": seed, "deterministic": cfg.deterministic}
        if not cfg.rewards:
            target = folder / f"step_{step}.{suffix}"
            record(policy, vec, target, **options)
            return target
        left_out = [str(name) for name in config.intrinsic if name not in modules]
        mixer = make_mixer(config.mixer, modules, left_out)
        load_rewards(Path(cfg.run), cfg.which, modules, mixer)
        options["progress"] = min(step / config.total_steps, 1.0)
        target = folder / f"step_{step}_rewards.{suffix}"
        record_rewards(policy, vec, modules, mixer, target, **options)
        return target
    except ProgramError as error:
        raise BadInputError(f"rewards=true: {error}; programs=sandboxed allows it") from error
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise BadInputError(f"video=true: {error}") from error
    finally:
        vec.close()
