"""The six simulated teachers: each weakness has its property."""

import itertools
import math
import random

import pytest

from firstlight.intrinsic.language.judges.judge import JudgeError
from firstlight.intrinsic.language.judges.rule_judge import RuleJudge
from firstlight.intrinsic.language.judges.simulated_teacher import TEACHERS, SimulatedTeacher

numbers = random.Random(0)
SEGMENTS = {f"text {i}": [numbers.random() / 3 for _ in range(3)] for i in range(80)}
PAIRS = list(itertools.combinations(SEGMENTS, 2))


def teacher(name, **changes):
    return SimulatedTeacher(SEGMENTS.get, name=name, **{**TEACHERS[name], **changes})


def returns(pair):
    return [sum(SEGMENTS[text]) for text in pair]


ORACLE = [float(second > first) for first, second in map(returns, PAIRS)]


def share(count, size):
    """Four standard deviations of a share of `size` coin flips with this mean."""
    return 4 * math.sqrt(count * (1 - count) / size)


def test_the_oracle_prefers_the_higher_return():
    assert teacher("oracle").compare(PAIRS) == ORACLE


def test_the_mistaken_one_is_wrong_in_a_tenth_of_the_pairs():
    wrong = [a != b for a, b in zip(teacher("mistaken").compare(PAIRS), ORACLE, strict=True)]
    assert abs(sum(wrong) / len(PAIRS) - 0.1) < share(0.1, len(PAIRS))
    assert teacher("mistaken", mistake=1.0).compare(PAIRS) == [1 - x for x in ORACLE]


@pytest.mark.parametrize("beta", [0.0, 1.0, 5.0])
def test_the_noisy_one_prefers_by_a_logistic_chance(beta):
    answers = teacher("noisy", beta=beta).compare(PAIRS)
    chances = [1 / (1 + math.exp(-beta * (b - a))) for a, b in map(returns, PAIRS)]
    spread = 4 * math.sqrt(sum(p * (1 - p) for p in chances))
    assert abs(sum(answers) - sum(chances)) < spread
    agree = sum(answer == right for answer, right in zip(answers, ORACLE, strict=True))
    likely = [max(p, 1 - p) for p in chances]
    assert abs(agree - sum(likely)) < 4 * math.sqrt(sum(p * (1 - p) for p in likely)) + 1e-9


def test_the_skipping_one_is_silent_where_both_returns_are_low():
    answers = teacher("skipping", skip=0.5).compare(PAIRS)
    low = [max(returns(pair)) < 0.5 for pair in PAIRS]
    assert [answer is None for answer in answers] == low
    assert 0 < sum(low) < len(low)
    rest = [(a, b) for a, b, silent in zip(answers, ORACLE, low, strict=True) if not silent]
    assert all(a == b for a, b in rest)


def test_the_equal_one_sees_no_small_difference():
    answers = teacher("equal").compare(PAIRS)
    near = [abs(a - b) < 0.1 for a, b in map(returns, PAIRS)]
    assert [answer == 0.5 for answer in answers] == near
    rest = [(a, b) for a, b, tie in zip(answers, ORACLE, near, strict=True) if not tie]
    assert all(a == b for a, b in rest)


def test_the_myopic_one_weighs_what_came_last():
    early, late = {"first": [1.0, 0.0], "second": [0.0, 0.95]}, [("first", "second")]
    oracle = SimulatedTeacher(early.get, **TEACHERS["oracle"])
    myopic = SimulatedTeacher(early.get, **TEACHERS["myopic"])  # 0.9 against 0.95
    assert (oracle.compare(late), myopic.compare(late)) == ([0.0], [1.0])
    for pair, answer in zip(PAIRS, teacher("myopic").compare(PAIRS), strict=True):
        a, b = (0.81 * x + 0.9 * y + z for x, y, z in (SEGMENTS[text] for text in pair))
        assert answer == float(b > a)


@pytest.mark.parametrize("name", TEACHERS)
def test_an_answer_depends_on_the_pair_alone_and_turns_with_it(name):
    answers = teacher(name).compare(PAIRS)
    again = teacher(name)
    assert [again.compare([pair])[0] for pair in reversed(PAIRS)] == answers[::-1]
    turned = teacher(name).compare([(b, a) for a, b in PAIRS])
    assert turned == [None if x is None else 1 - x for x in answers]


@pytest.mark.parametrize("name", TEACHERS)
def test_equal_texts_are_no_preference(name):
    teacher_ = teacher(name, mistake=0.0, beta=math.inf, skip=-math.inf)
    assert teacher_.compare([("text 0", "text 0")]) == [0.5]


def test_other_seeds_are_wrong_elsewhere_and_have_other_prompts():
    one, two = (teacher("mistaken", seed=seed) for seed in (0, 1))
    assert one.compare(PAIRS) != two.compare(PAIRS)
    assert one.prompt != two.prompt
    assert len({teacher(name).prompt for name in TEACHERS}) == len(TEACHERS)


def test_ratings_of_a_judge_are_the_truth_and_its_silence_is_silence():
    made = SimulatedTeacher.of("oracle", RuleJudge("minigrid"))
    key, drop, song = "picked up the red key", "dropped the red key", "sang a song"
    assert made.compare([(key, drop), (drop, key), (key, key)]) == [0.0, 1.0, 0.5]
    assert made.compare([(key, song), (song, song)]) == [None, None]
    with pytest.raises(JudgeError, match="rates no texts"):
        made.rate([key])


@pytest.mark.parametrize("bad", [{"beta": -1.0}, {"mistake": 1.5}, {"gamma": 2.0}])
def test_impossible_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="expected at least 0"):
        SimulatedTeacher(SEGMENTS.get, **bad)
