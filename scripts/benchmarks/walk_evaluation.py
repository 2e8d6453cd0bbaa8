"""Evaluate trained policies on `Walks`: values of their walks, and reference values."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstlight.scripts.errors import BadInputError

if TYPE_CHECKING:
    from torch import Tensor

    from firstlight.agents.policy import Policy
    from firstlight.envs.worlds.walks import Walks
    from firstlight.intrinsic import Submodular


@dataclass(frozen=True)
class PolicyWalks:
    """Walks of a policy.

    Args:
        vec: the environments.
        module: the submodular reward.
        items: [cells, *item], the item of every cell.
        cells: [E, H] int64, the walks.
    """

    vec: Walks
    module: Submodular
    items: Tensor
    cells: Tensor

    def values(self) -> Tensor:
        """F of each walk [E], minus that of the start."""
        return (
            self.module.function.value([self.items[walk] for walk in self.cells])
            - self.start_value()
        )

    def start_value(self) -> float:
        """F of the start alone."""
        return float(self.module.function.value([self.items[[self.vec.start]]]))


def walk(vec: Walks, policy: Policy, module: Submodular, seed: int) -> PolicyWalks:
    """Collect one walk of `policy` in each of the environments `vec`."""
    import torch

    from firstlight.agents.evaluation import frozen
    from firstlight.envs.runner import Runner

    with frozen(policy):
        rollout = Runner(vec, seed=seed).collect(policy, vec.horizon)
    start = torch.full((1, vec.num_envs), vec.start)
    cells = torch.cat([start, rollout.next_info()["cell"].cpu()]).T
    every = torch.arange(vec.walls.size)
    x = torch.div(every, vec.height, rounding_mode="floor")
    position = torch.stack([x, every % vec.height], 1)
    return PolicyWalks(vec, module, module.items({"cell": every}, {"position": position}), cells)


def reference_values(walks: PolicyWalks) -> dict[str, float]:
    """Values of the greedy and of the best walk, minus F of the start.

    Returns:
        `greedy_walk`, `bound`, and `optimum` where there are few enough walks to try all.
    """
    import torch

    from firstlight.intrinsic.submodular import LogDet, best_walk, greedy, greedy_walk

    vec, items, function = walks.vec, walks.items, walks.module.function
    free, again = torch.from_numpy(~vec.walls.flatten()), isinstance(function, LogDet)
    where = (function, items, vec.successor, vec.start, vec.horizon)
    found = {
        "greedy_walk": greedy_walk(*where)[1],
        "bound": greedy(function, items[free], vec.horizon + 1, repeats=again).bound,
    }
    with contextlib.suppress(ValueError):  # too many walks
        found["optimum"] = best_walk(*where)[1]
    return {name: value - walks.start_value() for name, value in found.items()}


def measure(run: Path) -> dict[str, Any]:
    """Measure a run for a learning table: 100 walks on a seed that was not trained on.

    Returns:
        `value`, the mean of F minus that of the start; `reference_values`; and `curve`, F in
        training, which is empty if the reward was not the marginal gain of F (`modular`).
    """
    from firstlight.envs.seeding import derive
    from firstlight.envs.worlds.walks import Walks
    from firstlight.scripts.benchmarks.submodular_evaluation import load_for_evaluation
    from firstlight.scripts.saved_run import read_config
    from firstlight.scripts.sweeps.outcome import curve_of

    seed = derive(read_config(run).seed, "evaluate")
    vec, policy, module = load_for_evaluation(run, 100, seed)
    if not isinstance(vec, Walks):
        raise BadInputError(f"{run} is no run on Walks")
    walks = walk(vec, policy, module, seed)
    curve: list[list[float]] = []
    if not walks.module.modular:
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        curve = curve_of(lines, "reward/submodular/raw", walks.vec.horizon)  # a mean over moves
    return {"value": float(walks.values().mean()), **reference_values(walks), "curve": curve}
