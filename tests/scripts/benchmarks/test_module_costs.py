"""Costs of reward modules: ours, and a peer's on the same rollout."""

import dataclasses

import numpy as np
import pytest
import torch

from firstlight.envs import minigrid
from firstlight.envs.vector.envpool import EnvPoolVec
from firstlight.scripts.benchmarks import modules, results

TASK = "MiniGrid-Empty-5x5-v0"


SMALL = {
    "grid": (TASK, lambda task: minigrid.make(task, num_envs=4)),
    "pixels": ("Pong-v5", lambda task: EnvPoolVec(task, num_envs=2)),
}
"""Small rollouts instead of those that measurements use."""


@pytest.fixture(scope="module")
def rollouts():
    """The small rollouts, collected once."""
    assert SMALL.keys() == modules.CASES.keys()
    return {name: modules.collect(make(task), task, 4) for name, (task, make) in SMALL.items()}


@pytest.fixture
def cases(rollouts, monkeypatch):
    """The small rollouts; measurements collect and repeat as little."""
    monkeypatch.setattr(modules, "CASES", SMALL)
    monkeypatch.setattr(modules, "NUM_STEPS", 4)
    monkeypatch.setattr(modules, "SECONDS", 0.0)
    return rollouts


def contents(value):
    """Copy all tensors inside a value."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: contents(item) for name, item in value.items()}
    return value


def fields(rollout):
    return {f.name: contents(getattr(rollout, f.name)) for f in dataclasses.fields(rollout)}


@pytest.mark.parametrize("name", [n for n, row in modules.ROWS.items() if row.make is not None])
def test_measuring_a_module_does_not_change_the_rollout(name, cases):
    row = modules.ROWS[name]
    case = cases[row.case]
    before = fields(case.rollout)
    costs = modules.cost(row.make(case), case.rollout, seconds=0.0)
    assert set(costs) == {"compute", "update", "mixer"}
    assert all(us > 0 for us in costs.values())
    torch.testing.assert_close(fields(case.rollout), before, rtol=0, atol=0, equal_nan=True)


def test_ours_and_the_peer_are_compared_round_by_round(cases, monkeypatch):
    calls = []

    def peer(words):
        calls.append(words)
        return {"us": 10.0 * len(calls)}

    monkeypatch.setattr(modules, "peer_python", lambda venv: f"{venv}/bin/python")
    monkeypatch.setattr(modules, "run_script", peer)
    modules.measure(rounds=3, peers="peers", only="batches of 256, equal")
    lines = {line["row"]: line for line in results.read("modules")}
    assert set(lines) == {f"rnd, batches of 256, equal {what}" for what in ("widths", "work")}
    for i, line in enumerate(lines.values()):
        assert line["peer_us"] == [10.0 * (1 + i), 10.0 * (3 + i), 10.0 * (5 + i)]
        ours = [line[f"{part}_us"] for part in ("compute", "update", "mixer")]
        totals = [sum(parts) for parts in zip(*ours, strict=True)]
        assert line["ratio"] == pytest.approx(
            [theirs / total for theirs, total in zip(line["peer_us"], totals, strict=True)]
        )
        assert line["peer_command"] == "python -P rllte_modules.py grid.npz rnd 256 0.0"
    assert all(words[0] == "peers/bin/python" for words in calls)


def test_without_peers_only_ours_are_measured(cases):
    modules.measure(rounds=1, peers="none", only="count")
    lines = results.read("modules")
    ours = [name for name, row in modules.ROWS.items() if "count" in name and row.make is not None]
    assert [line["row"] for line in lines] == ours
    assert not any("peer" in key or key == "ratio" for line in lines for key in line)


@pytest.mark.parametrize(("case", "shape"), [("grid", (4, 4, 147)), ("pixels", (4, 2, 1, 84, 84))])
def test_a_peer_gets_the_field_that_our_modules_read(case, shape, cases, here):
    modules.save(cases[case], here / "rollout.npz")
    rollout, saved = cases[case].rollout, np.load(here / "rollout.npz")
    for name, obs in (("observations", rollout.obs), ("next_observations", rollout.next_obs())):
        field = obs["image"][:4].flatten(2) if case == "grid" else obs["obs"][:4, :, -1:]
        assert saved[name].shape == shape
        assert (saved[name] == field.numpy()).all()
    assert (saved["actions"] == rollout.action.numpy()).all()
    assert saved["num_actions"] == cases[case].act_space.n
