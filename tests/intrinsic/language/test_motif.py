"""Motif's reward: fitted to comparisons, normalised, cut at a quantile, and paid by its count."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import save_file

from firstlight.envs.minigrid import make
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.text import TextTable
from firstlight.intrinsic import Motif, RewardMixer, Term, check_module
from firstlight.intrinsic.language.comparisons import ComparedPairs
from firstlight.intrinsic.language.motif_training import MotifReward, MotifTraining, best_and_worst
from firstlight.intrinsic.language.reward_models import Ranking

TASK = " (task: use the key to open the door and then get to the goal)"
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
DONE = {"dropped": "key", "closed": "door"}, {"picked up": "key", "unlocked": "door"}
BAD, GOOD = (
    [f"{verb} the {colour} {what}{TASK}" for verb, what in events.items() for colour in COLOURS]
    for events in DONE
)
SENTENCES = [*BAD, *GOOD]
NETWORK = {"width": 8, "length": 54, "hidden": 16, "lr": 3e-3}


def compared(rows, score, held_back=None):
    rows = np.array(rows, np.int32).reshape(-1, 2)
    held_back = np.zeros(len(rows), bool) if held_back is None else np.array(held_back)
    return ComparedPairs(rows[:, 0], rows[:, 1], np.array(score, np.float32), held_back, 0, 0, 0)


def all_pairs():
    """Good sentences are better than bad ones, and otherwise pairs are ties."""
    value = [0] * len(BAD) + [1] * len(GOOD)
    rows = [(i, j) for i in range(len(value)) for j in range(i + 1, len(value))]
    score = [0.5 + (value[j] - value[i]) / 2 for i, j in rows]
    return compared(rows, score, [(i + j) % 5 == 0 for i, j in rows])


@pytest.fixture(scope="module")
def reward():
    training = MotifTraining(Ranking(seed=0, **NETWORK), SENTENCES, all_pairs(), batch_size=32)
    for _ in range(20):
        training.run_epoch()
    assert training.agreement().share > 0.95
    counts = np.array([9] * len(BAD) + [1] * len(GOOD))
    facts = {"with_mission": True, "judge": ["a", "b"]}
    return MotifReward.fitted(training.model, training.scores(), counts, facts)


@pytest.fixture(scope="module")
def file(reward, tmp_path_factory):
    path = tmp_path_factory.mktemp("motif") / "reward.safetensors"
    reward.save(path)
    return path


@pytest.fixture
def vec():
    made = make("MiniGrid-DoorKey-5x5-v0", num_envs=8, text=True)
    yield made
    made.close()


def make_module(vec, file, **options):
    return Motif(info_space=vec.info_space, text_table=vec.text_table, file=str(file), **options)


def test_the_loss_and_the_agreement_are_those_of_a_loop():
    model = Ranking(seed=0, **NETWORK)
    pairs = compared([(0, 12), (13, 1), (2, 3), (1, 12)], [1.0, 0.0, 0.5, 0.0])
    training = MotifTraining(model, SENTENCES, pairs, batch_size=4)
    r = [float(model.raw([text])) for text in SENTENCES]
    total, right = 0.0, 0
    for i, j, y in zip(pairs.first, pairs.second, pairs.score, strict=True):
        better = math.exp(r[j]) / (math.exp(r[i]) + math.exp(r[j]))
        total -= y * math.log(better) + (1 - y) * math.log(1 - better)
        right += y != 0.5 and (r[j] > r[i]) == (y == 1)
    seen = training.agreement(held_back=False)
    assert seen.loss == pytest.approx(total / 4, rel=1e-4)
    assert seen.share == pytest.approx(right / 3)
    assert seen.pairs == 4
    assert training.agreement().share is None
    assert training.run_epoch() == pytest.approx(total / 4, rel=1e-4)
    assert training.agreement(held_back=False).loss < seen.loss


def test_pairs_that_are_held_back_are_not_learnt():
    rows, score = [(0, 12)], [1.0]
    apart = compared([*rows, (1, 13)], [*score, 0.0], [False, True])
    states = []
    for pairs in (compared(rows, score), apart):
        model = Ranking(seed=0, **NETWORK)
        MotifTraining(model, SENTENCES, pairs, batch_size=4).run_epoch()
        states.append(model.head[0].weight)
    assert torch.equal(*states)
    with pytest.raises(ValueError, match="no comparison to learn from"):
        MotifTraining(model, SENTENCES, compared(rows, score, [True]), batch_size=4)


def test_scores_are_normalised_over_steps_and_cut_at_a_quantile_of_sentences(reward):
    r = reward.model.raw(SENTENCES).tolist()
    steps = [*r[: len(BAD)] * 9, *r[len(BAD) :]]
    mean = sum(steps) / len(steps)
    std = math.sqrt(sum((x - mean) ** 2 for x in steps) / len(steps))
    assert (reward.mean, reward.std) == pytest.approx((mean, std), rel=1e-4)
    z = sorted((x - mean) / std for x in r)
    assert reward.ratings.tolist() == pytest.approx(z, rel=1e-3, abs=1e-4)
    for epsilon in (0.0, 0.25, 0.5, 0.9, 1.0):
        expected = np.quantile(z, epsilon)
        assert reward.threshold(epsilon) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_better_half_of_the_sentences_is_paid(vec, file, reward):
    module = make_module(vec, file)
    rates = module.rate(SENTENCES)
    assert (rates[: len(BAD)] == 0).all()
    assert (rates[len(BAD) :] > 0).all()
    z = (reward.model.raw(SENTENCES) - reward.mean) / reward.std
    torch.testing.assert_close(rates[len(BAD) :], z[len(BAD) :].float())
    assert not make_module(vec, file, epsilon=1.0).rate(SENTENCES).any()
    everything = make_module(vec, file, epsilon=0.0).rate(SENTENCES)
    assert (everything < 0).sum() > 0  # as published: what is above the quantile is not clipped
    assert everything[int(z.argmin())] == 0
    assert (everything != 0).sum() > len(SENTENCES) / 2


def test_the_bonus_is_the_rating_by_the_count_in_the_episode(vec, file):
    module, runner = make_module(vec, file, beta=2.0), Runner(vec, seed=0)
    counts, paid = [{} for _ in range(8)], 0.0
    for _ in range(3):
        rollout = runner.collect(RandomActor(vec.act_space), 64)
        events = rollout.next_info()["text_id"]
        bonus = module.compute(rollout)
        for t in range(64):
            for n in range(8):
                if rollout.is_first[t, n]:
                    counts[n] = {}
                event = vec.text_table.text(int(events[t, n]))
                expected = 0.0
                if event and rollout.valid[t, n]:
                    counts[n][event] = counts[n].get(event, 0) + 1
                    expected = float(module.rate([event + TASK])) / counts[n][event] ** 2
                assert float(bonus[t, n]) == pytest.approx(expected, abs=1e-5)
                paid += expected
        assert module.update(rollout) == {}
    assert paid > 1


def test_it_obeys_the_rules_of_modules(vec, file):
    Runner(vec).collect(RandomActor(vec.act_space), 512)  # fills the table of events
    check_module(make_module(vec, file), vec=vec)


def test_a_checkpoint_holds_the_model(vec, file, tmp_path):
    other = MotifReward(Ranking(seed=3, **{**NETWORK, "lr": 1e-4}), 1.0, 2.0, torch.arange(3.0), {})
    other.save(tmp_path / "other")
    module, loaded = make_module(vec, file), make_module(vec, tmp_path / "other")
    loaded.load_state_dict(module.state_dict())
    assert torch.equal(loaded.rate(SENTENCES), module.rate(SENTENCES))


def test_a_file_comes_back_as_it_was_written(reward, file):
    loaded = MotifReward.load(file)
    assert torch.equal(loaded.model.raw(SENTENCES), reward.model.raw(SENTENCES))
    assert (loaded.mean, loaded.std, loaded.facts) == (reward.mean, reward.std, reward.facts)
    assert torch.equal(loaded.ratings, reward.ratings)


def test_the_reward_changes_what_the_mixer_gives_the_learner(vec, file):
    module = make_module(vec, file)
    rollout = Runner(vec, seed=0).collect(RandomActor(vec.act_space), 128)
    bonus = module.compute(rollout)
    mixer = RewardMixer({"reward": Term(), "motif": Motif.default_term()})
    without = mixer(rollout, {"motif": torch.zeros_like(bonus)}, 0.0).reward
    assert bonus.any()
    assert not torch.equal(mixer(rollout, {"motif": bonus}, 0.0).reward, without)


def test_what_cannot_work_is_refused(vec, file, reward, tmp_path):
    nothing = spaces.Dict({"position": spaces.Box(0, 1, (2,), np.float32)})
    with pytest.raises(ValueError, match="no text to judge"):
        Motif(info_space=nothing, text_table=TextTable(), file=str(file))
    with pytest.raises(ValueError, match=r"epsilon is 1\.5"):
        make_module(vec, file, epsilon=1.5)
    with pytest.raises(ValueError, match="there is no reward model"):
        make_module(vec, tmp_path / "none")
    (tmp_path / "text").write_text("nothing of the kind")
    save_file({"x": torch.zeros(1)}, tmp_path / "tensors")
    for name in ("text", "tensors"):
        with pytest.raises(ValueError, match="is no reward model of firstlight-motif"):
            make_module(vec, tmp_path / name)
    other = MotifReward(reward.model, 0.0, 1.0, reward.ratings, {"with_mission": False})
    other.save(tmp_path / "plain")
    with pytest.raises(ValueError, match="without a task"):
        make_module(vec, tmp_path / "plain")


def test_best_and_worst_are_in_order_and_none_twice():
    ratings = torch.tensor([0.0, 3.0, -2.0, 1.0, 5.0])
    assert [x for x, _ in best_and_worst("abcde", ratings, 2)] == ["e", "b", "a", "c"]
    assert [x for x, _ in best_and_worst("abcde", ratings, 3)] == ["e", "b", "d", "a", "c"]
