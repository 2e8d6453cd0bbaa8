"""The process pool says what `GymVec` says; what it offers besides; what it refuses."""

import functools
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from counting import (
    NAP,
    ON,
    BadShape,
    Buffered,
    Counting,
    CountingOnly,
    Nested,
    RowChecker,
    TextOnly,
    broken,
    cartpole,
    cartpoles,
    doorkey,
    limited,
    moved,
)
from gymnasium import spaces

from firstlight.envs import GymVec, PoolVec, RandomActor, Runner, check_vec
from firstlight.envs.check_rows import difference, record_of
from firstlight.envs.faults import EnvironmentFaultError, EnvironmentRaisedError
from firstlight.envs.vector.buffered import attach_buffers
from firstlight.envs.vector.pool import make

TWICE = spaces.Dict({"twice": spaces.Box(0, 99, (), np.int64)})


WORLDS = {
    "CartPole": cartpole,
    "MiniGrid": doorkey,
    "nested": Nested,
    "odd lengths": CountingOnly,
    "writes into the pool": Buffered,
    "writes, under a wrapper of Gymnasium": limited,
    "would write, under a wrapper that changes it": moved,
}


def pooled(world, num_envs=5, num_workers=2, **options):
    options = {"num_envs": num_envs, "num_workers": num_workers, "timeout": 30.0} | options
    return PoolVec(world, **options)


@pytest.fixture
def vec():
    vec = pooled(Counting)
    vec.reset(3)
    yield vec
    vec.close()


def random_actions(vec, steps, seed=0):
    """Of `RandomActor`, [T, N] or [T, N, A]."""
    draws = torch.Generator().manual_seed(seed)
    dist = RandomActor(vec.act_space)({}, {}, torch.zeros(1, vec.num_envs)).dist
    return [dist.sample(draws)[0] for _ in range(steps)]


def still(n=5):
    return torch.full((n,), ON)


def play(vec, actions):
    return [record_of(vec.step(action)) for action in actions]


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        assert difference(a, b) is None
        assert {name: part.dtype for name, part in a.items()} == {n: p.dtype for n, p in b.items()}


@pytest.mark.parametrize("name", WORLDS)
def test_it_keeps_the_contract(name):
    check_vec(pooled(WORLDS[name], num_envs=3), steps=40)


@pytest.mark.parametrize("name", WORLDS)
def test_it_says_what_gymvec_says(name):
    here, there = GymVec([WORLDS[name]] * 5), pooled(WORLDS[name])
    try:
        assert there.obs_space == here.obs_space
        assert there.info_space == here.info_space
        assert there.act_space == here.act_space
        actions = random_actions(here, 60)
        for seed in (5, None, 6):
            assert_same([record_of(there.reset(seed))], [record_of(here.reset(seed))])
            assert_same(play(there, actions), play(here, actions))
    finally:
        there.close()


@pytest.mark.parametrize(
    "options", [{"num_workers": 1}, {"num_workers": 9}, {"num_workers": 1, "method": "spawn"}]
)
def test_how_the_work_is_shared_changes_nothing(options):
    method = options.pop("method", "forkserver")
    vec = pooled(Counting, start_method=method, info_space=TWICE, **options)
    here = GymVec([Counting] * 5, info_space=TWICE)
    try:
        assert vec.num_workers == min(5, options.get("num_workers", 2))
        assert_same([record_of(vec.reset(1))], [record_of(here.reset(1))])
        steps = play(vec, [still()] * 20)
        assert_same(steps, play(here, [still()] * 20))
        assert any(len(step["final_info['twice']"]) for step in steps)
    finally:
        vec.close()


def test_a_runner_steps_it_in_the_background(vec):
    here = GymVec([Counting] * 5)
    for seed in (1, 2):
        runners = [Runner(v, seed=seed) for v in (vec, here)]
        space = spaces.Discrete(1)
        one, two = (runner.collect(RandomActor(space), 30) for runner in runners)
        assert torch.equal(one.obs["count"], two.obs["count"])
        assert torch.equal(one.final_obs["count"], two.final_obs["count"])
        assert torch.equal(one.truncated, two.truncated)
        assert one.crashed is None


def test_those_that_are_ready_need_not_wait_for_the_others(tmp_path):
    held = tmp_path / "held"
    held.touch()
    vec = pooled(functools.partial(Counting, held), num_envs=5, num_workers=2)  # 0, 1, 2 and 3, 4
    ledger = RowChecker(7, vec.reset(7)[0])
    vec.send(torch.tensor([NAP, ON, ON, ON, ON]))
    turns = 0
    while True:
        ids, step = vec.recv_ready()
        ledger.add(step, ids)
        if 0 in ids:
            break
        assert ids.tolist() == [3, 4]
        assert step.obs["count"].shape == (2, 2)
        turns += 1
        if turns == 6:
            held.unlink()
        vec.send_to(ids, still(2))
    assert turns >= 6
    if len(ids) == 3:
        ledger.add(vec.recv_ready(2)[1], torch.tensor([3, 4]))
    ledger.add(vec.step(still()))
    vec.close()


def test_asynchronous_steps_are_those_of_lockstep(vec):
    """Whoever is ready is acted on; each environment answers as it would among the others."""
    here, steps = GymVec([Counting] * 5), 40
    here.reset(3)
    wanted = [[] for _ in range(5)]
    for _ in range(steps):
        for i, row in enumerate(here.step(still()).obs["count"].tolist()):
            wanted[i].append(row)
    found = [[] for _ in range(5)]
    vec.send_to(torch.tensor([4, 0]), still(2))
    while any(len(rows) < steps for rows in found):
        if vec._pool.num_pending:
            ids, step = vec.recv_ready(1)
            for i, row in zip(ids.tolist(), step.obs["count"].tolist(), strict=True):
                found[i].append(row)
        free = [i for w in vec._pool.workers if not len(w.pending) for i in w.env_ids.tolist()]
        go = [i for i in free if len(found[i]) < steps]
        if go:
            vec.send_to(torch.tensor(go), still(len(go)))
    assert found == wanted


def test_what_cannot_be_sent_or_received_is_refused(vec):
    with pytest.raises(RuntimeError, match="0 environments were sent to"):
        vec.recv()
    vec.send_to(torch.tensor([0]), still(1))
    with pytest.raises(RuntimeError, match=r"environments \[0\] were sent to and not received"):
        vec.send_to(torch.tensor([0]), still(1))
    with pytest.raises(RuntimeError, match=r"environments \[0\] were sent to and not received"):
        vec.send_to(torch.tensor([1, 4]), still(2))  # and nothing was sent to 4
    with pytest.raises(RuntimeError, match="1 environments were sent to and not received; 2"):
        vec.recv_ready(2)
    with pytest.raises(RuntimeError, match="a step was sent and not received"):
        vec.state_dict()
    ids, step = vec.recv_ready()
    assert ids.tolist() == [0]
    assert step.obs["count"][0, 1] in (0, 1)
    for wrong in ([0, 0], [5], [-1], []):
        with pytest.raises(ValueError, match=r"expected different ones of 0\.\.4"):
            vec.send_to(torch.tensor(wrong, dtype=torch.int64), still(len(wrong)))
    vec.send(still())
    ledger = RowChecker(3, vec.reset(3)[0])  # a step that nobody waited for is forgotten
    ledger.add(vec.step(still()))


def test_an_environment_is_lent_its_own_rows_and_nothing_is_copied():
    views = {"count": np.zeros(2, np.int64)}
    for world, lent in ((Buffered, True), (limited, True), (moved, False), (Counting, False)):
        env = world()
        assert attach_buffers(env, views) == lent
        obs, _ = env.reset(seed=1)
        assert (obs["count"] is views["count"]) == lent


def test_it_goes_on_in_another_pool_where_it_was():
    vec = pooled(Counting)
    vec.reset(4)
    play(vec, [still()] * 17)
    points, state = vec.snapshots(), vec.state_dict()
    future = play(vec, [still()] * 20)
    vec.close()
    other, here = pooled(Counting, num_workers=3), GymVec([Counting] * 5)
    try:
        for back in (other, here):
            obs, _, lost = back.load_state_dict(state)
            assert not lost.any()
            assert obs["count"][:, 1].tolist() == [
                0 if p.actions is None else len(p.actions) for p in points
            ]
            assert_same(play(back, [still()] * 20), future)
        obs, _, lost = other.restore(torch.tensor([4, 1]), [points[4], points[1]])
        assert obs["count"][:, 0].tolist() == [points[4].seed, points[1].seed]
        assert lost.tolist() == [False, False]
    finally:
        other.close()


def test_what_answers_differently_is_lost_and_begins():
    vec, here = pooled(Counting), GymVec([Counting] * 5)
    for back in (vec, here):
        back.reset(4)
        play(back, [still()] * 3)
    state = vec.state_dict()
    state["points"][2]["digest"] += 1
    obs, _, lost = vec.load_state_dict(state)
    there, _, gone = here.load_state_dict(state)
    assert lost.tolist() == gone.tolist() == [False, False, True, False, False]
    assert torch.equal(obs["count"], there["count"])
    assert_same(play(vec, [still()] * 20), play(here, [still()] * 20))
    vec.close()


def test_pictures(vec):
    vec.step(still())
    times = vec._memory.obs["count"][:, 1].tolist()
    assert [vec.render(i).tolist() for i in range(5)] == [[[[t] * 3] * 3] * 2 for t in times]
    blind = pooled(cartpole, num_envs=1)
    blind.reset(0)
    with pytest.raises(RuntimeError, match='render_mode="rgb_array"'):
        blind.render()
    blind.close()


def test_closing(vec):
    processes = [worker.process for worker in vec._pool.workers]
    vec.close()
    vec.close()
    assert [process.exitcode for process in processes] == [0, 0]  # each by itself
    for call in (vec.reset, vec.recv, vec.snapshots, lambda: vec.step(still())):
        with pytest.raises(ValueError, match="is closed"):
            call()


def test_factories_that_will_not_do_are_refused():
    for world, error, sentence in (
        (lambda: Counting(), ValueError, "a process cannot be given <lambda>"),
        (broken, EnvironmentRaisedError, "ZeroDivisionError: in the factory .*counting.py"),
        (cartpoles, EnvironmentFaultError, "makes one for each, .*, not a SyncVectorEnv"),
        (TextOnly, EnvironmentFaultError, "no field of"),
        (functools.partial(gymnasium.make, "CartPol-v1"), EnvironmentRaisedError, "CartPol"),
    ):
        with pytest.raises(error, match=sentence) as refused:
            pooled(world, num_workers=1)
        if world is broken:
            assert "in broken" in refused.value.__notes__[0]
    for options in ({"num_envs": 0}, {"num_workers": 0}):
        with pytest.raises(ValueError, match="expected at least 1"):
            pooled(Counting, **options)


def test_observations_and_channels_that_will_not_do_are_named():
    for world, info_space, sentence in (
        (
            BadShape,
            None,
            r"'count' is int64 of shape \(1, 2\).*in Box of shape \(2,\)",
        ),
        (Counting, spaces.Dict({"place": spaces.Discrete(3)}), "gave no info 'place', .*'twice'"),
    ):
        vec = pooled(world, num_workers=1, info_space=info_space)
        with pytest.raises(EnvironmentFaultError, match=sentence):
            vec.reset(0)
        with pytest.raises(EnvironmentFaultError, match=sentence):  # and nothing after it
            vec.recv()
        assert vec.restarts == 0
        vec.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_lies_in_dev_shm(vec):
    """What has no name cannot be left behind, however the processes end."""
    for worker in vec._pool.workers:
        home = Path("/proc") / str(worker.process.pid)
        held = [str(link.readlink()) for link in (home / "fd").iterdir()]
        held += (home / "maps").read_text().splitlines()
        assert any("memfd:firstlight (deleted)" in name for name in held)
        assert not [name for name in held if "/dev/shm" in name]


def test_make():
    vec = make("CartPole-v1", num_envs=3, num_workers=2, success_threshold=7, max_episode_steps=4)
    try:
        assert (vec.num_envs, vec.num_workers, vec.success_threshold) == (3, 2, 7)
        vec.reset(0)
        ends = [vec.step(torch.zeros(3, dtype=torch.int64)).truncated.tolist() for _ in range(4)]
        assert ends == [[False] * 3] * 3 + [[True] * 3]
        assert vec.render(2).ndim == 3
    finally:
        vec.close()
