"""Exact resume: a resumed run equals an uninterrupted one, bit for bit."""

import json
import shutil
from pathlib import Path

import gymnasium
import minigrid  # noqa: F401  (registers the ids)
import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.agents.agent import load
from firstlight.agents.algorithms.ppo import PPO
from firstlight.agents.policy import ActorCritic
from firstlight.agents.session.callbacks import Evaluate
from firstlight.agents.session.run_directory import checkpoint
from firstlight.agents.session.run_directory.status import read_status
from firstlight.agents.trainer import Trainer
from firstlight.envs import nethack
from firstlight.envs.nethack import minihack
from firstlight.envs.vector.envpool import EnvPoolVec
from firstlight.envs.vector.gym import GymVec
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import RND, HashCount, Heads, Linear, ReturnScale, RewardMixer, Term
from firstlight.networks import GRU, LSTM
from firstlight.networks.encoders import MLP

N, T = 4, 16
TOTAL = 14 * N * T
EVERY = 3 * N * T


def minigrid_env():
    env = gymnasium.make("MiniGrid-DoorKey-5x5-v0", max_steps=37)
    return gymnasium.wrappers.FilterObservation(env, ["image", "direction"])


class Noisy(gymnasium.Env):
    """Continuous actions, real-valued observations, and randomness within an episode."""

    observation_space = spaces.Dict(
        {"where": spaces.Box(-9, 9, (2,), np.float64), "left": spaces.Discrete(30)}
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.where, self.left = self.np_random.normal(size=2), int(self.np_random.integers(5, 30))
        return self.seen(), {}

    def step(self, action):
        self.left -= 1
        self.where = np.clip(self.where + action + self.np_random.normal(size=2) / 9, -9, 9)
        return self.seen(), float(abs(self.where).max() > 2), False, self.left == 0, {}

    def seen(self):
        return {"where": self.where.copy(), "left": self.left}


ENVIRONMENTS = {
    "state": lambda: Chain(N, length=5),
    "state, next-step": lambda: Chain(N, length=5, autoreset="next_step"),
    "replay": lambda: GymVec([minigrid_env] * N),
    "replay, processes": lambda: GymVec([minigrid_env] * N, asynchronous=True),
    "replay, continuous": lambda: GymVec([Noisy] * N),
    "replay, NetHack in a pool": lambda: nethack.make(
        "score", num_envs=N, max_episode_steps=37, backend="pool", num_workers=2
    ),
    "replay, MiniHack": lambda: minihack.make("room_random_5x5", num_envs=N, max_episode_steps=37),
    "barrier": lambda: EnvPoolVec("MiniGrid-Empty-5x5-v0", num_envs=N, num_threads=1),
}


def trainer_of(make_vec, path, *, core=None, barrier=False, resume=False):
    """Make a trainer of PPO, RND and counts, with a schedule for everything that may have one."""
    vec = make_vec()
    torch.manual_seed(7)
    modules = {
        "rnd": RND(
            vec.obs_space, network="published", embedding_dim=8, hidden=16, warmup_steps=2 * T + 3
        ),
        "count": HashCount(vec.obs_space, scope="first_visit", bits=None),
    }
    terms = {
        "rnd": Term(weight=Linear(1.0, 0.2), transform=ReturnScale(0.99), episodic=False),
        "count": Term(weight=Linear(0.5, 0.0, finish=0.8)),
    }
    mixer = RewardMixer(terms, Heads())
    encoder = MLP(vec.obs_space, hidden=(16,))
    policy = ActorCritic(
        vec.obs_space,
        vec.act_space,
        encoder=encoder,
        core=None if core is None else core(16, hidden=8),
        num_streams=mixer.num_streams,
    )
    sequences = {} if core is None else {"sequence_length": 4, "burn_in": 4}
    learner = PPO(
        policy,
        lr=Linear(1e-2),
        entropy_coef=Linear(0.05),
        minibatch_size=24,
        num_epochs=2,
        **sequences,
    )
    return Trainer(
        vec,
        learner,
        modules,
        mixer,
        run_dir=path,
        resume=resume,
        num_steps=T,
        seed=3,
        checkpoint_every=EVERY,
        barrier=barrier,
    )


class StopError(Exception):
    """Simulates a machine that stops."""


def stop_at(step):
    def callback(run, metrics):
        if run.steps >= step:
            raise StopError

    return callback


def final_state(trainer):
    """Return the state on which the rest of a run depends."""
    state = trainer.session.state_dict()
    if state["runner"]["envs"] is None:  # EnvPool's own state cannot be compared
        del state["runner"]["resets"]
    return state


def same(a, b, path=""):
    """Find the first place in which two nested states differ; None if there is none."""
    if isinstance(a, torch.Tensor | np.ndarray):
        return None if np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True) else path
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{path}: {sorted(map(str, a.keys() ^ b.keys()))}"
        return next((d for k in a if (d := same(a[k], b[k], f"{path}.{k}"))), None)
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return f"{path}: {len(a)} and {len(b)}"
        pairs = enumerate(zip(a, b, strict=True))
        return next((d for i, (x, y) in pairs if (d := same(x, y, f"{path}.{i}"))), None)
    return None if a == b else f"{path}: {a} and {b}"


def scalars(path):
    """Read metrics.jsonl without the metrics that depend on speed."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k != "time" and not k.startswith("perf/")}
        for line in lines
    ]


def run_through(make_vec, path, eval_vec, **options):
    trainer = trainer_of(make_vec, path, **options)
    trainer.run(TOTAL, [evaluation(eval_vec)])
    return trainer


def evaluation(eval_vec):
    return Evaluate(eval_vec, every=4 * N * T, episodes=3, seed=5)


@pytest.mark.parametrize(
    ("kind", "core"),
    [
        *((kind, None) for kind in ENVIRONMENTS),
        ("state, next-step", LSTM),
        ("replay, continuous", GRU),
        ("barrier", GRU),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_run(kind, core, tmp_path):
    make_vec, barrier = ENVIRONMENTS[kind], kind == "barrier"
    options = {"core": core, "barrier": barrier}
    eval_vec = make_vec()  # each evaluation resets it
    whole = run_through(make_vec, tmp_path / "whole", eval_vec, **options)
    for stops in (8 * N * T, 11 * N * T):  # between two checkpoints; the second part stops too
        resume = (tmp_path / "parts").exists()
        part = trainer_of(make_vec, tmp_path / "parts", **options, resume=resume)
        with pytest.raises(StopError):
            part.run(TOTAL, [evaluation(eval_vec), stop_at(stops)])
        part.vec.close()
    torch.manual_seed(0)  # a new process has another generator state
    last = trainer_of(make_vec, tmp_path / "parts", **options, resume=True)
    assert 0 < last.session.steps < TOTAL
    last.run(TOTAL, [evaluation(eval_vec)])
    assert same(final_state(whole), final_state(last)) is None
    assert scalars(tmp_path / "whole") == scalars(tmp_path / "parts")
    assert "rollout/dropped" not in scalars(tmp_path / "parts")[-1]
    mode = kind.partition(",")[0]
    assert read_status(tmp_path / "parts").resume == mode
    best = [checkpoint.load(tmp_path / p / "checkpoints" / "best") for p in ("whole", "parts")]
    assert same(*best) is None
    if core is not None:
        assert load(tmp_path / "parts").policy.initial_state(1)
    for vec in (whole.vec, last.vec, eval_vec):
        vec.close()


def test_a_run_stopped_during_warm_up_resumes_exactly(tmp_path):
    make_vec = ENVIRONMENTS["replay"]
    whole = run_through(make_vec, tmp_path / "whole", make_vec())
    part = trainer_of(make_vec, tmp_path / "parts")
    part.session.checkpoint_every = N * T
    with pytest.raises(StopError):
        part.run(TOTAL, [stop_at(2 * N * T)])
    last = trainer_of(make_vec, tmp_path / "parts", resume=True)
    assert last.session.steps == N * T < 2 * T * N + 3 * N
    last.run(TOTAL, [evaluation(make_vec())])
    assert same(final_state(whole), final_state(last)) is None


def test_without_a_barrier_envpool_drops_its_unfinished_episodes_and_reports_it(tmp_path, caplog):
    make_vec = ENVIRONMENTS["barrier"]
    part = trainer_of(make_vec, tmp_path)
    with pytest.raises(StopError):
        part.run(TOTAL, [stop_at(8 * N * T)])
    last = trainer_of(make_vec, tmp_path, resume=True)
    assert f"{N} open episodes" in caplog.text
    before = last.session.episodes.episodes
    last.run(TOTAL)
    assert scalars(tmp_path)[-1]["rollout/dropped"] == N
    assert read_status(tmp_path).resume == "dropped"
    assert last.session.episodes.episodes > before


def test_a_barrier_counts_no_episode_that_it_cut(tmp_path):
    trainer = trainer_of(ENVIRONMENTS["barrier"], tmp_path, barrier=True)
    lengths, cut = [], []

    def watch(run, metrics):
        lengths.extend(e.length for e in run.episodes.last)
        if run.is_due(EVERY):
            cut.append(bool(run.episodes.state_dict()["open_length"].any()))

    trainer.run(TOTAL, [watch])
    assert cut
    assert not any(cut)
    whole = sum(lengths) / len(lengths)
    assert whole > 1


def test_checkpoints_of_every_released_format_still_load(tmp_path):
    old = (
        Path(__file__).parent / "checkpoint_format_1"
    )  # written by that version; never regenerate it
    shutil.copytree(old, tmp_path / "checkpoints" / "step_000000000064")
    agent = load(tmp_path)
    action, _ = agent.act({"obs": np.eye(17, dtype=np.uint8)[0]})
    assert action in (0, 1)
    vec = Chain(2, length=16)
    count = HashCount(vec.obs_space)
    encoder = MLP(vec.obs_space)
    policy = ActorCritic(
        vec.obs_space, vec.act_space, encoder=encoder, num_streams=2, normalize_value="none"
    )
    trainer = Trainer(
        vec, PPO(policy), {"count": count}, run_dir=tmp_path, resume=True, num_steps=8
    )
    assert trainer.session.steps == 64
    assert count.table.used > 1
    trainer.run(96)
    assert trainer.runner.seed == 0
    newest = checkpoint.load(checkpoint.newest(tmp_path / "checkpoints"))
    assert (newest["steps"], newest["dropped"], newest["runner"]["resets"]) == (96, 2, 2)


class Forgetful(gymnasium.Env):
    """Observes a counter that seeds do not reset, from the third step of an episode on."""

    observation_space = spaces.Box(0, 1e9, (1,), np.float32)
    action_space = spaces.Discrete(2)
    clock = 0

    def __init__(self, honest):
        self.honest = honest

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_number = 0
        return np.array([self.np_random.integers(100)], np.float32), {}

    def step(self, action):
        self.step_number += 1
        Forgetful.clock += 1
        odd = 0 if self.honest or self.step_number < 3 else Forgetful.clock
        ends = self.step_number == 20
        return np.array([self.step_number + odd], np.float32), 0.0, False, ends, {}


def test_only_an_environment_whose_replay_differs_loses_its_episode(tmp_path, caplog):
    def make_vec():
        return GymVec([lambda i=i: Forgetful(honest=i != 2) for i in range(N)])

    def small(resume=False):
        vec = make_vec()
        torch.manual_seed(0)
        policy = ActorCritic(vec.obs_space, vec.act_space, encoder=MLP(vec.obs_space, hidden=(4,)))
        return Trainer(
            vec,
            PPO(policy),
            run_dir=tmp_path,
            resume=resume,
            num_steps=T,
            checkpoint_every=3 * N * T,
        )

    with pytest.raises(StopError):
        small().run(TOTAL, [stop_at(4 * N * T)])
    last = small(resume=True)
    assert "1 open episodes" in caplog.text
    opened = last.session.episodes.state_dict()["open_length"].tolist()
    assert opened[2] == 0
    assert [opened[i] for i in (0, 1, 3)] == [3 * T % 20] * 3
    collected = last.runner.collect(last.policy, 1)
    assert collected.is_first[0].tolist() == [False, False, True, False]
    last.run(TOTAL)
    assert scalars(tmp_path)[-1]["rollout/dropped"] == 1
