"""Sample Factory's APPO, timed; run by the Python of an environment of its own.

Does not import firstlight: ``python sample_factory_appo.py TASK STEPS [key=value]...`` trains on
the CPU with Sample Factory's defaults but for the options given, and prints one JSON object with
the steps and seconds after the first iterations. With the task NetHackScore-v0 the network is
`GlyphNetwork`. A value with spaces is several words: ``encoder_mlp_layers="64 64"``.
"""

import json
import sys
import tempfile
import time

import gymnasium
import minigrid  # noqa: F401  (registers its tasks)
import numpy as np
from glyph_network import GlyphNetwork  # type: ignore[import-not-found]
from sample_factory.algo.runners.runner import AlgoObserver
from sample_factory.algo.utils.context import global_model_factory
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.model.encoder import Encoder
from sample_factory.train import make_runner

WARMUP = 20_000
"""Environment steps that are not counted."""
NETHACK = "NetHackScore-v0"


class FlatView(gymnasium.ObservationWrapper):
    """The symbolic view as 147 numbers."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(0, 255, (147,), np.float32)

    def observation(self, obs):
        return obs["image"].astype(np.float32).ravel()


class Screen(gymnasium.ObservationWrapper):
    """NetHack's glyphs and status line as float32, which Sample Factory asks for."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        shapes = {"glyphs": (21, 79), "blstats": (27,)}
        self.observation_space = gymnasium.spaces.Dict(
            {
                key: gymnasium.spaces.Box(-1e9, 1e9, shape, np.float32)
                for key, shape in shapes.items()
            }
        )

    def observation(self, obs):
        return {key: obs[key].astype(np.float32) for key in self.observation_space.spaces}  # type: ignore[attr-defined]


class GlyphEncoder(Encoder):
    """`GlyphNetwork` as Sample Factory's encoder."""

    def __init__(self, cfg, obs_space):
        super().__init__(cfg)
        self.network = GlyphNetwork()

    def forward(self, obs_dict):
        return self.network(obs_dict)

    def get_out_size(self) -> int:
        return self.network.out_dim


def make_env(name: str, cfg=None, env_config=None, render_mode=None) -> gymnasium.Env:
    """Make one environment, as Sample Factory asks for it."""
    if name != NETHACK:
        return FlatView(gymnasium.make(name, render_mode=render_mode))
    import nle  # noqa: F401  (registers its tasks)

    return Screen(gymnasium.make(name, observation_keys=("glyphs", "blstats")))


class StepClock(AlgoObserver):
    """Notes the time of each report of steps."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, int]] = []

    def on_training_step(self, runner, training_iteration_since_resume: int) -> None:
        self.ticks.append((time.perf_counter(), runner.total_env_steps_since_resume or 0))


def main(task: str, steps: int, options: list[str]) -> None:
    """Train, and print one JSON object."""
    register_env(task, make_env)
    if task == NETHACK:
        global_model_factory().register_encoder_factory(GlyphEncoder)
    with tempfile.TemporaryDirectory() as folder:
        words = [f"--env={task}", "--device=cpu", f"--train_dir={folder}", "--experiment=timed"]
        words += [f"--train_for_env_steps={WARMUP + steps}", "--with_wandb=False", "--seed=0"]
        words += ["--normalize_input=False"]
        for option in options:
            key, value = option.split("=", 1)
            words += [f"--{key}", *value.split()]
        parser, _ = parse_sf_args(words)
        _, runner = make_runner(parse_full_cfg(parser, words))
        clock = StepClock()
        runner.register_observer(clock)
        runner.init()
        runner.run()
    counted = [tick for tick in clock.ticks if tick[1] >= WARMUP]
    (began, first), (ended, last) = counted[0], counted[-1]
    print(json.dumps({"steps": last - first, "seconds": ended - began}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
