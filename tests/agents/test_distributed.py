"""Training in two processes equals training in one with all the environments."""

import pytest
from ranks import results


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
    for ours, wanted in zip(*found[0]["rank_0"]["metrics"], strict=True):
        names = [name for name in wanted if name.startswith(("rollout/", "reward/", "train/"))]
        names = [name for name in names if "correlation" not in name]
        assert len(names) > 12
        assert {name: ours[name] for name in names} == pytest.approx(
            {name: wanted[name] for name in names}, rel=1e-3, abs=1e-5
        )
