"""Commands that load a run show its modules the text ids that they have learnt from."""

import sys
from pathlib import Path

import pytest
from command_line import command

from firstlight.agents.session.run_directory import checkpoint
from firstlight.scripts import evaluate, train

READER = '''
"""A module that learns from text ids, and records what the ids mean to it."""

import torch
from firstlight.intrinsic import IntrinsicModule

meanings = []  # (id, sentence) of each call of `compute`


class Reader(IntrinsicModule):
    """Pays 1 for missions that it has learnt."""

    def __init__(self, *, vec, obs_space=None, info_space=None, seed=0):
        super().__init__()
        self.texts = vec.text_table
        self.register_buffer("known", torch.zeros(100, dtype=torch.bool))

    def compute(self, rollout):
        ids = rollout.info["mission_id"][:-1]
        meanings.extend((n, self.texts.text(n)) for n in ids.unique().tolist())
        return self.known[ids].float() * rollout.valid

    def update(self, rollout):
        self.known[rollout.info["mission_id"]] = True
        return {}
'''
RUN = (
    *("env=minigrid/keycorridor_s3r2", "env.backend=python", "env.num_envs=8", "env.text=true"),
    *("+env.max_steps=4", "trainer.num_steps=16", "total_steps=256", "learner.num_epochs=1"),
    *("eval_episodes=1", "device=cpu", "run_dir=run", "+intrinsic.reader._target_=reading.Reader"),
)


@pytest.fixture
def reading(tmp_path, monkeypatch):
    """A run of a module that reads text ids; gives the module's file, imported."""
    (tmp_path / "reading.py").write_text(READER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    done = command(train.main, *RUN)
    assert done.status == 0, done.err
    yield sys.modules["reading"]
    del sys.modules["reading"]


def test_text_ids_mean_the_same_sentences_in_a_reward_video(reading):
    learnt = dict(reading.meanings)
    assert len(learnt) > 3
    reading.meanings.clear()
    for seed in range(3):  # the first mission of another table would have id 1, whichever it is
        words = ("run=run", "allow=reading", "episodes=1", "video=true", "rewards=true")
        done = command(evaluate.main, *words, f"seed={seed}")
        assert done.status == 0, done.err
    assert learnt.keys() & dict(reading.meanings).keys()
    assert all(learnt.get(n, sentence) == sentence for n, sentence in reading.meanings)


def test_text_ids_of_evaluated_environments_are_those_of_the_run(reading, monkeypatch):
    tables = []

    def note(policy, vec, **options):
        tables.append(vec.text_table.state_dict()["texts"])
        raise KeyboardInterrupt

    monkeypatch.setattr("firstlight.agents.evaluation.evaluate", note)
    done = command(evaluate.main, "run=run", "allow=reading")
    assert done.status == 130
    state = checkpoint.load(checkpoint.best(Path("run/checkpoints")))
    assert tables == [state["runner"]["kept"]["texts"]["texts"]]
    assert len(tables[0]) > 3
