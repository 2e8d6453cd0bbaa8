"""A run of a version with other defaults goes on with its own."""

import torch
from command_line import command
from omegaconf import OmegaConf

from firstlight.agents import load
from firstlight.scripts import train

SMALL = (
    *("env=gym", "env.id=CartPole-v1", "env.num_envs=2", "trainer.num_steps=16", "eval_every=null"),
    *("intrinsic=[]", "eval_episodes=1", "run_dir=run", "learner.num_epochs=1"),
)
AUTO = "firstlight.networks.encoders.auto"


def normaliser(run):
    """Of the first layer's inputs, or None."""
    return load(run, which="newest").policy.encoder.flat.normaliser


def test_a_run_whose_default_encoder_did_not_normalise_goes_on_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(train.main, *SMALL, f"encoder._target_={AUTO}", "total_steps=64")
    assert done.status == 0, done.err
    assert normaliser("run") is None
    done = command(train.main, *SMALL, "total_steps=128", "resume=auto")
    assert done.status == 0, done.err
    assert normaliser("run") is None
    assert OmegaConf.load("run/config.yaml").encoder._target_ == AUTO


def test_a_new_run_normalises_fields_of_floats(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(train.main, *SMALL, "total_steps=64")
    assert done.status == 0, done.err
    assert torch.isfinite(normaliser("run").scale).all()
    assert (normaliser("run").scale != 1).any()
    done = command(train.main, *SMALL, "total_steps=128", "resume=auto")
    assert done.status == 0, done.err
