"""Text2Reward, Auto MC-Reward and ICPL against recorded answers, good and bad ones."""

import dataclasses
import json

import numpy as np
import pytest
from designs import made_up, passes
from gymnasium import spaces

from firstlight.intrinsic.design.design_search import DesignSearch
from firstlight.intrinsic.design.designers.auto_mc_reward import AutoMCReward, with_signs
from firstlight.intrinsic.design.designers.base import (
    LENGTH,
    REFUSED,
    RETURN,
    SCREENED_OUT,
    TRAINED,
    DesignTask,
    ProgramResult,
    SearchState,
)
from firstlight.intrinsic.design.designers.icpl import ICPL, trace_differences
from firstlight.intrinsic.design.designers.past_tasks import (
    PastTask,
    nearest_tasks,
    read_past_tasks,
)
from firstlight.intrinsic.design.designers.preferences import AskedPerson, TaskReturn
from firstlight.intrinsic.design.designers.text2reward import Text2Reward
from firstlight.intrinsic.design.designers.text_models import ReplayModel
from firstlight.intrinsic.design.designers.typed_environment import describe_as_classes
from firstlight.intrinsic.design.execution import InProcess
from firstlight.intrinsic.design.lint import ProgramError
from firstlight.intrinsic.design.program import RewardProgram
from firstlight.intrinsic.language.judge import JudgeError

TASK = DesignTask(
    goal="open the red door",
    obs_space=spaces.Dict({"obs": spaces.Box(0, 1, (4,), np.float32)}),
    info_space=spaces.Dict({"position": spaces.Discrete(9)}),
    act_space=spaces.Discrete(2),
    samples={"info/position": np.array([1, 5])},
    notes="The door is at position 8.",
    max_steps=40,
)


def source(number=0, components=("a",)):
    ranges = ", ".join(f'"{name}": (-1, 1)' for name in components)
    values = ", ".join(f'"{name}": {number} * action' for name in components)
    return (
        f"import numpy as np\nRANGES = {{{ranges}}}\n"
        f"def reward(obs, action, next_obs, info, memory):\n    return {{{values}}}\n"
    )


def answer(number=0, components=("a",)):
    return f"I pay the action.\n```python\n{source(number, components)}```\nDone."


BROKEN = {
    "syntax error": "```python\ndef reward(:\n```",
    "wrong signature": "```python\nRANGES = {'a': (0, 1)}\ndef reward(obs):\n    return {}\n```",
    "no code": "I cannot do that.",
    "forbidden import": answer().replace("import numpy as np", "import os"),
    "empty": "",
}


def judged(proposals, scores=None, **more):
    """Results as the search gives them: refused by form, else trained with the next score."""
    scores, results = iter(scores or []), []
    for proposal in proposals:
        try:
            RewardProgram.parse(proposal.source)
        except ProgramError as error:
            results.append(ProgramResult(proposal, 0, REFUSED, str(error)))
            continue
        score = next(scores, 0.0)
        curves = {"a": [0.0, score], RETURN: [0.0, score], LENGTH: [40.0, 20.0]}
        results.append(
            ProgramResult(
                proposal, 0, TRAINED, score=score, steps=1000, **{"curves": curves, **more}
            )
        )
    return results


def text(designer_or_model):
    """Everything that was asked in the last question."""
    model = getattr(designer_or_model, "model", designer_or_model)
    return "\n".join(message["content"] for message in model.asked[-1][0])


def restored(designer, make):
    """The same designer in a new process: through JSON."""
    other = make(ReplayModel(designer.model.answers))
    other.load_state_dict(json.loads(json.dumps(designer.state_dict())))
    return other


MAKE = {
    "text2reward": lambda model: Text2Reward(model, samples=2, max_repeats=2),
    "icpl": lambda model: ICPL(model, samples=2, rounds=2, max_repeats=2),
}


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
def test_one_that_works_among_broken_ones_is_the_parent_of_the_next_round(name):
    designer = MAKE[name](ReplayModel([BROKEN["syntax error"], answer(1), answer(2), answer(3)]))
    designer.observe(judged(first := designer.propose(SearchState(TASK)), [0.4]))
    assert [proposal.how for proposal in first] == ["first sample"] * 2
    second = designer.propose(SearchState(TASK, 1, remark="It waits."))
    assert {proposal.parent for proposal in second} == {first[1].hash}
    assert source(1) in text(designer)
    assert {proposal.model for proposal in second} == {"recorded answers"}
    assert len({proposal.prompt_hash for proposal in [*first, *second]}) == 2


@pytest.mark.parametrize("name", MAKE)
def test_a_designer_that_is_restored_continues_as_the_one_that_was_not(name):
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


def test_a_model_that_does_not_answer_is_told_to_the_search():
    for make in (*MAKE.values(), AutoMCReward):
        with pytest.raises(JudgeError):
            make(ReplayModel([])).propose(SearchState(TASK))


# Text2Reward


def test_text2reward_shows_typed_classes_with_docstrings():
    designer = Text2Reward(
        ReplayModel([answer()]),
        docstrings={"position": "where the agent is", "action": "1 goes on"},
    )
    designer.propose(SearchState(TASK))
    asked = text(designer)
    code = asked[asked.index("from typing") : asked.index("```", asked.index("from typing"))]
    names = {}
    exec(code, names)  # valid Python
    assert set(names["Observation"].__annotations__) == {"obs"}
    assert names["SideChannels"].__annotations__ == {"position": np.ndarray}
    assert '"""where the agent is"""' in code
    assert "seen in random play: 1 to 5" in code
    assert '"""1 goes on"""' in code
    for part in ("open the red door", "The door is at position 8.", "at most 40 steps"):
        assert part in asked


def test_docstrings_of_unknown_fields_are_refused_and_no_side_channels_are_no_class_body():
    with pytest.raises(ValueError, match="'door', but the fields are action, obs, position"):
        describe_as_classes(TASK, {"door": "x"})
    names = {}
    exec(describe_as_classes(dataclasses.replace(TASK, info_space=spaces.Dict({}))), names)
    assert names["SideChannels"].__annotations__ == {}


def test_few_shot_shows_the_most_similar_past_tasks_first(tmp_path):
    goals = [
        "pick up the ball",
        "open the blue door",
        "go to the red door",
        "sleep",
        "open the door",
    ]
    file = tmp_path / "past.jsonl"
    rows = ({"goal": goal, "source": f"# {goal}"} for goal in goals)
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    designer = Text2Reward(ReplayModel([answer()]), examples=str(file), shots=3)
    designer.propose(SearchState(TASK))
    asked = text(designer)
    shown = sorted((asked.index(f"# {goal}"), goal) for goal in goals if f"# {goal}" in asked)
    assert {goal for _, goal in shown} == {goals[1], goals[2], goals[4]}
    assert shown[-1][1] == "go to the red door" or shown[0][1] != "sleep"


def test_the_nearest_tasks_are_those_of_the_embedding_in_order():
    tasks = [PastTask(str(i), "") for i in range(4)]
    vectors = {"goal": [1, 0], "0": [0, 1], "1": [0.6, 0.8], "2": [1, 0], "3": [0.6, 0.8]}

    def embed(texts):
        return np.array([vectors[each] for each in texts])

    assert [task.goal for task in nearest_tasks("goal", tasks, 3, embed)] == ["2", "1", "3"]
    assert nearest_tasks("goal", [], 3) == nearest_tasks("goal", tasks, 0) == []
    words = [
        PastTask(goal, "") for goal in ("open the box", "the the the", "open the red door now")
    ]
    assert nearest_tasks("open the red door", words, 1)[0].goal == "open the red door now"


def test_a_file_of_past_tasks_that_is_none_is_refused(tmp_path):
    file = tmp_path / "past.jsonl"
    for content in ("x", '{"goal": "a"}', "[1]"):
        file.write_text(content)
        with pytest.raises(ValueError, match="cannot read past tasks from"):
            read_past_tasks(file)
    with pytest.raises(ValueError, match="cannot read past tasks from"):
        read_past_tasks(tmp_path / "none")


def test_broken_code_goes_back_with_what_was_wrong():
    designer = Text2Reward(ReplayModel([BROKEN["syntax error"], answer(1)]))
    designer.observe(judged(designer.propose(SearchState(TASK))))
    (proposal,) = designer.propose(SearchState(TASK, 1))
    assert proposal.how == "correction"
    assert "def reward(:" in text(designer)
    assert "not valid Python" in text(designer)
    designer.observe(judged([proposal], [0.5]))
    assert designer.propose(SearchState(TASK, 2)) == []  # it works, and nobody said anything


def test_a_rejected_program_goes_back_with_the_reason_of_the_screening():
    designer = Text2Reward(ReplayModel([answer(1), answer(2)]))
    (proposal,) = designer.propose(SearchState(TASK))
    designer.observe([ProgramResult(proposal, 0, SCREENED_OUT, "going in a circle pays")])
    designer.propose(SearchState(TASK, 1))
    assert "going in a circle pays" in text(designer)


def test_each_remark_of_a_person_is_one_round():
    designer = Text2Reward(ReplayModel([answer(i) for i in range(5)]))
    designer.observe(judged(designer.propose(SearchState(TASK)), [0.1]))
    assert designer.propose(SearchState(TASK, 1)) == []
    (second,) = designer.propose(SearchState(TASK, 1, remark="It turns around {all} the time."))
    assert second.how == "remark"
    assert "It turns around {all} the time." in text(designer)
    assert source(0) in text(designer)
    designer.observe(judged([second], [0.2]))
    assert designer.propose(SearchState(TASK, 2, remark="It turns around {all} the time.")) == []
    assert len(designer.propose(SearchState(TASK, 2, remark="Better."))) == 1
    assert source(1) in text(designer)


# Auto MC-Reward

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


# ICPL


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
    designer = ICPL(
        ReplayModel([answer(i) for i in range(4)]), samples=2, by=AskedPerson(lambda _: "1 2")
    )
    first = designer.propose(SearchState(TASK))
    designer.observe(judged(first, [0.0, 1.0]))
    assert {p.parent for p in designer.propose(SearchState(TASK, 1))} == {first[0].hash}


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


def test_a_new_remark_opens_a_finished_search_again(tmp_path):
    def search(remark=""):
        designer = Text2Reward(ReplayModel([answer(1), answer(2), answer(3)]))
        train = made_up(lambda _: 0.5)
        return DesignSearch(designer, TASK, tmp_path, check=passes, train=train, remark=remark)

    for remark, programs in (("", 1), ("", 1), ("It waits.", 2), ("It waits.", 2), ("Good.", 3)):
        assert (again := search(remark)).run()
        assert len(again.table.results) == programs
