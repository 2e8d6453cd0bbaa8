"""Load the agent of a run and act on single observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from firstlight.agents.export import export_onnx
from firstlight.agents.policy import Policy
from firstlight.agents.session.run_directory import checkpoint
from firstlight.agents.session.run_directory.checkpoint import CheckpointError
from firstlight.envs.optional_box import OptionalBox
from firstlight.envs.seeding import generator
from firstlight.envs.text import TextBytes, encode_text
from firstlight.envs.types import Obs, State
from firstlight.networks.spec import rebuild


def load(
    run_or_checkpoint: Path | str,
    *,
    policy: nn.Module | None = None,
    allow: Sequence[str] = (),
    which: Literal["best", "newest"] = "best",
    seed: int = 0,
) -> Agent:
    """Load the agent of a run on the CPU, without environment or configuration.

    Args:
        run_or_checkpoint: a run directory or one of its checkpoints.
        policy: loaded with the parameters. Needed only for a policy that is not rebuildable, or to
            avoid `allow`. By default the policy is made from its description in the checkpoint.
        allow: packages beside firstlight whose classes the description may name.
        which: for a run, the best checkpoint if there is one, or the newest.
        seed: of sampled actions.

    Raises:
        CheckpointError: if there is no complete checkpoint, or the policy does not fit it.
        SpecError: if the description names a class outside of firstlight and `allow`.
    """
    path = checkpoint.find(Path(run_or_checkpoint), which)
    state = checkpoint.load(path)
    try:
        spec, parameters = state["policy_spec"], state["learner"]["policy"]
    except (KeyError, TypeError):
        raise CheckpointError(f"{path} holds no policy") from None
    if policy is None:
        if spec is None:
            raise CheckpointError(f"{path} has no description of its policy: pass policy=...")
        policy = rebuild(spec, allow)
    assert isinstance(policy, nn.Module)
    try:
        policy.load_state_dict(parameters)
    except RuntimeError as error:
        sentence = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit {type(policy).__name__}: {sentence}") from None
    return Agent(policy.cpu().eval(), seed=seed, step=checkpoint.step_of(path))


class Agent:
    """Acts on observations of one or several Gymnasium environments: numpy in and numpy out.

    Args:
        policy: on the CPU, in evaluation mode.
        seed: of sampled actions.
        step: environment steps of training.
    """

    def __init__(self, policy: Any, *, seed: int = 0, step: int = 0):
        self.policy: Policy = policy
        self.obs_space: spaces.Dict = policy.obs_space
        self.act_space: spaces.Space = policy.act_space
        self.step = step
        self._generator = generator(seed, "agent")

    def act(
        self,
        obs: Any,
        state: State | None = None,
        deterministic: bool = False,
        is_first: np.ndarray | None = None,
    ) -> tuple[Any, State]:
        """Choose an action for one observation, or one for each of N.

        Args:
            obs: an array, or a (nested) dict of arrays, each of its shape in `obs_space`, or all
                with an additional first axis N. A text is a str, or N of them. Fields that the
                policy does not use are ignored; fields that a reward module added in training may
                be missing, see `OptionalBox`.
            state: returned by the last call; None when an episode begins.
            deterministic: take the most likely action instead of a sampled one.
            is_first: [N] bool, which of N observations begin an episode; default all without a
                `state`, else none.

        Returns:
            Action in the environment's action space, [...] or [N, ...]; and the state for the next
            call.

        Raises:
            ValueError: for a field that is missing, or of a wrong shape or dtype.
        """
        fields, batched = _batch(obs, self.obs_space)
        num_envs = len(next(iter(fields.values())))
        first = torch.full((1, num_envs), state is None)
        if is_first is not None:
            first = torch.as_tensor(np.asarray(is_first, bool)).reshape(1, -1)
        if state is None:
            state = self.policy.initial_state(num_envs)
        if first.shape[1] != num_envs or any(len(part) != num_envs for part in state.values()):
            raise ValueError(f"state or is_first is not of {num_envs} environments, but obs is")
        with torch.no_grad():
            out = self.policy({name: field[None] for name, field in fields.items()}, state, first)
            action = out.dist.mode() if deterministic else out.dist.sample(self._generator)
        choice = _to_space(action[0].numpy(), self.act_space)
        return (choice if batched else choice[0]), out.state

    def export(self, path: Path | str) -> None:
        """Write the policy as an ONNX file, for programs without torch; see `export_onnx`.

        Args:
            path: of the file.

        Raises:
            ExportError: for a policy of which no such file can be written.
        """
        export_onnx(self.policy, path)


def _batch(obs: Any, space: spaces.Dict) -> tuple[Obs, bool]:
    """Make tensors [N, ...] of the fields in `space`; also return whether `obs` had an axis N."""
    given = _flatten(obs) if isinstance(obs, Mapping | tuple) else {"obs": obs}
    arrays: dict[str, np.ndarray] = {}
    added = {
        name: np.full(field.shape, field.default, np.float32)
        for name, field in space.spaces.items()
        if name not in given and isinstance(field, OptionalBox)
    }
    for name, field in space.spaces.items():
        if name in added:
            continue
        if name not in given:
            raise ValueError(f"the observation lacks {name!r}; it has {sorted(given)}")
        arrays[name] = _cast(name, np.asarray(given[name]), field)
    shapes = {name: tuple(field.shape or ()) for name, field in space.spaces.items()}
    if all(array.shape == shapes[name] for name, array in arrays.items()):
        arrays |= added
        return {name: torch.from_numpy(array[None].copy()) for name, array in arrays.items()}, False
    num_envs = {array.shape[:1] for array in arrays.values()}
    for name, array in arrays.items():
        if array.shape[1:] != shapes[name] or array.ndim == 0 or len(num_envs) > 1:
            raise ValueError(
                f"observation {name!r} has shape {array.shape}, expected {shapes[name]}, "
                "or that with the same N in front of every field"
            )
    (batch,) = num_envs.pop()
    arrays |= {name: np.tile(array, (batch, *[1] * array.ndim)) for name, array in added.items()}
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, True


def _flatten(obs: Any, prefix: str = "") -> dict[str, Any]:
    """Collect the arrays of a nested observation under dotted names."""
    if isinstance(obs, Mapping):
        items = [(str(key), value) for key, value in obs.items()]
    elif isinstance(obs, tuple):
        items = [(str(i), value) for i, value in enumerate(obs)]
    else:
        return {prefix: obs}
    leaves: dict[str, Any] = {}
    for key, value in items:
        leaves |= _flatten(value, f"{prefix}.{key}" if prefix else key)
    return leaves


def _cast(name: str, array: np.ndarray, space: spaces.Space) -> np.ndarray:
    """Cast `array` to the dtype of training, or raise ValueError if that changes a number."""
    if isinstance(space, TextBytes) and array.dtype.kind in "UO":
        size = space.shape[0]
        encoded = [encode_text(str(text), size) for text in array.flat]
        return np.array(encoded, np.uint8).reshape(*array.shape, size)
    dtype = np.dtype(np.float32 if space.dtype == np.float64 else space.dtype)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"observation {name!r} is {array.dtype}, expected numbers")
    with np.errstate(invalid="ignore"):
        cast = array.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(cast, array):
        raise ValueError(f"observation {name!r} has numbers that do not fit {dtype}")
    return cast


def _to_space(action: np.ndarray, space: spaces.Space) -> np.ndarray:
    """Convert actions of a policy, [N, *action], to the action space."""
    shaped = action.reshape(len(action), *(space.shape or ()))
    if isinstance(space, spaces.Box):
        shaped = np.clip(shaped, space.low, space.high)
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        shaped = shaped + space.start
    return shaped.astype(space.dtype)
