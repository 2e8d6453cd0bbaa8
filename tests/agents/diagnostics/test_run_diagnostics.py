"""Diagnostics of joined sources and normalised streams, where sizes alone are no measure."""

import pytest
import torch

from firstlight.agents import MLP, PPO, ActorCritic, Trainer, run_diagnostics
from firstlight.envs import Chain
from firstlight.intrinsic import RND, HashCount, Heads, RewardMixer, Term
from firstlight.intrinsic.mixer import Krc, Lagrangian, Product

N, T = 16, 32


def examined(combine, *, count=1.0, rnd=1.0, length=3):
    """Return the findings of a short run with these weights."""
    vec = Chain(N, length=length)
    modules = {
        "count": HashCount(vec.obs_space),
        "rnd": RND(vec.obs_space, embedding_dim=32, warmup_steps=64),
    }
    terms = {"count": Term(weight=count), "rnd": Term(weight=rnd)}
    mixer = RewardMixer(terms, combine)
    torch.manual_seed(0)
    encoder = MLP(vec.obs_space, hidden=(16,))
    streams = mixer.num_streams
    policy = ActorCritic(vec.obs_space, vec.act_space, encoder=encoder, num_streams=streams)
    learner = PPO(policy, minibatch_size=128, num_epochs=2)
    run = Trainer(vec, learner, modules, mixer, num_steps=T)
    seen = run_diagnostics(run, total_steps=10**6, iterations=6)
    return {(finding.source, finding.kind) for finding in seen.findings}


@pytest.mark.parametrize("make", [Product, Krc])
def test_factors_of_a_product_have_no_findings_whatever_their_units(make):
    assert examined(make(), count=1e-3, rnd=1e3) == set()


@pytest.mark.parametrize("make", [Product, Krc])
def test_joined_bonuses_drown_the_task_or_are_all_drowned(make):
    assert ("reward", "drowned") in examined(make(), count=1e5, rnd=1e5)
    faint = examined(make(), count=1e-7, rnd=1e-7)
    assert faint == {("count", "drowned"), ("rnd", "drowned")}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Heads(normalize=True),
        lambda: Lagrangian(thresholds={"count": 1.0}),
    ],
)
@pytest.mark.parametrize("length", [3, 12])
def test_normalised_streams_are_judged_by_their_weights(make, length):
    assert examined(make(), count=0.3, rnd=0.2, length=length) == set()
    assert ("count", "drowned") in examined(make(), count=1e-4, length=length)
    assert ("reward", "drowned") in examined(make(), rnd=1e3, length=length)
