"""A line about a training run: what the policy sees and does, and what is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from gymnasium import spaces

from firstlight.agents.learner import Learner
from firstlight.agents.policy import Policy
from firstlight.envs.action_spaces import WIDEST, ActionMask, choices, is_bounded
from firstlight.envs.vec import VecEnv
from firstlight.networks import collective

if TYPE_CHECKING:
    from firstlight.agents.trainer import Trainer

UNUSED = "the encoder does not use it"


def summary(trainer: Trainer) -> str:
    """Describe a trainer in one line of plain words.

    Observation fields and what they go through, fields that are left out, the scale of actions, the
    memory, when an episode is a success, info channels, and the number of gradient steps.

    Args:
        trainer: built, with its environments.
    """
    vec, policy, learner = trainer.vec, trainer.policy, trainer.learner
    env_steps = trainer.num_steps * vec.num_envs * collective.size()
    processes = f" of {collective.size()} processes" if collective.size() > 1 else ""
    steps = None
    if isinstance(learner, Learner):  # one that shares no code with ours does not tell
        steps = learner.gradient_steps(trainer.num_steps, vec.num_envs)
    number = "a number of" if steps is None else f"{steps:,}"
    plural = "" if steps == 1 else "s"
    parts = [
        _fields(policy, vec),
        f"actions: {describe_actions(policy)}",
        describe_memory(policy),
        f"success: {describe_success(vec)}",
        _channels(trainer),
        f"an iteration takes {number} gradient step{plural} on {env_steps:,} environment steps"
        + processes,
    ]
    return "; ".join(part for part in parts if part)


def unused_fields(policy: Policy) -> list[str]:
    """Return the observation fields that reach the policy and are not used; none if not known."""
    used = policy.describe_fields()
    return [name for name in policy.obs_space.spaces if used and name not in used]


def _fields(policy: Policy, vec: VecEnv) -> str:
    used = policy.describe_fields()
    told = [f"{name} ({what})" for name, what in used.items()]
    if not used:
        names = ", ".join(policy.obs_space.spaces)
        told = [f"{names} (the encoder does not say what it does with them)"]
    out = dict(vec.left_out) | dict.fromkeys(unused_fields(policy), UNUSED)
    left = ", ".join(f"{name} ({why})" for name, why in out.items())
    return f"observations: {', '.join(told)}" + (f"; left out: {left}" if left else "")


def describe_actions(policy: Policy) -> str:
    """Describe the actions of a policy, and which of them are scaled or squashed."""
    space = policy.act_space
    if not isinstance(space, spaces.Box):
        return _describe_choices(space, policy.obs_space)
    bounded, unit = is_bounded(space), (space.low == -1) & (space.high == 1)
    kind = "squashed normal" if policy.squash else "normal"
    told = f"{bounded.size} number{'' if bounded.size == 1 else 's'} of a {kind} distribution"
    if not bounded.any():
        return f"{told}, not scaled: no bounds closer than {2 * WIDEST:,.0f}"
    scales = not isinstance(policy.action_scale, float) or bool(unit[bounded].all())
    bounds = f"{_range(space.low[bounded])} to {_range(space.high[bounded])}"
    free = int((~bounded).sum())
    rest = f", except {free} without such bounds" if free else ""
    return f"{told}, {'scaled' if scales else 'not scaled'} to the bounds {bounds}{rest}"


def _describe_choices(space: spaces.Space, obs_space: spaces.Dict) -> str:
    sizes, mask = choices(space), ActionMask.find(space, obs_space)
    if isinstance(space, spaces.MultiBinary):
        return f"{len(sizes)} independent switch{'' if len(sizes) == 1 else 'es'}, 0 or 1"
    if not sizes:
        return str(space)
    if len(sizes) == 1:
        return f"1 of {sizes[0]}"
    each = f"1 of {sizes[0]} each" if len({*sizes}) == 1 else f"1 of {', '.join(map(str, sizes))}"
    if mask is not None and mask.joint:
        return f"1 of {mask.sizes[0]:,} combinations of {len(sizes)} choices, {each}"
    return f"{len(sizes)} independent choices, {each}"


def _range(bounds: np.ndarray) -> str:
    """Format bounds as one number, or as the smallest and largest."""
    low, high = bounds.min(), bounds.max()
    return f"{low:g}" if low == high else f"[{low:g} … {high:g}]"


def describe_memory(policy: Policy) -> str:
    """Describe the state that a policy carries from step to step; empty without one."""
    state = policy.initial_state(1)
    names = [f"{name} of {' x '.join(map(str, f.shape[1:]))}" for name, f in state.items()]
    return f"memory: {', '.join(names)}" if names else ""


def describe_success(vec: VecEnv) -> str:
    """Describe when an episode counts as a success."""
    rule = None if vec.success_threshold is None else f"a return above {vec.success_threshold:g}"
    if "success" not in vec.info_space.spaces:
        return rule or "unknown"
    return f"info success or is_success, where it is not given {rule or 'unknown'}"


def _channels(trainer: Trainer) -> str:
    """Describe which info channels are read, and for what."""
    known = list(trainer.vec.info_space.spaces)
    counted = [name for name in known if name == "success" or name in trainer.vec.reported]
    others = [name for name in known if name not in counted]
    told = [f"{', '.join(counted)} for statistics"] if counted else []
    if others and trainer.modules:
        told.append(f"{', '.join(others)} open to {', '.join(trainer.modules)}")
    return f"info read: {'; '.join(told)}" if told else "info read: none"
