"""`check` finds violations of the shape law; slices and successors equal plain loops."""

import dataclasses

import pytest
import torch

from firstlight.envs.types import Rollout, check, map_obs, take

T, N, K, A, P, D = 6, 4, 2, 3, 5, 5


def make_rollout(seed=0, continuous=False, recurrent=False, ends=D):
    """Random rollout that follows the shape law; observations encode their (t, n)."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.arange((T + 1) * N).view(T + 1, N)
    at = torch.randperm(T * N, generator=g)[:ends].sort().values
    final_at = torch.stack([at // N, at % N], 1)
    ended = torch.zeros(T, N, dtype=torch.bool)
    ended[final_at[:, 0], final_at[:, 1]] = True
    cut = torch.rand(T, N, generator=g) < 0.5
    state = {"h": torch.randn(N, 3, generator=g)} if recurrent else {}
    final_state = {"h": torch.randn(ends, 3, generator=g)} if recurrent else {}
    action = torch.randint(0, A, (T, N), generator=g)
    return Rollout(
        obs={"image": rows[..., None].expand(T + 1, N, 7).to(torch.uint8), "id": rows},
        info={"place": rows.float()},
        action=torch.randn(T, N, A, generator=g) if continuous else action,
        log_prob=torch.randn(T, N, generator=g),
        value=torch.randn(T + 1, N, K, generator=g),
        dist_params=torch.randn(T, N, P, generator=g),
        reward=torch.randn(T, N, generator=g),
        terminated=ended & cut,
        truncated=ended & ~cut,
        valid=torch.rand(T, N, generator=g) < 0.9,
        is_first=torch.rand(T + 1, N, generator=g) < 0.2,
        final_at=final_at,
        final_obs={
            "image": (200 + at)[:, None].expand(ends, 7).to(torch.uint8),
            "id": 1000 + at,
        },
        final_info={"place": -1.0 - at.float()},
        final_state=final_state,
        state=state,
        env_ids=torch.arange(N),
    )


def tensors(rollout):
    """Tensors of a rollout by name."""
    found = {}
    for field in dataclasses.fields(rollout):
        value = getattr(rollout, field.name)
        if isinstance(value, dict):
            found |= {f"{field.name}.{name}": tensor for name, tensor in value.items()}
        elif isinstance(value, torch.Tensor):
            found[field.name] = value
    return found


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("ends", [0, D])
def test_a_rollout_that_follows_the_shape_law_passes(continuous, recurrent, ends):
    rollout = make_rollout(continuous=continuous, recurrent=recurrent, ends=ends)
    assert check(rollout) is rollout
    bare = dataclasses.replace(rollout, dist_params=None, info={}, final_info={})
    assert check(bare) is bare


def shorter(tensor):
    return tensor[:-1]


def trailing(tensor):
    return tensor[..., None]


def swapped(tensor):
    return tensor.transpose(0, 1)


PLAIN = ["reward", "log_prob", "value", "terminated", "truncated", "valid", "is_first"]
FIELDS = ["obs.image", "obs.id", "info.place", "final_obs.id", "final_info.place"]
STATES = ["state.h", "final_state.h"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((name, shorter) for name in [*PLAIN[1:], "action", "dist_params", "env_ids"]),
        *((name, trailing) for name in [*PLAIN, "dist_params", "final_at", "env_ids"]),
        *((name, swapped) for name in ["value", "terminated", "is_first", "action"]),
        *((name, shorter) for name in [*FIELDS, *STATES]),
        *((name, swapped) for name in FIELDS[:3]),
        ("reward", torch.Tensor.double),
        ("log_prob", torch.Tensor.double),
        ("value", torch.Tensor.double),
        ("action", torch.Tensor.int),
        ("action", torch.Tensor.double),
        ("terminated", torch.Tensor.float),
        ("truncated", torch.Tensor.byte),
        ("valid", torch.Tensor.float),
        ("is_first", torch.Tensor.float),
        ("final_at", torch.Tensor.int),
        ("env_ids", torch.Tensor.float),
        ("value", lambda value: value[..., 0]),
    ],
    ids=lambda part: part if isinstance(part, str) else getattr(part, "__name__", "cut"),
)
def test_the_message_names_the_field_that_breaks_the_shape_law(name, change):
    rollout = make_rollout(recurrent=True)
    field, _, key = name.partition(".")
    value = getattr(rollout, field)
    broken = {**value, key: change(value[key])} if key else change(value)
    wanted = rf"rollout\.{field}\['{key}'\]" if key else rf"rollout\.{field} "
    with pytest.raises(ValueError, match=wanted):
        check(dataclasses.replace(rollout, **{field: broken}))


def test_a_step_that_terminates_and_truncates_is_refused():
    rollout = make_rollout()
    t, n = rollout.final_at[0].tolist()
    both = torch.zeros(T, N, dtype=torch.bool)
    both[t, n] = True
    with pytest.raises(ValueError, match="both terminated and truncated"):
        check(dataclasses.replace(rollout, terminated=both, truncated=both))


@pytest.mark.parametrize("ends", [0, 1, D])
def test_next_obs_and_next_info_equal_a_plain_loop(ends):
    rollout = make_rollout(seed=3, ends=ends)
    before = {name: tensor.clone() for name, tensor in tensors(rollout).items()}
    obs, info = rollout.next_obs(), rollout.next_info()
    hidden = {tuple(at): d for d, at in enumerate(rollout.final_at.tolist())}
    assert len(hidden) == ends
    for t in range(T):
        for n in range(N):
            d = hidden.get((t, n))
            for name, field in obs.items():
                wanted = rollout.obs[name][t + 1, n] if d is None else rollout.final_obs[name][d]
                assert torch.equal(field[t, n], wanted)
            place = rollout.info["place"][t + 1, n]
            assert info["place"][t, n] == (place if d is None else rollout.final_info["place"][d])
    for name, tensor in tensors(rollout).items():  # the rollout is unchanged
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("cut", [1, 3, T - 1])
@pytest.mark.parametrize("continuous", [False, True])
def test_two_slices_join_to_the_whole_rollout(cut, continuous):
    whole = make_rollout(seed=cut, continuous=continuous)
    head, tail = check(whole.slice(0, cut)), check(whole.slice(cut, T))
    assert head.num_steps == cut
    assert tail.num_steps == T - cut
    shared = {"value", "is_first", "obs.image", "obs.id", "info.place"}  # row `cut` is in both
    first, second = tensors(head), tensors(tail)
    for name, tensor in tensors(whole).items():
        if name == "env_ids":
            assert torch.equal(first[name], second[name])
            continue
        if name == "final_at":
            second[name] = second[name] + torch.tensor([cut, 0])
        if name in shared:
            assert torch.equal(first[name][-1], second[name][0])
            first[name] = first[name][:-1]
        assert torch.equal(torch.cat([first[name], second[name]]), tensor), name
    for name, field in whole.next_obs().items():
        parts = [head.next_obs()[name], tail.next_obs()[name]]
        assert torch.equal(torch.cat(parts), field)


def test_a_recurrent_rollout_is_sliced_from_step_0_only():
    rollout = make_rollout(recurrent=True)
    head = check(rollout.slice(0, 3))
    assert torch.equal(head.state["h"], rollout.state["h"])
    inside = rollout.final_at[:, 0] < 3
    assert 0 < inside.sum() < D
    assert torch.equal(head.final_state["h"], rollout.final_state["h"][inside])
    with pytest.raises(ValueError, match="recurrent"):
        rollout.slice(1, 3)


def test_to_moves_every_tensor_or_returns_the_rollout_itself():
    rollout = make_rollout(recurrent=True)
    assert rollout.to("cpu") is rollout
    moved = rollout.to("meta")
    assert moved.device == torch.device("meta")
    there, here = tensors(moved), tensors(rollout)
    assert there.keys() == here.keys()
    for name, tensor in there.items():
        assert tensor.device.type == "meta", name
        assert tensor.shape == here[name].shape
        assert tensor.dtype == here[name].dtype
    assert rollout.device.type == "cpu"
    assert dataclasses.replace(rollout, version=7).to("meta").version == 7
    assert dataclasses.replace(rollout, dist_params=None).to("meta").dist_params is None


def test_take_and_map_obs_apply_to_every_field():
    obs = {"a": torch.arange(12).view(2, 6), "b": torch.arange(6.0).view(1, 6)}
    rows = torch.tensor([5, 0, 0])
    chosen = take(obs, rows, dim=1)
    assert chosen["a"].tolist() == [[5, 0, 0], [11, 6, 6]]
    assert chosen["b"].tolist() == [[5.0, 0.0, 0.0]]
    assert map_obs(torch.neg, obs)["b"].tolist() == [[0, -1, -2, -3, -4, -5]]
