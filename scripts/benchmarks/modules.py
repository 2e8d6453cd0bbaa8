"""Measure the cost of each reward module per environment step, ours and a peer's."""

from __future__ import annotations

import functools
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs import minigrid
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.types import Rollout
from firstlight.envs.vec import VecEnv
from firstlight.envs.vector.envpool import EnvPoolVec
from firstlight.intrinsic import (
    E3B,
    ICM,
    NGU,
    RE3,
    RIDE,
    RND,
    Disagreement,
    HashCount,
    IntrinsicModule,
    PseudoCounts,
    Submodular,
)
from firstlight.intrinsic.mixer import Heads, RewardMixer, Term
from firstlight.networks.encoders import MLP
from firstlight.scripts.benchmarks.peer_process import displayed, peer_python, run_script
from firstlight.scripts.benchmarks.results import append, commit, hardware
from firstlight.scripts.errors import BadInputError, suggestion

NUM_STEPS = 128
SECONDS = 1.0
"""Time for which each row is repeated in each round."""

_PEER = Path(__file__).parent / "peers" / "rllte_modules.py"
_PARTS = ("compute", "update", "mixer")


@dataclass(frozen=True)
class Case:
    """A rollout to time modules on, and its origin.

    Args:
        about: description for the table.
        obs_space: of one environment.
        info_space: of its side channels.
        act_space: of one environment.
        rollout: of a random agent.
    """

    about: str
    obs_space: spaces.Dict
    info_space: spaces.Dict
    act_space: spaces.Space
    rollout: Rollout


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        case: name in `CASES`.
        make: makes our module; None for a row of a peer alone.
        peer: method and batch size for `peers/rllte_modules.py`; empty for none.
    """

    case: str
    make: Callable[[Case], IntrinsicModule] | None
    peer: tuple[str, ...] = ()


CASES: dict[str, tuple[str, Callable[[str], VecEnv]]] = {
    "grid": ("MiniGrid-DoorKey-8x8-v0", lambda task: minigrid.make(task, num_envs=64)),
    "pixels": ("Pong-v5", lambda task: EnvPoolVec(task, num_envs=16)),
}

# RLeXplore's RND: one hidden layer of 256 (from pixels none), 128 outputs, one pass of batches.
# Our predictor has two layers more: `hidden` 256 is the same width, 148 as many multiplications.
_PAPER: dict[str, Any] = {
    **{"network": "published", "embedding_dim": 512, "lr": 1e-4, "num_epochs": 4},
    **{"num_minibatches": 4, "update_proportion": 1.0},
}
_ALIKE: dict[str, Any] = {"network": "published", "embedding_dim": 128, "update_proportion": 1.0}
_IMAGE: dict[str, Any] = {"keys": ["image"], **_ALIKE}

_LIKE_PEER: dict[str, Any] = {
    **{"keys": ["image"], "encoder": functools.partial(MLP, hidden=(256,), activation=nn.ReLU)},
    **{"width": 128, "num_minibatches": 32, "num_epochs": 1, "update_proportion": 1.0},
}

ROWS: dict[str, Row] = {
    "rnd": Row("grid", lambda c: RND(c.obs_space)),
    "rnd_paper": Row("grid", lambda c: RND(c.obs_space, **_PAPER)),
    "rnd_paper, embedding_dim=64 num_epochs=1": Row(
        "grid",
        lambda c: RND(c.obs_space, **{**_PAPER, "embedding_dim": 64, "num_epochs": 1}),
    ),
    "count, global": Row("grid", lambda c: HashCount(c.obs_space)),
    "count, episodic": Row("grid", lambda c: HashCount(c.obs_space, scope="episodic")),
    "count, first_visit": Row("grid", lambda c: HashCount(c.obs_space, scope="first_visit")),
    "submodular": Row("grid", lambda c: Submodular(c.obs_space, info_space=c.info_space)),
    "rnd_paper from pixels": Row("pixels", lambda c: RND(c.obs_space, **_PAPER)),
    "rnd, batches of 256, equal widths": Row(
        "grid",
        lambda c: RND(c.obs_space, hidden=256, num_minibatches=32, **_IMAGE),
        peer=("rnd", "256"),
    ),
    "rnd, batches of 256, equal work": Row(
        "grid",
        lambda c: RND(c.obs_space, hidden=148, num_minibatches=32, **_IMAGE),
        peer=("rnd", "256"),
    ),
    "rnd, batches of 2048, equal work": Row(
        "grid",
        lambda c: RND(c.obs_space, hidden=148, num_minibatches=4, **_IMAGE),
        peer=("rnd", "2048"),
    ),
    "rnd from pixels, batches of 256": Row(
        "pixels",
        lambda c: RND(c.obs_space, hidden=128, num_minibatches=8, **_ALIKE),
        peer=("rnd", "256"),
    ),
    # each with its default: ours as `intrinsic=[NAME]`, the peer's as it comes
    "rnd, defaults": Row("grid", lambda c: RND(c.obs_space), peer=("rnd", "256")),
    "icm, defaults": Row("grid", lambda c: ICM(c.obs_space, c.act_space), peer=("icm", "256")),
    "disagreement, defaults": Row(
        "grid", lambda c: Disagreement(c.obs_space, c.act_space), peer=("disagreement", "256")
    ),
    "re3, defaults": Row("grid", lambda c: RE3(c.obs_space), peer=("re3", "256")),
    "ride, defaults": Row("grid", lambda c: RIDE(c.obs_space, c.act_space), peer=("ride", "256")),
    "pseudo_counts, defaults": Row(
        "grid", lambda c: PseudoCounts(c.obs_space, c.act_space), peer=("pseudo_counts", "256")
    ),
    "e3b, defaults": Row("grid", lambda c: E3B(c.obs_space, c.act_space), peer=("e3b", "256")),
    "ngu, defaults": Row("grid", lambda c: NGU(c.obs_space, c.act_space)),  # the peer's crashes
    # the peer's encoder (147 numbers, 256, 128), one pass in batches of 256
    "icm, alike": Row(
        "grid",
        lambda c: ICM(c.obs_space, c.act_space, **_LIKE_PEER),
        peer=("icm", "256"),
    ),
    "disagreement, alike": Row(
        "grid",
        lambda c: Disagreement(c.obs_space, c.act_space, **_LIKE_PEER),
        peer=("disagreement", "256"),
    ),
    "ride, alike": Row(
        "grid", lambda c: RIDE(c.obs_space, c.act_space, **_LIKE_PEER), peer=("ride", "256")
    ),
    "e3b, alike": Row(
        "grid", lambda c: E3B(c.obs_space, c.act_space, **_LIKE_PEER), peer=("e3b", "256")
    ),
}


def collect(vec: VecEnv, about: str, num_steps: int = NUM_STEPS) -> Case:
    """Collect a rollout of a random agent in `vec`, and close `vec`."""
    rollout = Runner(vec).collect(RandomActor(vec.act_space), num_steps)
    vec.close()
    return Case(about, vec.obs_space, vec.info_space, vec.act_space, rollout)


def cost(
    module: IntrinsicModule, rollout: Rollout, *, seconds: float = SECONDS
) -> dict[str, float]:
    """Measure microseconds per environment step over repeats of compute, mix and update.

    The first repeat is not counted: it compiles kernels and fills empty memories.

    Args:
        module: a new one; warmed up with the same rollout if it has warm-up steps.
        rollout: not changed.
        seconds: for how long to repeat, at least twice.

    Returns:
        "compute", "update" and "mixer", a reward mixer with the task's reward and this module.
    """
    mixer = RewardMixer({"reward": Term(), "module": module.default_term()}, Heads())
    if module.warmup_steps:
        module.warmup(rollout)
    spent, repeats = dict.fromkeys(_PARTS, 0.0), -1
    while repeats < 2 or sum(spent.values()) < seconds:
        began = time.perf_counter()
        bonus = module.compute(rollout)
        computed = time.perf_counter()
        mixer.update(rollout, mixer(rollout, {"module": bonus}))
        mixed = time.perf_counter()
        module.update(rollout)
        updated = time.perf_counter()
        repeats += 1
        if repeats:
            spent["compute"] += computed - began
            spent["mixer"] += mixed - computed
            spent["update"] += updated - mixed
    return {name: 1e6 * spent[name] / repeats / rollout.reward.numel() for name in _PARTS}


def save(case: Case, path: Path) -> None:
    """Write the rollout for a peer, with the one field that our modules of the same rows read.

    It is the image [T, N, 147] of a grid, or the last frame [T, N, 1, 84, 84], both uint8.
    """
    name = "image" if "image" in case.obs_space.spaces else "obs"
    rollout = case.rollout

    def field(obs: Mapping[str, Tensor]) -> np.ndarray:
        x = obs[name]
        return (x[..., -1:, :, :] if name == "obs" else x.flatten(2)).numpy()

    np.savez(
        path,
        observations=field({name: rollout.obs[name][:-1]}),
        next_observations=field(rollout.next_obs()),
        actions=rollout.action.numpy(),
        rewards=rollout.reward.numpy(),
        terminateds=rollout.terminated.numpy(),
        truncateds=rollout.truncated.numpy(),
        num_actions=np.array(case.act_space.n),  # type: ignore[attr-defined]
    )


def measure(*, rounds: int, peers: str, only: str = "") -> None:
    """Time every row whose name contains `only`, ours and the peer's in turn; append the lines.

    Args:
        rounds: how often.
        peers: the folder of the peers' environment; "none" measures ours alone.
        only: part of a row's name.
    """
    torch.set_num_threads(1)
    rows = {name: row for name, row in ROWS.items() if only in name}
    if peers == "none":
        rows = {name: row for name, row in rows.items() if row.make is not None}
    if not rows:
        raise BadInputError(f"only={only}: no row contains it{suggestion(only, ROWS)}")
    with_peer = peers != "none" and any(row.peer for row in rows.values())
    python = peer_python(peers) if with_peer else ""
    found: dict[str, dict[str, Any]] = {name: {} for name in rows}
    with tempfile.TemporaryDirectory() as folder:
        cases = {}
        for name in dict.fromkeys(row.case for row in rows.values()):
            task, make = CASES[name]
            vec = make(task)
            cases[name] = collect(vec, f"{vec.num_envs} × {NUM_STEPS} steps of {task}")
            save(cases[name], Path(folder) / f"{name}.npz")
        for _ in range(rounds):
            for name, row in rows.items():
                words = [python, "-P", str(_PEER), f"{folder}/{row.case}.npz", *row.peer]
                peer = [*words, str(SECONDS)] if with_peer and row.peer else []
                time_row(found[name], row, cases[row.case], peer)
                print(f"{name:36s} {summary(found[name])}", flush=True)
    command = (
        f"firstlight-bench modules rounds={rounds}{f' only={shlex.quote(only)}' if only else ''}"
    )
    for name, line in found.items():
        where = {"row": name, "rollout": cases[rows[name].case].about}
        end = {"command": command, "commit": commit(), "hardware": hardware()}
        append("modules", {**where, **line, **end})


def time_row(line: dict[str, Any], row: Row, case: Case, peer: list[str]) -> None:
    """Time one round of one row; append the results to the lists in `line`."""
    if row.make is not None:
        for part, us in cost(row.make(case), case.rollout, seconds=SECONDS).items():
            line.setdefault(f"{part}_us", []).append(us)
    if peer:
        line.setdefault("peer_us", []).append(run_script(peer)["us"])
        line["peer_command"] = displayed(["python", *peer[1:]])
    if peer and row.make is not None:
        ours = sum(line[f"{part}_us"][-1] for part in _PARTS)  # the peer's call scales as well
        line.setdefault("ratio", []).append(line["peer_us"][-1] / ours)


def summary(line: Mapping[str, Any]) -> str:
    """Format the last round of a row as text."""
    names = [f"{part}_us" for part in (*_PARTS, "peer")]
    parts = [f"{name[:-3]} {line[name][-1]:.2f}" for name in names if name in line]
    ratio = f", ratio {line['ratio'][-1]:.2f}" if "ratio" in line else ""
    return f"{', '.join(parts)} µs a step{ratio}"
