"""Training in two processes equals training in one with all the environments."""

import pytest
from ranks import results

from firstlight.agents.algorithms.appo import APPO
from firstlight.agents.algorithms.auxiliaries.rapid import Rapid
from firstlight.agents.algorithms.ppo import PPO
from firstlight.agents.algorithms.subpo import SubPO
from firstlight.agents.async_trainer import AsyncTrainer
from firstlight.agents.learner import check_learner
from firstlight.agents.policy import ActorCritic
from firstlight.agents.session.run_session import RunSession
from firstlight.envs.worlds.chain import Chain
from firstlight.networks import collective
from firstlight.networks.encoders import MLP


@pytest.fixture(scope="module", params=["discrete", "recurrent", "continuous"])
def found(request):
    return results("split_training:split_training", request.param)


def test_two_processes_end_in_the_state_of_one(found):
    for each in found:
        assert each["number"] > 40
        assert max(each["away"].values()) < 1e-5, each["away"]


def test_both_processes_hold_the_same_numbers_bit_for_bit(found):
    assert not any(each["ranks_differ"] for each in found)


def test_visits_of_both_are_counted_in_one_table(found):
    ours, alone = found[0]["rank_0"]["counts"]
    assert len(alone) > 3
    assert ours == alone


def test_steps_and_metrics_are_those_of_all_environments(found):
    rollouts, steps, alone = found[0]["rank_0"]["rollout"]
    assert rollouts > 1
    assert steps == alone
    of_both, of_one = found[0]["rank_0"]["metrics"]
    assert len(of_both) == len(of_one)
    for ours, wanted in zip(of_both[1:], of_one[1:], strict=True):  # after the warm-up
        names = [name for name in wanted if not name.startswith("perf/")]
        # rows with a ratio above 1, which without a lag is 1 but for rounding
        names = [n for n in names if "correlation" not in n and n != "train/rho_clipped"]
        assert len(names) > 12
        assert {name: ours[name] for name in names} == pytest.approx(
            {name: wanted[name] for name in names}, rel=1e-3, abs=1e-4, nan_ok=True
        )


def test_unusable_rows_of_one_process_change_no_number_of_steps():
    first, second = results("uneven_training:uneven_training")
    assert first["sums"] == second["sums"]
    assert first["skipped"] == second["skipped"] == 1  # both skip the rollout of the NaN
    updates = first["rollouts"] - 2  # without the warm-up and that rollout
    assert first["gradient_steps"] == updates * 3 * round(64 / 12)


def test_every_bonus_keeps_only_the_memory_of_its_episodes_for_itself():
    own = ("/memory.", "/visits.", "/queue.", "/trajectory", ".returns")
    for each in results("every_bonus:every_bonus"):
        assert each["number"] > 500
        assert [name for name in each["differing"] if not any(part in name for part in own)] == []
        assert each["differing"]  # the environments of the two did differ


@pytest.fixture
def in_two_processes(monkeypatch):
    monkeypatch.setattr(collective, "size", lambda: 2)


def make_policy(vec):
    return ActorCritic(vec.obs_space, vec.act_space, encoder=MLP(vec.obs_space))


@pytest.mark.usefixtures("in_two_processes")
def test_a_learner_that_does_not_exchange_gradients_is_refused():
    policy = make_policy(Chain(2))
    with pytest.raises(ValueError, match="SubPO learns in one process, and this run has 2"):
        check_learner(SubPO(policy), 16, 2)
    with pytest.raises(ValueError, match="object learns in one process"):
        check_learner(object(), 16, 2)
    for learner in (PPO(policy), APPO(policy)):
        assert not check_learner(learner, 16, 2)


@pytest.mark.usefixtures("in_two_processes")
def test_gradient_steps_of_one_process_alone_are_refused():
    vec = Chain(2)
    learner = PPO(make_policy(vec), auxiliaries=[Rapid(vec.obs_space)])
    with pytest.raises(ValueError, match="an auxiliary takes gradient steps of its own"):
        check_learner(learner, 16, 2)


@pytest.mark.usefixtures("in_two_processes")
def test_options_that_several_processes_cannot_keep_are_refused():
    vec = Chain(2)
    with pytest.raises(ValueError, match="2 processes does not resume bit for bit"):
        RunSession(None, vec, barrier=True)
    with pytest.raises(ValueError, match="when_full is drop_oldest, but 2 processes"):
        AsyncTrainer(vec, APPO(make_policy(vec)), when_full="drop_oldest")


@pytest.mark.usefixtures("in_two_processes")
def test_sizes_are_those_of_all_processes():
    learner = PPO(make_policy(Chain(2)), minibatch_size=64, num_epochs=3)
    assert learner.gradient_steps(16, 4) == 3 * 2  # of 16 * 4 * 2 rows
