"""Asynchronous training: order, snapshots, lag, ends of the thread, and what a checkpoint holds."""

import json
import os
import random
import signal
import threading
import time

import pytest
import torch
from gymnasium import spaces
from nested import leaves

from firstlight.agents import MLP, PPO, ActorCritic, Policy, Trainer, evaluate, load
from firstlight.agents.algorithms.appo import APPO
from firstlight.agents.async_trainer import AsyncTrainer
from firstlight.agents.policy import PolicyOutput
from firstlight.agents.session.run_directory.status import read_status
from firstlight.envs import Chain
from firstlight.envs.types import Step
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic import RND, HashCount, Heads, ReturnScale, RewardMixer, Term
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.networks.distributions import distribution_for

N, T = 4, 8
ROUND = N * T


@pytest.fixture(autouse=True)
def no_thread_is_left_behind():
    yield
    for thread in threading.enumerate():
        assert thread.name != "firstlight-actor"


# --- a world that counts its steps, and a policy whose parts are written one after the other


class Ticking(VecEnv):
    """Observes the number of steps since the beginning; `pause` is called in each step."""

    def __init__(self, num_envs=2, pause=lambda: None):
        self.num_envs, self.pause, self.time = num_envs, pause, 0
        self.obs_space = spaces.Dict({"obs": spaces.Box(0, 2**24, (1,))})
        self.info_space, self.act_space = spaces.Dict({}), spaces.Discrete(2)

    def reset(self, seed=None):
        return self.shown(), {}

    def step(self, action):
        self.pause()
        self.time += 1
        none = torch.zeros(self.num_envs, dtype=torch.bool)
        nobody = torch.zeros(0, dtype=torch.int64)
        reward = torch.zeros(self.num_envs)
        hidden = {"obs": torch.zeros(0, 1)}
        return Step(
            self.shown(), {}, reward, none, none, ~none, none, nobody, final_obs=hidden,
            final_info={},
        )  # fmt: skip

    def shown(self):
        return {"obs": torch.full((self.num_envs, 1), float(self.time))}


class Torn(Policy):
    """Values are two parameters, both the number of updates unless one write is not finished."""

    num_streams = 2

    def __init__(self, vec):
        super().__init__()
        self.obs_space, self.act_space = vec.obs_space, vec.act_space
        self.one, self.two = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
        self.head = distribution_for(vec.act_space)

    def forward(self, obs, state, is_first):
        value = torch.cat([self.one, self.two]).expand(*is_first.shape, 2)
        outputs = torch.zeros(*is_first.shape, 2)
        return PolicyOutput(self.head.make(outputs, None, None), value.clone(), state)


class Recorder:
    """A learner that writes the parts of its policy with a pause, and records rollouts."""

    def __init__(self, policy, pause=lambda: None):
        self.policy, self.pause, self.seen = policy, pause, []

    def update(self, rollout, rewards, progress):
        values = rollout.value.unique().tolist()
        steps = rollout.obs["obs"][:, 0, 0].tolist()
        self.seen.append((steps, values, rollout.version, rollout.lag))
        for part in (self.policy.one, self.policy.two):
            part.data += 1
            self.pause()
        return {}

    def state_dict(self):
        return {"policy": {}}

    def load_state_dict(self, state):
        pass


class Watching(IntrinsicModule):
    """Records the steps that it computes and is updated with."""

    def __init__(self, pause=lambda: None):
        super().__init__()
        self.pause, self.computed, self.updated = pause, [], []

    def compute(self, rollout):
        self.pause()
        self.computed += rollout.obs["obs"][:-1, 0, 0].tolist()
        return torch.zeros_like(rollout.reward)

    def update(self, rollout):
        self.pause()
        self.updated += rollout.obs["obs"][:-1, 0, 0].tolist()
        return {}


def watched(pauses, num_steps=2, **options):
    """A trainer of `Ticking` with pauses in step, update, module, and between iterations."""
    vec = Ticking(pause=pauses[0])
    policy, module = Torn(vec), Watching(pauses[2])
    mixer = RewardMixer({"reward": Term(), "seen": Term()}, Heads())
    learner = Recorder(policy, pauses[1])
    return AsyncTrainer(vec, learner, {"seen": module}, mixer, num_steps=num_steps, **options)


@pytest.mark.parametrize("queue_size", [0, 1, 3])
def test_no_rollout_is_lost_or_repeated_and_no_policy_is_seen_half_written(soak, queue_size):
    """10,000 rollouts in a soak, with random delays in every stage."""
    rounds = len(soak.times(150, 10_000))
    delays = random.Random(queue_size)

    def pause(most=1e-3):
        if delays.random() < 0.3:
            time.sleep(delays.random() * most)

    trainer = watched([pause] * 3, queue_size=queue_size)
    waiting = []

    def between(session, metrics):
        pause()
        waiting.append(len(trainer.actor._waiting))

    trainer.run(rounds * 2 * 2, [between])
    seen, module = trainer.learner.seen, trainer.modules["seen"]
    assert [steps for steps, *_ in seen] == [
        [2.0 * i, 2.0 * i + 1, 2.0 * i + 2] for i in range(rounds)
    ]
    assert module.computed == module.updated == [float(t) for t in range(2 * rounds)]
    for number, (_, values, version, lag) in enumerate(seen):
        assert values == [version]  # in every row, of both heads
        assert lag == number - version
        assert 0 <= lag <= queue_size
    assert max(waiting) <= queue_size


def test_a_rollout_is_collected_while_the_one_before_is_learnt_from():
    """The learner waits for the next rollout before it ends its update: both run at once."""
    trainer = watched([lambda: None] * 3, queue_size=1)
    overlapped = []

    def until_the_next_is_there():
        deadline = time.monotonic() + 20
        while not trainer.actor._waiting and time.monotonic() < deadline:
            time.sleep(1e-3)
        overlapped.append(bool(trainer.actor._waiting))

    trainer.learner.pause = until_the_next_is_there
    trainer.run(5 * 4)
    assert all(overlapped)
    assert [lag for *_, lag in trainer.learner.seen] == [0, 1, 1, 1, 1]


def test_a_full_queue_may_drop_the_oldest_rollout_but_every_step_is_rewarded():
    trainer = watched([lambda: None] * 3, queue_size=1, when_full="drop_oldest")

    def until_one_is_dropped():
        deadline = time.monotonic() + 20
        while len(trainer.actor._waiting) < 2 and time.monotonic() < deadline:
            time.sleep(1e-3)

    trainer.learner.pause = until_one_is_dropped
    logged = []
    trainer.run(12 * 4, [lambda session, metrics: logged.append(dict(metrics))])
    dropped = [
        number for number, metrics in enumerate(logged) if "train/dropped_rollouts" in metrics
    ]
    learnt = [int(steps[0]) // 2 for steps, *_ in trainer.learner.seen]
    assert dropped
    assert sorted(learnt + dropped) == list(range(12))
    assert trainer.modules["seen"].computed == [float(t) for t in range(24)]
    for number, (_, values, version, lag) in enumerate(trainer.learner.seen):
        assert values == [version]
        assert lag == number - version


# --- the same as synchronous training


def make_policy(vec, num_streams):
    torch.manual_seed(0)
    encoder = MLP(vec.obs_space, hidden=(8,))
    return ActorCritic(
        vec.obs_space, vec.act_space, encoder=encoder, num_streams=num_streams,
        normalize_value="popart",
    )  # fmt: skip


SMALL = {"minibatch_size": 16, "num_epochs": 2, "adaptive_kl": 0.01, "advantage_floor": 1e-3}


def make(kind=AsyncTrainer, learner=APPO, *, autoreset="same_step", options=None, **rest):
    """A trainer on a chain, with a count and a module that warms up, in three streams."""
    vec = Chain(N, length=3, autoreset=autoreset)
    modules = {
        "count": HashCount(vec.obs_space),
        "rnd": RND(vec.obs_space, network="published", num_minibatches=2, warmup_steps=T + 3),
    }
    terms = {"count": Term(transform=ReturnScale(0.9)), "rnd": RND.default_term()}
    mixer = RewardMixer(terms, Heads())
    made = learner(make_policy(vec, mixer.num_streams), **SMALL, **(options or {}))
    return kind(vec, made, modules, mixer, num_steps=T, **rest)


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_gae_without_a_queue_is_training_with_ppo_bit_for_bit(autoreset):
    logs, states = [], []
    gae = {"estimator": "gae"}
    for trainer in (
        make(Trainer, PPO, autoreset=autoreset),
        make(autoreset=autoreset, options=gae, queue_size=0),
    ):
        log = []
        trainer.run(8 * ROUND, [lambda session, metrics, log=log: log.append(dict(metrics))])
        logs.append(log)
        states.append(leaves(trainer.session.state_dict()))
    assert states[0] == states[1]
    for wanted, got in zip(*logs, strict=True):
        shared = [name for name in wanted if not name.startswith("perf/")]
        assert repr([got[name] for name in shared]) == repr([wanted[name] for name in shared])


def test_memories_and_statistics_see_one_sequence_of_steps():
    """A queue of two: bonuses equal those of a module that gets the rollouts one by one."""
    trainer = make(queue_size=2)
    seen = []

    def keep(session, metrics):
        if session.data is not None:
            seen.append((session.data.rollout, session.data.bonus["count"]))

    trainer.run(12 * ROUND, [keep])
    fresh = HashCount(trainer.vec.obs_space)
    before = None
    for rollout, bonus in seen:
        assert torch.equal(fresh.compute(rollout), bonus)
        fresh.update(rollout)
        if before is not None:
            assert torch.equal(rollout.obs["obs"][0], before.obs["obs"][-1])
            assert torch.equal(rollout.is_first[0], before.is_first[-1])
        before = rollout
    ends = sum(int((r.terminated | r.truncated).sum()) for r, _ in seen)
    assert len(seen) >= 8
    assert ends > 20
    assert trainer.session.episodes.episodes >= ends


# --- ends of a run


class FaultyError(Exception):
    pass


def test_what_an_environment_raises_ends_the_run_after_the_rollouts_before_it():
    trainer = watched([lambda: None] * 3, queue_size=2)

    def fail_later():
        if trainer.vec.time == 9:
            raise FaultyError("at step 9")

    trainer.vec.pause = fail_later
    with pytest.raises(Exception, match="at step 9"):
        trainer.run(1000)
    assert [steps[0] for steps, *_ in trainer.learner.seen] == [0, 2, 4, 6]


def test_an_error_of_the_learner_ends_the_thread():
    trainer = watched([lambda: None] * 3, queue_size=1)

    def fail():
        raise FaultyError("in the update")

    trainer.learner.pause = fail
    with pytest.raises(FaultyError, match="in the update"):
        trainer.run(1000)
    assert not trainer.actor.is_running


def test_a_rollout_that_is_not_finite_is_skipped():
    trainer = watched([lambda: None] * 3, queue_size=1)
    shown = trainer.vec.shown
    trainer.vec.shown = lambda: {
        "obs": torch.where(torch.tensor(trainer.vec.time == 5), torch.nan, shown()["obs"])
    }
    trainer.run(10 * 4)
    assert trainer.session.guard.skipped == 1
    assert [int(steps[0]) for steps, *_ in trainer.learner.seen] == [0, 2, 6, 8, 10, 12, 14, 16, 18]


@pytest.mark.parametrize("where", ["between", "waiting"])
def test_a_signal_ends_run_and_thread_saved(where, tmp_path):
    trainer = make(run_dir=tmp_path)

    def press(session, metrics):
        if session.is_due(4 * ROUND) and session.steps < 5 * ROUND:
            if where == "between":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                timer.start()

    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        trainer.run(10**7, [press])
    timer.cancel()
    assert ended.value.code == 128 + signal.SIGTERM
    assert not trainer.actor.is_running
    assert read_status(tmp_path).status == "interrupted"
    resumed = make(run_dir=tmp_path, resume=True)
    assert resumed.session.steps == trainer.session.steps
    resumed.session.directory.close()


def test_an_environment_that_hangs_does_not_keep_the_run(monkeypatch, caplog):
    monkeypatch.setattr("firstlight.agents.actor_thread.PATIENCE_SECONDS", 0.2)
    trainer = watched([lambda: None] * 3, queue_size=1)
    goes_on = threading.Event()
    trainer.vec.pause = lambda: trainer.vec.time == 20 and goes_on.wait(30)

    def fail(session, metrics):
        if session.steps == 10 * 4:
            time.sleep(0.1)
            raise FaultyError

    with pytest.raises(FaultyError):
        trainer.run(1000, [fail])
    assert "has not returned" in caplog.text
    goes_on.set()
    for thread in threading.enumerate():
        if thread.name == "firstlight-actor":
            thread.join(20)


# --- checkpoints


def test_a_checkpoint_holds_the_environments_after_the_last_rollout_learnt_from(tmp_path):
    trainer = make(run_dir=tmp_path, queue_size=2)
    seen = []
    trainer.run(6 * ROUND, [lambda session, metrics: seen.append(session.data)])
    last, number = seen[-1].rollout, len(seen)
    resumed = make(run_dir=tmp_path, resume=True, queue_size=2)
    more = []
    resumed.run(9 * ROUND, [lambda session, metrics: more.append(session.data)])
    first = more[0].rollout
    assert torch.equal(first.obs["obs"][0], last.obs["obs"][-1])
    assert torch.equal(first.is_first[0], last.is_first[-1])
    assert "rollout/dropped" not in resumed.session.episodes.metrics()
    trainer.run(9 * ROUND, [lambda session, metrics: seen.append(session.data)])  # as the resumed
    assert torch.equal(seen[number].rollout.obs["obs"][0], last.obs["obs"][-1])


def test_without_a_queue_a_resumed_run_is_exact(tmp_path):
    whole = make(queue_size=0)
    whole.run(9 * ROUND)
    make(queue_size=0, run_dir=tmp_path).run(6 * ROUND)
    resumed = make(queue_size=0, run_dir=tmp_path, resume=True)
    resumed.run(9 * ROUND)
    wanted, got = (leaves(each.session.state_dict()) for each in (whole, resumed))
    different = {path for path in wanted if wanted[path] != got[path]}
    assert {path[0] for path in different} <= {"rng", "policy_spec"}


@pytest.mark.parametrize("first", ["ppo", "appo"])
def test_ppo_and_appo_resume_each_others_runs(first, tmp_path):
    kinds = {"ppo": (Trainer, PPO), "appo": (AsyncTrainer, APPO)}
    second = {"ppo": "appo", "appo": "ppo"}[first]
    begun = make(*kinds[first], run_dir=tmp_path)
    begun.run(5 * ROUND)
    trainer = make(*kinds[second], run_dir=tmp_path, resume=True)
    wanted, got = (leaves(each.session.state_dict()) for each in (begun, trainer))
    assert got == wanted
    trainer.run(7 * ROUND)
    agent = load(tmp_path, which="newest")
    result = evaluate(agent.policy, Chain(4, length=3), episodes=8, seed=1)
    assert result.episodes == 8


def test_the_log_has_lag_and_times(tmp_path):
    make(run_dir=tmp_path).run(6 * ROUND)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    last = lines[-1]
    assert last["train/lag"] in (0, 1)
    assert last["train/used_share"] == 1
    assert {"perf/collect_seconds", "perf/wait_seconds", "perf/learn_seconds"} <= last.keys()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"queue_size": -1}, "queue_size is -1, expected at least 0"),
        ({"queue_size": 0, "when_full": "drop_oldest"}, "expected at least 1"),
        ({"when_full": "block"}, "expected one of wait, drop_oldest"),
        ({"barrier": True}, "use the synchronous trainer"),
    ],
)
def test_options_out_of_range_are_named(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**options)


# --- learning


def test_it_learns():
    """A combination of four, which a random agent finds in one of 16 episodes."""
    vec = Chain(16, length=4)
    torch.manual_seed(0)
    policy = ActorCritic(
        vec.obs_space, vec.act_space, encoder=MLP(vec.obs_space, hidden=(32,)),
        normalize_value="popart",
    )  # fmt: skip
    learner = APPO(policy, lr=3e-3, num_epochs=2, minibatch_size=256)
    trainer = AsyncTrainer(vec, learner, num_steps=32)
    before = evaluate(policy, Chain(16, length=4), episodes=64, seed=1).success_rate
    trainer.run(10_000)
    after = evaluate(policy, Chain(16, length=4), episodes=64, seed=1).success_rate
    assert before < 0.3
    assert after > 0.9
