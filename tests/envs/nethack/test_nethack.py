"""NetHack environments: equal to NLE's, with seeded episodes, a time limit and buffers."""

import contextlib
import functools
import pickle
import sys

import gymnasium
import numpy as np
import pytest
import torch
from dungeon import HP, KEYS, TIME, play, random_steps
from nle import nethack

from firstlight.agents.evaluation import evaluate
from firstlight.envs import check_vec
from firstlight.envs.nethack import make
from firstlight.envs.nethack.nethack_env import NetHackEnv
from firstlight.envs.nethack.tasks import TASKS
from firstlight.envs.runner import RandomActor
from firstlight.envs.seeding import derive, generator
from firstlight.envs.vector.gym import GymVec
from firstlight.envs.vector.isolated import Isolated

NLE_TASKS = sorted(name for name in TASKS if name.endswith("-v0"))


def until_the_end(task="NetHackScore-v0", seed=3):
    """A random episode up to its death, as (env, answers)."""
    env = NetHackEnv(task, max_episode_steps=10**6)
    answers = list(play(env, seed, 20_000))
    assert answers[-1][2]
    return env, answers


@pytest.mark.parametrize("task", ["score", "staircase_2_continual"])
def test_the_contract_of_vector_environments(task):
    check_vec(make(task, num_envs=2, max_episode_steps=9, text=True), steps=30)


OPTIONS = {"num_envs": 3, "max_episode_steps": 500}


@functools.cache
def final_channels(seed):
    """Side channels at the end of the first episode of each environment, and `vec.reported`."""
    ends = {}
    vec = make("score", **OPTIONS)
    for step in random_episodes(vec, seed):
        for i, env_id in enumerate(step.final_ids.tolist()):
            ends.setdefault(env_id, {name: c[i] for name, c in step.final_info.items()})
        if len(ends) == vec.num_envs:
            return ends, vec.reported


@pytest.mark.parametrize("where", ["serial", "pool", "isolated"])
def test_evaluation_reports_the_side_channels_at_the_end_of_episodes(where):
    """Compared with the same episodes stepped here, which end at different times."""
    backend = "pool" if where == "pool" else "serial"
    factory = functools.partial(make, "score", text=True, backend=backend, **OPTIONS)
    vec = Isolated(factory) if where == "isolated" else factory()
    with contextlib.closing(vec):
        result = evaluate(RandomActor(vec.act_space), vec, episodes=3, seed=4)
    ends, reported = final_channels(seed=4)
    differ = 0
    for name in ("depth", "explored", "gold", "experience_level", "kills", "turns"):
        values = [float(ends[env_id][name]) for env_id in range(3)]
        assert result.reported[f"{name}_mean"] == pytest.approx(np.mean(values)), name
        differ += len(set(values)) > 1
    assert differ >= 3
    assert set(result.reported) == {f"{name}_mean" for name in reported}


def random_episodes(vec, seed):
    """Yield the steps that `evaluate` takes with a random actor."""
    actor, actions = RandomActor(vec.act_space), generator(seed, "evaluation")
    vec.reset(seed)
    while True:
        out = actor({}, {}, torch.zeros(1, vec.num_envs, dtype=torch.bool))
        yield vec.step(out.dist.sample(actions)[0])


def test_the_pool_gives_the_same_steps():
    """In the pool NetHack writes into shared memory."""
    options = {"num_envs": 2, "max_episode_steps": 7, "text": True}
    serial, pool = make("score", **options), make("score", backend="pool", **options, num_workers=1)
    with contextlib.closing(pool):
        serial.reset(0)
        pool.reset(0)
        for a, b in zip(random_steps(serial, 20), random_steps(pool, 20), strict=True):
            for group in ("obs", "info", "final_obs", "final_info"):
                one, two = getattr(a, group), getattr(b, group)
                assert all((one[key] == two[key]).all() for key in one.keys() | two.keys())
            assert (a.reward == b.reward).all()


@pytest.mark.parametrize("task", NLE_TASKS)
def test_a_task_of_nle_gives_the_same_steps_as_nle(task):
    """With the same seeds, observations and actions."""
    ours = NetHackEnv(task, keys=KEYS)
    theirs = gymnasium.make(
        task, observation_keys=KEYS, fix_moon_phase=True, disable_env_checker=True
    ).unwrapped
    core, disp, levels = (derive(7, f"nethack.{name}") for name in ("core", "disp", "levels"))
    theirs.seed(core, disp, reseed=False, lgen=levels)
    their_obs, _ = theirs.reset()
    our_obs, _ = ours.reset(seed=7)
    rng = np.random.default_rng(7)
    assert ours.action_space == theirs.action_space
    for _ in range(400):
        for key in KEYS:
            np.testing.assert_array_equal(our_obs[key], their_obs[key])
        action = int(rng.integers(ours.action_space.n))
        our_obs, reward, terminated, *_ = ours.step(action)
        their_obs, their_reward, their_end, *_ = theirs.step(action)
        assert (reward, terminated) == (pytest.approx(their_reward), their_end)
        if terminated:
            break
    ours.close()
    theirs.close()


def test_an_episode_depends_only_on_its_seed_and_actions():
    fresh, used = NetHackEnv("score"), NetHackEnv("score")
    list(play(used, 5, 50, rng_seed=1))
    runs = [list(play(env, seed, 150)) for env, seed in ((fresh, 1), (used, 1), (fresh, 2))]
    for (a, *rest), (b, *others) in zip(runs[0], runs[1], strict=True):
        assert all((a[key] == b[key]).all() for key in KEYS)
        assert rest[:3] == others[:3]
    assert any((a[0]["glyphs"] != c[0]["glyphs"]).any() for a, c in zip(*runs[::2], strict=False))


def test_a_reset_without_a_seed_depends_on_the_last_seed():
    one, two = NetHackEnv("score"), NetHackEnv("score")
    for env in (one, two):
        env.reset(seed=4)
    (a, _), (b, _) = one.reset(), two.reset()
    (c, _) = one.reset()
    assert (a["glyphs"] == b["glyphs"]).all()
    assert (a["glyphs"] != c["glyphs"]).any()


def test_the_time_limit_truncates_and_the_game_is_still_there():
    env = NetHackEnv("score", max_episode_steps=11)
    answers = list(play(env, 0, 50))
    assert len(answers) == 11
    assert [a[3] for a in answers] == [False] * 10 + [True]
    assert not any(a[2] for a in answers)
    assert answers[-1][0]["blstats"][HP] > 0
    with pytest.raises(RuntimeError, match=r"call reset\(\)"):
        env.step(0)


def test_death_terminates_and_shows_the_last_moment():
    _, answers = until_the_end()
    obs, reward, terminated, truncated, info = answers[-1]
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert obs["blstats"][HP] <= 0
    assert obs["blstats"][TIME] > 0
    assert info["turns"] == obs["blstats"][TIME]
    assert b"die" in obs["message"].tobytes()
    assert (obs["glyphs"] != nethack.GLYPH_CMAP_OFF).sum() > 9


def test_side_channels_agree_with_the_observations():
    env, killed, seen = NetHackEnv("score"), 0, {}
    for obs, _, _, _, info in play(env, 10, 800):
        line, said = obs["blstats"], b" ".join(env.game.messages)
        seen[line[23], line[24]] = int((obs["glyphs"] != nethack.GLYPH_CMAP_OFF).sum())
        killed += said.count(b"You kill ") + said.count(b"You destroy ")
        assert (info["depth"], info["gold"], info["turns"]) == (line[12], line[13], line[20])
        assert (info["experience_level"], info["dungeon_level"]) == (line[18], line[24])
        assert info["agent_pos"].tolist() == line[:2].tolist()
        assert (info["explored"], info["kills"]) == (sum(seen.values()), killed)
    assert info["kills"] >= 1
    assert info["gold"] > 0
    assert "success" not in info


def test_observations_are_copies_until_views_are_given():
    env = NetHackEnv("score")
    first, _ = env.reset(seed=0)
    kept = {key: field.copy() for key, field in first.items()}
    list(play(env, 1, 30))
    assert all((first[key] == kept[key]).all() for key in KEYS)


@pytest.mark.parametrize("begun", [False, True])
def test_observations_are_written_into_views(begun):
    env, other = NetHackEnv("score"), NetHackEnv("score")
    if begun:
        env.reset(seed=0)
    rows = {
        key: np.zeros((3, *space.shape), space.dtype)
        for key, space in other.observation_space.spaces.items()
    }
    views = {key: field[1] for key, field in rows.items()}
    env.set_buffers(views)
    for (mine, *_), (copies, *_) in zip(play(env, 2, 60), play(other, 2, 60), strict=True):
        for key in KEYS:
            assert mine[key] is views[key]
            np.testing.assert_array_equal(views[key], copies[key])
            assert not rows[key][[0, 2]].any()


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({"chars": np.zeros((21, 79), np.uint8)}, "no observation 'chars'"),
        ({"glyphs": np.zeros((21, 80), np.int16)}, r"int16 \(21, 80\), not int16 \(21, 79\)"),
        ({"glyphs": np.zeros((21, 79), np.int32)}, "is int32"),
        ({"glyphs": np.zeros((79, 21), np.int16).T}, "not contiguous"),
    ],
)
def test_views_that_do_not_fit_are_refused(views, message):
    with pytest.raises(ValueError, match=message):
        NetHackEnv("score").set_buffers(views)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "staircase_9"}, "no NetHack task 'staircase_9'; there are score, staircase_2"),
        ({"task": "NetHackChallenge-v0"}, "takes no seed"),
        ({"keys": ["glyphs", "smell"]}, "no observation 'smell'"),
        ({"actions": "all"}, "actions is one of .*, not 'all'"),
        ({"backend": "threads"}, "backend is 'serial' or 'pool', not 'threads'"),
        ({"max_episode_steps": 0}, "expected at least 1"),
    ],
)
def test_bad_choices_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**{"task": "score", "num_envs": 1} | options)


def test_factories_pickle():
    factory = functools.partial(NetHackEnv, "oracle", keys=("blstats",))
    env = pickle.loads(pickle.dumps(factory))()
    assert env.reset(seed=0)[0]["blstats"].shape == (27,)


def test_games_are_recorded_on_request_only(tmp_path):
    env = NetHackEnv("score", savedir=tmp_path / "games")
    for _ in range(2):
        list(play(env, 0, 20))
    env.close()
    files = sorted(path.name for path in (tmp_path / "games").iterdir())
    assert len(files) == 2
    assert all(path.stat().st_size for path in (tmp_path / "games").iterdir())
    assert all(".ttyrec" in name for name in files)


def test_the_error_names_a_missing_package(monkeypatch):
    for name in ("nethack_env", "base_env", "channels", "tasks", "game"):
        monkeypatch.delitem(sys.modules, f"firstlight.envs.nethack.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "nle", None)
    with pytest.raises(ImportError, match=r"need the package 'nle': pip install 'firstlight\["):
        make("score", num_envs=1)


def test_environments_of_nle_itself_run_in_gymvec():
    """Gymnasium's vector environments pass empty options to `reset`, which NLE cannot handle."""
    vec = GymVec([lambda: gymnasium.make("NetHackScore-v0", max_episode_steps=5)] * 2)
    vec.reset(0)
    ends = sum(int(vec.step(torch.tensor([0, 1])).truncated.sum()) for _ in range(12))
    assert ends == 4
    vec.close()
