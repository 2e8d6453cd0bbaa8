"""Tasks for designers, programs, trainings that are only made up, and searches in forks."""

import torch

from firstlight.envs import Chain
from firstlight.envs.runner import RandomActor, Runner
from firstlight.intrinsic.design.design_search import ProgramCheck, TrainedProgram
from firstlight.intrinsic.design.designers.base import (
    LENGTH,
    RETURN,
    TRAINED,
    DesignTask,
    ProgramResult,
    Proposal,
)
from firstlight.scripts import design
from firstlight.scripts.sweeps import runner

GOOD = """
RANGES = {"forward": (-100, 100)}
def reward(obs, action, next_obs, info, memory):
    return {"forward": NUMBER * (next_obs["obs"].argmax(-1) - obs["obs"].argmax(-1))}
"""
NO_PYTHON = "RANGES = {\ndef reward("
WRONG_SIGNATURE = "RANGES = {'a': (0, 1)}\ndef reward(obs, action):\n    return {'a': 0}\n"
IMPORTS = "import os\n" + GOOD
PROSE = "I am sorry, but I cannot write that."


def good(number=1):
    """A program that works; each number gives another."""
    return GOOD.replace("NUMBER", repr(float(number)))


def fenced(source):
    """An answer of a model that holds a program."""
    return f"It pays progress.\n```python\n{source}```\nThat is all."


def record(vec=None, steps=64, goal="reach the end", seed=0):
    """Play with random actions: the task, and the rollout."""
    vec = vec or Chain(4, length=4)
    rollout = Runner(vec, seed=seed).collect(RandomActor(vec.act_space), steps)
    groups = {"obs": rollout.obs, "info": rollout.info, "": {"action": rollout.action}}
    samples = {
        f"{group}/{name}".strip("/"): torch.flatten(field, 0, 1).numpy()
        for group, fields in groups.items()
        for name, field in fields.items()
    }
    task = DesignTask(goal, vec.obs_space, vec.info_space, vec.act_space, samples)
    return task, rollout


def result(source, score=0.0, round=0, verdict=TRAINED, **fields):
    """The result of a program that was not really trained with."""
    return ProgramResult(Proposal(source, "hand"), round, verdict, score=score, **fields)


def passes(program):
    """A check that finds nothing."""
    return ProgramCheck(figures={"components": float(len(program.ranges))})


def made_up(score, trained=None):
    """A `Train` that gives each program the score that a function has for its source."""

    def train(programs):
        if trained is not None:
            trained.extend(programs)
        return {
            name: TrainedProgram(
                score=score(program.source),
                training_return=0.0,
                steps=100,
                curves={RETURN: [0.0, 0.5], LENGTH: [9.0, 8.0], "forward": [0.25, 0.75]},
            )
            for name, program in programs.items()
        }

    return train


def forking_design():
    """``firstlight-design``, whose trainings are forks: each saves the import of torch."""
    from trainings import ForkedProcess

    runner.Popen = ForkedProcess
    design.main()
