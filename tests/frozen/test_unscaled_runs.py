"""A run of a policy that did not scale its actions: it acts, goes on and is described as before."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from command_line import command
from omegaconf import OmegaConf

from firstlight.agents import load
from firstlight.agents.session.run_directory import checkpoint
from firstlight.scripts import train

RUN = Path(__file__).parent / "run_format_2"
"""Pendulum, with actions between -2 and 2; saved before policies scaled actions."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(RUN, "run"))


def test_its_policy_acts_as_it_was_trained(run):
    agent = load(run)
    assert agent.policy.init_kwargs["scale_actions"] is False
    assert agent.policy.encoder.init_kwargs["scale_bytes"] is False
    assert agent.policy.encoder.init_kwargs["normalize_obs"] is False
    assert agent.policy.init_kwargs["normalize_value"] == "none"
    obs = np.array([0.5, -0.5, 1], np.float32)
    action, _ = agent.act(obs, deterministic=True)
    with torch.no_grad():
        features = agent.policy.encoder({"obs": torch.from_numpy(obs)[None]})
        output = agent.policy.policy_head(features)[0]
    np.testing.assert_allclose(action, output.clamp(-2, 2).numpy(), rtol=1e-6)


def resume(run, *words):
    before = json.loads((RUN / "command.json").read_text())
    return command(train.main, *before, "run_dir=run", "resume=auto", *words)


def test_it_goes_on_as_it_would_have(run):
    """Parameters after eight more iterations are those of the code that began the run."""
    done = resume(run)
    assert done.status == 0, done.err
    config = OmegaConf.load(run / "config.yaml")
    assert config.policy.scale_actions is config.encoder.scale_bytes is False
    assert config.encoder.normalize_obs is False
    assert config.policy.normalize_value == config.learner.lr_decay == "none"
    newest = checkpoint.newest(run / "checkpoints")
    assert newest.name == "step_000000000512"
    saved = safetensors.torch.load_file(newest / "tensors.safetensors")
    for name, wanted in safetensors.torch.load_file(RUN / "resumed.safetensors").items():
        torch.testing.assert_close(saved[name], wanted, atol=1e-4, rtol=1e-3)
    again = resume(run, "total_steps=576")  # by then the option is in the run's config
    assert again.status == 0, again.err
    assert load(run, which="newest").policy.init_kwargs["scale_actions"] is False


def test_asking_for_scaling_when_it_is_resumed_is_refused(run):
    done = resume(run, "policy.scale_actions=true")
    assert done.status == 2
    assert "policy.scale_actions=False is now True" in done.err
    assert resume(run, "policy.scale_actions=false").status == 0


def test_giving_it_a_memory_when_it_is_resumed_is_refused(run):
    done = resume(run, "core=gru")
    assert done.status == 2
    assert "core._target_=firstlight.networks.Feedforward is now" in done.err


def test_a_subclass_without_a_constructor_is_upgraded_too():
    spec = checkpoint.policy_spec(next((RUN / "checkpoints").iterdir()))
    new = ("scale_actions", "normalize_value", "squash", "state_dependent_std")
    kwargs = {k: v for k, v in spec["kwargs"].items() if k not in new}
    old = {"policy_spec": {"target": "theirs.Policy", "kwargs": kwargs}}
    assert checkpoint.upgraded(old, 2)["policy_spec"]["kwargs"]["scale_actions"] is False
    discrete = {**kwargs, "act_space": {"space": "Discrete", "n": 2, "start": 0}}
    old = {"policy_spec": {"target": "theirs.Policy", "kwargs": discrete}}
    assert "scale_actions" not in checkpoint.upgraded(old, 2)["policy_spec"]["kwargs"]
