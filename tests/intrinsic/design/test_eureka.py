"""Eureka against recorded answers: rounds, reflection, broken answers, and going on."""

import json

import pytest
from designs import (
    IMPORTS,
    NO_PYTHON,
    PROSE,
    WRONG_SIGNATURE,
    fenced,
    good,
    made_up,
    passes,
    record,
    result,
)

from firstlight.intrinsic.design.design_search import DesignSearch
from firstlight.intrinsic.design.designers.answers import source_of
from firstlight.intrinsic.design.designers.base import RETURN, SearchState
from firstlight.intrinsic.design.designers.eureka import Eureka, reflection
from firstlight.intrinsic.design.designers.text_models import ReplayModel
from firstlight.intrinsic.language.judges.judge import JudgeError

BROKEN = [fenced(NO_PYTHON), PROSE, fenced(WRONG_SIGNATURE), fenced(IMPORTS)]


@pytest.fixture(scope="module")
def task():
    return record()[0]


def number(source):
    """The number that `good` put into a program."""
    return float(source.rpartition('forward": ')[2].partition(" *")[0])


def search(designer, task, folder, trained=None, score=number):
    return DesignSearch(designer, task, folder, check=passes, train=made_up(score, trained))


def contents(messages):
    return [message["content"] for message in messages]


def test_the_last_rounds_best_program_and_its_numbers_are_the_only_ones_shown(task, tmp_path):
    answers = [fenced(good(i)) for i in (1, 5, 2, 3, 4, 2.5)]
    designer = Eureka(ReplayModel(answers), samples=2, rounds=3)
    done = search(designer, task, tmp_path)
    assert done.run()
    asked = [messages for messages, _, _ in designer.model.asked]
    assert [len(messages) for messages in asked] == [2, 4, 4]
    assert good(5) in contents(asked[1])[2]
    assert good(3) in contents(asked[2])[2]  # and no longer that of the round before
    assert good(5) not in "".join(contents(asked[2]))
    assert asked[0] == asked[1][:2] == asked[2][:2]
    assert "mean task return was 5." in contents(asked[1])[3]
    assert done.best.proposal.source.strip() == good(5).strip()  # of the search: the best of all
    parents = [r.proposal.parent for r in done.table.results]
    assert parents[:2] == [None, None]
    assert parents[2:4] == [done.best.proposal.hash] * 2


def test_numbers_of_answers_count_on_so_that_no_answer_comes_twice(task, tmp_path):
    designer = Eureka(ReplayModel([fenced(good(i)) for i in range(6)]), samples=2, rounds=3)
    search(designer, task, tmp_path).run()
    assert [start for _, _, start in designer.model.asked] == [0, 2, 4]


def test_a_round_without_a_program_is_asked_again_without_feedback_and_not_counted(task, tmp_path):
    answers = [*BROKEN, *BROKEN, *map(fenced, (good(1), NO_PYTHON, good(2), good(3)))]
    designer = Eureka(ReplayModel(answers), samples=4, rounds=1)
    done = search(designer, task, tmp_path)
    assert done.run()
    asked = [messages for messages, _, _ in designer.model.asked]
    assert len(asked) == 3
    assert asked[0] == asked[1] == asked[2]
    verdicts = [(r.round, r.verdict) for r in done.table.results]
    assert verdicts[:8] == [*[(0, "refused")] * 4, *[(1, "refused")] * 4]
    assert sorted(verdicts[8:]) == [(2, "refused"), *[(2, "trained")] * 3]
    assert done.best.score == 3.0


def test_a_model_that_never_writes_a_program_ends_the_search(task, tmp_path):
    designer = Eureka(ReplayModel(BROKEN * 10), samples=4, rounds=5, max_repeats=2)
    done, trained = search(designer, task, tmp_path, trained := []), trained
    assert done.run()
    assert len(designer.model.asked) == 3
    assert done.best is None
    assert trained == []


def test_crashed_trainings_of_a_round_are_no_feedback(task, tmp_path):
    answers = [fenced(good(i)) for i in (1, 2, 3, 4)]
    designer = Eureka(ReplayModel(answers), samples=2, rounds=1)

    def train(programs):
        found = made_up(number)(programs)
        from firstlight.intrinsic.design.design_search import TrainedProgram

        early = {n: TrainedProgram(error="exit status 1") for n in programs}
        return early if any(number(p.source) < 3 for p in programs.values()) else found

    DesignSearch(designer, task, tmp_path, check=passes, train=train).run()
    asked = [messages for messages, _, _ in designer.model.asked]
    assert [len(messages) for messages in asked] == [2, 2]


def test_too_few_answers_are_a_smaller_round_and_none_is_an_error(task, tmp_path):
    designer = Eureka(ReplayModel([fenced(good(i)) for i in (1, 2, 3)]), samples=2, rounds=3)
    done = search(designer, task, tmp_path)
    with pytest.raises(JudgeError, match="all 3 recorded answers are used"):
        done.run()
    assert [r.score for r in done.table.results] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("stop", range(1, 7))
def test_a_designer_that_is_made_anew_asks_the_same(stop, task, tmp_path):
    """After each call of propose or observe all goes on from JSON."""
    answers = [*BROKEN[:2], *(fenced(good(i)) for i in (3, 1, 2, 4))]

    def make():
        return Eureka(ReplayModel(answers), samples=2, rounds=2)

    whole = make()
    search(whole, task, tmp_path / "whole").run()
    asked = list(whole.model.asked)
    designer, calls, results, log = make(), 0, [], []
    train = made_up(number)
    rounds = 0
    while True:
        for call in ("propose", "observe"):
            if calls == stop:
                log += designer.model.asked
                state = json.loads(json.dumps(designer.state_dict()))
                designer = make()
                designer.load_state_dict(state)
            calls += 1
            if call == "propose":
                proposals = designer.propose(SearchState(task, rounds, results))
            else:
                one = DesignSearch(
                    _Once(proposals), task, tmp_path / f"{calls}", check=passes, train=train
                )
                one.run()
                designer.observe(one.table.results)
        if not proposals:
            break
        rounds += 1
    assert [*log, *designer.model.asked] == asked


class _Once:
    """Proposes one round."""

    def __init__(self, proposals):
        self._proposals = proposals

    def propose(self, state):
        return [] if state.round else self._proposals

    def observe(self, results):
        pass

    def state_dict(self):
        return {}


def test_reflection_shows_each_curve_with_lowest_mean_and_highest():
    text = reflection(
        result(good(), 0.25, steps=5000, curves={RETURN: [0.0, 0.5], "near": [1.0, -2.0, 4.0]})
    )
    assert "5,000 environment steps" in text
    assert (
        "task return (the sparse reward alone, what counts): [0, 0.5], lowest 0, mean 0.25, "
        in (text)
    )
    assert "component near (mean of a step): [1, -2, 4], lowest -2, mean 1, highest 4" in text
    assert "mean task return was 0.25" in text


def test_the_prompt_names_every_field_of_the_task_and_its_goal(task):
    text = "".join(contents(Eureka(ReplayModel([])).messages(SearchState(task))))
    for part in ("reach the end", "- obs: [N, 5] uint8", "- position: [N] whole numbers from 0 to"):
        assert part in text
    assert "def reward(obs, action, next_obs, info, memory)" in text


@pytest.mark.parametrize(
    ("answer", "source"),
    [
        (fenced(good()), good()),
        (good(), good()),
        (f"```\n{good()}```", good()),
        (f"First\n```python\nx = 1\n```\nthen\n```python\n{good()}```", good()),
        (f"```python\n{good()}", good()),  # cut off
        (f"```python\n{good()}```\nUse it so:\n```sh\nfirstlight-train intrinsic=[a]\n```", good()),
        (PROSE, PROSE),
        ("", ""),
    ],
)
def test_the_program_is_found_in_an_answer(answer, source):
    assert source_of(answer) == source


def test_recorded_answers_are_read_from_json_lines(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('"one"\n"two\\nlines"\n')
    assert ReplayModel.read(file).answers == ["one", "two\nlines"]
    file.write_text("3\n")
    with pytest.raises(ValueError, match="a JSON string in each line"):
        ReplayModel.read(file)
    with pytest.raises(ValueError, match="cannot read"):
        ReplayModel.read(tmp_path / "none")
