"""MiniGrid tasks, native through EnvPool or the Python package."""

from __future__ import annotations

from typing import Any, Literal

from firstlight.envs.vec import VecEnv


def make(
    task: str,
    *,
    num_envs: int = 64,
    backend: Literal["envpool", "python"] = "envpool",
    num_threads: int = 0,
    **options: Any,
) -> VecEnv:
    """MiniGrid environments that show `image` (7, 7, 3) uint8 and `direction`.

    Success is a return above 0. The two backends draw different levels from equal seeds: never mix
    them in one comparison. The mission text is left out (constant in most tasks).

    Args:
        task: such as "MiniGrid-DoorKey-8x8-v0".
        num_envs: `N`.
        backend: "envpool" (C++, 40 to 100 times faster) or "python".
        num_threads: of EnvPool.
        **options: keywords of the backend's environment, such as `max_episode_steps` for EnvPool.
    """
    if backend == "envpool":
        from firstlight.envs.envpool import EnvPoolVec

        return EnvPoolVec(
            task,
            num_envs=num_envs,
            num_threads=num_threads,
            obs_keys=("image", "direction"),
            info_keys=("agent_pos",),
            success_threshold=0.0,
            **options,
        )
    if backend != "python":
        raise ValueError(f"backend is 'envpool' or 'python', not {backend!r}")
    import gymnasium
    import minigrid  # noqa: F401  (registers the ids)

    from firstlight.envs.gym import GymVec

    def factory() -> gymnasium.Env:
        return gymnasium.make(task, render_mode="rgb_array", **options)

    return GymVec([factory] * num_envs, success_threshold=0.0)
