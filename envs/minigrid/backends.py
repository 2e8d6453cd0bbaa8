"""MiniGrid tasks in three backends: numba, EnvPool and the Python package."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

from gymnasium import spaces

from firstlight.envs.minigrid.cells import position_space
from firstlight.envs.vec import VecEnv

if TYPE_CHECKING:
    from firstlight.envs.minigrid.captions import Event

Backend = Literal["auto", "native", "envpool", "python"]
View = Literal["partial", "map", "full"]


def make(
    task: str,
    *,
    num_envs: int = 64,
    backend: Backend = "auto",
    view: View = "partial",
    full_grid: bool = False,
    text: bool = False,
    mission: bool = False,
    level: bool = False,
    caption: Callable[[Event], str] | None = None,
    max_steps: int | None = None,
    num_threads: int = 0,
    isolated: bool = False,
    **options: Any,
) -> VecEnv:
    """Create MiniGrid environments; every backend has the same fields.

    Policies see `image` and `direction`, reward modules also `agent_pos` (column and row) and the
    side channels chosen below. Success is a return above 0. Equal seeds give different levels in
    different backends: never mix them in one comparison.

    ========  =====================================================================================
    native    in numba: MultiRoom (all levels solvable), NoisyTV, DoorKey, KeyCorridor,
              ObstructedMaze, Unlock; fast; saves its state, so that runs resume exactly
    envpool   every task but NoisyTV, in C++; most of its MultiRoom levels cannot be solved
    python    every task, about fifty times slower; resumes by replay
    ========  =====================================================================================

    Args:
        task: such as "MiniGrid-DoorKey-8x8-v0", also those that papers use and no package
            registers, such as "MiniGrid-MultiRoom-N7-S8-v0" and "MiniGrid-KeyCorridorS8R5-v0".
        num_envs: `N`.
        backend: "auto" is the first of the table that has the task and what is asked of it.
        view: what policies see as `image`: "partial" the 7 x 7 cells in front of the agent, "map"
            its map of the cells seen so far (`MapMemory`), "full" the whole grid.
        full_grid: add the whole grid as the side channel `full_grid`, [W, H, 3] uint8, first axis
            from left to right as in MiniGrid's images. Not with EnvPool, which does not expose it.
        text: add `text_id` and `mission_id`, see `captions.Captions`.
        mission: policies also see the task's sentence, as the field `mission`, see `TextBytes`.
        level: add the codes of all cells as the side channel `level`, [W, H] int16, and `target`,
            the object to take, for teachers that plan (`GridWorld`); the native backend only.
        caption: with `text`, describes what happened in a step; default `captions.describe`.
        max_steps: of an episode; default as in the papers.
        num_threads: threads of EnvPool.
        isolated: run EnvPool in a process of its own.
        **options: keywords of the backend's environment, or, with view "map", of `MapMemory`.

    Raises:
        ValueError: for an unknown task or option, or a backend without the task or the view.
    """
    for name, value, kind in (("backend", backend, Backend), ("view", view, View)):
        if value not in get_args(kind):
            known = " or ".join(map(repr, get_args(kind)))
            raise ValueError(f"{name} is {known}, not {value!r}")
    if caption is not None and not text:
        raise ValueError("caption is set, but text is off: set text=True")
    if text and view == "full":
        raise ValueError('text needs the partial view: use view="partial" or "map", not "full"')
    chosen = _choose(task, backend, view == "full" or full_grid, level)
    map_options = {k: options.pop(k) for k in ("size", "show") if view == "map" and k in options}
    if chosen == "envpool":
        threads = {"num_threads": num_threads, "isolated": isolated}
        vec = _envpool(task, num_envs, text or mission, max_steps, {**threads, **options})
    else:
        wanted: dict[str, Any] = {
            "view": "full" if view == "full" else "partial",
            "full_grid": full_grid,
        }
        wanted |= {"mission": text or mission} | ({"level": True} if level else {})
        vec = _own(chosen, task, num_envs, {**wanted, **options}, max_steps)
    if mission:
        from firstlight.envs.minigrid.mission import MissionText

        vec = MissionText(vec)
    if text:
        from firstlight.envs.minigrid.captions import Captions, describe

        vec = Captions(vec, caption=caption or describe)
    if view == "map":
        from firstlight.envs.minigrid.map_memory import MapMemory

        vec = MapMemory(vec, **map_options)
    return vec


def _choose(task: str, backend: Backend, whole: bool, level: bool) -> str:
    """Choose a backend that has the task and, if `whole` or `level`, exposes the grid."""
    from firstlight.envs.minigrid.tasks import TASKS, backends_of

    if backend in ("native", "auto") and task in TASKS:
        return "native"  # without importing the others, which takes seconds
    have = backends_of(task)
    if level:
        raise ValueError(
            f"the level of {task} can be read with backend='native' only, which "
            + (
                "was not chosen: set backend='native'"
                if task in TASKS
                else "does not have the task"
            )
        )
    fit = [name for name in have if not (whole and name == "envpool")]
    if backend == "auto" and fit:
        return fit[0]
    if backend != "auto" and backend not in have:
        raise ValueError(f"backend {backend!r} has no {task}; {' and '.join(have)} have it")
    if whole and backend != "python":
        others = " and ".join(name for name in have if name != "envpool") or "no other"
        raise ValueError(f"EnvPool does not expose the whole grid of {task}; {others} can")
    return backend


def _envpool(
    task: str, num_envs: int, mission: bool, max_steps: int | None, options: dict[str, Any]
) -> VecEnv:
    from firstlight.envs.minigrid.tasks import TASKS
    from firstlight.envs.vector import envpool

    known, name = TASKS.get(task), task
    if known is not None and known.envpool is not None:
        name, words = known.envpool
        options = {**words, "max_episode_steps": known.max_steps, **options}
    if max_steps is not None:
        options["max_episode_steps"] = max_steps
    vec = envpool.make(
        name,
        num_envs=num_envs,
        obs_keys=("image", "direction", *(["mission"] if mission else [])),
        info_keys=("agent_pos",),
        success_threshold=0.0,
        **options,
    )
    if known is not None:  # EnvPool itself gives no bounds of positions
        channels = {**vec.info_space.spaces, "agent_pos": position_space(known.width, known.height)}
        vec.info_space = spaces.Dict(channels)
    return vec


def _own(
    backend: str, task: str, num_envs: int, options: dict[str, Any], max_steps: int | None
) -> VecEnv:
    if max_steps is not None:
        options["max_steps"] = max_steps
    if backend == "native":
        from firstlight.envs.minigrid.gridworld import GridWorld

        return GridWorld(task, num_envs=num_envs, **options)
    import minigrid  # noqa: F401  (registers the ids)

    from firstlight.envs.minigrid.python_backend import make_python
    from firstlight.envs.minigrid.tasks import TASKS

    made = TASKS[task].python if task in TASKS else None
    return make_python(task, made, num_envs=num_envs, **options)
