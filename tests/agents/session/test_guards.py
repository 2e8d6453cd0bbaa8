"""Updates that are not finite or run out of memory change no parameter and no checkpoint."""

import json

import numpy as np
import pytest
import torch
from gymnasium import Env, spaces

from firstlight.agents.algorithms import ppo
from firstlight.agents.algorithms.ppo import PPO
from firstlight.agents.evaluation import evaluate
from firstlight.agents.policy import ActorCritic
from firstlight.agents.session.guards import MAX_FAILURES, Rollback, copied
from firstlight.agents.session.run_directory import checkpoint
from firstlight.agents.session.run_directory.status import read_status
from firstlight.agents.trainer import Trainer
from firstlight.envs.finite import NonFiniteError
from firstlight.envs.vector.gym import GymVec
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import RND
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.networks.encoders import MLP

N, T = 4, 8
ROUND = N * T


class World(Env):
    """Episodes of ten random steps; `spoil` gives the step and the output that is not finite."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, spoil=None):
        self.spoil, self.life = spoil or {}, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 10
        return self.np_random.random(3, np.float32), {}

    def step(self, action):
        self.left, self.life = self.left - 1, self.life + 1
        obs, reward = self.np_random.random(3, np.float32), float(action)
        obs = obs + np.float32(self.spoil.get("observation", {}).get(self.life, 0))
        reward = reward + self.spoil.get("reward", {}).get(self.life, 0)
        return obs, reward, False, self.left == 0, {}


class Bonus(IntrinsicModule):
    """A bonus of 1; not finite, or with a loss that is not, from call `first` to call `last`."""

    def __init__(self, value, first, last=10**9, where="compute"):
        super().__init__()
        self.value, self.first, self.last, self.where = value, first, last, where
        self.calls = 0
        self.register_buffer("memory", torch.zeros(()))

    def compute(self, rollout):
        self.calls += 1
        bad = self.where == "compute" and self.first <= self.calls <= self.last
        return torch.full_like(rollout.reward, self.value) if bad else rollout.valid.float()

    def update(self, rollout):
        if self.where == "update" and self.first <= self.calls <= self.last:
            self.memory.fill_(self.value)
        return {}


class Breaks(PPO):
    """PPO whose loss, or only whose gradient, is not finite in some updates."""

    def __init__(self, policy, where, first, last=10**9):
        super().__init__(policy, minibatch_size=8, num_epochs=2)
        self.where, self.first, self.last, self.updates = where, first, last, 0

    def update(self, rollout, rewards, progress=0.0):
        self.updates += 1
        self.steps_taken = 0
        return super().update(rollout, rewards, progress)

    def _add_gradients(self, *arguments, **terms):
        logs = super()._add_gradients(*arguments, **terms)
        self.steps_taken += 1
        if self.first <= self.updates <= self.last and self.steps_taken == 3:
            if self.where == "loss":
                return logs * torch.nan
            next(self.policy.parameters()).grad[0] = torch.inf
        return logs


def make(path=None, *, spoil=None, modules=None, learner=None, **options):
    vec = GymVec([lambda i=i: World(spoil if i == 2 else None) for i in range(N)])
    torch.manual_seed(0)
    policy = ActorCritic(
        vec.obs_space,
        vec.act_space,
        encoder=MLP(vec.obs_space, hidden=(8,)),
        num_streams=1 + len(modules or {}),
    )
    learner = learner(policy) if learner else PPO(policy, minibatch_size=8, num_epochs=2)
    return Trainer(vec, learner, modules, run_dir=path, num_steps=T, **options)


def numbers(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


class Diary:
    """A callback that records the parameters after each iteration."""

    def __init__(self):
        self.parameters = []

    def __call__(self, run, metrics):
        self.parameters.append(numbers(run.policy))

    def changed(self):
        pairs = zip(self.parameters, self.parameters[1:], strict=False)
        return [not torch.equal(a, b) for a, b in pairs]


SOURCES = {  # an iteration is T steps; the third has the bad value
    "observation 'obs' of environment 2 is nan at row 5": {
        "spoil": {"observation": {2 * T + 5: np.nan}}
    },
    "observation 'obs' of environment 2 is -inf": {"spoil": {"observation": {2 * T + 1: -np.inf}}},
    "last observation 'obs' of environment 2 is inf at row 3": {
        "spoil": {"observation": {2 * T + 4: np.inf}}
    },
    "reward of environment 2 is nan at row 1": {"spoil": {"reward": {2 * T + 2: np.nan}}},
    "bonus 'mine' of environment 0 is inf": {"modules": {"mine": Bonus(torch.inf, 3, 3)}},
    "loss is nan": {"learner": lambda policy: Breaks(policy, "loss", 3, 3)},
    "grad_norm is": {"learner": lambda policy: Breaks(policy, "gradient", 3, 3)},
}


@pytest.mark.parametrize("source", SOURCES)
def test_an_update_is_skipped_and_its_source_is_named(source, tmp_path, caplog):
    diary = Diary()
    make(tmp_path, **SOURCES[source]).run(6 * ROUND, [diary])
    assert source.removesuffix(" is") in caplog.text
    assert "skipped an update at step 96" in caplog.text
    assert diary.changed() == [True, False, True, True, True]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("train/skipped_updates", 0) for line in lines] == [0, 0, 1, 1, 1, 1]
    assert read_status(tmp_path).status == "finished"


@pytest.mark.parametrize("source", ["reward", "observation"])
def test_five_skipped_updates_in_a_row_end_the_run_and_none_is_saved(source, tmp_path):
    spoil = {source: dict.fromkeys(range(2 * T + 1, 99), np.nan)}
    diary = Diary()
    trainer = make(tmp_path, spoil=spoil, checkpoint_every=ROUND)
    with pytest.raises(NonFiniteError, match=f"{source}.* of environment 2.*5 updates in a row"):
        trainer.run(20 * ROUND, [diary])
    assert trainer.session.steps == (2 + MAX_FAILURES) * ROUND
    assert diary.changed() == [True] + [False] * (MAX_FAILURES - 1)
    status = read_status(tmp_path)
    assert status.status == "failed"
    assert "5 updates in a row" in status.error
    saved = checkpoint.load(checkpoint.newest(tmp_path / "checkpoints"))
    assert all(torch.isfinite(v).all() for v in saved["learner"]["policy"].values())


def test_four_skipped_updates_in_a_row_do_not_end_the_run():
    spoil = {"reward": dict.fromkeys((T + 1, 2 * T + 1, 3 * T + 1, 4 * T + 1), np.inf)}
    trainer = make(spoil=spoil)
    trainer.run(8 * ROUND)
    assert trainer.session.steps == 8 * ROUND


def test_a_module_with_nan_parameters_is_never_saved(tmp_path, caplog):
    trainer = make(
        tmp_path, modules={"mine": Bonus(torch.nan, 4, where="update")}, checkpoint_every=ROUND
    )
    with pytest.raises(NonFiniteError, match=r"modules\.mine\.memory"):
        trainer.run(7 * ROUND)
    assert "no checkpoint at step 128" in caplog.text
    assert checkpoint.step_of(checkpoint.newest(tmp_path / "checkpoints")) == 3 * ROUND


def test_a_module_whose_loss_is_not_finite_is_named_and_the_others_still_learn(caplog):
    class Learns(Bonus):
        def update(self, rollout):
            super().update(rollout)
            if self.calls == 3:
                raise NonFiniteError("the loss of a reward module is nan")
            return {"calls": float(self.calls)}

    modules = {"first": Learns(0.0, 10**9), "second": Bonus(1.0, 0, where="update")}
    diary, seen = Diary(), []
    make(modules=modules).run(5 * ROUND, [diary, lambda run, metrics: seen.append({**metrics})])
    assert "step 96: module 'first': the loss of a reward module is nan" in caplog.text
    assert all(diary.changed())  # the learner's update was made
    assert ["first/calls" in metrics for metrics in seen] == [True, True, False, True, True]
    assert ["train/policy_loss" in metrics for metrics in seen] == [True] * 5
    assert modules["second"].memory == 1


def test_modules_treat_an_episode_begun_in_a_skipped_rollout_as_new():
    forgotten = []

    class Listens(Bonus):
        def reset(self, env_ids=None):
            forgotten.append(env_ids.tolist())

    trainer = make(spoil={"reward": {T + 6: np.nan}}, modules={"mine": Listens(0.0, 10**9)})
    trainer.run(3 * ROUND)  # episodes have 10 steps, rollouts 8
    assert forgotten == [[0, 1, 2, 3]]


def test_a_nan_in_an_evaluation_does_not_end_the_run():
    vec = GymVec([lambda: World({"observation": {4: np.nan}})] * 2)
    policy = make().policy
    assert evaluate(policy, vec, episodes=4, seed=0).episodes == 4


def test_a_reward_that_is_not_finite_changes_no_statistics():
    trainer = make(spoil={"reward": {3: np.nan}})
    means = []
    trainer.run(6 * ROUND, [lambda run, m: means.append(m.get("rollout/return_mean", 0.0))])
    assert np.isfinite(means).all()
    assert trainer.session.episodes.episodes == N * (6 * T // 10)


def test_a_fitter_skips_a_loss_that_is_not_finite():
    vec = Chain(N, length=3)
    small = {"embedding_dim": 4, "hidden": 4, "normalize_obs": False}
    module = RND(vec.obs_space, network="published", **small)
    before = numbers(module)
    with pytest.raises(NonFiniteError, match="loss of a reward module is nan"):
        module.fitter.fit(8, lambda rows: module.predictor(torch.ones(1, 4)).sum() * torch.nan)
    assert torch.equal(numbers(module), before)


# --- memory


class Scarce(PPO):
    """PPO that runs out of memory above `room` rows, or always from update `ends` on."""

    def __init__(self, policy, room, ends=10**9):
        super().__init__(policy, minibatch_size=16, num_epochs=2)
        self.room, self.ends, self.updates = room, ends, 0

    def update(self, rollout, rewards, progress=0.0):
        self.updates += 1
        return super().update(rollout, rewards, progress)

    def _add_gradients(self, batch, *arguments, **terms):
        if batch.valid.shape[1] > self.room or self.updates >= self.ends:
            raise torch.OutOfMemoryError("a stand-in for a full GPU")
        return super()._add_gradients(batch, *arguments, **terms)


def test_processing_minibatches_in_two_parts_gives_the_same_update(caplog):
    ample, scarce = (
        make(learner=lambda policy, room=room: Scarce(policy, room)) for room in (16, 8)
    )
    for trainer in (ample, scarce):
        trainer.iterate(10**6)
    torch.testing.assert_close(numbers(scarce.policy), numbers(ample.policy), atol=1e-5, rtol=0)
    assert caplog.text.count("out of memory") == 1


def test_a_run_out_of_memory_for_half_a_minibatch_saves_and_ends(tmp_path):
    trainer = make(tmp_path, learner=lambda policy: Scarce(policy, 16, ends=4))
    diary = Diary()
    with pytest.raises(torch.OutOfMemoryError):
        trainer.run(9 * ROUND, [diary])
    assert checkpoint.step_of(checkpoint.newest(tmp_path / "checkpoints")) == 4 * ROUND
    assert torch.equal(numbers(trainer.policy), diary.parameters[-1])
    assert read_status(tmp_path).status == "failed"


def test_only_losses_and_gradients_must_be_finite():
    table = torch.zeros(2, len(ppo._LOGS))
    table[1, ppo._LOGS.index("approx_kl")] = torch.inf
    ppo._check_logs(table)
    table[1, ppo._LOGS.index("value_loss")] = torch.inf
    with pytest.raises(NonFiniteError, match="value_loss is inf in gradient step 1"):
        ppo._check_logs(table)


def test_a_copy_of_a_state_is_deep_and_reuses_memory_where_it_fits():
    state = {"a": torch.arange(3.0), "b": [{"c": torch.ones(2, 2)}, 5], "d": None}
    first = copied(state)
    kept = first["a"], first["b"][0]["c"]
    state["a"] += 1
    state["b"][0]["c"] = torch.zeros(3)
    assert first["a"].tolist() == [0, 1, 2]
    second = copied(state, first)
    assert second["a"] is kept[0]
    assert second["a"].tolist() == [1, 2, 3]
    assert second["b"][0]["c"].tolist() == [0, 0, 0]
    assert kept[1].tolist() == [[1, 1], [1, 1]]  # another shape needs other memory
    assert (second["b"][1], second["d"]) == (5, None)


def test_after_a_rollback_the_next_one_restores_its_own_update():
    """The state that was given back is the learner's: a later copy must not write into it."""
    policy = torch.nn.Linear(2, 2)

    class Kept:
        def state_dict(self):
            return {"policy": self.weight}

        def load_state_dict(self, state):
            self.weight = state["policy"]

    learner = Kept()
    learner.weight = policy.weight.detach().clone()
    rollback = Rollback(learner)
    for _ in range(2):
        before = learner.weight.clone()
        with pytest.raises(NonFiniteError), rollback():
            learner.weight = torch.full((2, 2), torch.nan)
        assert torch.equal(learner.weight, before)
    with rollback():
        learner.weight = learner.weight + 1
    assert torch.equal(learner.weight, before + 1)
