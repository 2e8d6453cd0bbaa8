"""Teachers: measured noise, random subgoals, a user's file, and a language model's answers."""

import json

import numpy as np
import pytest
from llm_server import Server, questions

from firstlight.envs.minigrid.cells import BALL, BLUE, DOOR, GOAL, WALL
from firstlight.envs.minigrid.gridworld import GridWorld
from firstlight.intrinsic.language.judges.judge import Judge
from firstlight.intrinsic.subgoals.file_teacher import FileTeacher
from firstlight.intrinsic.subgoals.json_judge import JsonJudge
from firstlight.intrinsic.subgoals.llm_teacher import (
    LevelPrompt,
    LLMTeacher,
    possible,
    read_positions,
)
from firstlight.intrinsic.subgoals.plans import UNKNOWN, Levels, describe_level
from firstlight.intrinsic.subgoals.teachers import MEASURED, Noisy, Oracle, noise_of
from firstlight.scripts.benchmarks.teachers import compare

ORACLE = Oracle(all_doors=False)


def levels_of(task, number=300, seed=0):
    world = GridWorld(f"MiniGrid-{task}-v0", num_envs=number, level=True)
    _, info = world.reset(seed)
    return Levels(*(info[name].numpy() for name in ("level", "agent_pos", "target")))


def wrong(plans, truth):
    """Which subgoals [R, 2] of all plans are at another cell, and the Manhattan distances."""
    rows = np.arange(truth.codes.shape[1]) < truth.length[:, None]
    away = np.abs(plans.cells.astype(int) - truth.cells).sum(-1)[rows]
    return away > 0, away


@pytest.mark.parametrize("task", MEASURED)
@pytest.mark.parametrize("model", ["llama", "qwen", "deepseek"])
@pytest.mark.parametrize("kind", ["relative", "representation"])
def test_a_noisy_teacher_has_the_measured_accuracy(task, model, kind):
    name = "MultiRoom-N4-S5" if task == "MultiRoom-N4-S5" else task
    levels = levels_of("MultiRoom-N6" if name == "MultiRoom-N4-S5" else name)
    truth = ORACLE.plan(levels)
    row = MEASURED[task][model]
    plans = Noisy(ORACLE, **noise_of(f"{task}/{model}", kind)).plan(levels)
    is_wrong, _ = wrong(plans, truth)
    accuracy = row.position_accuracy if kind == "relative" else row.object_accuracy
    spread = (accuracy * (1 - accuracy) / len(is_wrong)) ** 0.5
    slack = 0.0
    if kind == "representation" and task.startswith("MultiRoom-N2"):
        slack = 0.5 * (1 - accuracy)  # its only door has no other door to be replaced by
    assert abs(1 - is_wrong.mean() - accuracy - slack) < 4 * spread + slack
    assert (plans.length == truth.length).all()
    places = np.arange(truth.codes.shape[1]) < truth.length[:, None]
    at = np.nonzero(places)[0][:, None], *np.moveaxis(plans.cells[places][:, None], -1, 0)
    assert (plans.codes[places] == levels.grid[at][:, 0]).all()


def test_wrong_positions_have_the_distances_of_a_rounded_normal():
    levels = levels_of("KeyCorridorS10R7")
    truth = ORACLE.plan(levels)
    plans = Noisy(ORACLE, accuracy=0.0, mean=4.0, std=2.0).plan(levels)
    is_wrong, away = wrong(plans, truth)
    assert is_wrong.all()
    expected = np.maximum(1, np.rint(np.random.default_rng(0).normal(4, 2, 100_000)))
    for distance in range(1, 9):
        assert abs((away == distance).mean() - (expected == distance).mean()) < 0.04


def test_other_objects_are_doors_where_the_paper_has_doors():
    levels = levels_of("KeyCorridorS3R3")
    doors = Noisy(ORACLE, accuracy=0.0, by_position=False, doors_only=True).plan(levels)
    assert (doors.codes[:, :3] & 15 == DOOR).all()
    others = Noisy(ORACLE, accuracy=0.0, by_position=False).plan(levels)
    assert len(np.unique(others.codes[:, :3] & 15)) == 3
    is_wrong, _ = wrong(others, ORACLE.plan(levels))
    assert is_wrong.all()


def test_equal_levels_are_corrupted_equally_and_other_seeds_otherwise():
    levels = levels_of("KeyCorridorS3R3", 50)
    first, again, other = (
        Noisy(Oracle(), accuracy=0.3, mean=2, std=2, seed=seed).plan(levels) for seed in (1, 1, 2)
    )
    assert (first.cells == again.cells).all()
    assert not (first.cells == other.cells).all()
    order = np.random.default_rng(0).permutation(50)
    shuffled = Noisy(Oracle(), accuracy=0.3, mean=2, std=2, seed=1).plan(levels.take(order))
    assert (shuffled.cells == first.cells[order]).all()


def test_random_subgoals_are_added_before_the_end_and_the_others_stay_in_order():
    levels = levels_of("KeyCorridorS6R3", 100)
    truth = ORACLE.plan(levels)
    for by_position in (True, False):
        plans = Noisy(ORACLE, by_position=by_position, extra=5).plan(levels)
        assert (plans.length == truth.length + 5).all()
        for row in range(100):
            cells = [*map(tuple, plans.cells[row, : plans.length[row]])]
            assert cells[-1] == tuple(truth.cells[row, truth.length[row] - 1])
            right = iter(map(tuple, truth.cells[row, : truth.length[row]]))
            wanted = next(right)
            for cell in cells:
                if cell == wanted:
                    wanted = next(right, None)
            assert wanted is None
            assert all(levels.grid[row][cell] & 15 != WALL for cell in cells)


def test_unknown_rows_and_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="choose from KeyCorridorS3R3/llama"):
        noise_of("KeyCorridorS3R3/gpt", "relative")
    with pytest.raises(ValueError, match=r"accuracy 1\.5"):
        Noisy(Oracle(), accuracy=1.5)


def test_a_file_names_objects_or_lists_positions(tmp_path):
    levels, path = levels_of("KeyCorridorS3R3", 20), tmp_path / "mine.json"
    key = levels.keys()[3]
    mine = [[1, 1], [99, 0], [2, 5]]
    path.write_text(
        json.dumps({"order": ["key", "locked door", "horse", "ball"], "levels": {key: mine}})
    )
    plans, truth = FileTeacher(path).plan(levels), ORACLE.plan(levels)
    for row in range(20):
        cells = plans.cells[row, : plans.length[row]].tolist()
        assert cells == ([[1, 1], [2, 5]] if row == 3 else truth.cells[row, :3].tolist())


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"steps": []}', '{"order": [1]}', '{"levels": {"a": [[1, "2"]]}}']
)
def test_a_file_of_another_form_is_refused(tmp_path, text):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.json"):
        FileTeacher(path)
    with pytest.raises(ValueError, match="cannot read"):
        FileTeacher(tmp_path / "missing.json")


class Scripted(Judge):
    """Answers every level with the same text, through the prompt's own reader."""

    model, prompt = "scripted", "p"

    def __init__(self, reply):
        self.reply, self.asked = reply, []

    def rate(self, texts):
        self.asked += texts
        read = LevelPrompt()
        ids = [f"id{i}" for i in range(len(texts))]
        found = read.parse(
            json.dumps({i: self.reply(t) for i, t in zip(ids, texts, strict=True)}), ids
        )
        return [found.get(i) for i in ids]


def test_a_language_model_is_asked_in_the_background_and_once_for_a_level(tmp_path):
    levels = levels_of("KeyCorridorS3R3", 6)
    truth = ORACLE.plan(levels)
    texts = [
        describe_level(*row) for row in zip(levels.grid, levels.agent, levels.target, strict=True)
    ]
    right = {t: truth.cells[i, :3].tolist() for i, t in enumerate(texts)}
    judge = Scripted(lambda text: [[0, 0], *right[text], [50, 2]])  # a wall and a far cell too
    teacher = LLMTeacher(lambda: judge, request_size=2)
    assert (teacher.plan(levels).length == UNKNOWN).all()  # not opened: it knows nothing
    teacher.open(tmp_path)
    assert (teacher.plan(levels).length == UNKNOWN).all()  # asked now, and nobody waits
    assert teacher.service.wait(20)
    for _ in range(2):
        plans = teacher.plan(levels)
        assert (plans.length == 3).all()
        assert (plans.cells[:, :3] == truth.cells[:, :3]).all()
    assert sorted(judge.asked) == sorted(texts)
    assert teacher.metrics()["accuracy"] == 1.0
    teacher.close()
    again = LLMTeacher(lambda: judge, cached_only=True)
    again.open(tmp_path)
    again.plan(levels)
    assert again.service.wait(20)
    assert (again.plan(levels).length == 3).all()
    assert len(judge.asked) == 6
    again.close()


def test_the_models_accuracy_is_the_share_of_the_oracles_subgoals():
    levels = levels_of("KeyCorridorS3R3", 4)
    truth = ORACLE.plan(levels)
    texts = [
        describe_level(*row) for row in zip(levels.grid, levels.agent, levels.target, strict=True)
    ]
    teacher = LLMTeacher(lambda: Scripted(lambda t: truth.cells[texts.index(t), :1].tolist()))
    teacher.open(None)
    teacher.plan(levels)
    assert teacher.service.wait(20)
    teacher.plan(levels)
    assert teacher.metrics()["accuracy"] == pytest.approx(1 / 3)
    assert teacher.metrics()["levels"] == 4
    teacher.close()


@pytest.mark.parametrize(
    "reply",
    [
        *(
            "",
            "no",
            "{",
            "[]",
            '{"a": 1}',
            '{"a": [[1]]}',
            '{"a": [[1, 2, 3]]}',
            '{"a": [[1, 2.5]]}',
        ),
        *('{"a": [["1", 2]]}', '{"a": "__import__(1)"}', '{"b": [[1, 2]]}', '{"a": [[true, 1]]}'),
        "{" * 100_000,
    ],
)
def test_answers_that_are_no_positions_are_dropped(reply):
    assert LevelPrompt().parse(reply, ["a"]) == {}


def test_answers_are_read_and_fuzzed_ones_never_fail(soak):
    prompt = LevelPrompt()
    good = 'Sure: {"a": [[1, 2], [3, 4]], "b": []} done'
    assert prompt.parse(good, ["a", "b"]) == {"a": "[[1, 2], [3, 4]]", "b": "[]"}
    rng = np.random.default_rng(0)
    for _ in soak.times(200, 1000):
        letters = [*good]
        for place in rng.integers(0, len(letters), 3):
            letters[place] = chr(rng.integers(32, 127))
        found = prompt.parse("".join(letters), ["a", "b"])
        assert found.keys() <= {"a", "b"}
        assert all(read_positions(json.loads(text)) is not None for text in found.values())


def test_impossible_positions_are_dropped():
    levels = levels_of("MultiRoom-N2-S4", 1)
    grid, agent = levels.grid[0], levels.agent[0]
    goal = tuple(map(int, np.argwhere(grid & 15 == GOAL)[0]))
    wall = tuple(map(int, np.argwhere(grid & 15 == WALL)[0]))
    outside = next(  # an empty cell beyond the walls
        (x, y)
        for x in range(25)
        for y in range(25)
        if not possible([(x, y)], grid, agent) and grid[x, y] & 15 == 1
    )
    assert possible([wall, (-1, 3), (25, 0), outside, goal, goal], grid, agent) == [goal]


def test_a_levels_text_has_its_task_size_and_objects():
    levels = levels_of("KeyCorridorS3R3", 1)
    text = describe_level(levels.grid[0], levels.agent[0], BALL | BLUE << 4)
    assert "pick up the blue ball" in text
    assert "7 columns and 7 rows" in text
    plan = ORACLE.plan(levels)
    for x, y in plan.cells[0, :3].tolist():
        assert f"at ({x}, {y})" in text
    assert text.count("locked") == 1


def test_plans_are_compared_subgoal_by_subgoal():
    levels = levels_of("KeyCorridorS3R3", 4)
    truth, plans = ORACLE.plan(levels), ORACLE.plan(levels)
    assert compare(plans, truth)["position"] == compare(plans, truth)["object"] == 1
    plans.length[0] = 1  # two missing
    plans.cells[1, 0] += (1, 2)
    plans.codes[1, 0] = GOAL
    found = compare(plans, truth)
    assert found["position"] == found["object"] == pytest.approx(9 / 12)
    assert found["distance_mean"] == pytest.approx(3 / 10)
    assert found["missing"] == 2


def test_a_model_at_an_endpoint_is_asked_with_a_schema_and_its_answers_are_kept_as_json():
    pytest.importorskip("openai")
    levels = levels_of("KeyCorridorS3R3", 2)
    texts = [
        describe_level(*row) for row in zip(levels.grid, levels.agent, levels.target, strict=True)
    ]
    server = Server()
    server.content = lambda body: json.dumps({row["id"]: [[1, 2]] for row in questions(body)})
    judge = JsonJudge(prompt=LevelPrompt(), model="m", url=server.url)
    assert judge.rate(texts) == ["[[1, 2]]"] * 2
    assert "response_format" in server.bodies[0]
    server.content = lambda body: "no idea"
    assert judge.rate(texts) == [None, None]
    assert len(server.bodies) == 3  # asked once more
    judge.close()
    server.close()
