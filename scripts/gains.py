"""What a trained policy's episodes are worth to a run's submodular reward, in any environment."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from firstlight.scripts.errors import BadInputError

if TYPE_CHECKING:
    from torch import Tensor


def gained(run: Path, episodes: int, seed: int) -> Tensor:
    """F of an episode less that of its start, by the newest checkpoint of `run`.

    Marginal gains add up to it, also where the run was paid otherwise (`modular`).

    Args:
        run: its directory.
        episodes: how many, each in an environment of its own.
        seed: of environments and actions.

    Returns:
        [episodes] float64.

    Raises:
        BadInputError: for a run without a submodular reward.
    """
    import torch

    from firstlight.agents.evaluation import frozen
    from firstlight.envs.runner import Runner
    from firstlight.intrinsic import Submodular
    from firstlight.scripts.build import make_modules
    from firstlight.scripts.evaluate import read_config
    from firstlight.scripts.paths import newest

    vec, policy = newest(run, episodes)
    modules, vec = make_modules(read_config(run, ()).intrinsic, vec, seed)
    module = next((m for m in modules.values() if isinstance(m, Submodular)), None)
    if module is None:
        raise BadInputError(f"{run} is no run with a submodular reward")
    module.modular = False
    worth, playing = torch.zeros(episodes, dtype=torch.float64), torch.ones(episodes).bool()
    runner = Runner(vec, seed=seed)
    with frozen(policy):
        while playing.any():
            rollout = runner.collect(policy, 100)
            over = (rollout.terminated | rollout.truncated).int()
            first = over.cumsum(0) == over  # rows of the episode that was open, its last included
            worth += (module.compute(rollout) * (first & playing)).sum(0)
            playing &= ~over.any(0)
    vec.close()
    return worth


def measure(run: Path) -> dict[str, Any]:
    """What a learning table says of a run: 100 episodes on a seed that it has not seen.

    Returns:
        `value`, the mean of F less that of the start, and with marginal gains the `curve` of it in
        training (else the reward is no F, and there is none). That is an estimate, the gain of a
        step times the steps of an episode, each a mean over a twentieth of the run: a rollout may
        be much shorter than an episode.
    """
    from firstlight.envs.seeding import derive
    from firstlight.scripts.evaluate import read_config

    config = read_config(run, ())
    worth = gained(run, 100, derive(config.seed, "evaluate"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    raw, length = "reward/submodular/raw", "rollout/length_mean"
    known = [(e["step"], e[raw], e[length]) for e in lines if raw in e and length in e]
    size, curve = -(-len(known) // 20), []
    for part in (known[i : i + size] for i in range(0, len(known), size or 1)):
        steps, gains, lengths = zip(*part, strict=True)
        curve.append([steps[-1], round(fmean(gains) * fmean(lengths), 4)])
    modular = config.intrinsic.submodular.get("modular")
    return {"value": float(worth.mean()), "curve": [] if modular else curve}
