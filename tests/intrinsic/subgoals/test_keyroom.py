"""CALM in MiniHack's KeyRoom: truth from state, windows for the offline evaluation, scores."""

import numpy as np
import pytest
import torch

pytest.importorskip("nle")
pytest.importorskip("minihack")

from firstlight.envs.nethack import minihack
from firstlight.envs.nethack.channels import key_glyph
from firstlight.envs.runner import RandomActor, Runner
from firstlight.intrinsic import CALM
from firstlight.intrinsic.subgoals.transitions import crop
from firstlight.intrinsic.subgoals.verdicts import KEYROOM
from firstlight.scripts.benchmarks.credit import CLASSES, Window, baselines, build, scores
from firstlight.scripts.benchmarks.keyroom_play import GuidedPlayer


@pytest.fixture(scope="module")
def windows():
    return build(4)


class Guided:
    """The guided player as an actor of a runner."""

    def __init__(self, vec):
        self.player, self.inner = GuidedPlayer(guided=0.9), RandomActor(vec.act_space)

    def initial_state(self, num_envs):
        return {}

    def __call__(self, obs, state, is_first):
        out = self.inner(obs, state, is_first)
        now = {name: field[0] for name, field in obs.items()}
        held = {"keys_held": (now["inv_glyphs"] == key_glyph()).sum(1)}
        action = self.player.act(now, held, is_first[0])[None]

        class Fixed:
            params = torch.zeros(*is_first.shape, 1)

            def draw(self, generator):
                return action, torch.zeros(is_first.shape)

        return out._replace(dist=Fixed())


def test_rule_verdicts_are_those_of_the_games_state_and_paid_once():
    keys = ["glyphs", "blstats", "message", "chars", "inv_glyphs"]
    vec = minihack.make("keyroom_s5", num_envs=3, keys=keys, text=True)
    module = CALM(obs_space=vec.obs_space, info_space=vec.info_space, text_table=vec.text_table)
    assert module.subgoals == KEYROOM
    rollout = Runner(vec).collect(Guided(vec), 70)
    truth, bonus = module.rule.judge(rollout), module.compute(rollout)
    assert truth[..., 0].sum() > 0
    assert truth[..., 1].sum() > 0
    texts = rollout.next_info()["text_id"]
    for t, n in (
        truth[..., 0].nonzero().tolist()
    ):  # what the game reports of it, an independent source
        assert rollout.action[t, n] == 8
        assert "key" in vec.text_table.text(int(texts[t, n])).lower()
    for t, n in truth[..., 1].nonzero().tolist():
        assert rollout.action[t, n] == 9
    for n in range(3):
        done = set()
        for t in range(70):
            done = set() if rollout.is_first[t, n] else done
            new = {s for s in range(2) if truth[t, n, s]} - done
            assert bonus[t, n] == len(new)
            done |= new
    vec.close()


def test_the_crop_is_the_map_around_the_hero():
    rng = np.random.default_rng(0)
    field = torch.from_numpy(rng.integers(1, 200, (5, 21, 79)))
    stats = torch.from_numpy(np.stack([rng.integers(0, 79, 5), rng.integers(0, 21, 5)], 1))
    out = crop(field, stats, empty=-1)
    for i in range(5):
        x, y = stats[i].tolist()
        for a in range(9):
            for b in range(9):
                row, column = y + a - 4, x + b - 4
                inside = 0 <= row < 21 and 0 <= column < 79
                assert out[i, a, b] == (field[i, row, column] if inside else -1)


def test_windows_are_balanced_and_their_truth_is_not_read_from_the_text(windows):
    assert [w.kind for w in windows] == [kind for kind in CLASSES for _ in range(4)]
    for window in windows:
        expected = tuple(window.kind == name for name in KEYROOM)
        assert window.truth == expected
        assert window.text.count("Before:") == 1
    assert len({w.text for w in windows}) > 8


def test_other_observations_and_lengths_have_the_same_truth():
    longer = build(1, observation="none", length=3)
    assert all(w.text.count("Action:") == 3 for w in longer)
    screens = build(1, observation="tty")
    assert all("Action:" not in w.text and "St:" in w.text for w in screens)


def test_the_baselines_score_as_they_must(windows):
    found = {n: scores([judge(w) for w in windows], windows) for n, judge in baselines().items()}
    assert found["always"]["recall"] == 1
    assert found["always"]["precision"] == pytest.approx(2 / 3)
    assert found["always"]["f1"] == pytest.approx(0.8)
    assert found["never"]["f1"] == 0
    assert found["never"]["accuracy"] == pytest.approx(1 / 3)
    assert found["word in the message"]["recall"] >= 0.5


def test_scores_by_hand():
    windows = [
        Window("", truth, "", "") for truth in ((True, False), (False, True), (False, False))
    ]
    found = scores([(False, True), None, (True, False)], windows)
    assert (found["tp"], found["fp"], found["fn"], found["tn"]) == (1, 1, 1, 0)
    assert found["precision"] == found["recall"] == found["f1"] == 0.5
    assert found["exact"] == 0
    assert found["no_answer"] == pytest.approx(1 / 3)
