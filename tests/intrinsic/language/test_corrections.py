"""A person's label reaches a run that is under way, a resumed one and the next one."""

import pytest

from firstlight.envs.minigrid import make
from firstlight.envs.runner import RandomActor, Runner
from firstlight.intrinsic import ONI
from firstlight.intrinsic.language.corrections import Corrections
from firstlight.intrinsic.language.store import Label, LabelStore


@pytest.fixture
def vec():
    made = make("MiniGrid-DoorKey-5x5-v0", num_envs=8, text=True)
    yield made
    made.close()


def make_module(vec):
    return ONI(info_space=vec.info_space, text_table=vec.text_table, judge="rule", wait=True)


def play(module, runner, rollouts=1):
    """Bonuses that were paid in some rollouts."""
    total = 0.0
    for _ in range(rollouts):
        rollout = runner.collect(RandomActor(runner.vec.act_space), 128)
        total += float(module.compute(rollout).sum())
        module.update(rollout)
    return total


def correct_all(folder, score):
    """Correct every label, by another connection to the file."""
    store = LabelStore(folder / "labels.sqlite")
    for label in store.labels():
        store.correct(label.item, score)
    store.close()


def test_a_running_run_uses_a_correction_of_somebody_else(vec, tmp_path, monkeypatch):
    monkeypatch.setattr("firstlight.intrinsic.language.corrections._SECONDS", 0.01)
    module, runner = make_module(vec), Runner(vec, seed=0)
    module.open(tmp_path)
    assert play(module, runner, 3) > 0
    correct_all(tmp_path, 0.0)
    for _ in range(1000):  # the thread looks in a moment
        if len(module.corrections.of(module.model.labels)) == len(module.model.labels):
            break
        module.corrections._closing.wait(0.01)
    play(module, runner)
    assert {*module.model.labels.values()} == {0.0}
    assert play(module, runner, 2) == 0
    module.close()


def test_a_resumed_run_uses_a_correction_that_was_made_between(vec, tmp_path):
    module, runner = make_module(vec), Runner(vec, seed=0)
    module.open(tmp_path)
    assert play(module, runner, 3) > 0
    module.close()
    correct_all(tmp_path, 0.0)
    resumed = make_module(vec)
    resumed.load_state_dict(module.state_dict())
    resumed.open(tmp_path)
    play(resumed, runner)
    assert play(resumed, runner, 2) == 0
    resumed.close()


def test_only_items_that_the_run_knows_are_given():
    store = LabelStore()
    store.put([Label(("met",), 0.0, "judge")])
    store.correct(("met",), 1.0)
    store.correct(("of another run",), 1.0)
    watcher = Corrections(store, seconds=0.01)
    watcher.start()
    assert watcher.of({("met",): 0.0}) == {("met",): 1.0}
    assert watcher.of({}, {}) == {}
    store.withdraw(("met",))
    for _ in range(1000):
        if not watcher.of({("met",): 0.0}):
            break
        watcher._closing.wait(0.01)
    assert watcher.of({("met",): 0.0}) == {}
    watcher.close()


def test_a_store_that_fails_ends_no_run(caplog):
    store = LabelStore()
    store.correct(("a",), 1.0)
    watcher = Corrections(store, seconds=0.01)
    watcher.start()
    store.close()
    for _ in range(1000):
        if "cannot be read" in caplog.text:
            break
        watcher._closing.wait(0.01)
    assert watcher.of({("a",): 0.0}) == {("a",): 1.0}
    assert watcher._thread.is_alive()
    watcher.close()
