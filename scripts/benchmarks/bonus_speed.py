"""Measure training steps per second with each bonus relative to plain PPO, alternating."""

from __future__ import annotations

import os
import statistics

import torch

from firstlight.scripts.benchmarks.results import append, commit, hardware
from firstlight.scripts.benchmarks.schedules import make, speed
from firstlight.scripts.errors import BadInputError, suggestion

ENVIRONMENT = "minigrid/doorkey_8x8"
PLAIN = "ppo"
BONUSES: dict[str, list[str]] = {
    **{
        name: [f"intrinsic=[{name}]"]
        for name in (
            *("count", "rnd", "drnd", "icm", "disagreement", "re3", "pseudo_counts", "ride"),
            *("ngu", "e3b", "noveld", "deir", "etd"),
        )
    },
    "agac": ["experiment=agac"],
    "e3b_rnd": ["experiment=e3b_rnd"],
    "e3b_noveld": ["experiment=e3b_noveld"],
}
"""Row to overrides of ``firstlight-train``."""
SETTLED = 3
"""Iterations that are not counted, because they compile kernels."""


def measure(*, rounds: int, steps: int, only: str = "") -> None:
    """Train plain PPO and then with a bonus, for each bonus in each round; append a line for each.

    Args:
        rounds: how often.
        steps: environment steps of training of each row and round.
        only: part of a name; the rows with it are measured.
    """
    names = [name for name in BONUSES if only in name]
    if not names:
        raise BadInputError(f"no bonus has {only!r} in its name{suggestion(only, BONUSES)}")
    torch.set_num_threads(1)
    plain = make(ENVIRONMENT, ["intrinsic=[]"])
    iterations = max(1, round(steps / plain.num_steps / plain.vec.num_envs))
    speed(plain, SETTLED)
    for name in names:
        trainer = make(ENVIRONMENT, BONUSES[name])
        speed(trainer, SETTLED)
        pairs = [
            (speed(trainer, iterations)[0], speed(plain, iterations)[0]) for _ in range(rounds)
        ]
        trainer.vec.close()
        ratios = [own / other for own, other in pairs]
        line = {
            "row": name,
            "steps_per_second": [round(own) for own, _ in pairs],
            "plain": [round(other) for _, other in pairs],
            "ratio": [round(ratio, 3) for ratio in ratios],
            "load_average": round(os.getloadavg()[0], 1),
            "command": f"firstlight-bench bonuses rounds={rounds} steps={steps}",
        }
        append("bonus_speed", {**line, "commit": commit(), "hardware": hardware()})
        print(f"{name:15s} {statistics.median(ratios):.2f} of plain PPO", flush=True)
    plain.vec.close()
