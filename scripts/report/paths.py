"""Draw the walks of a trained policy: ``python -m firstlight.scripts.report.paths runs/NAME``.

Over the grid, darker where a cell alone is worth more. The mean value of the walks, that of a
greedy walk, a bound that no walk can pass, and on small grids the best walk's are printed as one
JSON object. Of a `Race` it draws where the cars went, and says how many metres they covered; of
other bodies whose items are `Binned`, such as ants, where they went, and what that is worth.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstlight.scripts.errors import BadInputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from firstlight.agents.policy import Policy
    from firstlight.envs.vec import VecEnv
    from firstlight.envs.worlds.race import Race
    from firstlight.envs.worlds.walks import Walks
    from firstlight.intrinsic import Submodular


@dataclass(frozen=True)
class Walked:
    """Walks of a run's policy.

    Args:
        vec: where.
        module: what pays them.
        items: [cells, *item], of every cell.
        cells: [E, H] int64, the walks.
    """

    vec: Walks
    module: Submodular
    items: Tensor
    cells: Tensor

    def worth(self) -> Tensor:
        """F of each walk [E], less that of the start."""
        return self.module.function.value([self.items[walk] for walk in self.cells]) - self.base()

    def base(self) -> float:
        """F of the start alone."""
        return float(self.module.function.value([self.items[[self.vec.start]]]))


def walk(vec: Walks, policy: Policy, module: Submodular, seed: int) -> Walked:
    """Let `policy` walk once in each of the environments `vec`."""
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
    return Walked(vec, module, module.items({"cell": every}, {"position": position}), cells)


def limits(walked: Walked) -> dict[str, float]:
    """What could be had, less F of the start.

    Returns:
        `greedy_walk`, `bound`, and `optimum` where the walks are few enough to try all.
    """
    import torch

    from firstlight.intrinsic.submodular import LogDet, best_walk, greedy, greedy_walk

    vec, items, function = walked.vec, walked.items, walked.module.function
    free, again = torch.from_numpy(~vec.walls.flatten()), isinstance(function, LogDet)
    where = (function, items, vec.successor, vec.start, vec.horizon)
    found = {
        "greedy_walk": greedy_walk(*where)[1],
        "bound": greedy(function, items[free], vec.horizon + 1, repeats=again).bound,
    }
    with contextlib.suppress(ValueError):  # too many walks
        found["optimum"] = best_walk(*where)[1]
    return {name: value - walked.base() for name, value in found.items()}


def measure(run: Path) -> dict[str, Any]:
    """What a learning table says of a run: 100 walks on a seed that it has not seen.

    Returns:
        `value`, the mean of F less that of the start; those of `limits`; and with marginal gains
        the `curve` of F in training (else the reward is no F, and there is none).
    """
    from firstlight.envs.seeding import derive
    from firstlight.envs.worlds.walks import Walks
    from firstlight.scripts.benchmarks.learning import curve_of
    from firstlight.scripts.benchmarks.submodular_evaluation import rated
    from firstlight.scripts.evaluate import read_config

    seed = derive(read_config(run, ()).seed, "evaluate")
    vec, policy, module = rated(run, 100, seed)
    if not isinstance(vec, Walks):
        raise BadInputError(f"{run} is no run on Walks")
    walked = walk(vec, policy, module, seed)
    curve: list[list[float]] = []
    if not walked.module.modular:
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        curve = curve_of(lines, "reward/submodular/raw", walked.vec.horizon)  # a mean over moves
    return {"value": float(walked.worth().mean()), **limits(walked), "curve": curve}


def paths(run: Path, out: Path, episodes: int, seed: int) -> dict[str, Any]:
    """Draw `episodes` of the newest checkpoint of `run` into `out`.

    Returns:
        Values of F, less that of the start: `value_mean`, `value_max`, and of walks those of
        `limits`. Of a race `covered_mean` and `covered_max` in metres, and the `finish`.
    """
    from firstlight.envs.worlds.race import Race
    from firstlight.envs.worlds.walks import Walks
    from firstlight.scripts.benchmarks.submodular_evaluation import gained, rated

    vec, policy, module = rated(run, episodes, seed)
    told: dict[str, Any] = {"episodes": episodes, "picture": str(out)}
    if isinstance(vec, Race):
        return races(vec, policy, out, seed) | told
    if isinstance(vec, Walks):
        walked = walk(vec, policy, module, seed)
        draw(walked, out)
        worth, told = walked.worth(), limits(walked) | told
    else:
        bodies(vec, policy, module, out, seed)
        worth = gained(run, episodes, seed)
    return {"value_mean": float(worth.mean()), "value_max": float(worth.max()), **told}


def draw(walked: Walked, out: Path) -> None:
    """The grid, x to the right and y up, and the walks as lines that do not hide each other.

    Args:
        walked: the walks.
        out: of the picture, PNG.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    vec, cells = walked.vec, walked.cells
    alone = walked.module.function.value([item[None] for item in walked.items])  # [cells]
    width, height = vec.width, vec.height
    scale = 6 / max(width, height)
    figure, axis = plt.subplots(figsize=(max(scale * width, 2) + 0.6, max(scale * height, 2) + 0.6))
    values = np.ma.masked_array(alone.view(width, height).numpy(), vec.walls)
    colours = mpl.colormaps["Greens"].with_extremes(bad="0.35")
    axis.imshow(values.T, origin="lower", cmap=colours, vmin=0, vmax=1.3 * float(alone.max()))
    noise = np.random.default_rng(0)
    for cell in cells.numpy():
        x, y = _aside(np.divmod(cell, height), noise)
        axis.plot(x, y, color="indigo", lw=1.2, alpha=min(1.0, 0.3 + 2 / len(cells)))
    x, y = divmod(vec.start, height)
    axis.plot(x, y, "o", color="tab:red", ms=6)
    axis.set(xticks=[], yticks=[])
    _save(figure, out)


def races(race: Race, policy: Policy, out: Path, seed: int) -> dict[str, Any]:
    """Draw an episode of each car over the road into `out`; a cross where it left the road."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    from firstlight.agents.evaluation import frozen
    from firstlight.envs.runner import Runner

    with frozen(policy):
        rollout = Runner(race, seed=seed).collect(policy, race.horizon)
    info, last = rollout.next_info(), rollout.terminated.int().argmax(0).tolist()
    figure, axis = plt.subplots(figsize=(7, 5))
    along = np.linspace(0, race.track.length, 1000)
    for side in (-race.half_width, race.half_width):
        axis.plot(*race.track.position(along, np.full(1000, side)).T, color="0.5", lw=1)
    for n, end in enumerate(last):
        axis.plot(*info["position"][: end + 1, n].T, color="indigo", lw=1, alpha=0.4)
        if rollout.reward[end, n] < -0.5:
            axis.plot(*info["position"][end, n], "x", color="tab:red", ms=5)
    axis.set(xticks=[], yticks=[], aspect="equal")
    _save(figure, out)
    covered = info["covered"][last, range(race.num_envs)]
    return {
        "covered_mean": float(covered.mean()),
        "covered_max": float(covered.max()),
        "finish": race.finish,
    }


def bodies(vec: VecEnv, policy: Policy, module: Submodular, out: Path, seed: int) -> None:
    """Draw where bodies went on the ground that `Binned` divides, an episode each, into `out`.

    Raises:
        BadInputError: if the items are no places in a plane.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from firstlight.envs.types import map_obs
    from firstlight.intrinsic.submodular import Binned
    from firstlight.scripts.benchmarks.submodular_evaluation import first_episodes

    ground = module.items
    if not isinstance(ground, Binned):
        raise BadInputError(
            "only items that are places, as on Walks, of Race and of Binned, have paths"
        )
    figure, axis = plt.subplots(figsize=(6, 6))
    for rollout, rows in first_episodes(vec, policy, seed):
        fields = (map_obs(lambda f: f[:-1].flatten(0, 1), f) for f in (rollout.obs, rollout.info))
        at = ground.places(*fields).unflatten(0, rows.shape)  # [T, N, d]
        if at.shape[-1] != 2:
            raise BadInputError(f"paths are drawn in a plane, and places have {at.shape[-1]} axes")
        for n in rows.any(0).nonzero()[:, 0].tolist():
            axis.plot(*at[rows[:, n], n].T, color="indigo", lw=1, alpha=0.5)
    axis.set(xlim=(ground.low, ground.high), ylim=(ground.low, ground.high), aspect="equal")
    _save(figure, out)


def _save(figure: Any, out: Path) -> None:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _aside(walk: tuple[np.ndarray, np.ndarray], noise: np.random.Generator) -> list[np.ndarray]:
    """Each walk a little to one side of the cells' centres."""
    return [axis + noise.uniform(-0.25, 0.25) for axis in walk]


def main() -> None:
    """The command."""
    from firstlight.agents.session.files import to_json

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--out", type=Path, help="default RUN/pictures/paths.png")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    out = given.out or given.run / "pictures/paths.png"
    try:
        print(to_json(paths(given.run, out, given.episodes, given.seed)))
    except (BadInputError, ValueError, FileNotFoundError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
