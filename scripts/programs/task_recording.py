"""Describe the task of a search, from its environments and some random play."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import torch
from omegaconf import DictConfig

from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.seeding import derive
from firstlight.envs.types import Rollout
from firstlight.intrinsic.design.designers.base import DesignTask
from firstlight.scripts.build_env import make_vec, needed_options

_KEPT = 4096  # values of a field that a task holds
_LONGEST = 1000  # steps of each environment, if these are more than were asked for


def record_task(
    cfg: DictConfig, options: Mapping[str, Any]
) -> tuple[DesignTask, Rollout, float | None]:
    """Play with random actions, and describe the task by what was seen.

    Args:
        cfg: config of the trainings.
        options: ``task``, ``notes``, ``probe_steps``, ``seed``.

    Returns:
        The task; the rollout, of at least ``probe_steps`` steps, and of whole episodes if their
        time limit is known and not long; and the return above which an episode has succeeded.
    """
    torch.set_num_threads(1)
    with closing(make_vec(cfg.env, **needed_options(cfg))) as vec:
        runner = Runner(vec, seed=derive(options["seed"], "probes"))
        whole = min((vec.max_steps or 0) + 1, _LONGEST)
        steps = max(-(-options["probe_steps"] // vec.num_envs), whole)
        rollout = runner.collect(RandomActor(vec.act_space), steps)
        groups = {"obs": rollout.obs, "info": rollout.info}
        samples = {
            f"{group}/{name}": field.flatten(0, 1)[:_KEPT].numpy()
            for group, fields in groups.items()
            for name, field in fields.items()
        }
        samples["action"] = rollout.action.flatten(0, 1)[:_KEPT].numpy()
        task = DesignTask(
            goal=options["task"],
            obs_space=vec.obs_space,
            info_space=vec.info_space,
            act_space=vec.act_space,
            samples=samples,
            notes=options["notes"],
            max_steps=vec.max_steps,
        )
    return task, rollout, vec.success_threshold
