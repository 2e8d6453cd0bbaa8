"""ICPL against recorded answers: the best and the worst of a round."""

import dataclasses

from llm_designs import BROKEN, TASK, answer, judged, source, text

from firstlight.intrinsic.design.designers.base import (
    LENGTH,
    RETURN,
    TRAINED,
    ProgramResult,
    SearchState,
)
from firstlight.intrinsic.design.designers.icpl import ICPL, trace_differences
from firstlight.intrinsic.design.designers.preferences import AskedPerson, TaskReturn
from firstlight.intrinsic.design.designers.text_models import ReplayModel


def test_icpl_shows_best_and_worst_with_their_traces_but_not_the_tasks_return():
    designer = ICPL(ReplayModel([answer(i) for i in range(1, 7)]), samples=3, rounds=2)
    designer.observe(judged(designer.propose(SearchState(TASK)), [0.2, 0.9, 0.1]))
    designer.propose(SearchState(TASK, 1))
    messages = designer.model.asked[-1][0]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert source(2).strip() in messages[2]["content"]
    assert source(3).strip() in messages[3]["content"]
    assert source(1).strip() not in text(designer)
    assert "a: [0, 0.9], lowest 0, mean 0.45, highest 0.9" in messages[3]["content"]
    assert RETURN not in text(designer)
    assert LENGTH in text(designer)


def test_icpl_ends_after_its_rounds_and_compares_with_earlier_winners():
    designer = ICPL(ReplayModel([answer(i) for i in range(1, 9)]), samples=2, rounds=3)
    for number, scores in enumerate(([0.1, 0.2], [0.3, 0.1])):
        designer.observe(judged(designer.propose(SearchState(TASK, number)), scores))
    designer.propose(SearchState(TASK, 2))
    assert "1 round ago" in text(designer)
    assert "a: level 0.1 then, 0.15 now (+0.05); trend +0.2 then, +0.3 now" in text(designer)
    designer.observe(judged(designer.propose(SearchState(TASK, 2)), [0.5, 0.4]))
    assert designer.propose(SearchState(TASK, 3)) == []


def test_components_that_came_and_went_are_named():
    def result(curves):
        return ProgramResult(None, 0, TRAINED, curves=curves)

    lines = trace_differences(result({"a": [1.0], "b": [2.0]}), result({"b": [2.0], "c": [0.0]}))
    assert lines == [
        "a: new",
        "b: level 2 then, 2 now (+0); trend +0 then, +0 now",
        "c: no longer there",
    ]


def test_a_round_with_one_program_that_could_be_trained_has_no_worst():
    model = ReplayModel([answer(1), BROKEN["no code"], answer(2), answer(3)])
    designer = ICPL(model, samples=2)
    designer.observe(judged(designer.propose(SearchState(TASK)), [0.3]))
    designer.propose(SearchState(TASK, 1))
    assert "liked least" not in text(designer)
    assert source(1).strip() in text(designer)


def test_a_person_chooses_by_number_and_is_asked_again_for_what_is_none():
    said = iter(["the second", "2 2", "4 1", "3 and 1"])
    shown = []

    def ask(question):
        shown.append(question)
        return next(said)

    results = judged(
        [
            dataclasses.replace(p)
            for p in ICPL(ReplayModel([answer(1), answer(2), answer(3)]), samples=3).propose(
                SearchState(TASK)
            )
        ]
    )
    person = AskedPerson(ask)
    assert person.choose(results) == (2, 0)
    assert len(shown) == 4
    assert results[1].proposal.hash in shown[0]
    assert TaskReturn().choose(judged([r.proposal for r in results], [0.5, 0.9, 0.1])) == (1, 2)


def test_a_persons_choice_outranks_the_return():
    model, person = ReplayModel([answer(i) for i in range(4)]), AskedPerson(lambda _: "1 2")
    designer = ICPL(model, samples=2, by="person", person=person)
    first = designer.propose(SearchState(TASK))
    designer.observe(judged(first, [0.0, 1.0]))
    assert {p.parent for p in designer.propose(SearchState(TASK, 1))} == {first[0].hash}
