"""The lock of a run directory: one writer, named to the second, free after the first."""

import os

import pytest
from small_trainer import make_trainer

from firstlight.agents.session.run_directory import run_lock
from firstlight.agents.session.run_directory.run_dir import RunDirectory
from firstlight.agents.session.run_directory.run_lock import RunLock, RunLockedError


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(run_lock, "WAIT_SECONDS", 0.0)


def test_the_second_one_is_refused_by_a_sentence_that_names_the_first(tmp_path, impatient):
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    first.acquire()  # it has the lock already
    with pytest.raises(RunLockedError, match=f"in use by process {os.getpid()} on .*, since"):
        second.acquire()
    first.release()
    first.release()
    second.acquire()
    second.release()


def test_a_holder_that_has_not_written_its_name_yet_is_another_process(tmp_path, impatient):
    first = RunLock(tmp_path)
    first.acquire()
    (tmp_path / run_lock.HOLDER).unlink()
    with pytest.raises(RunLockedError, match="in use by another process"):
        RunLock(tmp_path).acquire()


def test_a_run_directory_is_locked_until_it_is_closed(tmp_path, impatient):
    directory = RunDirectory(tmp_path)
    with pytest.raises(RunLockedError):
        RunDirectory(tmp_path, resume=True)
    directory.close()
    RunDirectory(tmp_path, resume=True).close()


def test_a_trainer_frees_its_directory_at_the_end_and_takes_it_again(tmp_path, impatient):
    trainer = make_trainer(run_dir=tmp_path)
    trainer.run(64)
    other = RunLock(tmp_path)
    other.acquire()
    with pytest.raises(RunLockedError):
        trainer.run(128)
    other.release()
    trainer.run(128)
