"""Start a run from the policy and the reward modules of another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from firstlight.agents.session.run_directory import checkpoint
from firstlight.agents.session.run_directory.checkpoint import CheckpointError
from firstlight.intrinsic.base import IntrinsicModule

POLICY = "policy"
"""Name of the policy among the parts to load; the others are names of reward modules."""


def initialise(
    policy: nn.Module,
    modules: Mapping[str, IntrinsicModule],
    run_or_checkpoint: Path | str,
    parts: Sequence[str] | None = None,
) -> list[str]:
    """Load parameters and statistics of another run; optimisers and schedules begin anew.

    Of the policy, tensors are loaded whose name and shape are the same in both runs, so it can be
    taken to a task with other actions or other reward streams. A module is loaded as a whole; its
    episodic memory is cleared.

    Args:
        policy: of the new run.
        modules: name to reward module of the new run.
        run_or_checkpoint: run directory, of which the best checkpoint is taken if there is one, or
            a checkpoint.
        parts: "policy" and names of modules; default the policy and every module of both runs.

    Returns:
        Names of the policy's tensors that keep their own initial value, because the other run has
        none of that name and shape.

    Raises:
        CheckpointError: if there is no complete checkpoint.
        ValueError: for a part that one of the runs does not have, or that does not fit.
    """
    path = checkpoint.find(Path(run_or_checkpoint))
    state = checkpoint.load(path)
    try:
        given = {POLICY: state["learner"]["policy"], **state.get("modules", {})}
    except (KeyError, TypeError):
        raise CheckpointError(f"{path} holds no policy") from None
    own: dict[str, nn.Module] = {POLICY: policy, **modules}
    chosen = [name for name in own if name in given] if parts is None else list(parts)
    for name in chosen:
        for where, there in (("this run", own), (str(path), given)):
            if name not in there:
                raise ValueError(f"{where} has no {name!r}; it has {', '.join(map(str, there))}")
    for name in chosen:
        if name != POLICY:
            _load_module(name, modules[name], given[name])
    return _load_policy(policy, given[POLICY]) if POLICY in chosen else []


def _load_policy(policy: nn.Module, given: Mapping[str, Any]) -> list[str]:
    """Load the tensors of `given` that fit. Returns the names of the policy's other tensors."""
    own = policy.state_dict()
    fitting = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise ValueError("nothing of the policy fits: no tensor has the same name and shape")
    policy.load_state_dict({**own, **fitting})
    return [key for key in own if key not in fitting]


def _load_module(name: str, module: IntrinsicModule, given: Mapping[str, Any]) -> None:
    own = module.state_dict()
    optimisers = {key: value for key, value in own.items() if key.endswith("_extra_state")}
    try:
        module.load_state_dict({**given, **optimisers})
    except (RuntimeError, KeyError) as error:
        sentence = " ".join(str(error).split())
        raise ValueError(f"the reward module {name!r} does not fit: {sentence}") from None
    module.reset()
