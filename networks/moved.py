"""Map import paths of older versions, in saved runs and users' YAML, to the current ones.

The only table of names in the project: everything else is located by its import path.
"""

from __future__ import annotations

MODULES = {
    "agents.auxiliaries": "agents.algorithms.auxiliaries",
    "agents.callbacks": "agents.session.callbacks",
    "agents.checkpoint": "agents.session.run_directory.checkpoint",
    "agents.cores": "networks.cores",
    "agents.distributions": "networks.distributions",
    "agents.doctor": "agents.diagnostics.doctor",
    "agents.encoders": "networks.encoders",
    "agents.episodes": "agents.session.episodes",
    "agents.examine": "agents.diagnostics.run_diagnostics",
    "agents.guards": "agents.session.guards",
    "agents.metrics": "agents.session.run_directory.metrics_writer",
    "agents.natural": "agents.algorithms.natural",
    "agents.pictures": "agents.diagnostics.pictures",
    "agents.ppo": "agents.algorithms.ppo",
    "agents.progress": "agents.session.progress",
    "agents.reward_video": "agents.diagnostics.reward_video",
    "agents.run_dir": "agents.session.run_directory.run_dir",
    "agents.spec": "networks.spec",
    "agents.stages": "agents.session.stage_timers",
    "agents.status": "agents.session.run_directory.status",
    "agents.subpo": "agents.algorithms.subpo",
    "envs.cells": "envs.minigrid.cells",
    "envs.chain": "envs.worlds.chain",
    "envs.envpool": "envs.vector.envpool",
    "envs.gridworld": "envs.minigrid.gridworld",
    "envs.gym": "envs.vector.gym",
    "envs.isolated": "envs.vector.isolated",
    "envs.minigrid_python": "envs.minigrid.python_backend",
    "envs.minigrid_tasks": "envs.minigrid.tasks",
    "envs.minihack": "envs.nethack.minihack",
    "envs.minihack_env": "envs.nethack.minihack_env",
    "envs.nethack_channels": "envs.nethack.channels",
    "envs.nethack_env": "envs.nethack.nethack_env",
    "envs.nethack_game": "envs.nethack.game",
    "envs.nethack_tasks": "envs.nethack.tasks",
    "envs.nethack_text": "envs.nethack.text",
    "envs.pool": "envs.vector.pool",
    "envs.race": "envs.worlds.race",
    "envs.replay": "envs.vector.replay",
    "envs.saved": "envs.worlds.array_backed",
    "envs.walks": "envs.worlds.walks",
    "intrinsic.episodic": "intrinsic.memory",
    "intrinsic.mixer.rows": "intrinsic.mixer.segments",
    "intrinsic.mixer.spending": "intrinsic.mixer.apply_budgets",
    "intrinsic.shapes": "intrinsic.shaping",
    "intrinsic.submodular.own": "intrinsic.submodular.callable_set_function",
    "intrinsic.submodular.seen_map": "envs.minigrid.seen_map",
    "intrinsic.submodular.tasks": "scripts.benchmarks.submodular_tasks",
}
"""Old module to new, both without ``firstlight.``."""

NAMES: dict[str, str] = {
    "envs.nethack.nethack_env.NetHack": "envs.nethack.nethack_env.NetHackEnv",
    "intrinsic.mixer.AdaptiveCombine": "intrinsic.mixer.Combine",
    "intrinsic.mixer.JoiningCombine": "intrinsic.mixer.Combine",
    "intrinsic.mixer.combine.AdaptiveCombine": "intrinsic.mixer.combine.Combine",
    "intrinsic.mixer.combine.JoiningCombine": "intrinsic.mixer.combine.Combine",
    "intrinsic.submodular.Linear": "intrinsic.submodular.LinearKernel",
    "intrinsic.submodular.gaussian_process.Linear": (
        "intrinsic.submodular.gaussian_process.LinearKernel"
    ),
    "intrinsic.submodular.Own": "intrinsic.submodular.CallableSetFunction",
    "intrinsic.submodular.callable_set_function.Own": (
        "intrinsic.submodular.callable_set_function.CallableSetFunction"
    ),
}
"""Old name of a class or function, with its new module, to the new name."""


def current(target: str) -> str:
    """Translate an import path of an older version; return any other unchanged.

    >>> current("firstlight.agents.encoders.Grid")
    'firstlight.networks.encoders.Grid'
    >>> current("mypackage.agents.encoders.Grid")
    'mypackage.agents.encoders.Grid'
    """
    package, _, path = target.partition(".")
    if package != "firstlight":
        return target
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        if module in MODULES:
            path = ".".join([MODULES[module], *parts[length:]])
            break
    return f"firstlight.{NAMES.get(path, path)}"
