"""Draw the paths of a trained policy: ``python -m firstlight.scripts.report.paths runs/NAME``.

Walks are drawn over the grid, darker where the value of a single cell is higher; one JSON object is
printed with the mean value of the walks, that of a greedy walk, an upper bound, and on small grids
the optimum. For a `Race` it draws the cars' paths and prints the metres they covered; for other
bodies whose items are `Binned`, such as ants, their paths and their value.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstlight.scripts.errors import BadInputError

if TYPE_CHECKING:
    import numpy as np

    from firstlight.agents.policy import Policy
    from firstlight.envs.vec import VecEnv
    from firstlight.envs.worlds.race import Race
    from firstlight.intrinsic import Submodular
    from firstlight.scripts.benchmarks.walk_evaluation import PolicyWalks


def draw_paths(run: Path, out: Path, episodes: int, seed: int) -> dict[str, Any]:
    """Draw `episodes` of the newest checkpoint of `run` into `out`.

    Returns:
        F minus that of the start: `value_mean`, `value_max`, and for walks `reference_values`. For
        a race `covered_mean` and `covered_max` in metres, and the `finish`.
    """
    from firstlight.envs.worlds.race import Race
    from firstlight.envs.worlds.walks import Walks
    from firstlight.scripts.benchmarks.submodular_evaluation import (
        episode_values,
        load_for_evaluation,
    )
    from firstlight.scripts.benchmarks.walk_evaluation import reference_values, walk

    vec, policy, module = load_for_evaluation(run, episodes, seed)
    result: dict[str, Any] = {"episodes": episodes, "picture": str(out)}
    if isinstance(vec, Race):
        return draw_races(vec, policy, out, seed) | result
    if isinstance(vec, Walks):
        walks = walk(vec, policy, module, seed)
        draw_walks(walks, out)
        values, result = walks.values(), reference_values(walks) | result
    else:
        draw_bodies(vec, policy, module, out, seed)
        values = episode_values(run, episodes, seed)
    return {"value_mean": float(values.mean()), "value_max": float(values.max()), **result}


def draw_walks(walks: PolicyWalks, out: Path) -> None:
    """Draw the grid, x to the right and y up, and the walks as lines beside each other.

    Args:
        walks: the walks.
        out: of the picture, PNG.
    """
    import matplotlib as mpl
    import numpy as np
    from matplotlib.figure import Figure

    vec, cells = walks.vec, walks.cells
    alone = walks.module.function.value([item[None] for item in walks.items])  # [cells]
    width, height = vec.width, vec.height
    scale = 6 / max(width, height)
    figure = Figure(figsize=(max(scale * width, 2) + 0.6, max(scale * height, 2) + 0.6))
    axis = figure.subplots()
    values = np.ma.masked_array(alone.view(width, height).numpy(), vec.walls)
    colours = mpl.colormaps["Greens"].with_extremes(bad="0.35")
    axis.imshow(values.T, origin="lower", cmap=colours, vmin=0, vmax=1.3 * float(alone.max()))
    noise = np.random.default_rng(0)
    for cell in cells.numpy():
        x, y = _shifted(np.divmod(cell, height), noise)
        axis.plot(x, y, color="indigo", lw=1.2, alpha=min(1.0, 0.3 + 2 / len(cells)))
    x, y = divmod(vec.start, height)
    axis.plot(x, y, "o", color="tab:red", ms=6)
    axis.set(xticks=[], yticks=[])
    _save(figure, out)


def draw_races(race: Race, policy: Policy, out: Path, seed: int) -> dict[str, Any]:
    """Draw an episode of each car into `out`, with a cross where it left the road."""
    import numpy as np
    from matplotlib.figure import Figure

    from firstlight.agents.evaluation import frozen
    from firstlight.envs.runner import Runner

    with frozen(policy):
        rollout = Runner(race, seed=seed).collect(policy, race.horizon)
    info, last = rollout.next_info(), rollout.terminated.int().argmax(0).tolist()
    figure = Figure(figsize=(7, 5))
    axis = figure.subplots()
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


def draw_bodies(vec: VecEnv, policy: Policy, module: Submodular, out: Path, seed: int) -> None:
    """Draw the paths of bodies, an episode each, on the ground that `Binned` divides.

    Raises:
        BadInputError: if the items are not places in a plane.
    """
    from matplotlib.figure import Figure

    from firstlight.envs.types import map_obs
    from firstlight.intrinsic.submodular import Binned
    from firstlight.scripts.benchmarks.submodular_evaluation import first_episodes

    ground = module.items
    if not isinstance(ground, Binned):
        raise BadInputError(
            "only items that are places have paths: those of Walks, Race and Binned"
        )
    figure = Figure(figsize=(6, 6))
    axis = figure.subplots()
    for rollout, rows in first_episodes(vec, policy, seed):
        fields = (map_obs(lambda f: f[:-1].flatten(0, 1), f) for f in (rollout.obs, rollout.info))
        at = ground.places(*fields).unflatten(0, rows.shape)  # [T, N, d]
        if at.shape[-1] != 2:
            raise BadInputError(f"places have {at.shape[-1]} axes, expected 2")
        for n in rows.any(0).nonzero()[:, 0].tolist():
            axis.plot(*at[rows[:, n], n].T, color="indigo", lw=1, alpha=0.5)
    axis.set(xlim=(ground.low, ground.high), ylim=(ground.low, ground.high), aspect="equal")
    _save(figure, out)


def _save(figure: Any, out: Path) -> None:
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def _shifted(walk: tuple[np.ndarray, np.ndarray], noise: np.random.Generator) -> list[np.ndarray]:
    """Shift a walk a little to one side of the cells' centres."""
    return [axis + noise.uniform(-0.25, 0.25) for axis in walk]


def main() -> None:
    """Draw the paths of a run and print their values."""
    from firstlight.agents.session.run_directory.files import to_json

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--out", type=Path, help="default RUN/pictures/paths.png")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    out = given.out or given.run / "pictures/paths.png"
    try:
        print(to_json(draw_paths(given.run, out, given.episodes, given.seed)))
    except (BadInputError, ValueError, FileNotFoundError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
