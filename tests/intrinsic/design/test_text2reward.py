"""Text2Reward against recorded answers: typed classes, past tasks, remarks of a person."""

import dataclasses
import json

import numpy as np
import pytest
from designs import made_up, passes
from gymnasium import spaces
from llm_designs import BROKEN, TASK, answer, judged, source, text

from firstlight.intrinsic.design.design_search import DesignSearch
from firstlight.intrinsic.design.designers.base import (
    SCREENED_OUT,
    ProgramResult,
    SearchState,
)
from firstlight.intrinsic.design.designers.past_tasks import (
    PastTask,
    nearest_tasks,
    read_past_tasks,
)
from firstlight.intrinsic.design.designers.text2reward import Text2Reward
from firstlight.intrinsic.design.designers.text_models import ReplayModel
from firstlight.intrinsic.design.designers.typed_environment import describe_as_classes


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


def test_a_new_remark_opens_a_finished_search_again(tmp_path):
    def search(remark=""):
        designer = Text2Reward(ReplayModel([answer(1), answer(2), answer(3)]))
        train = made_up(lambda _: 0.5)
        return DesignSearch(designer, TASK, tmp_path, check=passes, train=train, remark=remark)

    for remark, programs in (("", 1), ("", 1), ("It waits.", 2), ("It waits.", 2), ("Good.", 3)):
        assert (again := search(remark)).run()
        assert len(again.table.results) == programs
