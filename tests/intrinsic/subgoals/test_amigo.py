"""AMIGo: goals by a plain simulation, both rewards by hand, a teacher that learns, saving."""

import dataclasses

import numpy as np
import pytest
import torch

from firstlight.envs.check import check_vec
from firstlight.envs.minigrid.gridworld import GridWorld
from firstlight.envs.runner import RandomActor, Runner
from firstlight.intrinsic import AMIGo, check_module
from firstlight.intrinsic.subgoals.goal_fields import CellGoals
from firstlight.intrinsic.subgoals.goal_teacher import GoalTeacher, planes

N = 4


def world(**options):
    return GridWorld(
        "MiniGrid-DoorKey-5x5-v0", num_envs=N, level=True, **{"max_steps": 20, **options}
    )


def amigo(**options):
    return AMIGo(info_space=world().info_space, hidden=8, num_layers=2, **options)


def test_it_keeps_the_rules_of_modules():
    check_module(amigo(batch_size=8), vec=world(), steps=50)


def test_goals_end_when_reached_or_with_the_episode_and_pay_by_their_steps():
    """Against a loop over cells, positions and ages, from levels alone."""
    module = amigo()
    vec = module.wrap(world())
    check_vec(module.wrap(world()))
    rollout = Runner(vec).collect(RandomActor(vec.act_space), 200)
    bonus = module.compute(rollout)
    after, H = rollout.next_info(), 5
    total = 0
    for n in range(N):
        age, goal, level = 0, None, None
        for t in range(200):
            if rollout.info["goal_is_new"][t, n]:
                goal, age = int(rollout.info["goal_number"][t, n]), 0
                level = rollout.info["level"][t, n]
            x, y = divmod(goal, H)
            age += 1
            now = after["level"][t, n]
            stands = after["agent_pos"][t, n].tolist() == [x, y]
            reached = stands or now[x, y] != level[x, y]
            over = bool((rollout.terminated | rollout.truncated)[t, n])
            assert int(after["goal_steps"][t, n]) == (age if reached else -1 if over else 0)
            assert bonus[t, n] == pytest.approx(max(0, 1 - 0.9 * age / 100) if reached else 0)
            level, total = now, total + reached
            if reached or over:
                assert rollout.info["goal_is_new"][t + 1, n]
    assert total > 2


def test_the_policy_sees_the_way_to_the_goal_unless_it_is_hidden():
    module = amigo()
    obs, info = module.wrap(world()).reset(0)
    x, y = np.divmod(info["goal_number"].numpy(), 5)
    for n in range(N):
        dx, dy = x[n] - int(info["agent_pos"][n, 0]), y[n] - int(info["agent_pos"][n, 1])
        ahead = [(dx, dy), (dy, -dx), (-dx, -dy), (-dy, dx)][int(obs["direction"][n])]
        assert obs["goal"][n].tolist() == [ahead[0] / 4, ahead[1] / 4]
    assert "goal" not in amigo(hidden_goal=True).wrap(world()).obs_space.spaces


def test_goals_are_drawn_with_the_teachers_probabilities_and_repeat():
    teacher = GoalTeacher(hidden=8, num_layers=1)
    _, info = world().reset(0)
    grid, agent = info["level"][:1].expand(4000, 5, 5), info["agent_pos"][:1].expand(4000, 2)
    drawn = teacher.propose(grid, agent, np.arange(4000))
    expected = teacher(grid[:1], agent[:1])[0].softmax(-1)[0]
    counts = torch.bincount(drawn, minlength=25) / 4000
    assert (counts - expected).abs().max() < 0.03
    assert torch.equal(drawn, teacher.propose(grid, agent, np.arange(4000)))


def test_planes_are_one_hot():
    _, info = world().reset(0)
    hot = planes(info["level"], info["agent_pos"])
    assert hot.shape == (N, 22, 5, 5)
    assert (hot[:, :-1].sum(1) == 3).all()
    for n in range(N):
        assert hot[n, -1].nonzero().tolist() == [info["agent_pos"][n].tolist()]


def learnt(steps, won=False, difficulty=1, batch=4):
    """The teacher's mean reward for goals that took these steps, -1 for not reached."""
    module = amigo(batch_size=batch, patience=2)
    module.difficulty.fill_(difficulty)
    _, info = world().reset(0)
    goals = [
        {
            "level": info["level"][0],
            "agent": info["agent_pos"][0],
            "goal": torch.tensor(7),
            "steps": torch.tensor(s),
            "won": torch.tensor(won),
        }
        for s in steps
    ]
    return module, module._learn(goals)


def test_the_teacher_is_paid_for_goals_that_are_reached_and_hard_enough():
    assert learnt([5, 5, 5, 5], difficulty=5)[1]["teacher_reward"] == pytest.approx(0.7)
    assert learnt([4, 4, 4, 4], difficulty=5)[1]["teacher_reward"] == pytest.approx(-0.3)
    assert learnt([-1, -1, -1, -1])[1]["teacher_reward"] == pytest.approx(-0.3)
    assert learnt([9, 9, -1, 2], difficulty=5)[1]["teacher_reward"] == pytest.approx(0.2)
    assert learnt([-1, 1, 1, 1], won=True, difficulty=9)[1]["teacher_reward"] == 1.0


def test_goals_become_harder_after_successes_in_a_row():
    module, _ = learnt([3, 3, 3, 3])
    assert (int(module.difficulty), int(module.streak)) == (1, 1)
    _, info = world().reset(0)
    goal = {"level": info["level"][0], "agent": info["agent_pos"][0], "goal": torch.tensor(7)}
    goal |= {"steps": torch.tensor(3), "won": torch.tensor(False)}
    module._learn([goal] * 4)
    assert (int(module.difficulty), int(module.streak)) == (2, 0)
    module.success = 0.9
    module._learn([goal] * 4)
    assert int(module.streak) == 0


def test_the_teacher_learns_to_propose_what_is_rewarded():
    module = amigo(batch_size=64, lr=1e-2, entropy_coef=0.0)
    _, info = world().reset(0)
    level, agent = info["level"][0], info["agent_pos"][0]
    for step in range(60):
        cells = module.teacher.propose(
            level.expand(64, 5, 5), agent.expand(64, 2), np.arange(64) + 1000 * step
        )
        goals = [
            {
                "level": level,
                "agent": agent,
                "goal": cell,
                "steps": torch.tensor(5 if cell == 12 else -1),
                "won": torch.tensor(False),
            }
            for cell in cells
        ]
        module._learn(goals)
    assert module.teacher(level[None], agent[None])[0].softmax(-1)[0, 12] > 0.8


def test_an_updates_goals_are_those_of_both_halves_of_a_rollout():
    whole, halves = amigo(batch_size=10_000), amigo(batch_size=10_000)
    vec = whole.wrap(world())
    rollout = Runner(vec).collect(RandomActor(vec.act_space), 60)
    whole.update(rollout)
    for cut in ((0, 25), (25, 60)):
        halves.update(rollout.slice(*cut))
    assert len(whole._ended) == len(halves._ended) > 5

    def flat(module):
        return sorted(
            (int(g["goal"]), int(g["steps"]), g["level"].sum().item()) for g in module._ended
        )

    assert flat(whole) == flat(halves)


def test_a_rewarded_step_makes_its_goal_a_success():
    module = amigo(batch_size=10_000)
    vec = module.wrap(world())
    rollout = Runner(vec).collect(RandomActor(vec.act_space), 60)
    module.update(dataclasses.replace(rollout, reward=torch.ones_like(rollout.reward)))
    assert all(bool(goal["won"]) for goal in module._ended)


def test_environments_are_saved_with_their_goals():
    module = amigo()
    vec, other = module.wrap(world()), module.wrap(world())
    vec.reset(0)
    actions = torch.randint(0, 6, (40, N), generator=torch.Generator().manual_seed(0))
    for action in actions[:13]:
        vec.step(action)
    other.load_state_dict(vec.state_dict())
    for action in actions[13:]:
        one, two = vec.step(action), other.step(action)
        assert all(torch.equal(one.obs[name], two.obs[name]) for name in one.obs)
        assert all(torch.equal(one.info[name], two.info[name]) for name in one.info)


def test_a_second_teacher_of_goals_is_refused():
    module = amigo()
    with pytest.raises(ValueError, match="already"):
        module.wrap(module.wrap(world()))
    with pytest.raises(ValueError, match="whole levels"):
        CellGoals(GridWorld("MiniGrid-DoorKey-5x5-v0", num_envs=1), module.teacher.propose)
