"""Torch's threads are chosen once, and a resumed run keeps them."""

import pytest
import torch
from command_line import command
from omegaconf import OmegaConf

from firstlight.scripts import threads, train

SMALL = (
    *("env=gym", "env.id=CartPole-v1", "env.num_envs=2", "trainer.num_steps=16", "eval_every=null"),
    *("intrinsic=[]", "eval_episodes=1", "run_dir=run", "learner.num_epochs=1"),
)


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "busy", "number"),
    [(2, 0.0, 1), (2, 5.0, 1), (4, 0.0, 2), (16, 0.0, 8), (16, 9.0, 3), (96, 0.0, 8)],
)
def test_half_of_the_free_cores_are_used(cores, busy, number):
    assert threads.choose_threads(cores, busy) == number


def test_a_run_writes_the_number_and_keeps_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(threads, "choose_threads", lambda cores, busy: 3)
    done = command(train.main, *SMALL, "total_steps=64")
    assert done.status == 0, done.err
    assert OmegaConf.load("run/config.yaml").num_threads == 3 == torch.get_num_threads()
    monkeypatch.setattr(threads, "choose_threads", lambda cores, busy: 2)
    done = command(train.main, *SMALL, "total_steps=128", "resume=auto")
    assert done.status == 0, done.err
    assert OmegaConf.load("run/config.yaml").num_threads == 3 == torch.get_num_threads()
    done = command(train.main, *SMALL, "total_steps=192", "resume=auto", "num_threads=1")
    assert done.status == 0, done.err
    assert OmegaConf.load("run/config.yaml").num_threads == 1 == torch.get_num_threads()


def test_another_word_is_refused():
    done = command(train.main, *SMALL, "num_threads=many")
    assert done.status != 0
    assert "num_threads=many: expected a number, at least 1" in done.err
