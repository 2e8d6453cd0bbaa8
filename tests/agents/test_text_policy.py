"""A policy that reads: learning, acting on sentences, and runs of versions that read none."""

import functools
from pathlib import Path

import pytest
import torch
from command_line import command
from omegaconf import OmegaConf
from sentences import ORDERS, RELATIONS, Bandit, Relation, TextAlone

from firstlight.agents import MLP, PPO, ActorCritic, MultiInput, Trainer, load
from firstlight.agents.agent import Agent
from firstlight.envs import GymVec
from firstlight.networks import auto
from firstlight.scripts import evaluate, train


def share_of_rewards(task, encoder=auto, *, observe_text=True, iterations=24):
    """Train; mean reward of the last four iterations, and the policy."""
    vec = GymVec([functools.partial(task, 8)] * 8, observe_text=observe_text)
    torch.manual_seed(0)
    policy = ActorCritic(vec.obs_space, vec.act_space, encoder=encoder(vec.obs_space))
    learner = PPO(policy, lr=3e-3, minibatch_size=64, entropy_coef=0)
    rewards: list[float] = []
    Trainer(vec, learner, num_steps=16).run(
        iterations * 8 * 16, [lambda run, _: rewards.append(run.data.rollout.reward.mean().item())]
    )
    return sum(rewards[-4:]) / 4, policy


def test_sentences_of_the_same_words_are_told_apart():
    solved, policy = share_of_rewards(Bandit)
    assert solved > 0.95
    agent = Agent(policy.eval())
    for right, sentence in enumerate(ORDERS):
        obs = {"sentence": sentence, "time": [0.5]}
        action, _ = agent.act(obs, deterministic=True)
        assert action == right
    several = {"sentence": [*ORDERS[:3]], "time": [[0.5]] * 3}
    assert agent.act(several, deterministic=True)[0].tolist() == [0, 1, 2]


def test_without_the_text_the_same_task_stays_at_chance():
    chance, policy = share_of_rewards(Bandit, observe_text=False)
    assert type(policy.encoder) is MLP
    assert chance < 0.4
    chance, _ = share_of_rewards(Bandit, MLP)  # an encoder that leaves the text out
    assert chance < 0.4


def test_a_text_alone_is_read():
    solved, policy = share_of_rewards(TextAlone)
    assert solved > 0.9
    assert Agent(policy.eval()).act(ORDERS[2], deterministic=True)[0] == 2


def test_a_sentence_about_another_field_is_understood():
    """The action depends on both together, which no sum of features of each can express."""
    solved, policy = share_of_rewards(Relation, iterations=30)
    assert solved > 0.9
    agent = Agent(policy.eval())
    for differs, sentence in enumerate(RELATIONS):
        for sign in (0, 1):
            action, _ = agent.act({"sentence": sentence, "sign": sign}, deterministic=True)
            assert action == sign ^ differs
    assert share_of_rewards(Relation, _without_joint, iterations=12)[0] < 0.7


def _without_joint(obs_space):
    encoder = MultiInput(obs_space)
    encoder.joint, encoder.out_dim = None, sum(part.out_dim for part in encoder.parts)
    return encoder


# --- commands


SMALL = ("env.num_envs=2", "trainer.num_steps=16", "eval_episodes=2", "device=cpu", "run_dir=run")
TASK = ("env._target_=sentences.Bandit", *SMALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def trained(*words):
    done = command(train.main, *TASK, *words)
    assert done.status == 0, done.err
    return done.err


@pytest.mark.usefixtures("here")
def test_the_command_reads_texts_and_says_so():
    told = trained("total_steps=64")
    assert "sentence (text, its words and runs of up to 2 hashed to 2,048 embeddings)" in told
    agent = load("run")
    assert type(agent.policy.encoder) is MultiInput
    assert agent.act({"sentence": ORDERS[0], "time": [0.0]})[0] in range(4)
    trained("total_steps=96", "resume=auto")
    assert load("run", which="newest").step == 96
    done = command(evaluate.main, "run=run", "episodes=2", "allow=[sentences]")
    assert done.status == 0, done.err


@pytest.mark.usefixtures("here")
def test_a_run_of_a_version_without_texts_goes_on_without_them():
    told = trained("total_steps=64", "env.observe_text=false")
    assert "left out: sentence (text)" in told
    path = Path("run/config.yaml")
    config = OmegaConf.load(path)
    del config.env["observe_text"], config.env["frame_stack"]  # as that version wrote it
    path.write_text(OmegaConf.to_yaml(config))
    assert "left out: sentence (text)" in trained("total_steps=96", "resume=auto")
    assert OmegaConf.load(path).env.observe_text is False
    agent = load("run", which="newest")
    assert agent.step == 96
    assert type(agent.policy.encoder) is MLP
