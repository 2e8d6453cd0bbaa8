"""Extensions by users, from the command line and in plain Python: no file of ours is edited."""

import importlib
import json
import sys
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from command_line import command

from firstlight.agents import MLP, PPO, ActorCritic, Trainer, load
from firstlight.envs import Chain, GymVec
from firstlight.intrinsic import RND, Heads, RewardMixer, Term, check_module
from firstlight.networks.spec import SpecError
from firstlight.scripts import evaluate, train
from firstlight.scripts.build import build
from firstlight.scripts.build_env import make_vec

PACKAGE = '''
"""A package of a user, which firstlight does not know."""

import functools

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from firstlight.agents import PPO, rebuildable
from firstlight.envs import GymVec, VecWrapper
from firstlight.intrinsic import IntrinsicModule, RewardMixer, Term


class Corridor(gymnasium.Env):
    """Cells in a row; reaching the last one is rewarded."""

    def __init__(self, size=5):
        self.size = size
        self.observation_space = spaces.Box(0, 1, (size,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell, self.steps = 0, 0
        return self._obs(), {}

    def step(self, action):
        self.cell = max(self.cell + (1 if action == 1 else -1), 0)
        self.steps += 1
        there = self.cell == self.size - 1
        return self._obs(), float(there), there, self.steps >= 20, {"is_success": there}

    def _obs(self):
        return np.eye(self.size, dtype=np.float32)[self.cell]


def make_env(size=5):
    return Corridor(size)


def make_vec(num_envs, size=5):
    return GymVec([functools.partial(Corridor, size)] * num_envs)


class Mine(IntrinsicModule):
    """A bonus for rarely visited cells."""

    def __init__(self, obs_space, *, power=0.5):
        super().__init__()
        self.power = power
        self.register_buffer("visits", torch.zeros(obs_space["obs"].shape[0]))

    @torch.no_grad()
    def compute(self, rollout):
        cell = rollout.next_obs()["obs"].float().argmax(-1)
        bonus = torch.zeros(cell.shape)
        for t in range(len(cell)):
            live = rollout.valid[t]
            bonus[t, live] = (1 + self.visits[cell[t, live]]) ** -self.power
            self.visits += torch.bincount(cell[t, live], minlength=len(self.visits))
        return bonus

    @classmethod
    def default_term(cls):
        return Term(weight=0.25, gamma=0.9)


class Clocked(VecWrapper):
    """Environments with one more observation field."""

    def __init__(self, vec):
        super().__init__(vec)
        clock = spaces.Box(0, 1, (1,), np.float32)
        self.obs_space = spaces.Dict({**vec.obs_space.spaces, "clock": clock})

    def _transform(self, obs, info):
        return {**obs, "clock": torch.zeros(len(obs["obs"]), 1)}, info


class Clock(Mine):
    """A module that adds a field."""

    def wrap(self, vec):
        return Clocked(vec)


class Mixer(RewardMixer):
    """A reward layer."""


@rebuildable
class Narrow(nn.Module):
    """An encoder."""

    def __init__(self, obs_space, *, width=3):
        super().__init__()
        self.layer = nn.Linear(obs_space["obs"].shape[0], width)
        self.out_dim = width

    def forward(self, obs):
        return torch.tanh(self.layer(obs["obs"].float()))


class Patient(PPO):
    """Learns from every second rollout."""

    def __init__(self, policy, **options):
        super().__init__(policy, **options)
        self.seen = 0

    def update(self, rollout, rewards, progress=0.0):
        self.seen += 1
        learnt = super().update(rollout, rewards, progress) if self.seen % 2 == 0 else {}
        return {**learnt, "train/seen": float(self.seen)}


class Reinforce:
    """A learner that shares no code with ours."""

    def __init__(self, policy, *, step_size=0.01):
        self.policy = policy
        self.optimizer = torch.optim.SGD(policy.parameters(), lr=step_size)

    def update(self, rollout, rewards, progress):
        past = {name: field[:-1] for name, field in rollout.obs.items()}
        out = self.policy(past, rollout.state, rollout.is_first[:-1])
        gain = rewards.reward.sum(-1).flip(0).cumsum(0).flip(0)
        loss = -(out.dist.log_prob(rollout.action) * gain)[rollout.valid].mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"train/loss": loss.item()}

    def state_dict(self):
        return {"policy": self.policy.state_dict()}

    def load_state_dict(self, state):
        self.policy.load_state_dict(state["policy"])
'''
FILES = {
    "observatory/__init__.py": PACKAGE,
    "observatory/conf/__init__.py": "",
    "observatory/conf/env/corridor.yaml": "_target_: observatory.make_env\nsize: 6\n",
    "observatory/conf/env/corridors.yaml": (
        "_target_: observatory.make_vec\nnum_envs: 3\nsize: ${oc.decode:'7'}\n"
    ),
    "mine/encoder/mine.yaml": "_target_: observatory.Narrow\nwidth: 5\n",
    "mine/learner/reinforce.yaml": "_target_: observatory.Reinforce\nstep_size: 0.1\n",
    "mine/intrinsic/mine.yaml": (
        "# @package _global_\nintrinsic:\n  mine:\n    _target_: observatory.Mine\n"
    ),
}
SMALL = (
    *("env.num_envs=2", "trainer.num_steps=8", "total_steps=32", "eval_episodes=2"),
    *("device=cpu", "run_dir=run"),
)
CHAIN = ("env=chain", "env.length=4", *SMALL)


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """The folder of the package, on the import path."""
    folder = tmp_path_factory.mktemp("outside")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def observatory(outside, tmp_path, monkeypatch):
    """The package, imported; the current folder is empty."""
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("observatory")


def trained(*words: str) -> list[dict[str, float]]:
    """Metrics of a run in ``run``."""
    done = command(train.main, *words)
    assert done.status == 0, done.err
    return [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]


def evaluated(*words: str) -> dict:
    done = command(evaluate.main, "run=run", "episodes=3", *words)
    assert done.status == 0, done.err
    return json.loads(done.out.splitlines()[-1])


def composed(*overrides: str):
    with hydra.initialize_config_module("firstlight.conf", version_base="1.3"):
        return hydra.compose("train", list(overrides))


# --- (a) reward modules


def test_a_users_module_passes_check_module(observatory):
    check_module(observatory.Mine(Chain().obs_space))


def test_a_module_by_its_import_path_gets_its_default_term(observatory):
    lines = trained(*CHAIN, "+intrinsic.mine._target_=observatory.Mine")
    for line in lines:
        assert line["reward/mine/raw"] > 0
        assert line["reward/mine/weighted"] == pytest.approx(0.25 * line["reward/mine/scaled"])
        assert "value/mine/explained_variance" in line
    assert evaluated("allow=[observatory]")["step"] > 0
    assert command(evaluate.main, "run=run").status == 2


@pytest.mark.parametrize("place", ["+intrinsic.mine._target_=observatory.Mine", "intrinsic=[mine]"])
def test_single_fields_of_its_term_can_be_changed(place, outside, observatory):
    words = ("--config-dir", str(outside / "mine"), *CHAIN, place)
    changes = ("+mixer.terms.mine.weight=2.0", "+intrinsic.mine.power=1.0")
    for line in trained(*words, *changes):
        assert line["reward/mine/weighted"] == pytest.approx(2.0 * line["reward/mine/scaled"])


def test_fields_that_are_not_overridden_stay_those_of_the_default_term(observatory):
    words = ("+intrinsic.mine._target_=observatory.Mine", "+intrinsic.mine.power=1.0")
    cfg = composed("env=chain", *words, "+mixer.terms.mine.weight=2.0")
    run = build(cfg, make_vec(cfg.env))
    assert run.mixer.terms["mine"] == Term(weight=2.0, gamma=0.9)
    assert run.modules["mine"].power == 1.0
    assert run.policy.num_streams == 2


def test_a_mixer_by_its_import_path(observatory):
    words = ("+intrinsic.mine._target_=observatory.Mine", "mixer._target_=observatory.Mixer")
    cfg = composed("env=chain", *words)
    run = build(cfg, make_vec(cfg.env))
    assert type(run.mixer) is observatory.Mixer
    assert run.mixer.terms["mine"] == observatory.Mine.default_term()


def test_a_module_wraps_the_environments_of_evaluations_too(observatory):
    lines = trained(*CHAIN, "+intrinsic.clock._target_=observatory.Clock", "eval_every=16")
    assert all("eval/return_mean" in line for line in lines)
    assert set(load("run").obs_space.spaces) == {"obs", "clock"}
    assert evaluated("allow=[observatory]")["episodes"] == 3


# --- (b) environments


SEARCH = "hydra.searchpath=[pkg://observatory.conf]"


@pytest.mark.parametrize(
    ("words", "size", "num_envs"),
    [
        (["env._target_=observatory.make_env", "env.num_envs=2"], 5, 2),
        (["env._target_=observatory.make_env", "env.num_envs=3", "+env.size=8"], 8, 3),
        (["env._target_=observatory.Corridor", "env.num_envs=2", "+env.size=4"], 4, 2),
        (["env._target_=observatory.make_vec", "env.num_envs=2", "+env.size=9"], 9, 2),
        ([SEARCH, "env=corridor"], 6, 16),  # its YAML does not set num_envs
        ([SEARCH, "env=corridor", "+env.num_envs=2"], 6, 2),
        ([SEARCH, "env=corridors"], 7, 3),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_an_environment_by_import_path_or_from_a_users_config(words, size, num_envs, observatory):
    small = [word for word in SMALL if not word.startswith(("env.", "total_steps="))]
    small += [f"total_steps={2 * 8 * num_envs}"]
    lines = trained(*words, *small)
    assert [line["step"] for line in lines] == [8 * num_envs, 16 * num_envs]
    agent = load("run")
    assert agent.obs_space["obs"].shape == (size,)
    action, _ = agent.act(observatory.Corridor(size).reset()[0])
    assert action in (0, 1)
    assert evaluated("allow=[observatory]")["env"].startswith("observatory.")


def test_an_environment_of_another_package(observatory):
    lines = trained("env._target_=gymnasium.make", "+env.id=CartPole-v1", *SMALL)
    assert [line["step"] for line in lines] == [16, 32]
    assert load("run").obs_space["obs"].shape == (4,)


# --- (c) networks


def test_an_encoder_from_a_users_config_folder(outside, observatory):
    trained("--config-dir", str(outside / "mine"), *CHAIN, "encoder=mine", "encoder.width=7")
    with pytest.raises(SpecError, match=r"allow=\['observatory'\]"):
        load("run")
    agent = load("run", allow=("observatory",))
    assert type(agent.policy.encoder) is observatory.Narrow
    assert agent.policy.encoder.out_dim == 7
    action, _ = agent.act(np.eye(5, dtype=np.uint8), deterministic=True)
    assert action.shape == (5,)
    refused = command(evaluate.main, "run=run", "episodes=3")
    assert refused.status == 2
    assert "allow=[observatory]" in refused.err
    assert evaluated("allow=[observatory]")["episodes"] == 3


def test_an_encoder_by_its_import_path(observatory):
    trained(*CHAIN, "policy=separate", "encoder._target_=observatory.Narrow")
    policy = load("run", allow=("observatory",)).policy
    assert type(policy.encoder) is type(policy.critic_encoder) is observatory.Narrow
    assert policy.encoder is not policy.critic_encoder


# --- (d) learners


def test_a_learner_with_the_keywords_of_ours(observatory):
    lines = trained(*CHAIN, "learner._target_=observatory.Patient", "learner.lr=0.01")
    assert [line["train/seen"] for line in lines] == [1, 2]
    assert "train/entropy" not in lines[0]
    assert lines[1]["train/lr"] == 0.01
    assert load("run").step == 32


@pytest.mark.parametrize(
    "words",
    [
        ["~learner", "+learner._target_=observatory.Reinforce", "+learner.step_size=0.1"],
        ["learner=reinforce"],
    ],
    ids=" ".join,
)
def test_a_learner_that_shares_no_code_with_ours(words, outside, observatory):
    lines = trained("--config-dir", str(outside / "mine"), *CHAIN, *words)
    assert all("train/loss" in line for line in lines)
    assert not any("train/approx_kl" in line for line in lines)
    assert load("run").step == 32
    resumed = ("resume=auto", "total_steps=64")
    again = trained("--config-dir", str(outside / "mine"), *CHAIN, *words, *resumed)
    assert [line["step"] for line in again] == [16, 32, 48, 64]


def test_a_learner_with_other_keywords_is_refused_with_the_right_override(observatory):
    done = command(train.main, *CHAIN, "learner._target_=observatory.Reinforce")
    assert done.status == 2
    (line,) = done.lines()
    assert "observatory.Reinforce takes no 'adaptive_kl'" in line
    assert "~GROUP +GROUP._target_=observatory.Reinforce" in line
    assert not Path("run").exists()


# --- plain Python


def test_modules_training_and_loading_in_plain_python(observatory):
    vec = GymVec([lambda: observatory.Corridor() for _ in range(4)])
    modules = {
        "rnd": RND(vec.obs_space, embedding_dim=16, warmup_steps=16),
        "mine": observatory.Mine(vec.obs_space),
    }
    terms = {"reward": Term(), "mine": observatory.Mine.default_term()}
    mixer = RewardMixer({**terms, "rnd": RND.default_term()}, Heads())
    policy = ActorCritic(
        vec.obs_space,
        vec.act_space,
        encoder=MLP(vec.obs_space, hidden=[16]),
        num_streams=mixer.num_streams,
    )
    run = Trainer(vec, PPO(policy, lr=3e-3), modules, mixer, run_dir="run", num_steps=16)
    run.run(16 * 4 * 3)
    assert run.session.steps == 192
    agent = load("run")
    env = observatory.Corridor()
    obs, _ = env.reset(seed=0)
    action, _ = agent.act(obs)
    assert env.action_space.contains(action)
    env.step(action)
    actions, _ = agent.act(np.stack([obs] * 3), deterministic=True)
    assert actions.shape == (3,)
    parameters = zip(agent.policy.parameters(), policy.parameters(), strict=True)
    assert all(torch.equal(saved, trained) for saved, trained in parameters)
    again = Trainer(vec, PPO(policy), modules, mixer, run_dir="run", resume=True, num_steps=16)
    assert again.session.steps == 192
    again.session.directory.close()


def test_training_solves_a_custom_environment(observatory):
    torch.manual_seed(0)
    vec = GymVec([observatory.Corridor] * 8)
    policy = ActorCritic(vec.obs_space, vec.act_space, encoder=MLP(vec.obs_space, hidden=[16]))
    Trainer(vec, PPO(policy, lr=1e-2, minibatch_size=128), run_dir="run", num_steps=32).run(8_000)
    agent, env = load("run"), observatory.Corridor()
    obs, _ = env.reset(seed=0)
    for _ in range(4):
        action, _ = agent.act(obs, deterministic=True)
        obs, reward, terminated, _, _ = env.step(action)
    assert terminated
    assert reward == 1
