"""Write a policy as an ONNX file, which acts without torch and without firstlight."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.agents.evaluation import frozen
from firstlight.agents.policy import ActorCritic
from firstlight.envs.files import replacing
from firstlight.envs.optional_box import OptionalBox
from firstlight.envs.types import Obs, State
from firstlight.networks.encoders.base import Encoder

OPSET = 17
"""Version of ONNX's operators; onnxruntime has it since 1.12 (2022)."""
NEXT = "next_"
"""Prefix of the outputs that are the state for the next step."""


class ExportError(ValueError):
    """Raised for a policy of which no ONNX file can be written; gives the reason."""


def export_onnx(policy: Any, path: Path | str) -> None:
    """Write one step of a policy as an ONNX file.

    Normalisation of observations, action masks, scaling, squashing and clipping of actions are part
    of the file. Inputs are the observation fields under their names, [N, ...] of the dtypes of
    `policy.obs_space` (float32 for float64), and the fields of the state, [N, ...], if the policy
    has a memory: zeros where an episode begins. Fields that a reward module added in training are
    no inputs; they have their defaults.

    Outputs are `action` [N, ...], the most likely one in the environment's action space and dtype;
    `distribution` [N, P], the parameters it follows from (log-probabilities of discrete actions,
    logits of a MultiBinary, means and log standard deviations of a Box, which are those before
    tanh where actions are squashed); and ``next_NAME`` for each field of the state.

    Args:
        policy: an `ActorCritic` on the CPU.
        path: of the file; its folder is made.

    Raises:
        ExportError: for another policy, an encoder that is not `exportable`, or an operation that
            ONNX does not have.
        ModuleNotFoundError: if the package onnx is not installed.
    """
    if not isinstance(policy, ActorCritic):
        raise ExportError(f"a {type(policy).__name__} cannot be exported, only an ActorCritic can")
    for module in policy.encoder.modules():
        if isinstance(module, Encoder) and not module.exportable:
            raise ExportError(
                f"the encoder {type(module).__name__} cannot be exported: it finds what it reads "
                "by compiled loops, for which ONNX has no operation"
            )
    if importlib.util.find_spec("onnx") is None:
        raise ModuleNotFoundError("an export needs onnx: pip install 'firstlight[export]'")
    step = _Step(policy)
    inputs = (*(_example(policy.obs_space[name]) for name in step.fields), *step.state(1))
    names = [*step.fields, *step.memory]
    outputs = ["action", "distribution", *(NEXT + name for name in step.memory)]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with frozen(step), warnings.catch_warnings(), replacing(path) as temporary:
        # torch's older exporter is deprecated; the newer one needs a further package and its
        # compiler, and takes many times as long
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                step,
                inputs,
                str(temporary),
                input_names=names,
                output_names=outputs,
                dynamic_axes={name: {0: "N"} for name in (*names, *outputs)},
                opset_version=OPSET,
                dynamo=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error).strip().partition("\n")[0][:300]  # a graph follows
            raise ExportError(f"this policy cannot be exported: {reason}") from error


class _Step(nn.Module):
    """One step of a policy as a function of plain tensors.

    Attributes:
        fields: names of the observation fields that are inputs.
        memory: names of the fields of the policy's state.
    """

    def __init__(self, policy: ActorCritic):
        super().__init__()
        self.policy = policy
        space = policy.obs_space.spaces
        self.fields = [name for name, s in space.items() if not isinstance(s, OptionalBox)]
        self.absent = {n: s for n, s in space.items() if isinstance(s, OptionalBox)}
        self.memory = list(policy.core.initial_state(1))

    def state(self, num_envs: int) -> tuple[Tensor, ...]:
        """Return the fields of the state before an episode, each [N, ...]."""
        return tuple(self.policy.core.initial_state(num_envs).values())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute the action, the parameters of its distribution, and the next state."""
        obs: Obs = dict(zip(self.fields, inputs, strict=False))
        state: State = dict(zip(self.memory, inputs[len(self.fields) :], strict=True))
        number = inputs[0].shape[0]
        for name, space in self.absent.items():
            obs[name] = torch.full((number, *space.shape), space.default)
        policy, is_first = self.policy, torch.zeros((1, number), dtype=torch.bool)
        features, after = policy.core(policy.encode(obs)[None], state, is_first)
        outputs, mask = policy.policy_head(features[0]), obs.get("action_mask")
        dist = policy.distribution.make(outputs, policy.log_std, mask)
        action = _in_space(dist.mode(), policy.act_space)
        return (action, dist.params, *(after[name] for name in self.memory))


def _example(space: spaces.Space) -> Tensor:
    """Make an observation [1, ...] of a field, as `Agent.act` gives it to the policy."""
    dtype = np.dtype(np.float32 if space.dtype == np.float64 else space.dtype)
    array = np.zeros((1, *(space.shape or ())), dtype)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        array += space.start  # 0 may be no choice
    return torch.from_numpy(array)


def _in_space(action: Tensor, space: spaces.Space) -> Tensor:
    """Convert actions [N, *action] of a policy to the environment's, as `Agent.act` does."""
    if isinstance(space, spaces.Box):
        action = torch.minimum(
            torch.maximum(action, torch.from_numpy(space.low)), torch.from_numpy(space.high)
        )
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        action = action + torch.as_tensor(space.start)
    return action.to(torch.from_numpy(np.zeros(1, space.dtype)).dtype)
