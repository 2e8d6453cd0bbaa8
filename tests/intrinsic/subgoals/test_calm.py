"""CALM: verdicts, once an episode, potentials, farming, the table, distillation, answers."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from firstlight.envs.minigrid import make
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.types import Rollout
from firstlight.intrinsic import CALM, check_module
from firstlight.intrinsic.language.judges.judge import Judge
from firstlight.intrinsic.subgoals.transition_classifier import TransitionClassifier
from firstlight.intrinsic.subgoals.verdicts import TransitionPrompt

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)


def world(num_envs=4, **options):
    return make(
        "MiniGrid-DoorKey-5x5-v0", num_envs=num_envs, text=True, **{"max_steps": 50, **options}
    )


def calm(vec, **options):
    spaces = {"obs_space": vec.obs_space, "info_space": vec.info_space}
    return CALM(**spaces, text_table=vec.text_table, **options)


class Scripted:
    """An actor that takes the given actions, the same in every environment."""

    def __init__(self, vec, actions):
        self.inner, self.actions = RandomActor(vec.act_space), iter(actions)

    def initial_state(self, num_envs):
        return {}

    def __call__(self, obs, state, is_first):
        out = self.inner(obs, state, is_first)
        action = next(self.actions, DONE)
        shape = is_first.shape

        class Fixed:
            params = torch.zeros(*shape, 1)

            def draw(self, generator):
                return torch.full(shape, action), torch.zeros(shape)

        return out._replace(dist=Fixed())


def beside_the_key():
    """Environments (1) whose agent faces the key, found by trying seeds."""
    for seed in range(200):
        vec = world(1, max_steps=1000)
        obs, _ = vec.reset(seed)
        if obs["image"][0, 3, 5, 0] == 5:
            return vec, seed
    raise AssertionError


def farmed(pay, cycles=10):
    vec, seed = beside_the_key()
    module = calm(vec, pay=pay)
    runner = Runner(vec)
    runner._reset = lambda: vec.reset(seed)
    rollout = runner.collect(Scripted(vec, [PICKUP, DROP] * cycles), 2 * cycles)
    return module.compute(rollout)[:, 0], rollout


def test_dropping_and_picking_up_again_pays_nothing():
    bonus, rollout = farmed("once")
    assert rollout.info["text_id"].bool().sum() == 20
    assert bonus.tolist() == [1.0] + [0.0] * 19
    every, _ = farmed("always")
    assert every.sum() == 10  # which is what there is to farm


def test_a_potential_pays_no_more_for_a_cycle():
    bonus, _ = farmed("potential")
    assert bonus[0] == pytest.approx(0.99)
    assert bonus[1:].tolist() == pytest.approx([-0.01] * 19)
    gains = [b * 0.99**t for t, b in enumerate(bonus.tolist())]
    assert sum(gains) == pytest.approx(0.99**20)  # γ^T Φ(end) − Φ(start)


def collected(module_options=None, steps=300, vec=None):
    vec = vec or world(8)
    module = calm(vec, **(module_options or {}))
    return module, Runner(vec).collect(RandomActor(vec.act_space), steps), vec


def test_once_an_episode_by_a_plain_loop():
    module, rollout, vec = collected()
    bonus, total = module.compute(rollout), 0
    texts = rollout.next_info()["text_id"]
    words = [{"picked", "up", "key"}, {"unlocked", "door"}, {"reached", "goal"}]
    for n in range(8):
        done = set()
        for t in range(300):
            if rollout.is_first[t, n]:
                done = set()
            said = {*vec.text_table.text(int(texts[t, n])).split()}
            new = {s for s, each in enumerate(words) if each <= said} - done
            assert bonus[t, n] == len(new)
            done, total = done | new, total + len(new)
    assert total > 5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pay": "potential"},
        {"pay": "table"},
        {"pay": "always"},
        {"classifier": True, "hidden": 8},
    ],
    ids=str,
)
def test_it_keeps_the_rules_of_modules(options):
    vec = world()
    for verb in ("picked up", "dropped", "unlocked", "opened", "closed"):  # copies share no table
        vec.text_table.intern(f"{verb} the yellow {'key' if verb[-2:] != 'ed' else 'door'}")
    for text in ("dropped the yellow key", "reached the goal"):
        vec.text_table.intern(text)
    check_module(calm(vec, **options), vec=vec, steps=60)


def test_the_table_pays_flagged_pairs_of_screen_and_action_by_their_counts():
    module, rollout, _ = collected({"pay": "table"}, steps=400)
    assert not module.compute(rollout).any()  # nothing is flagged yet
    module.update(rollout)
    again = module.compute(rollout)
    truth = module.rule.judge(rollout).any(-1)
    counts = {}
    at = rollout.valid.nonzero()
    keys = module.transitions.keys(rollout, at).tolist()
    for (t, n), key in zip(at.tolist(), keys, strict=True):
        counts[key] = counts.get(key, 0) + int(truth[t, n])
    known = [c for c in counts.values() if c]
    low, high = min(known), max(known)
    assert high > low
    for (t, n), key in zip(at.tolist(), keys, strict=True):
        expected = (counts[key] - low) / (high - low) if counts[key] else 0
        assert again[t, n] == pytest.approx(expected)


def test_the_classifier_learns_the_rules_and_then_pays_almost_the_same():
    module, rollout, vec = collected({"classifier": True}, steps=400)
    assert not module.compute(rollout).any()
    runner, actor = Runner(vec, seed=5), RandomActor(vec.act_space)
    for _ in range(4):
        logs = module.update(runner.collect(actor, 150))
    assert logs["agreement"] > 0.9
    fresh = runner.collect(actor, 400)
    truth, said = module.rule.judge(fresh), module._judge(fresh)
    hit = (truth & said).sum() / truth.sum()
    false = (said & ~truth).any(-1).float().mean()
    assert hit > 0.9
    assert false < 0.02


def test_the_classifier_is_not_ready_before_both_kinds_of_verdicts():
    classifier = TransitionClassifier(2, hidden=4)
    tokens = torch.randint(1, 100, (6, 5), generator=torch.Generator().manual_seed(0))
    assert not classifier.is_ready
    classifier.add(tokens, torch.zeros(6, 2, dtype=torch.bool))
    assert classifier.learn() == 0.0
    assert not classifier.verdicts(tokens).any()
    classifier.add(tokens[:1], torch.ones(1, 2, dtype=torch.bool))
    assert classifier.is_ready
    small = TransitionClassifier(1, hidden=4, capacity=3)
    for _ in range(5):
        small.add(tokens, torch.arange(6)[:, None] < 2)
    assert len(small.targets) == 6
    assert small.targets.sum() == 3


class Truthful(Judge):
    """Answers by the words of the text, through the prompt's reader."""

    model, prompt = "truthful", "p"

    def __init__(self, subgoals):
        self.prompt_of, self.asked = TransitionPrompt(subgoals), []

    def rate(self, texts):
        self.asked += texts
        words = (("picked", "key"), ("unlocked", "door"), ("reached", "goal"))
        reply = {
            str(i): [all(w in text for w in each) for each in words] for i, text in enumerate(texts)
        }
        return [
            self.prompt_of.parse(json.dumps(reply), [str(i)])[str(i)] for i in range(len(texts))
        ]


def test_a_language_models_verdicts_are_distilled_and_asked_once(tmp_path):
    pytest.importorskip("openai")
    vec = world(8)
    module = calm(
        vec, verdicts="llm", llm="m", url="http://127.0.0.1:9/v1", wait=True, num_asked=64
    )
    judge = Truthful(module.subgoals)
    module._make_judge = lambda: judge
    module.open(tmp_path)
    runner, actor = Runner(vec), RandomActor(vec.act_space)
    for _ in range(6):
        rollout = runner.collect(actor, 100)
        module.compute(rollout)
        logs = module.update(rollout)
    assert len({*judge.asked}) == len(judge.asked)
    assert logs["judged"] == len(judge.asked)
    assert logs["llm/errors"] == 0
    fresh = runner.collect(actor, 400)
    truth, said = module.rule.judge(fresh), module._judge(fresh)
    assert (truth & said).sum() / truth.sum() > 0.7
    module.close()
    again = calm(vec, verdicts="llm", llm="m", url="http://127.0.0.1:9/v1")
    again.load_state_dict(module.state_dict())
    assert torch.equal(again._judge(fresh), said)
    assert again._known == module._known


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "[]",
        '{"a": true}',
        '{"a": [true]}',
        '{"a": [1, 0]}',
        '{"a": "[true]"}',
        "{a: [True, False]}",
    ],
)
def test_answers_of_another_form_are_dropped(reply):
    assert TransitionPrompt(("x", "y")).parse(reply, ["a"]) == {}


def test_the_prompts_variants_differ_and_unknown_ones_are_refused():
    made = [
        TransitionPrompt(("x", "y"), **options)
        for options in ({}, {"role": "analyst"}, {"legend": "keyroom"}, {"remark": "both"})
    ]
    assert len({prompt.digest for prompt in made}) == 4
    assert "1. x; 2. y" in made[0].system
    with pytest.raises(ValueError, match="choose from none, message"):
        TransitionPrompt(("x",), remark="loud")


def test_bad_input_is_refused():
    vec = make("MiniGrid-DoorKey-5x5-v0", num_envs=1)
    with pytest.raises(ValueError, match="no text to judge"):
        calm(vec)
    vec = world(1)
    with pytest.raises(ValueError, match="subgoals is empty"):
        calm(vec, subgoals=[])
    with pytest.raises(ValueError, match="pay is 'often'"):
        calm(vec, pay="often")
    with pytest.raises(ValueError, match="llm, the name"):
        calm(vec, verdicts="llm", url="http://127.0.0.1:9/v1")


def test_memory_ends_with_the_episode_and_with_reset():
    module, rollout, _ = collected()
    module.compute(rollout)
    assert isinstance(rollout, Rollout)
    module.achieved.done = torch.ones_like(module.achieved.done)
    first = dataclasses.replace(rollout, is_first=torch.zeros_like(rollout.is_first))
    assert not module.compute(first).any()
    module.reset()
    assert not module.achieved.done.any()
    assert module.compute(first).any()


def test_the_document_gives_a_task_in_text_its_subgoals():
    """Its example runs, in under 40 lines, and pays a car that swings high once an episode."""
    page = (Path(__file__).parents[3] / "docs/subgoals.md").read_text(encoding="utf-8")
    code = next(
        b for b in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.M) if "CALM" in b
    )
    assert len(code.splitlines()) < 40
    names: dict = {}
    exec(code, names)
    vec = names["vec"]

    class WithSpeed(RandomActor):
        def __call__(self, obs, state, is_first):
            out = super().__call__(obs, state, is_first)
            chosen = torch.where(obs["obs"][..., 1] >= 0, 2, 0)

            class Fixed:
                params = torch.zeros(*is_first.shape, 1)

                def draw(self, generator):
                    return chosen, torch.zeros(is_first.shape)

            return out._replace(dist=Fixed())

    rollout = Runner(vec).collect(WithSpeed(vec.act_space), 150)
    bonus = names["calm"].compute(rollout)
    episodes = 1 + rollout.is_first[1:-1].sum(0)
    assert (bonus.sum(0) > 0).all()
    assert (bonus.sum(0) <= episodes).all()
