"""An exported policy acts as the policy does, without torch."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from firstlight.agents.agent import Agent, _cast
from firstlight.agents.export import ExportError
from firstlight.agents.policy import ActorCritic
from firstlight.envs.optional_box import OptionalBox
from firstlight.envs.text import TextBytes
from firstlight.networks.cores import GRU, LSTM
from firstlight.networks.encoders import (
    MLP,
    Grid,
    Impala,
    MultiInput,
    Pixel,
    SparseNetHack,
    TwinMLP,
)

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

VECTOR = spaces.Dict({"obs": spaces.Box(-10, 10, (4,), np.float32)})
MIXED = spaces.Dict(
    {
        "position": spaces.Box(-1, 1, (3,), np.float64),
        "choice": spaces.Discrete(4, start=2),
        "levers": spaces.MultiDiscrete([2, 3]),
        "bytes": spaces.Box(0, 255, (5,), np.uint8),
    }
)
MINIGRID = spaces.Dict(
    {"image": spaces.Box(0, 255, (7, 7, 3), np.uint8), "direction": spaces.Discrete(4)}
)
PICTURE = spaces.Dict({"obs": spaces.Box(0, 255, (2, 36, 36), np.uint8)})
SCREEN = spaces.Dict(
    {
        "glyphs": spaces.Box(0, 5976, (21, 79), np.int16),
        "blstats": spaces.Box(-(2**31), 2**31 - 1, (27,), np.int64),
        "message": spaces.Box(0, 255, (40,), np.uint8),
        "inv_glyphs": spaces.Box(0, 5976, (9,), np.int16),
    }
)
ARM = spaces.Box(np.float32([-1, 0, -np.inf]), np.float32([3, 0.5, np.inf]))


def agent(obs_space, act_space, encoder, **options):
    """An agent whose weights, statistics and deviations are not those of a new policy."""
    torch.manual_seed(1)
    for name in ("core", "critic_core"):
        if name in options:
            options[name] = options[name](encoder.out_dim, hidden=6, num_layers=2)
    policy = ActorCritic(obs_space, act_space, encoder=encoder, **options)
    for parameter in policy.parameters():
        size = parameter[0].numel() if parameter.dim() > 1 else 9
        nn.init.normal_(parameter, std=size**-0.5)
    for module in policy.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight.data[module.padding_idx])  # as it always is
    for name, buffer in policy.named_buffers():
        if name.endswith(("normaliser.mean", "normaliser.scale")):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return Agent(policy.eval())


def sampled(space, n, seed):
    space.seed(seed)
    parts = [space.sample() for _ in range(n)]
    return {name: np.stack([part[name] for part in parts]) for name in space.spaces}


def minigrid_views(n, seed):
    draw = np.random.default_rng(seed)
    image = np.stack([draw.integers(0, high, (n, 7, 7)) for high in (11, 6, 3)], -1)
    return {"image": image.astype(np.uint8), "direction": draw.integers(0, 4, n)}


def screens(n, seed):
    draw = np.random.default_rng(seed)
    line = np.zeros((n, 27), np.int64)
    line[:, 0], line[:, 1] = draw.integers(0, 79, n), draw.integers(0, 21, n)
    line[:, 10:13] = draw.integers(1, 99, (n, 3))
    line[:, 25] = draw.integers(0, 2**13, n)
    message = draw.integers(32, 127, (n, 40)) * (np.arange(40) < draw.integers(0, 41, (n, 1)))
    items = np.where(draw.random((n, 9)) < 0.5, 5976, draw.integers(0, 5976, (n, 9)))
    return {
        "glyphs": draw.integers(0, 5976, (n, 21, 79)).astype(np.int16),
        "blstats": line,
        "message": message.astype(np.uint8),
        "inv_glyphs": items.astype(np.int16),
    }


def played(made, path, batches, memory=()):
    """Compare the file with `Agent.act` on batches; with a memory they are consecutive steps."""
    made.export(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    number, state = len(next(iter(batches[0].values()))), None
    own = {name: np.zeros((number, *shape), np.float32) for name, shape in dict(memory).items()}
    seen = []
    for obs in batches:
        fed = {
            name: field.astype(np.float32) if field.dtype == np.float64 else field
            for name, field in obs.items()
        }
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(None, fed | own), strict=True))
        np.testing.assert_allclose(
            found["distribution"], distribution(made, obs, state), rtol=1e-5, atol=1e-5
        )
        expected, state = made.act(obs, state, deterministic=True)
        assert found["action"].dtype == expected.dtype
        assert found["action"].shape == expected.shape
        np.testing.assert_allclose(found["action"], expected, rtol=1e-5, atol=1e-5)
        own = {name: found[f"next_{name}"] for name in own}
        for name, field in own.items():
            np.testing.assert_allclose(field, state[name].numpy(), rtol=1e-5, atol=1e-5)
        seen.append(found["distribution"])
    assert np.ptp(np.concatenate(seen), 0).max() > 0.01  # it depends on the observation
    return found


def distribution(made, obs, state):
    """Parameters [N, P] of the policy's own distributions."""
    number = len(next(iter(obs.values())))
    fields = {
        name: torch.from_numpy(_cast(name, obs[name], space))[None]
        for name, space in made.obs_space.spaces.items()
        if name in obs
    }
    for name, space in made.obs_space.spaces.items():
        if name not in obs:
            fields[name] = torch.full((1, number, *space.shape), space.default)
    first = torch.full((1, number), state is None)
    before = made.policy.initial_state(number) if state is None else state
    with torch.no_grad():
        return made.policy(fields, before, first).dist.params[0].numpy()


CASES = {
    "one action": (VECTOR, spaces.Discrete(5, start=3), lambda s: MLP(s), {}),
    "twin": (VECTOR, spaces.Discrete(5), lambda s: TwinMLP(s), {}),
    "several fields": (MIXED, spaces.MultiDiscrete([3, 5]), lambda s: MultiInput(s), {}),
    "switches": (VECTOR, spaces.MultiBinary(6), lambda s: MLP(s, normalize_obs=False), {}),
    "scaled": (VECTOR, ARM, lambda s: MLP(s), {}),
    "squashed": (VECTOR, ARM, lambda s: MLP(s), {"squash": True, "state_dependent_std": True}),
    "picture": (PICTURE, spaces.Discrete(4), lambda s: Pixel(s, out_dim=16), {}),
    "residual": (PICTURE, spaces.Discrete(4), lambda s: Impala(s, channels=(4, 4)), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_actions_are_those_of_the_agent(case, tmp_path):
    """Of one environment and of several, by the same file."""
    obs_space, act_space, encoder, options = CASES[case]
    made = agent(obs_space, act_space, encoder(obs_space), **options)
    batches = [sampled(obs_space, number, i) for i, number in enumerate((1, 7, 2))]
    played(made, tmp_path / "policy.onnx", batches)


@pytest.mark.parametrize("core", [GRU, LSTM])
def test_a_memory_is_passed_from_step_to_step(core, tmp_path):
    made = agent(VECTOR, ARM, TwinMLP(VECTOR), core=core, critic_core=core, num_streams=2)
    memory = {name: field.shape[1:] for name, field in made.policy.core.initial_state(1).items()}
    played(made, tmp_path / "a.onnx", [sampled(VECTOR, 3, i) for i in range(6)], memory)


def test_grids_and_screens_are_read_without_compiled_loops(tmp_path):
    made = agent(MINIGRID, spaces.Discrete(7), Grid(MINIGRID, hidden=16))
    played(made, tmp_path / "grid.onnx", [minigrid_views(5, i) for i in range(4)])
    made = agent(SCREEN, spaces.Discrete(8), MultiInput(SCREEN, hidden=(16,)))
    played(made, tmp_path / "screen.onnx", [screens(5, i) for i in range(4)])


def test_forbidden_actions_are_not_taken(tmp_path):
    fields = {**VECTOR.spaces, "action_mask": spaces.MultiBinary(5)}
    space = spaces.Dict(fields)
    made = agent(space, spaces.Discrete(5), MLP(space))
    batch = sampled(space, 40, 0)
    batch["action_mask"][:, 0] = 1
    found = played(made, tmp_path / "policy.onnx", [batch])
    assert batch["action_mask"][np.arange(40), found["action"]].all()
    np.testing.assert_allclose(np.exp(found["distribution"]).sum(1), 1, rtol=1e-5)


def test_fields_of_reward_modules_have_their_defaults(tmp_path):
    space = spaces.Dict({**VECTOR.spaces, "subgoal": OptionalBox(-1, 1, (2,), default=-1)})
    made = agent(space, spaces.Discrete(5), MLP(space))
    played(made, tmp_path / "policy.onnx", [sampled(VECTOR, 6, i) for i in range(5)])


@pytest.mark.parametrize(
    ("space", "encoder"),
    [
        (SCREEN, SparseNetHack),
        (spaces.Dict({**VECTOR.spaces, "mission": TextBytes(20)}), MultiInput),
    ],
)
def test_an_encoder_of_compiled_loops_is_refused(space, encoder, tmp_path):
    made = agent(space, spaces.Discrete(5), encoder(space))
    with pytest.raises(ExportError, match=r"encoder (SparseNetHack|Words) cannot be exported"):
        made.export(tmp_path / "policy.onnx")
    assert list(tmp_path.iterdir()) == []


class Sorted(MLP):
    """Uses an operation that ONNX does not have."""

    def forward(self, obs):
        return super().forward(obs) * torch.special.bessel_j0(obs["obs"].sum())


def test_an_operation_that_the_format_lacks_is_named(tmp_path):
    made = agent(VECTOR, spaces.Discrete(5), Sorted(VECTOR))
    with pytest.raises(ExportError, match="bessel_j0"):
        made.export(tmp_path / "policy.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_policy_of_another_kind_is_refused(tmp_path):
    class Other(nn.Module):
        obs_space, act_space = VECTOR, spaces.Discrete(5)

    with pytest.raises(ExportError, match=r"an? Other cannot be exported, only an ActorCritic"):
        Agent(Other()).export(tmp_path / "policy.onnx")
