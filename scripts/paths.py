"""Draw the walks of a trained policy: ``python -m firstlight.scripts.paths runs/NAME``.

Over the grid, darker where a cell alone is worth more. The mean value of the walks, that of a
greedy walk, and a bound that no walk can pass are printed as one JSON object.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstlight.scripts.errors import BadInputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from firstlight.envs.walks import Walks


def paths(run: Path, out: Path, episodes: int, seed: int) -> dict[str, Any]:
    """Draw `episodes` walks of the newest checkpoint of `run` into `out`.

    Returns:
        Values of F, less that of the start: `value_mean`, `value_max`, `greedy_walk`, `bound`.

    Raises:
        BadInputError: for a run that is not on `Walks`, or without a submodular reward.
    """
    import torch

    from firstlight.agents.agent import load
    from firstlight.agents.evaluation import frozen
    from firstlight.envs.runner import Runner
    from firstlight.envs.walks import Walks
    from firstlight.intrinsic import Submodular
    from firstlight.intrinsic.submodular import LogDet, greedy, greedy_walk
    from firstlight.scripts.build import make_modules, make_vec
    from firstlight.scripts.evaluate import read_config

    if episodes < 1:
        raise BadInputError(f"--episodes {episodes}: it is at least 1")
    config = read_config(run, ())
    vec = make_vec(config.env, num_envs=episodes)
    modules, _ = make_modules(config.intrinsic, vec, seed)
    found = [module for module in modules.values() if isinstance(module, Submodular)]
    if not isinstance(vec, Walks) or not found:
        raise BadInputError(f"{run} is no run on Walks with a submodular reward")
    policy = load(run, which="newest").policy  # "best" goes by the return, which is 0
    with frozen(policy):
        rollout = Runner(vec, seed=seed).collect(policy, vec.horizon)
    start = torch.full((1, episodes), vec.start)
    cells = torch.cat([start, rollout.next_info()["cell"].cpu()]).T  # [E, H]
    every = torch.arange(vec.walls.size)
    x = torch.div(every, vec.height, rounding_mode="floor")
    position = torch.stack([x, every % vec.height], 1)
    items = found[0].items({"cell": every}, {"cell": every, "position": position})
    function = found[0].function
    base = float(function.value([items[[vec.start]]]))
    worth = function.value([items[walk] for walk in cells]) - base
    alone = function.value([item[None] for item in items])
    draw(vec, alone, cells, out)
    free = torch.from_numpy(~vec.walls.flatten())
    most = greedy(function, items[free], vec.horizon + 1, repeats=isinstance(function, LogDet))
    near = greedy_walk(function, items, vec.successor, vec.start, vec.horizon)[1]
    return {
        "value_mean": float(worth.mean()),
        "value_max": float(worth.max()),
        "greedy_walk": near - base,
        "bound": most.bound - base,
        "episodes": episodes,
        "picture": str(out),
    }


def draw(vec: Walks, alone: Tensor, cells: Tensor, out: Path) -> None:
    """The grid, x to the right and y up, and the walks as lines that do not hide each other.

    Args:
        vec: whose grid it is.
        alone: [cells], what each cell is worth alone.
        cells: [E, H] int64, walks.
        out: of the picture, PNG.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    width, height = vec.width, vec.height
    scale = 6 / max(width, height)
    figure, axis = plt.subplots(figsize=(max(scale * width, 2) + 0.6, max(scale * height, 2) + 0.6))
    values = np.ma.masked_array(alone.view(width, height).numpy(), vec.walls)
    colours = mpl.colormaps["Greens"].with_extremes(bad="0.35")
    axis.imshow(values.T, origin="lower", cmap=colours, vmin=0, vmax=1.3 * float(alone.max()))
    noise = np.random.default_rng(0)
    for walk in cells.numpy():
        x, y = _aside(np.divmod(walk, height), noise)
        axis.plot(x, y, color="indigo", lw=1.2, alpha=min(1.0, 0.3 + 2 / len(cells)))
    x, y = divmod(vec.start, height)
    axis.plot(x, y, "o", color="tab:red", ms=6)
    axis.set(xticks=[], yticks=[])
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _aside(walk: tuple[np.ndarray, np.ndarray], noise: np.random.Generator) -> list[np.ndarray]:
    """Each walk a little to one side of the cells' centres."""
    return [axis + noise.uniform(-0.25, 0.25) for axis in walk]


def main() -> None:
    """The command."""
    from firstlight.agents.files import to_json

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
