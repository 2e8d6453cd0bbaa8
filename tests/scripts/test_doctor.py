"""The doctor names what is wrong with a reward, and nothing where all is well."""

import copy
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import command
from hydra import compose, initialize_config_module

from firstlight.agents.algorithms.ppo import PPO
from firstlight.agents.diagnostics.doctor import Evidence, Finding, Sizes, diagnose, shares_of
from firstlight.agents.diagnostics.run_diagnostics import digest, rank_correlation, run_diagnostics
from firstlight.agents.policy import ActorCritic
from firstlight.agents.trainer import Trainer
from firstlight.envs import minigrid
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import RND, HashCount, Heads, Linear, RewardMixer, Sum, Term
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.networks.encoders import MLP
from firstlight.scripts import train
from firstlight.scripts.doctor import report

N, T = 8, 32
DOCS = Path(__file__).parents[2] / "docs"


class Own(IntrinsicModule):
    """Pays by a rule: a function of the rollout and of the updates so far."""

    novelty = False

    def __init__(self, rule, *, novelty=False):
        super().__init__()
        self.rule, self.updates, self.novelty = rule, 0, novelty

    def compute(self, rollout):
        return torch.where(rollout.valid, self.rule(rollout, self.updates), 0.0).float()

    def update(self, rollout):
        self.updates += 1
        return {}


def noise(rollout):
    generator = torch.Generator().manual_seed(int(rollout.action.sum()))
    return torch.rand(rollout.reward.shape, generator=generator)


RULES = {
    "constant": lambda rollout, _: torch.full_like(rollout.reward, 0.01),
    "fading": lambda rollout, updates: torch.full_like(rollout.reward, 0.02 / (1 + updates)),
    "silent": lambda rollout, _: torch.zeros_like(rollout.reward),
    "growing": lambda rollout, updates: 1e-3 * 3.0**updates * noise(rollout),
    "endless": lambda rollout, updates: noise(rollout) + (math.inf if updates > 2 else 0),
    "loud": lambda rollout, _: 1e4 * noise(rollout),
    "noise": lambda rollout, _: 0.05 * noise(rollout),
    "familiar": lambda rollout, _: 0.1 * rollout.next_obs()["obs"][..., 0].float(),  # the start
}


def make(modules, terms=None, *, vec=None, combine=None, seed=0, **options):
    vec = vec or Chain(N, length=5)
    made = {name: build(vec) for name, build in modules.items()}
    wanted = {name: module.default_term() for name, module in made.items()} | (terms or {})
    mixer = RewardMixer({"reward": Term(), **wanted}, combine or Heads())
    torch.manual_seed(seed)
    encoder = MLP(vec.obs_space, hidden=(16,))
    policy = ActorCritic(
        vec.obs_space, vec.act_space, encoder=encoder, num_streams=mixer.num_streams
    )
    learner = PPO(policy, minibatch_size=128, num_epochs=2, seed=seed)
    return Trainer(vec, learner, made, mixer, num_steps=T, seed=seed, **options)


def count(vec):
    return HashCount(vec.obs_space)


def rnd(vec):
    return RND(vec.obs_space, embedding_dim=32, warmup_steps=64)


def own(rule, **options):
    return lambda vec: Own(RULES[rule], **options)


def examined(*args, iterations=12, **options):
    return run_diagnostics(make(*args, **options), total_steps=10**6, iterations=iterations)


def kinds(seen):
    return {(finding.source, finding.kind) for finding in seen.findings}


# --- a healthy run


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_nothing_is_said_of_counts_and_distillation_on_a_small_task(seed, autoreset):
    chosen = {"count": count, "rnd": rnd}
    vec = Chain(N, length=5, autoreset=autoreset)
    seen = examined(chosen, seed=seed, vec=vec, iterations=8)
    assert seen.findings == []
    assert seen.first is not None
    for name in chosen:
        assert seen.evidence[name].rank < -0.3
        assert seen.evidence[name].without != seen.first


@pytest.mark.parametrize("scope", ["global", "episodic", "first_visit"])
def test_nothing_is_said_of_any_count_on_doorkey(scope):
    vec = minigrid.make("MiniGrid-DoorKey-5x5-v0", num_envs=8)
    chosen = {"count": lambda vec: HashCount(vec.obs_space, scope=scope), "rnd": rnd}
    assert examined(chosen, vec=vec, iterations=8).findings == []
    vec.close()


def test_nothing_is_said_of_distillation_alone():
    assert examined({"rnd": rnd}).findings == []


def test_a_count_that_has_faded_after_long_is_still_well():
    assert examined({"count": count}, iterations=80).findings == []


@pytest.mark.parametrize("scope", ["episodic", "first_visit"])
def test_a_count_per_episode_is_well_though_the_policy_no_longer_wanders(scope):
    run = make({"count": lambda vec: HashCount(vec.obs_space, scope=scope)}, vec=Chain(N, length=3))
    run.learner.lr = 3e-3
    seen = run_diagnostics(run, total_steps=10**6, iterations=60)
    assert run.episodes.metrics()["rollout/return_mean"] > 0.9
    assert seen.findings == []


# --- planted defects


def test_a_constant_bonus_is_named():
    assert kinds(examined({"flat": own("constant"), "count": count})) == {("flat", "constant")}
    assert kinds(examined({"flat": own("fading", novelty=True)})) == {("flat", "constant")}


def test_a_dead_module_is_named():
    assert kinds(examined({"none": own("silent"), "count": count})) == {("none", "dead")}
    zero = {"count": Term(weight=0.0)}
    assert kinds(examined({"count": count}, zero)) == {("count", "dead")}
    clipped = {"count": Term(clip=0.0)}
    assert kinds(examined({"count": count}, clipped)) == {("count", "dead")}


def test_a_module_that_never_reaches_the_policy_is_named():
    class Deaf(Sum):
        def __call__(self, scaled, weight):
            return super().__call__({"reward": scaled["reward"]}, weight)

    seen = examined({"count": count}, combine=Deaf())
    assert kinds(seen) == {("count", "dead")}
    assert seen.first == seen.evidence["count"].without
    assert "the same without it" in seen.findings[0].sentence


def test_an_exploding_scale_is_named():
    seen = examined({"grows": own("growing"), "count": count})
    assert ("grows", "exploding") in kinds(seen)
    assert not any(source == "count" for source, _ in kinds(seen))
    seen = examined({"loud": own("loud"), "count": count})
    assert ("loud", "exploding") in kinds(seen)


def test_a_bonus_that_becomes_infinite_is_named():
    seen = examined({"endless": own("endless"), "count": count})
    assert ("endless", "exploding") in kinds(seen)
    (finding,) = [f for f in seen.findings if f.kind == "exploding"]
    assert "bonus 'endless' of environment" in finding.sentence


@pytest.mark.parametrize("length", [2, 12])
def test_a_drowned_task_reward_is_named_whether_it_was_ever_paid_or_not(length):
    loud = {"count": Term(weight=3000.0)}
    seen = examined({"count": count}, loud, vec=Chain(N, length=length))
    assert kinds(seen) == {("reward", "drowned")}
    (finding,) = seen.findings
    assert "'count' drowns it" in finding.sentence
    assert ("none yet" in finding.sentence) == (length == 12)


def test_a_drowned_module_is_named():
    faint = {"count": Term(weight=1e-7)}
    assert kinds(examined({"count": count, "rnd": rnd}, faint)) == {("count", "drowned")}


def test_a_bonus_that_does_not_fall_with_visits_is_named_if_it_claims_to():
    for rule in ("noise", "familiar"):
        seen = examined({"odd": own(rule, novelty=True)})
        assert kinds(seen) == {("odd", "not novel")}
        assert examined({"odd": own(rule)}).findings == []


def test_a_weight_that_comes_later_is_no_defect():
    later = {"count": Term(weight=Linear(0.0, 0.01, begin=0.5, finish=0.6))}
    seen = examined({"count": count}, later)
    assert seen.findings == []
    assert seen.evidence["count"].counted == []
    assert any("no telling" in line for line in report(seen))


# --- what it rests on


@pytest.mark.parametrize("combine", [Sum, Heads])
def test_the_first_update_is_the_one_that_the_run_makes(combine):
    def after_one(weight):
        run = make({"count": count}, {"count": Term(weight=weight)}, combine=combine())
        run.run(N * T)
        return digest(run.policy)

    seen = examined({"count": count}, {"count": Term(weight=0.3)}, combine=combine())
    assert seen.first == after_one(0.3)
    assert seen.evidence["count"].without == after_one(0.0)
    assert after_one(0.0) != after_one(0.3)


def test_being_watched_changes_nothing_of_a_run():
    watched, alone = (make({"count": count, "rnd": rnd}) for _ in range(2))
    seen = run_diagnostics(watched, total_steps=10**6, iterations=4)
    alone.run(seen.steps)
    assert watched.steps == alone.steps
    one, two = (copy.deepcopy(run.state_dict()) for run in (watched, alone))
    one.pop("policy_spec"), two.pop("policy_spec")
    for part in ("learner", "modules", "mixer"):
        torch.testing.assert_close(one[part], two[part], rtol=0, atol=0)


def test_time_ends_an_examination_but_not_before_there_is_something_to_see():
    run = make({"count": count})
    seen = run_diagnostics(run, total_steps=10**6, seconds=0)
    assert len(seen.evidence["count"].sizes) == 4
    assert seen.steps == 4 * N * T


def test_rank_correlation_is_that_of_the_definition():
    generator = np.random.default_rng(0)
    for size, most in ((5, 3), (40, 6), (200, 1000)):
        x, y = generator.integers(0, most, size), generator.integers(0, most, size) * 0.5
        ranks = [
            [sum(b < a for b in v) + (sum(b == a for b in v) - 1) / 2 for a in v] for v in (x, y)
        ]
        a, b = (np.array(r) - np.mean(r) for r in ranks)
        expected = (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())
        assert rank_correlation(x, y) == pytest.approx(expected, abs=1e-5)
    assert rank_correlation(np.ones(4), np.arange(4)) is None
    assert rank_correlation(np.array([1, 2]), np.array([3.0, 1.0])) == -1


# --- the judgement itself


def sizes(paid=0.1, *, low=0.0, high=1.0, often=1.0, weight=1.0):
    """Of a source that pays `paid` in a share `often` of the rows."""
    mean = paid * often
    return Sizes(low, high, abs(paid), mean, weight * mean, weight * paid)


HEALTHY = Evidence(1.0, [sizes()] * 4, True, -0.9, 10.0, "b")
RARE = Evidence(1.0, [sizes(1.0, often=1e-4)] * 4, horizon=100.0)


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (HEALTHY, None),
        (Evidence(0.0), "dead"),
        (Evidence(1.0), None),
        (Evidence(1.0, [None, None]), None),
        (Evidence(1.0, [None, sizes(), sizes()], without="a"), None),
        (Evidence(1.0, [sizes(0.0, high=0.0)] * 3), "dead"),
        (Evidence(1.0, [sizes()] * 3, without="a"), "dead"),
        (Evidence(1.0, [sizes(0.0, high=0.0), sizes()], without="a"), None),
        (Evidence(1.0, [sizes(low=0.1, high=0.1)] * 3), "constant"),
        (Evidence(1.0, [sizes(low=0.1, high=0.1), sizes(low=0.1, high=0.2)]), None),
        (Evidence(1.0, [sizes(0.1), sizes(0.2), sizes(0.1), sizes(30.0)]), "exploding"),
        (Evidence(1.0, [sizes(0.1), sizes(0.2), sizes(0.1), sizes(3.0)]), None),
        (Evidence(1.0, [sizes(30.0), sizes(3.0), sizes(0.1), sizes(0.001)]), None),
        (Evidence(1.0, error="bonus 'a' is nan"), "exploding"),
        (Evidence(1.0, [sizes(1e-6)] * 3), "drowned"),
        (Evidence(1.0, [sizes(0.1), sizes(1e-6), sizes(1e-6)]), None),
        (Evidence(1.0, [sizes()] * 3, True, 0.3), "not novel"),
        (Evidence(1.0, [sizes()] * 3, True, None), None),
        (Evidence(1.0, [sizes()] * 3, False, 0.3), None),
    ],
)
def test_each_verdict_follows_from_the_evidence(seen, kind):
    findings = diagnose({"reward": RARE, "a": seen, "b": HEALTHY}, "a")
    assert [finding.kind for finding in findings] == ([] if kind is None else [kind])
    assert all(finding.source == "a" for finding in findings)


def test_a_task_is_not_drowned_for_being_rare():
    (share, *_) = shares_of({"reward": RARE, "a": HEALTHY})
    assert share == pytest.approx({"reward": 0.5, "a": 0.5})  # one payment of 1, ten of 0.1
    dense = Evidence(1.0, [sizes(1.0)] * 2, horizon=100.0)
    (share, *_) = shares_of({"reward": dense, "a": HEALTHY})
    assert share["reward"] == pytest.approx(100 / 101)


def test_a_task_that_is_meant_to_be_ignored_is_not_drowned():
    ignored = Evidence(0.0, [None] * 4)
    assert diagnose({"reward": ignored, "a": HEALTHY}) == []


def test_what_the_environment_gives_may_explode_too():
    broken = Evidence(1.0, error="reward of environment 0 is nan")
    assert diagnose({"reward": broken}) == [Finding("reward", "exploding", broken.error)]


# --- the command

SMALL = ("env=chain", "env.length=5", "env.num_envs=8", "trainer.num_steps=32", "device=cpu")
TRY = (*SMALL, "doctor=true", "total_steps=3000")


def test_the_command_ends_with_0_if_all_is_well_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(train.main, *TRY, "intrinsic=[count,rnd]", "intrinsic.rnd.warmup_steps=64")
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[-1] == "no defect was found"
    table = {line.split()[0]: line for line in lines if line.split()[:1]}
    assert table["count"].endswith("well")
    assert "yes (-" in table["rnd"]
    (first,) = [line.split()[-1] for line in lines if line.startswith("first update")]
    assert first not in table["count"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["intrinsic=[count]", "mixer.terms.count.weight=0"], "count is dead: its weight is 0"),
        (["intrinsic=[count]", "mixer.terms.count.weight=900"], "reward is drowned: its share"),
        (["+intrinsic.own._target_=test_doctor.Flat"], "own is constant: every step"),
        (["+intrinsic.own._target_=test_doctor.Burst"], "own is exploding: "),
    ],
)
def test_the_command_names_a_defect_and_ends_with_1(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(train.main, *TRY, *words)
    assert done.status == 1, done.err
    assert said in done.out
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_use_is_neither_refused_nor_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "status.json").write_text("{}")
    done = command(train.main, *TRY, "run_dir=run", "total_steps=300")
    assert done.status == 0, done.err
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "status.json"]


@pytest.mark.parametrize(
    "words",
    [["doctor=perhaps"], ["doctor_seconds=0"], ["doctor=true", "doctor_seconds=long"]],
)
def test_bad_options_are_a_line(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(train.main, *SMALL, *words)
    assert done.status == 2
    assert len(done.lines()) == 1
    assert words[-1] in done.err
    assert list(tmp_path.iterdir()) == []


# --- the page about it


def test_the_commands_of_the_page_compose_and_its_pictures_are_there():
    page = (DOCS / "seeing.md").read_text(encoding="utf-8")
    shown = "\n".join(re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    base, rest = shown.replace("\\\n", " ").split("}\n", 1)
    (training,) = [line for line in base.splitlines() if line.startswith("firstlight-train")]
    lines = [shlex.split(line) for line in rest.splitlines() if line]
    assert len(lines) >= 6
    for name, *words in lines:
        if name == "run":
            words = [*shlex.split(training)[1:-1], *words]
        config = "train" if name == "run" else "evaluate"
        with initialize_config_module("firstlight.conf", version_base="1.3"):
            assert compose(config, overrides=words)
    links = re.findall(r"\]\(([^)#]+)\)", page)
    assert len(links) >= 10
    for link in links:
        assert (DOCS / link).exists(), link


class Flat(Own):
    def __init__(self):
        super().__init__(RULES["constant"])


class Burst(Own):
    def __init__(self):
        super().__init__(RULES["growing"])
