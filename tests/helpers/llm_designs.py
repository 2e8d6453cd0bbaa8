"""A task, recorded answers of a language model, and results, for tests of designers."""

import json

import numpy as np
from gymnasium import spaces

from firstlight.intrinsic.design.designers.base import (
    LENGTH,
    REFUSED,
    RETURN,
    TRAINED,
    DesignTask,
    ProgramResult,
)
from firstlight.intrinsic.design.designers.icpl import ICPL
from firstlight.intrinsic.design.designers.text2reward import Text2Reward
from firstlight.intrinsic.design.designers.text_models import ReplayModel
from firstlight.intrinsic.design.lint import ProgramError
from firstlight.intrinsic.design.program import RewardProgram

TASK = DesignTask(
    goal="open the red door",
    obs_space=spaces.Dict({"obs": spaces.Box(0, 1, (4,), np.float32)}),
    info_space=spaces.Dict({"position": spaces.Discrete(9)}),
    act_space=spaces.Discrete(2),
    samples={"info/position": np.array([1, 5])},
    notes="The door is at position 8.",
    max_steps=40,
)


def source(number=0, components=("a",)):
    ranges = ", ".join(f'"{name}": (-1, 1)' for name in components)
    values = ", ".join(f'"{name}": {number} * action' for name in components)
    return (
        f"import numpy as np\nRANGES = {{{ranges}}}\n"
        f"def reward(obs, action, next_obs, info, memory):\n    return {{{values}}}\n"
    )


def answer(number=0, components=("a",)):
    return f"I pay the action.\n```python\n{source(number, components)}```\nDone."


BROKEN = {
    "syntax error": "```python\ndef reward(:\n```",
    "wrong signature": "```python\nRANGES = {'a': (0, 1)}\ndef reward(obs):\n    return {}\n```",
    "no code": "I cannot do that.",
    "forbidden import": answer().replace("import numpy as np", "import os"),
    "empty": "",
}


def judged(proposals, scores=None, **more):
    """Results as the search gives them: refused by form, else trained with the next score."""
    scores, results = iter(scores or []), []
    for proposal in proposals:
        try:
            RewardProgram.parse(proposal.source)
        except ProgramError as error:
            results.append(ProgramResult(proposal, 0, REFUSED, str(error)))
            continue
        score = next(scores, 0.0)
        curves = {"a": [0.0, score], RETURN: [0.0, score], LENGTH: [40.0, 20.0]}
        results.append(
            ProgramResult(
                proposal, 0, TRAINED, score=score, steps=1000, **{"curves": curves, **more}
            )
        )
    return results


def text(designer_or_model):
    """Everything that was asked in the last question."""
    model = getattr(designer_or_model, "model", designer_or_model)
    return "\n".join(message["content"] for message in model.asked[-1][0])


def restored(designer, make):
    """The same designer in a new process: through JSON."""
    other = make(ReplayModel(designer.model.answers))
    other.load_state_dict(json.loads(json.dumps(designer.state_dict())))
    return other


MAKE = {
    "text2reward": lambda model: Text2Reward(model, samples=2, max_repeats=2),
    "icpl": lambda model: ICPL(model, samples=2, rounds=2, max_repeats=2),
}
