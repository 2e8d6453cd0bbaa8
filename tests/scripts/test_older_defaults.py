"""A run of a version with other defaults goes on with its own."""

import numpy as np
import torch
from command_line import command
from gymnasium import spaces
from omegaconf import OmegaConf

from firstlight.agents import load
from firstlight.networks.encoders import MLP, NetHack, SparseNetHack, TwinMLP
from firstlight.networks.spec import describe
from firstlight.scripts import train
from firstlight.scripts.build import make_encoder

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


def test_a_run_with_another_number_of_environments_goes_on_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(train.main, *SMALL, "total_steps=64")
    assert done.status == 0, done.err
    unnamed = [word for word in SMALL if not word.startswith("env.num_envs")]
    done = command(train.main, *unnamed, "total_steps=128", "resume=auto")
    assert done.status == 0, done.err
    assert OmegaConf.load("run/config.yaml").env.num_envs == 2
    done = command(train.main, *unnamed, "env.num_envs=3", "total_steps=192", "resume=auto")
    assert done.status == 2
    assert "env.num_envs=2 is now 3" in done.err


def test_a_run_on_nethack_goes_on_with_the_encoder_that_it_began_with():
    fields = {
        "glyphs": spaces.Box(0, 5976, (21, 79), np.int16),
        "blstats": spaces.Box(-(2**31), 2**31 - 1, (27,), np.int64),
    }
    obs_space = spaces.Dict(fields)
    config = OmegaConf.create({"_target_": "firstlight.networks.encoders.auto_normalized"})
    options = {"obs_space": obs_space, "act_space": spaces.Discrete(2)}
    saved = describe(NetHack(obs_space))
    assert type(make_encoder(config, saved, **options)) is NetHack
    assert type(make_encoder(config, None, **options)) is SparseNetHack


def test_continuous_actions_have_an_encoder_each_and_ten_epochs_without_a_bonus(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pendulum = ["env=gym", "env.id=Pendulum-v1", "env.num_envs=2", "trainer.num_steps=32"]
    words = [*pendulum, "total_steps=64", "eval_episodes=1", "eval_every=null"]
    for bonus, encoder, steps in (("[]", TwinMLP, 10), ("[count]", MLP, 4)):
        done = command(train.main, *words, f"intrinsic={bonus}", f"run_dir=run-{steps}")
        assert done.status == 0, done.err
        assert f"takes {steps} gradient steps" in done.err + done.out
        assert type(load(f"run-{steps}", which="newest").policy.encoder) is encoder
