"""CALM with subgoals that a language model names, behind a server on a real socket."""

import functools
import json
import logging
import re

import numpy as np
import pytest
import torch
from llm_server import Server, questions, status

from firstlight.envs.minigrid import make
from firstlight.envs.runner import RandomActor, Runner
from firstlight.intrinsic import CALM
from firstlight.intrinsic.subgoals.subgoal_prompt import (
    MOST_SUBGOALS,
    SubgoalPrompt,
    read_subgoals,
    read_task,
)
from firstlight.intrinsic.subgoals.verdicts import MINIGRID

NAMES = ["take a key", "open a door"]


def is_about_subgoals(body):
    return "List the subgoals" in body["messages"][-1]["content"]


def answers(body):
    """Names for a task; for transitions whether a key was picked up, and a door unlocked."""
    rows = questions(body)
    if is_about_subgoals(body):
        return json.dumps({row["id"]: NAMES for row in rows})
    words = ("picked up", "unlocked")
    return json.dumps({row["id"]: [w in row["transition"] for w in words] for row in rows})


@pytest.fixture
def server():
    pytest.importorskip("openai")
    made = Server()
    made.content = answers
    yield made
    made.close()


@functools.cache
def world():
    return make("MiniGrid-DoorKey-5x5-v0", num_envs=8, text=True, max_steps=50)


def calm(server, **options):
    vec = world()
    return CALM(
        obs_space=vec.obs_space,
        info_space=vec.info_space,
        text_table=vec.text_table,
        **{"identify": True, "verdicts": "llm", "wait": True, "num_asked": 64, **options},
        llm="m",
        url=server.url,
    )


def train(module, rollouts=1, steps=60):
    runner, actor = Runner(world()), RandomActor(world().act_space)
    for _ in range(rollouts):
        rollout = runner.collect(actor, steps)
        bonus = module.compute(rollout)
        logs = module.update(rollout)
    return bonus, logs


def asked_for_subgoals(server):
    return sum(map(is_about_subgoals, server.bodies))


def test_the_models_subgoals_are_those_that_verdicts_are_asked_for_and_learnt(server):
    module = calm(server)
    module.open(None)
    assert module.subgoals == ()
    bonus, logs = train(module)
    assert not bonus.any()  # nothing is rewarded before there are subgoals
    assert module.subgoals == tuple(NAMES)
    assert logs["subgoals"] == 2
    bonus, logs = train(module, 5, 150)
    assert "1. take a key; 2. open a door" in server.bodies[-1]["messages"][0]["content"]
    assert read_task("minigrid") in questions(server.bodies[0])[0]["task"]
    assert asked_for_subgoals(server) == 1
    assert logs["llm/calls"] == len(server.bodies)  # so limits count both kinds
    fresh = Runner(world(), seed=5).collect(RandomActor(world().act_space), 400)
    texts = [world().text_table.text(int(i)) for i in fresh.next_info()["text_id"].flatten()]
    said = module._judge(fresh).flatten(0, 1)
    assert not said[:, 2:].any()
    for column, word in enumerate(("picked up", "unlocked")):
        truth = torch.tensor([word in text for text in texts])
        assert (said[truth, column].float().mean() > 0.7) == bool(truth.any())
    module.close()


def test_a_task_is_asked_about_once_for_a_store_and_again_for_another_task(server, tmp_path):
    for task, times in (("open it", 1), ("open it", 1), ("close it", 2)):
        module = calm(server, task=task, store=str(tmp_path / "verdicts.sqlite"))
        module.open(None)
        train(module)
        assert module.subgoals == tuple(NAMES)
        assert asked_for_subgoals(server) == times
        module.close()
    offline = calm(server, task="open it", store=str(tmp_path / "verdicts.sqlite"))
    offline._options["cached_only"] = True
    before = len(server.bodies)
    offline.open(None)
    train(offline)
    assert offline.subgoals == tuple(NAMES)
    assert len(server.bodies) == before
    offline.close()


def test_two_unreadable_answers_lead_to_the_preset_subgoals_and_a_warning(server, caplog):
    server.content = lambda body: "open the door" if is_about_subgoals(body) else answers(body)
    module = calm(server)
    module.open(None)
    with caplog.at_level(logging.WARNING):
        train(module)
    assert asked_for_subgoals(server) == 2
    assert module.subgoals == MINIGRID
    assert "picked up key; unlocked door; reached goal" in caplog.text
    module.close()


def test_one_unreadable_answer_is_asked_again(server):
    replies = iter(["[]", json.dumps({"other": NAMES})])
    server.content = lambda body: next(replies, None) or answers(body)
    module = calm(server, subgoals=["mine"])
    module.open(None)
    train(module)
    assert module.subgoals == ("mine",)  # neither has the id
    module.close()
    replies = iter(["[]"])
    module = calm(server)
    module.open(None)
    train(module)
    assert module.subgoals == tuple(NAMES)
    module.close()


def test_nothing_cached_and_nobody_to_ask_leads_to_the_preset_subgoals(server, caplog):
    module = calm(server, cached_only=True)
    module.open(None)
    train(module)
    assert module.subgoals == MINIGRID
    assert server.bodies == []
    assert "no readable list" in caplog.text
    module.close()


def test_training_goes_on_while_the_endpoint_fails(server):
    server.script.extend([status(500)])
    module = calm(server, wait=False)
    module.open(None)
    bonus, logs = train(module)
    assert not bonus.any()
    assert logs["subgoals"] == 0
    module.service.wait(20)
    train(module)
    assert module.subgoals == tuple(NAMES)
    module.close()


def test_saved_subgoals_are_used_and_not_asked_for_again(server):
    module = calm(server)
    module.open(None)
    train(module, 2)
    module.close()
    again = calm(server)
    again.load_state_dict(module.state_dict())
    assert again.subgoals == tuple(NAMES)
    again.open(None)
    train(again)
    assert asked_for_subgoals(server) == 1
    again.close()


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        "open the door",
        [],
        ["open the door", 1],
        [["open the door"]],
        ["a"],
        ["x" * 61],
        ["<first subgoal>"],
        ["..."],
        ["open;close"],
        ["__import__('os').system('true')"],
        ["open\u202ethe door"],
        ["\ud800 door"],
        [f"open door {i}" for i in range(MOST_SUBGOALS + 1)],
    ],
    ids=ascii,
)
def test_lists_of_another_form_are_no_subgoals(value):
    assert read_subgoals(value) is None
    assert SubgoalPrompt().parse(json.dumps({"a": value}), ["a"]) == {}


def test_answers_are_read_and_fuzzed_ones_never_fail(soak):
    prompt = SubgoalPrompt()
    good = 'Sure: {"a": ["pick up the key", "open the door"], "b": ["win"]} done'
    read = prompt.parse(good, ["a", "b"])
    assert read == {"a": '["pick up the key", "open the door"]', "b": '["win"]'}
    rng = np.random.default_rng(0)
    for _ in soak.times(300, 1000):
        letters = [*good]
        for place in rng.integers(0, len(letters), 3):
            letters[place] = chr(rng.integers(1, 0x300))
        cut = good[: rng.integers(len(good))] if rng.random() < 0.2 else "".join(letters)
        for i, text in prompt.parse(cut, ["a", "b"]).items():
            assert i in "ab"
            names = json.loads(text)
            assert 1 <= len(names) <= MOST_SUBGOALS
            assert all(re.fullmatch(r"[\w ,'()-]{2,60}", name) for name in names)


def test_nested_and_long_answers_are_dropped():
    for reply in ("{" * 100_000, '{"a":' + "[" * 100_000, '{"a": [' + "9" * 10_000 + "]}"):
        assert SubgoalPrompt().parse(reply, ["a"]) == {}


def test_bad_options_are_refused(server):
    with pytest.raises(ValueError, match="set verdicts=llm"):
        calm(server, verdicts="rule")
    vec = world()
    info = {"text_id": vec.info_space["text_id"]}
    with pytest.raises(ValueError, match="task is missing"):
        CALM(
            obs_space=vec.obs_space,
            info_space=type(vec.info_space)(info),
            text_table=vec.text_table,
            subgoals=["mine"],
            identify=True,
            verdicts="llm",
            llm="m",
            url=server.url,
        )


def test_the_tasks_of_the_prompt_file_name_what_the_preset_subgoals_need():
    assert all(word in read_task("keyroom") for word in ("key", "door", "stairs"))
    assert all(word in read_task("minigrid") for word in ("key", "door", "goal"))
