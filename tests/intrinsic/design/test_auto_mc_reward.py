"""Auto MC-Reward against recorded answers: author, critic and analyser."""

import numpy as np
import pytest
from llm_designs import BROKEN, TASK, answer, judged, restored, source, text

from firstlight.intrinsic.design.designers.auto_mc_reward import AutoMCReward, with_signs
from firstlight.intrinsic.design.designers.base import (
    SearchState,
)
from firstlight.intrinsic.design.designers.text_models import ReplayModel
from firstlight.intrinsic.design.execution import InProcess
from firstlight.intrinsic.design.program import RewardProgram

BOTH = ("sparse", "dense")


def test_the_critic_sends_a_program_back_until_it_accepts():
    answers = [answer(1, BOTH), "REVISE\n- line 4: pays forever", answer(2, BOTH), "**ACCEPT**"]
    designer = AutoMCReward(model := ReplayModel(answers))
    (proposal,) = designer.propose(SearchState(TASK))
    assert proposal.source == with_signs(source(2, BOTH))
    assert proposal.how == "accepted by the critic"
    author, critic, corrected, again = ([m["content"] for m in asked[0]] for asked in model.asked)
    assert source(1, BOTH).strip() in critic[-1]
    assert "line 4: pays forever" in corrected[-1]
    assert source(2, BOTH).strip() in again[-1]
    assert len({"".join(each) for each in (author, critic, corrected, again)}) == 4
    assert [start for _, _, start in model.asked] == [0, 1, 2, 3]


@pytest.mark.parametrize("bad", BROKEN)
def test_what_is_no_program_goes_back_without_asking_the_critic(bad):
    designer = AutoMCReward(model := ReplayModel([BROKEN[bad], answer(1, BOTH), "ACCEPT"]))
    (proposal,) = designer.propose(SearchState(TASK))
    assert proposal.how == "accepted by the critic"
    assert len(model.asked) == 3
    assert "The contract" not in text(model)


def test_other_components_than_sparse_and_dense_go_back():
    designer = AutoMCReward(model := ReplayModel([answer(1), answer(1, BOTH), "ACCEPT"]))
    designer.propose(SearchState(TASK))
    assert (
        "the components are ['a'], expected exactly sparse and dense"
        in model.asked[1][0][-1]["content"]
    )


def test_what_is_never_accepted_is_proposed_all_the_same():
    designer = AutoMCReward(ReplayModel([BROKEN["no code"]] * 9), max_reviews=2, rounds=1)
    (proposal,) = designer.propose(SearchState(TASK))
    assert proposal.how == "not accepted by the critic"
    assert designer.asked == 3
    designer.observe(judged([proposal]))
    assert designer.propose(SearchState(TASK, 1)) == []


def test_only_the_signs_of_the_components_count():
    text = source(0, BOTH).replace("0 * action", "np.array([-7.0, 0.0, 0.3])")
    program = RewardProgram.parse(with_signs(text))
    assert program.ranges == {"sparse": (-1, 1), "dense": (-0.1, 0.1)}
    fields = {
        "action": np.zeros((1, 3)),
        "is_first": np.ones((1, 3), bool),
        "valid": np.ones((1, 3), bool),
    }
    out, _ = InProcess(program).run(fields, {})
    np.testing.assert_allclose(out[:, 0], [[-1, 0, 1], [-0.1, 0, 0.1]], rtol=1e-6)
    totals = {round(s + d, 1) for s in (-1, 0, 1) for d in (-0.1, 0, 0.1)}
    assert totals == {-1.1, -1, -0.9, -0.1, 0, 0.1, 0.9, 1, 1.1}


def test_the_analyser_reads_failures_and_its_suggestions_begin_the_next_round():
    answers = [answer(1, BOTH), "ACCEPT", "It walks into lava.", answer(2, BOTH), "ACCEPT"]
    designer = AutoMCReward(model := ReplayModel(answers), max_records=2)
    records = ("record one", "record two", "record three")
    designer.observe(judged(designer.propose(SearchState(TASK)), [0.25], failures=records))
    (proposal,) = designer.propose(SearchState(TASK, 1))
    analysed, author = model.asked[2][0][-1]["content"], model.asked[3][0][-1]["content"]
    assert "record two" in analysed
    assert "record three" not in analysed
    assert "It walks into lava." in author
    assert source(1, BOTH).strip() in author
    assert "_written" not in author  # what was added to it
    assert "0.25" in author
    assert proposal.parent == with_signs_hash(source(1, BOTH))


def with_signs_hash(text):
    return RewardProgram.parse(with_signs(text)).hash


def test_without_records_the_analyser_is_not_asked():
    designer = AutoMCReward(model := ReplayModel([answer(1, BOTH), "ACCEPT"] * 2))
    designer.observe(judged(designer.propose(SearchState(TASK)), [0.25]))
    designer.propose(SearchState(TASK, 1))
    assert len(model.asked) == 4


def test_it_continues_after_a_restart_between_proposals_and_results():
    def run(interrupted):
        answers = []
        for i in range(4):
            answers += [answer(i, BOTH), "ACCEPT", f"analysis {i}"]
        designer, made = AutoMCReward(ReplayModel(answers)), []
        for number in range(5):
            if interrupted:
                designer = restored(designer, AutoMCReward)
            made.append(proposals := designer.propose(SearchState(TASK, number)))
            if interrupted:
                designer = restored(designer, AutoMCReward)
            if proposals:
                designer.observe(judged(proposals, [0.1], failures=("failed",)))
        return made

    assert run(False) == run(True)
    assert [len(each) for each in run(False)] == [1, 1, 1, 1, 0]
