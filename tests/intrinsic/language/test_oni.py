"""The module: what a step's sentence gives, what is asked, and what a resumed run still knows."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.envs.minigrid import make
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.text import TextTable
from firstlight.intrinsic import ONI, RewardMixer, Term, check_module
from firstlight.intrinsic.language.judges.judge import Judge
from firstlight.intrinsic.language.judges.rule_judge import RuleJudge
from firstlight.intrinsic.language.store import LabelStore

MODELS = ("retrieval", "classification", "ranking")
SMALL = {"width": 8, "length": 54, "hidden": 16, "gradient_steps": 8, "min_labels": 1}


class Recording(RuleJudge):
    """The rules, and the texts that they were asked for."""

    def __init__(self, family="minigrid"):
        super().__init__(family)
        self.asked = []

    def rate(self, texts):
        self.asked += texts
        return super().rate(texts)


@pytest.fixture
def vec():
    made = make("MiniGrid-DoorKey-5x5-v0", num_envs=8, text=True)
    yield made
    made.close()


def make_module(vec, **options):
    options = {"judge": "rule", "wait": True, **options}
    return ONI(info_space=vec.info_space, text_table=vec.text_table, **options)


def run(module, vec, run_dir=None, rollouts=4, steps=64):
    """Collect, compute and update with an open module; returns bonuses, rollouts and logs."""
    runner = Runner(vec, seed=0)
    module.open(run_dir)
    found = []
    for _ in range(rollouts):
        rollout = runner.collect(RandomActor(vec.act_space), steps)
        found.append((module.compute(rollout), rollout, module.update(rollout)))
    module.close()
    return found


def expected(rollouts, vec, rated):
    """A loop over all steps: the rule's reward over the cubed count of the sentence."""
    counts = [{} for _ in range(vec.num_envs)]
    for rollout in rollouts:
        info, T = rollout.info, rollout.num_steps
        ends = {tuple(at): i for i, at in enumerate(rollout.final_at.tolist())}
        bonus = torch.zeros(T, vec.num_envs)
        for t in range(T):
            for n in range(vec.num_envs):
                if rollout.is_first[t, n]:
                    counts[n] = {}
                if not rollout.valid[t, n]:
                    continue
                i = ends.get((t, n))
                here = (
                    {k: v[t + 1, n] for k, v in info.items()}
                    if i is None
                    else {k: v[i] for k, v in rollout.final_info.items()}
                )
                event = vec.text_table.text(int(here["text_id"]))
                if not event:
                    continue
                text = f"{event} (task: {vec.text_table.text(int(here['mission_id']))})"
                counts[n][text] = counts[n].get(text, 0) + 1
                bonus[t, n] = rated(text) / counts[n][text] ** 3
        yield bonus


def test_retrieval_pays_the_labelled_sentences_by_their_count_in_the_episode(vec):
    module = make_module(vec)
    found = run(module, vec)
    rollouts = [rollout for _, rollout, _ in found]
    module = make_module(vec)
    module.model.add({(text,): RuleJudge("minigrid").rate([text])[0] for text in _all_texts(vec)})
    judge = RuleJudge("minigrid")
    total = 0.0
    for rollout, bonus in zip(
        rollouts, expected(rollouts, vec, lambda x: judge.rate([x])[0]), strict=True
    ):
        ours = module.compute(rollout)
        torch.testing.assert_close(ours, bonus)
        total += float(ours.sum())
    assert total > 2


def _all_texts(vec):
    texts = [vec.text_table.text(i) for i in range(1, len(vec.text_table))]
    (mission,) = [x for x in texts if x.startswith("use the key")]
    return [f"{text} (task: {mission})" for text in texts if text != mission]


def test_a_text_pays_from_the_rollout_after_its_label(vec):
    found = run(make_module(vec), vec)
    assert not found[0][0].any()  # nothing was known
    assert found[0][2]["llm/labels"] > 0
    assert any(bonus.any() for bonus, _, _ in found[1:])
    assert found[-1][2]["llm/coverage"] == 1.0


def test_nothing_is_asked_twice_also_after_a_resume(vec, tmp_path):
    judge = Recording()
    module = make_module(vec, judge=judge)
    run(module, vec, tmp_path)
    assert judge.asked
    assert len(judge.asked) == len(set(judge.asked))
    saved = module.state_dict()
    again = Recording()
    other = make_module(vec, judge=again)
    other.load_state_dict(saved)
    run(other, vec, tmp_path)
    assert not set(again.asked) & set(judge.asked)
    fresh = Recording()  # another run that shares the store, and has no checkpoint
    found = run(make_module(vec, judge=fresh, store=str(tmp_path / "labels.sqlite")), vec)
    assert fresh.asked == []
    assert found[-1][2]["llm/labels"] > 0


def test_a_persons_label_is_what_pays(vec, tmp_path):
    store = LabelStore(tmp_path / "labels.sqlite")
    run(make_module(vec, cached_only=True), vec)  # fills the table of texts
    for text in _all_texts(vec):
        store.correct((text,), 0.0)
    store.close()
    found = run(make_module(vec), vec, tmp_path)
    assert not any(bonus.any() for bonus, _, _ in found)
    assert found[-1][2]["llm/coverage"] == 1.0


def test_with_the_cache_only_nobody_is_asked(vec, tmp_path):
    judge = Recording()
    found = run(make_module(vec, judge=judge, cached_only=True), vec, tmp_path)
    assert judge.asked == []
    assert not any(bonus.any() for bonus, _, _ in found)


@pytest.mark.parametrize("model", MODELS)
def test_each_model_obeys_the_rules_of_modules(model, vec):
    module = make_module(vec, model=model, z_threshold=-10.0, **SMALL)
    run(module, vec, rollouts=6)
    assert module.compute(Runner(vec, seed=1).collect(RandomActor(vec.act_space), 64)).any()
    check_module(module, vec=vec)


@pytest.mark.parametrize("model", MODELS)
def test_the_same_run_gives_the_same_rewards(model):
    totals = []
    for _ in range(2):
        vec = make("MiniGrid-DoorKey-5x5-v0", num_envs=8, text=True)
        found = run(make_module(vec, model=model, **SMALL), vec)
        totals.append(torch.stack([bonus for bonus, _, _ in found]))
        vec.close()
    assert torch.equal(*totals)


def test_a_saved_module_continues_identically(vec):
    module = make_module(vec, model="classification", **SMALL)
    run(module, vec)
    loaded = make_module(vec, model="classification", seed=5, **SMALL)
    loaded.load_state_dict(module.state_dict())
    rollout = Runner(vec, seed=3).collect(RandomActor(vec.act_space), 64)
    module.reset()
    loaded.reset()
    assert torch.equal(module.compute(rollout), loaded.compute(rollout))
    assert loaded.model.labels == module.model.labels


def test_the_reward_changes_what_the_mixer_gives_the_learner(vec):
    module = make_module(vec)
    found = run(module, vec)
    bonus, rollout, _ = found[-1]
    mixer = RewardMixer({"reward": Term(), "oni": ONI.default_term()})
    without = mixer(rollout, {"oni": torch.zeros_like(bonus)}, 0.0).reward
    assert bonus.any()
    assert not torch.equal(mixer(rollout, {"oni": bonus}, 0.0).reward, without)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "retrieve"}, "did you mean 'retrieval'"),
        ({"judge": "embeddings"}, "did you mean 'embedding'"),
        ({"judge": "mistaken"}, "it needs model='ranking'"),
        ({"judge": "llm", "url": "http://127.0.0.1:1/v1"}, "the name of a model there, is missing"),
        ({"judge": "llm", "llm": "x", "goal": "combat"}, "no goal 'combat'"),
        ({"judge": "rule", "family": "chess"}, "no rules for 'chess'"),
        ({"judge": "embedding", "family": "chess"}, "give examples"),
    ],
)
def test_a_choice_that_cannot_work_is_refused(vec, options, message):
    with pytest.raises(ValueError, match=message):
        make_module(vec, **options)


def test_an_environment_without_text_is_refused():
    nothing = spaces.Dict({"position": spaces.Box(0, 1, (2,), np.float32)})
    with pytest.raises(ValueError, match="no text to judge"):
        ONI(info_space=nothing, text_table=None)
    with pytest.raises(ValueError, match="no text to judge"):
        ONI(info_space=nothing, text_table=TextTable())


def test_a_judge_of_ones_own_is_an_object(vec):
    class Likes(Judge):
        model, prompt = "likes", "keys"

        def rate(self, texts):
            return [float("key" in text) for text in texts]

    found = run(make_module(vec, judge=Likes()), vec)
    assert any(bonus.any() for bonus, _, _ in found)


@pytest.mark.parametrize("teacher", ["oracle", "mistaken"])
def test_a_simulated_teacher_compares_for_ranking(vec, teacher):
    module = make_module(vec, model="ranking", judge=teacher, z_threshold=-10.0, **SMALL)
    logs = run(module, vec)[-1][2]
    assert logs["llm/labels"] > 0
    kept = [score for score in module.model.labels.values() if score is not None]
    assert set(kept) <= {0.0, 0.5, 1.0}


def test_ranking_compares_pairs_of_different_sentences(vec):
    pairs = []

    class Comparing(RuleJudge):
        def compare(self, items):
            pairs.extend(items)
            return super().compare(items)

    run(make_module(vec, model="ranking", judge=Comparing("minigrid"), num_pairs=5), vec)
    assert 0 < len(pairs) <= 4 * 5
    assert len(pairs) == len(set(pairs))
    assert all(first < second for first, second in pairs)
