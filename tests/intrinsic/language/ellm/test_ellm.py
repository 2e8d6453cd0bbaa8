"""ELLM: what is rewarded, once; goals that arrive, resume, refusals, and whole runs."""

import json

import pytest
import torch
from hydra import compose, initialize_config_module
from llm_server import Server, goals, questions

from firstlight.envs.minigrid import make
from firstlight.envs.nethack import make as make_nethack
from firstlight.envs.runner import RandomActor, Runner
from firstlight.intrinsic import ELLM, check_module
from firstlight.intrinsic.language.ellm.goals import minigrid_goals
from firstlight.intrinsic.language.ellm.state_captions import StateCaptions
from firstlight.scripts.build import build
from firstlight.scripts.build_env import make_vec, needed_options
from firstlight.scripts.errors import BadInputError
from firstlight.scripts.train import train

SMALL = (
    *("env.num_envs=8", "trainer.num_steps=32", "learner.minibatch_size=64", "device=cpu"),
    *("learner.num_epochs=1", "eval_episodes=2", "eval_max_steps=50", "num_threads=1"),
)
DOORKEY = ("env=minigrid/doorkey_5x5", *SMALL)
STEPS = 8 * 32 * 4


@pytest.fixture
def vec():
    made = make("MiniGrid-DoorKey-5x5-v0", num_envs=8, text=True)
    yield made
    made.close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def make_module(vec, **options):
    spaces = {"obs_space": vec.obs_space, "info_space": vec.info_space}
    return ELLM(**spaces, text_table=vec.text_table, **options)


def collect(vec, rollouts=4, steps=64, seed=0):
    runner, actor = Runner(vec, seed=seed), RandomActor(vec.act_space)
    return [runner.collect(actor, steps) for _ in range(rollouts)]


def expected(vec, rollouts, goals_of, cosine, threshold=0.99):
    """A loop over all steps: the best open goal of the caption before, closed when reached."""
    captions = StateCaptions(vec.text_table, vec.obs_space, vec.info_space)
    reached = [set() for _ in range(vec.num_envs)]
    for rollout in rollouts:
        before = captions.ids(rollout, torch.ones_like(rollout.valid)).view(rollout.valid.shape)
        ends = {tuple(at): i for i, at in enumerate(rollout.final_at.tolist())}
        bonus = torch.zeros(rollout.num_steps, vec.num_envs)
        for t in range(rollout.num_steps):
            for n in range(vec.num_envs):
                if rollout.is_first[t, n]:
                    reached[n] = set()
                i = ends.get((t, n))
                text_id = rollout.info["text_id"][t + 1, n]
                if i is not None:
                    text_id = rollout.final_info["text_id"][i]
                if not rollout.valid[t, n] or not text_id:
                    continue
                event = vec.text_table.text(int(text_id))
                goals = goals_of(captions.table.text(int(before[t, n])))
                found = [(cosine(event, goal), goal) for goal in goals if goal not in reached[n]]
                best = max(found, default=(0.0, ""), key=lambda pair: pair[0])
                if best[0] > threshold:
                    bonus[t, n] = best[0]
                    reached[n].add(best[1])
        yield bonus


def same_words(event, goal):
    return float(event == goal)


def test_goals_of_the_state_are_rewarded_once_in_an_episode(vec):
    module, rollouts = make_module(vec), collect(vec, rollouts=8)
    total = 0.0
    for rollout, bonus in zip(
        rollouts, expected(vec, rollouts, minigrid_goals, same_words), strict=True
    ):
        torch.testing.assert_close(module.compute(rollout), bonus)
        total += float(bonus.sum())
    assert total > 10


def test_a_list_of_goals_holds_in_every_state_and_the_nearest_is_rewarded(vec):
    listed = ["picked up the yellow key", "opened the door", "closed the yellow door"]
    module = make_module(vec, proposer="fixed", goals=listed, threshold=0.6)
    rollouts = collect(vec, rollouts=6)

    def cosine(event, goal):
        a, b = (set(x.replace("the ", "").split()) for x in (event, goal))
        return len(a & b) / (len(a) * len(b)) ** 0.5

    values = set()
    for rollout, bonus in zip(
        rollouts, expected(vec, rollouts, lambda caption: listed, cosine, 0.6), strict=True
    ):
        torch.testing.assert_close(module.compute(rollout), bonus)
        values |= {round(x, 3) for x in bonus.unique().tolist()}
    assert {0.0, 1.0} < values  # some exactly, some nearly


def test_with_beta_no_goal_is_closed_and_the_count_of_the_sentence_divides(vec):
    key = ["picked up the yellow key"]
    options = {"proposer": "fixed", "goals": key, "threshold": -0.5}
    once, counted = make_module(vec, **options), make_module(vec, **options, beta=3.0)
    rollouts = collect(vec, rollouts=6)
    bonuses = torch.cat([counted.compute(rollout) for rollout in rollouts])
    assert 0 < float(bonuses[bonuses > 0].min()) < 0.5 / 8
    assert bonuses.max() == pytest.approx(1.0)
    firsts = torch.cat([once.compute(rollout) for rollout in rollouts])
    assert (bonuses > 0).sum() > (firsts > 0).sum()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"proposer": "fixed", "goals": ["picked up the key"], "threshold": 0.5},
        {"proposer": "fixed", "goals": ["picked up a key"], "threshold": 0.5, "beta": 3.0},
    ],
    ids=str,
)
def test_the_rules_of_modules_hold(vec, options):
    module = make_module(vec, **options)
    assert any(module.compute(rollout).any() for rollout in collect(vec))
    check_module(module, vec=vec)


def asked(vec, server, run_dir=None, rollouts=3, **options):
    """Run a module that asks the server; returns it, the bonuses and the logs."""
    module = make_module(vec, proposer="llm", url=server.url, llm="m", wait=True, **options)
    return (module, *run(module, vec, run_dir, rollouts))


def run(module, vec, run_dir=None, rollouts=3):
    module.open(run_dir)
    found = [(module.compute(r), module.update(r)) for r in collect(vec, rollouts)]
    module.close()
    return [bonus for bonus, _ in found], [logs for _, logs in found]


def captions_of(server):
    return [row["text"] for body in server.bodies for row in questions(body)]


def test_a_language_model_is_asked_once_a_caption_and_its_goals_are_rewarded(vec, server, tmp_path):
    module, bonuses, logs = asked(vec, server, tmp_path)
    assert not bonuses[0].any()  # nothing was known
    assert any(bonus.any() for bonus in bonuses[1:])
    captions = captions_of(server)
    assert len(captions) == len(set(captions)) == logs[-1]["llm/labels"]
    assert logs[-1]["llm/coverage"] == 1.0
    assert module.known == {caption: tuple(goals(caption)) for caption in captions}
    rollouts = collect(vec, seed=3)
    module.reset()
    for rollout, bonus in zip(
        rollouts,
        expected(vec, rollouts, lambda c: module.known.get(c, ()), same_words),
        strict=True,
    ):
        torch.testing.assert_close(module.compute(rollout), bonus)
    check_module(module, vec=vec)


def test_a_resumed_module_and_another_run_ask_nothing_again(vec, server, tmp_path):
    module, _, _ = asked(vec, server, tmp_path)
    before = set(captions_of(server))
    loaded = make_module(vec, proposer="llm", url=server.url, llm="m", wait=True)
    loaded.load_state_dict(module.state_dict())
    assert loaded.known == module.known
    server.bodies.clear()
    run(loaded, vec)
    fresh, bonuses, _ = asked(vec, server, store=str(tmp_path / "labels.sqlite"))
    assert not before & set(captions_of(server))
    assert any(bonus.any() for bonus in bonuses)
    assert {k: fresh.known[k] for k in before & fresh.known.keys()} == {
        k: module.known[k] for k in before & fresh.known.keys()
    }
    server.bodies.clear()
    asked(vec, server, store=str(tmp_path / "labels.sqlite"), cached_only=True)
    assert server.bodies == []


def test_an_answer_that_cannot_be_read_is_no_goals(vec, server):
    server.content = lambda body: "- pick up the key\n- open the door"
    module, bonuses, logs = asked(vec, server)
    assert not any(bonus.any() for bonus in bonuses)
    assert set(module.known.values()) == {()}
    assert logs[-1]["llm/abstained"] == len(module.known)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proposer": "rules"}, "did you mean 'rule'"),
        ({"similarity": "word"}, "did you mean 'words'"),
        ({"proposer": "fixed"}, "one needs the other"),
        ({"goals": ["picked up the key"]}, "one needs the other"),
        ({"proposer": "llm", "url": "http://127.0.0.1:1/v1"}, "the name of a model there"),
        ({"proposer": "llm", "llm": "m", "goal": "combat"}, "no goal 'combat'"),
        ({"proposer": "llm", "llm": "m", "max_cost": 1.0}, "needs the prices"),
        ({"proposer": "llm", "cpu_share": 0.0}, "cpu_share is 0.0"),
    ],
)
def test_a_choice_that_cannot_work_is_refused(vec, options, message):
    with pytest.raises(ValueError, match=message):
        make_module(vec, **options)


def composed(*overrides):
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        return compose("train", overrides=list(overrides))


def metrics(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def trained(*overrides):
    """Parameters of the policy after a short run without a directory."""
    config = composed(*DOORKEY, "run_dir=null", *overrides)
    config.checkpoint.every = None
    made = make_vec(config.env, **needed_options(config))
    trainer = build(config, made)
    trainer.run(STEPS)
    made.close()
    return {name: p.clone() for name, p in trainer.policy.state_dict().items()}


def test_weight_zero_is_absence_and_weight_one_changes_the_update():
    without = trained("mixer=sum", "intrinsic=[]")
    zero = trained("mixer=sum", "intrinsic=[ellm]", "mixer.terms.ellm.weight=0.0")
    assert all(torch.equal(zero[key], value) for key, value in without.items())
    one = trained("mixer=sum", "intrinsic=[ellm]", "mixer.terms.ellm.weight=1.0")
    assert any(not torch.equal(one[key], value) for key, value in without.items())


def test_a_run_resumes_bit_for_bit(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = (*DOORKEY, "intrinsic=[ellm]")
    train(composed(*options, f"total_steps={2 * STEPS}", f"run_dir={whole}"))
    train(composed(*options, f"total_steps={STEPS}", f"run_dir={parts}"))
    train(composed(*options, f"total_steps={2 * STEPS}", f"run_dir={parts}", "resume=auto"))
    tags = ("reward/ellm/raw", "ellm/goals", "train/loss")
    lines = [[[line.get(tag) for tag in tags] for line in metrics(path)] for path in (whole, parts)]
    assert lines[0] == lines[1]
    assert any(line[0] for line in lines[0])


def test_messages_of_nethack_reach_goals_of_a_list_and_rules_are_refused(tmp_path):
    env = ("env=nethack/score", "env.backend=serial", *SMALL[:-1], "env.num_envs=2")
    with pytest.raises(BadInputError, match="rules for MiniGrid only"):
        train(composed(*env, "intrinsic=[ellm]", f"run_dir={tmp_path / 'refused'}"))
    made = make_nethack("NetHackScore-v0", num_envs=2, backend="serial", text=True)
    module = make_module(made, proposer="fixed", goals=["It's a wall.", "You see here a corpse."])
    bonuses = [module.compute(rollout) for rollout in collect(made, rollouts=4)]
    made.close()
    assert any(bonus.any() for bonus in bonuses)
