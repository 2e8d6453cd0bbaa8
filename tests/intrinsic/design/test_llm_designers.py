"""What designers do with recorded answers, good and bad ones, whichever they are."""

import pytest
from llm_designs import BROKEN, MAKE, TASK, answer, judged, restored, source, text

from firstlight.intrinsic.design.designers.auto_mc_reward import AutoMCReward
from firstlight.intrinsic.design.designers.base import (
    REFUSED,
    SearchState,
)
from firstlight.intrinsic.design.designers.icpl import ICPL
from firstlight.intrinsic.design.designers.text2reward import Text2Reward
from firstlight.intrinsic.design.designers.text_models import ReplayModel
from firstlight.intrinsic.language.judges.judge import JudgeError


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("bad", BROKEN)
def test_a_round_in_which_all_fail_is_asked_again_some_times(name, bad):
    designer = MAKE[name](ReplayModel([BROKEN[bad]] * 20))
    rounds = 0
    while proposals := designer.propose(SearchState(TASK, rounds)):
        assert len(proposals) == 2
        designer.observe(results := judged(proposals))
        assert {result.verdict for result in results} == {REFUSED}
        rounds += 1
    assert rounds == 3  # the first, and two repeats
    starts = [start for _, _, start in designer.model.asked]
    assert starts == [0, 2, 4]  # so that a store is asked for new answers


@pytest.mark.parametrize("name", MAKE)
def test_a_working_program_among_broken_ones_is_the_parent_of_the_next_round(name):
    designer = MAKE[name](ReplayModel([BROKEN["syntax error"], answer(1), answer(2), answer(3)]))
    designer.observe(judged(first := designer.propose(SearchState(TASK)), [0.4]))
    assert [proposal.how for proposal in first] == ["first sample"] * 2
    second = designer.propose(SearchState(TASK, 1, remark="It waits."))
    assert {proposal.parent for proposal in second} == {first[1].hash}
    assert source(1) in text(designer)
    assert {proposal.model for proposal in second} == {"recorded answers"}
    assert len({proposal.prompt_hash for proposal in [*first, *second]}) == 2


@pytest.mark.parametrize("name", MAKE)
def test_a_restored_designer_continues_as_an_uninterrupted_one(name):
    def run(interrupted):
        designer = MAKE[name](ReplayModel([answer(i) for i in range(1, 9)]))
        made = []
        for number in range(4):
            if interrupted:
                designer = restored(designer, MAKE[name])
            state = SearchState(TASK, number, remark=f"remark {number}")
            made.append(proposals := designer.propose(state))
            if interrupted:
                designer = restored(designer, MAKE[name])
            designer.observe(judged(proposals, [0.1 * number, 0.3]))
        return made

    assert run(False) == run(True)


def test_a_model_that_does_not_answer_is_reported_to_the_search():
    for make in (*MAKE.values(), AutoMCReward):
        with pytest.raises(JudgeError):
            make(ReplayModel([])).propose(SearchState(TASK))


def test_invalid_options_are_refused():
    model = ReplayModel([])
    for make, match in (
        (lambda: ICPL(model, samples=1), "samples is 1, expected at least 2"),
        (lambda: ICPL(model, rounds=0), "rounds is 0"),
        (lambda: ICPL(model, by="nobody"), "by is 'nobody': choose from task_return, person"),
        (lambda: Text2Reward(model, samples=0), "samples is 0"),
        (lambda: AutoMCReward(model, rounds=0), "rounds is 0"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
