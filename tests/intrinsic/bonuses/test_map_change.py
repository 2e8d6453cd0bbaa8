"""`MapChange` against its formula, on both MiniGrid backends."""

import dataclasses

import gymnasium
import minigrid  # noqa: F401  (registers the ids)
import pytest
import torch

from firstlight.agents import PPO, ActorCritic, Trainer
from firstlight.envs.minigrid.map_memory import CHANNELS, MapMemory
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.vector.envpool import EnvPoolVec
from firstlight.envs.vector.gym import GymVec
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import Heads, MapChange, RewardMixer, Term, check_module
from firstlight.networks.encoders import Grid

TASK = "MiniGrid-DoorKey-5x5-v0"
BACKENDS = ("envpool", "python")


def make(backend, num_envs=4, limit=25):
    if backend == "envpool":
        options = {"num_threads": 1, "max_episode_steps": limit}
        keys = {"obs_keys": ("image", "direction"), "info_keys": ()}
        return EnvPoolVec(TASK, num_envs=num_envs, **options, **keys)
    return GymVec([lambda: gymnasium.make(TASK, max_steps=limit)] * num_envs)


def rollouts(vec, count=2, steps=60):
    runner = Runner(vec)
    return [runner.collect(RandomActor(vec.act_space), steps) for _ in range(count)]


def formula(rollout, cell=0.1, change=1.0, place=0.1, most=14):
    """The bonus by plain loops, from the rows as they came."""
    hidden = {(t, n): i for i, (t, n) in enumerate(rollout.final_at.tolist())}
    bonus = torch.zeros(rollout.num_steps, rollout.num_envs)
    for t in range(rollout.num_steps):
        for n in range(rollout.num_envs):
            at = hidden.get((t, n))
            new, changes, here = (
                (
                    rollout.info[name][t + 1, n] if at is None else rollout.final_info[name][at]
                ).item()
                for name in CHANNELS
            )
            if rollout.valid[t, n]:
                bonus[t, n] = cell * min(new, most) + change * changes + place * here
    return bonus


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bonus_equals_the_formula_by_plain_loops(backend):
    plain, odd = {}, {"cell": 0.3, "change": 0.0, "place": 2.0, "most": 2}
    for said in (plain, odd):
        names = {"cell": "cell_weight", "change": "change_weight", "place": "place_weight"}
        options = {names.get(name, "max_cells"): value for name, value in said.items()}
        vec = make(backend)
        module = MapChange(vec.obs_space, info_space=vec.info_space, **options)
        for rollout in rollouts(module.wrap(vec)):
            bonus = module.compute(rollout)
            torch.testing.assert_close(bonus, formula(rollout, **said))
            assert bonus.dtype == torch.float32
            assert (bonus > 0).any()
            assert (rollout.terminated | rollout.truncated).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_last_step_of_an_episode_gets_its_bonus_and_the_reset_does_not(backend):
    vec = make(backend, num_envs=16, limit=1)  # each step is an episode's last
    module = MapChange(vec.obs_space)
    (rollout,) = rollouts(module.wrap(vec), count=1)
    bonus = module.compute(rollout)
    assert len(rollout.final_at) == (0 if backend == "envpool" else rollout.reward.numel())
    paid = bonus[rollout.valid]
    assert 0.1 < (paid > 0).float().mean() < 0.9
    assert not bonus[~rollout.valid].any()


def test_invalid_rows_get_0():
    (rollout,) = rollouts(MapMemory(make("python")), count=1)
    module = MapChange(MapMemory(make("python")).obs_space)
    valid = torch.rand(rollout.reward.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    bonus = module.compute(dataclasses.replace(rollout, valid=valid))
    assert torch.equal(bonus, torch.where(valid, module.compute(rollout), 0.0))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("show", [True, False])
def test_it_passes_check_module(backend, show):
    vec = make(backend)
    if show:
        vec = MapMemory(vec)
    check_module(MapChange(vec.obs_space, info_space=vec.info_space), vec=vec)


def test_wrap_adds_a_map_only_if_there_is_none():
    vec = make("envpool")
    module = MapChange(vec.obs_space, info_space=vec.info_space)
    wrapped = module.wrap(vec)
    assert wrapped.obs_space == vec.obs_space
    assert set(CHANNELS) <= set(wrapped.info_space)
    assert module.wrap(wrapped) is wrapped
    for show in (True, False):
        mapped = MapMemory(vec, show=show)
        again = MapChange(mapped.obs_space, info_space=mapped.info_space)
        assert again.wrap(mapped) is mapped


def test_missing_views_and_channels_are_reported():
    chain = Chain()
    with pytest.raises(ValueError, match=r"needs MiniGrid's view"):
        MapChange(chain.obs_space, info_space=chain.info_space)
    vec = make("envpool")
    (rollout,) = rollouts(vec, count=1)
    with pytest.raises(ValueError, match=r"no info 'new_cells'.*wrap"):
        MapChange(vec.obs_space).compute(rollout)


def test_update_returns_new_cells_changes_and_places_per_step():
    vec = make("envpool")
    module = MapChange(vec.obs_space)
    (rollout,) = rollouts(module.wrap(vec), count=1)
    told = module.update(rollout)
    assert set(told) == {"cells", "changes", "place"}
    expected = rollout.next_info()["new_cells"][rollout.valid].float().mean().item()
    assert told["cells"] == pytest.approx(expected)
    nothing = dataclasses.replace(rollout, valid=torch.zeros_like(rollout.valid))
    assert set(module.update(nothing).values()) == {0.0}


def test_the_default_term():
    assert MapChange.default_term() == Term(weight=0.02, gamma=0.99, episodic=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("show", [True, False], ids=["map", "no map"])
def test_a_run_of_two_iterations_trains(backend, show, tmp_path):
    vec = MapMemory(make(backend), show=show)
    module = MapChange(vec.obs_space, info_space=vec.info_space)
    mixer = RewardMixer({"reward": Term(), "map_change": MapChange.default_term()}, Heads())
    policy = ActorCritic(
        vec.obs_space, vec.act_space, encoder=Grid(vec.obs_space), num_streams=mixer.num_streams
    )
    learner = PPO(policy, minibatch_size=32, num_epochs=1)
    trainer = Trainer(
        vec, learner, {"map_change": module}, mixer, num_steps=32, run_dir=tmp_path / "run"
    )
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    trainer.run(2 * 32 * 4 - 16)
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    assert all(parameter.isfinite().all() for parameter in policy.parameters())
