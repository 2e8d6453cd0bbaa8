"""Diagnostics find planted defects of reward sources, and none in a healthy run."""

import copy
import math

import numpy as np
import pytest
import torch

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

N, T = 8, 32


class Own(IntrinsicModule):
    """A bonus computed by `rule` from the rollout and the number of updates."""

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


def examined(*args, iterations=8, **options):
    return run_diagnostics(make(*args, **options), total_steps=10**6, iterations=iterations)


def kinds(seen):
    return {(finding.source, finding.kind) for finding in seen.findings}


# --- a healthy run


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_counts_and_distillation_on_a_small_task_have_no_findings(seed, autoreset):
    chosen = {"count": count, "rnd": rnd}
    vec = Chain(N, length=5, autoreset=autoreset)
    seen = examined(chosen, seed=seed, vec=vec)
    assert seen.findings == []
    assert seen.first is not None
    for name in chosen:
        assert seen.evidence[name].rank < -0.3
        assert seen.evidence[name].without != seen.first


@pytest.mark.parametrize("scope", ["global", "episodic", "first_visit"])
def test_no_count_on_doorkey_has_findings(scope):
    vec = minigrid.make("MiniGrid-DoorKey-5x5-v0", num_envs=8)
    chosen = {"count": lambda vec: HashCount(vec.obs_space, scope=scope), "rnd": rnd}
    assert examined(chosen, vec=vec).findings == []
    vec.close()


def test_distillation_alone_has_no_findings():
    assert examined({"rnd": rnd}).findings == []


def test_a_count_that_has_faded_has_no_findings():
    assert examined({"count": count}, iterations=40).findings == []


@pytest.mark.parametrize("scope", ["episodic", "first_visit"])
def test_an_episodic_count_of_a_policy_that_stopped_exploring_has_no_findings(scope):
    run = make({"count": lambda vec: HashCount(vec.obs_space, scope=scope)}, vec=Chain(N, length=3))
    run.learner.lr = 3e-3
    seen = run_diagnostics(run, total_steps=10**6, iterations=40)
    assert run.session.episodes.metrics()["rollout/return_mean"] > 0.9
    assert seen.findings == []


# --- planted defects


def test_a_constant_bonus_is_found():
    assert kinds(examined({"flat": own("constant"), "count": count})) == {("flat", "constant")}
    assert kinds(examined({"flat": own("fading", novelty=True)})) == {("flat", "constant")}


def test_a_dead_module_is_found():
    assert kinds(examined({"none": own("silent"), "count": count})) == {("none", "dead")}
    zero = {"count": Term(weight=0.0)}
    assert kinds(examined({"count": count}, zero)) == {("count", "dead")}
    clipped = {"count": Term(clip=0.0)}
    assert kinds(examined({"count": count}, clipped)) == {("count", "dead")}


def test_a_module_that_never_reaches_the_policy_is_found():
    class Deaf(Sum):
        def __call__(self, scaled, weight):
            return super().__call__({"reward": scaled["reward"]}, weight)

    seen = examined({"count": count}, combine=Deaf())
    assert kinds(seen) == {("count", "dead")}
    assert seen.first == seen.evidence["count"].without
    assert "the same without it" in seen.findings[0].sentence


def test_an_exploding_scale_is_found():
    seen = examined({"grows": own("growing"), "count": count})
    assert ("grows", "exploding") in kinds(seen)
    assert not any(source == "count" for source, _ in kinds(seen))
    seen = examined({"loud": own("loud"), "count": count})
    assert ("loud", "exploding") in kinds(seen)


def test_a_bonus_that_becomes_infinite_is_found():
    seen = examined({"endless": own("endless"), "count": count})
    assert ("endless", "exploding") in kinds(seen)
    (finding,) = [f for f in seen.findings if f.kind == "exploding"]
    assert "bonus 'endless' of environment" in finding.sentence


@pytest.mark.parametrize("length", [2, 12])
def test_a_drowned_task_reward_is_found_with_and_without_a_success(length):
    loud = {"count": Term(weight=3000.0)}
    seen = examined({"count": count}, loud, vec=Chain(N, length=length))
    assert kinds(seen) == {("reward", "drowned")}
    (finding,) = seen.findings
    assert "'count' drowns it" in finding.sentence
    assert ("none yet" in finding.sentence) == (length == 12)


def test_a_drowned_module_is_found():
    faint = {"count": Term(weight=1e-7)}
    assert kinds(examined({"count": count, "rnd": rnd}, faint)) == {("count", "drowned")}


def test_a_bonus_that_does_not_fall_with_visits_is_found_if_declared_as_novelty():
    for rule in ("noise", "familiar"):
        seen = examined({"odd": own(rule, novelty=True)})
        assert kinds(seen) == {("odd", "not novel")}
        assert examined({"odd": own(rule)}).findings == []


def test_a_weight_that_starts_at_0_is_not_a_defect():
    later = {"count": Term(weight=Linear(0.0, 0.01, begin=0.5, finish=0.6))}
    seen = examined({"count": count}, later)
    assert seen.findings == []
    assert seen.evidence["count"].counted == []


# --- the evidence


@pytest.mark.parametrize("combine", [Sum, Heads])
def test_the_first_update_equals_that_of_the_run(combine):
    def after_one(weight):
        run = make({"count": count}, {"count": Term(weight=weight)}, combine=combine())
        run.run(N * T)
        return digest(run.policy)

    seen = examined({"count": count}, {"count": Term(weight=0.3)}, combine=combine())
    assert seen.first == after_one(0.3)
    assert seen.evidence["count"].without == after_one(0.0)
    assert after_one(0.0) != after_one(0.3)


def test_recording_a_run_does_not_change_it():
    watched, alone = (make({"count": count, "rnd": rnd}) for _ in range(2))
    seen = run_diagnostics(watched, total_steps=10**6, iterations=4)
    alone.run(seen.steps)
    assert watched.session.steps == alone.session.steps
    one, two = (copy.deepcopy(run.session.state_dict()) for run in (watched, alone))
    one.pop("policy_spec"), two.pop("policy_spec")
    for part in ("learner", "modules", "mixer"):
        torch.testing.assert_close(one[part], two[part], rtol=0, atol=0)


def test_diagnostics_without_time_still_run_four_iterations():
    run = make({"count": count})
    seen = run_diagnostics(run, total_steps=10**6, seconds=0)
    assert len(seen.evidence["count"].sizes) == 4
    assert seen.steps == 4 * N * T


def test_rank_correlation_equals_its_definition():
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


# --- the diagnosis


def sizes(paid=0.1, *, low=0.0, high=1.0, often=1.0, weight=1.0):
    """Make sizes of a source with reward `paid` in a share `often` of the rows."""
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
def test_each_finding_follows_from_the_evidence(seen, kind):
    findings = diagnose({"reward": RARE, "a": seen, "b": HEALTHY}, "a")
    assert [finding.kind for finding in findings] == ([] if kind is None else [kind])
    assert all(finding.source == "a" for finding in findings)


def test_a_rare_task_reward_is_not_drowned():
    (share, *_) = shares_of({"reward": RARE, "a": HEALTHY})
    assert share == pytest.approx({"reward": 0.5, "a": 0.5})  # one reward of 1, ten of 0.1
    dense = Evidence(1.0, [sizes(1.0)] * 2, horizon=100.0)
    (share, *_) = shares_of({"reward": dense, "a": HEALTHY})
    assert share["reward"] == pytest.approx(100 / 101)


def test_a_task_with_weight_0_is_not_drowned():
    ignored = Evidence(0.0, [None] * 4)
    assert diagnose({"reward": ignored, "a": HEALTHY}) == []


def test_a_reward_that_is_not_finite_is_exploding():
    broken = Evidence(1.0, error="reward of environment 0 is nan")
    assert diagnose({"reward": broken}) == [Finding("reward", "exploding", broken.error)]
