"""Measurements of speed: stages of training, the EnvPool adapter, the process pool."""

import itertools

import pytest

from firstlight.envs.vector.envpool import EnvPoolVec
from firstlight.scripts.benchmarks import (
    adapter_overhead,
    pools,
    results,
    schedules,
    stages,
    world_speed,
)

TASK = "MiniGrid-Empty-5x5-v0"
TINY = stages.configured(
    TASK,
    *("env=minigrid/any", f"env.task={TASK}", "env.num_envs=4", "trainer.num_steps=8"),
    *("intrinsic=[count,rnd]", "intrinsic.rnd.embedding_dim=8", "intrinsic.rnd.warmup_steps=8"),
    *("learner.num_epochs=1", "learner.minibatch_size=16"),
)
ALONE = {"environments alone, EnvPool", "environments alone, ours"}


def test_shares_of_the_stages_and_the_rest_add_up_to_1():
    rows = stages.one_round(TINY, steps=64)
    assert set(rows) == {*stages.STAGES, "rest", "all"} | ALONE
    assert sum(rows[name][1] for name in (*stages.STAGES, "rest")) == pytest.approx(1)
    assert rows["all"][1] == 1
    for rate, share in rows.values():
        assert rate > 0
        assert rate * share == pytest.approx(rows["all"][0])
    assert all(0 < rows[name][1] < 1 for name in (*stages.STAGES, "rest"))


def test_each_round_adds_a_value_to_each_row_of_each_setup(monkeypatch):
    measured = dict.fromkeys([*stages.STAGES, "rest", "all", *ALONE], (100.0, 0.5))
    monkeypatch.setattr(stages, "SETUPS", {"a": TINY, "b": TINY})
    monkeypatch.setattr(stages, "one_round", lambda setup, steps: measured)
    stages.measure(rounds=2, steps=32)
    lines = results.read("stages")
    assert {(line["setup"], line["row"]) for line in lines} == set(
        itertools.product("ab", [*stages.STAGES, "rest", "all", *ALONE])
    )
    for line in lines:
        assert len(line["steps_per_second"]) == len(line["share"]) == 2
        assert line["command"] == "firstlight-bench stages rounds=2 steps=32"
        assert {"commit", "hardware"} <= line.keys()


@pytest.mark.parametrize("name", stages.SETUPS)
def test_setups_train_on_the_task_that_is_timed_alone(name, here):
    setup = stages.SETUPS[name]
    trainer = setup.make(str(here / "run"))
    pool = EnvPoolVec(setup.task, num_envs=trainer.vec.num_envs)
    assert trainer.vec.act_space == pool.act_space
    assert setup.task == stages.TASK
    expected = {"ppo": set(), "count_rnd": {"count", "rnd"}}
    assert set(trainer.modules) == expected.get(name, {"count"})
    pool.close()
    trainer.vec.close()


def test_views_are_compared_with_the_first_round_by_round(monkeypatch):
    assert adapter_overhead.relative_speed(4, 400) > 0
    small = stages.configured(
        adapter_overhead.TASK, *adapter_overhead.COMMON, "intrinsic=[]", "trainer.num_steps=4"
    )
    assert adapter_overhead.training_speed(small, 256) > 0
    speeds = iter(float(speed) for speed in range(1, 100))
    monkeypatch.setattr(adapter_overhead, "relative_speed", lambda num_envs, steps: 1 / num_envs)
    monkeypatch.setattr(adapter_overhead, "training_speed", lambda setup, steps: next(speeds))
    adapter_overhead.measure(rounds=2, steps=1)
    rows = {line["row"]: line for line in results.read("views")}
    n = len(adapter_overhead.VIEWS)
    assert len(rows) == n + len(adapter_overhead.SIZES)
    for i, name in enumerate(adapter_overhead.VIEWS):
        assert rows[name]["steps_per_second"] == [1 + i, 1 + i + n]
        assert rows[name]["ratio"] == [1 + i, (1 + i + n) / (1 + n)]


def test_pool_and_peers_are_measured_in_turn(monkeypatch):
    monkeypatch.setattr(pools, "SECONDS", 0.05)
    monkeypatch.setattr(pools, "SIZES", (2,))
    pools.measure(rounds=1)
    lines = results.read("pools")
    assert {line["row"] for line in lines} == pools.ABOUT.keys()
    assert all(line["steps_per_second"][0] > 0 for line in lines)


def test_worlds_are_measured_in_turn(monkeypatch):
    monkeypatch.setattr(world_speed, "SECONDS", 0.01)
    chosen = {name: world_speed.WORLDS[name] for name in ("deepsea", "warehouse/complex_dynamic")}
    monkeypatch.setattr(world_speed, "WORLDS", chosen)
    world_speed.measure(rounds=2)
    lines = {line["row"]: line for line in results.read("worlds")}
    assert lines.keys() == chosen.keys()
    for line in lines.values():
        assert len(line["steps_per_second"]) == len(line["per_processor_second"]) == 2
        assert min(line["steps_per_second"]) > 0
        assert line["num_envs"] == 64


def test_schedules_are_measured_in_turn_and_compared_with_the_first(monkeypatch):
    monkeypatch.setattr(schedules, "ENVIRONMENTS", ("chain",))
    small = ["env.num_envs=4", "trainer.num_steps=8", "learner.minibatch_size=16"]
    chosen = {name: [*overrides, *small] for name, overrides in schedules.SCHEDULES.items()}
    monkeypatch.setattr(schedules, "SCHEDULES", chosen)
    schedules.measure(rounds=2, steps=64)
    lines = {line["row"]: line for line in results.read("schedules")}
    assert lines.keys() == chosen.keys()
    assert lines["ppo"]["ratio"] == [1, 1]
    for line in lines.values():
        assert min(line["steps_per_second"] + line["per_processor_second"]) > 0
        for ratio, own, other in zip(
            line["ratio"], line["steps_per_second"], lines["ppo"]["steps_per_second"], strict=True
        ):
            assert ratio == pytest.approx(own / other, rel=0.05)  # of rounded numbers
