"""Measure training steps per second with annotation on and off, alternating."""

from __future__ import annotations

import os
import statistics
from contextlib import ExitStack
from typing import Any

import torch

from firstlight.agents import RunSession, Trainer
from firstlight.scripts.benchmarks.results import append, commit, hardware
from firstlight.scripts.benchmarks.slow_endpoint import started
from firstlight.scripts.build import build
from firstlight.scripts.build_env import make_vec, needed_options

MINIGRID, NETHACK = "minigrid/doorkey_8x8", "nethack/score"
LATENCY = 5.0
"""Seconds of the simulated remote endpoint."""

_ONI = "intrinsic=[oni]"
_OFF = (_ONI, "intrinsic.oni.judge=rule", "intrinsic.oni.cached_only=true")
_EMBEDDED = (_ONI, "intrinsic.oni.judge=llm", "intrinsic.oni.calibrate=false")
_REMOTE = (*_EMBEDDED, "intrinsic.oni.llm=slow")
ROWS: dict[str, dict[str, tuple[str, ...]]] = {
    MINIGRID: {
        "off": _OFF,
        "no module": (),
        "embedded model": _EMBEDDED,
        "remote endpoint, 5 s": (*_REMOTE, "intrinsic.oni.url=SLOW"),
        "remote endpoint, unreachable": (*_REMOTE, "intrinsic.oni.url=http://127.0.0.1:9/v1"),
    },
    NETHACK: {
        "off": _OFF,
        "no module": (),
        **{
            f"embedded model, CPU share {share}": (*_EMBEDDED, f"intrinsic.oni.cpu_share={share}")
            for share in (0.05, 0.25, 1)
        },
        "remote endpoint, 5 s": (*_REMOTE, "intrinsic.oni.url=SLOW"),
    },
}
"""Environment and row to overrides of ``firstlight-train``; a row is compared with "off", the same
module that asks nobody. SLOW is the address of an endpoint that takes `LATENCY` seconds."""


def make(env: str, overrides: tuple[str, ...]) -> Trainer:
    """Make the trainer of ``firstlight-train env=ENV`` with `overrides`, without a directory."""
    from hydra import compose, initialize_config_module

    with initialize_config_module("firstlight.conf", version_base="1.3"):
        cfg = compose("train", overrides=[f"env={env}", *overrides, "device=cpu"])
    return build(cfg, make_vec(cfg.env, **needed_options(cfg)))


def train(env: str, overrides: tuple[str, ...], steps: int) -> dict[str, float]:
    """Train from nothing for so many steps: steps per second, and the last values of ``llm/…``.

    The first iteration is not counted, because it compiles kernels.
    """
    import time

    ticks: list[tuple[float, int]] = []
    found: dict[str, float] = {}

    def tick(session: RunSession, metrics: dict[str, float]) -> None:
        ticks.append((time.perf_counter(), session.steps))
        found.update({name: x for name, x in metrics.items() if name.startswith("llm/")})

    trainer = make(env, overrides)
    try:
        rows = trainer.num_steps * trainer.vec.num_envs
        trainer.run(max(steps, 2 * rows), [tick])
    finally:
        trainer.vec.close()
    (began, before), (ended, after) = ticks[0], ticks[-1]
    return found | {"steps_per_second": (after - before) / (ended - began)}


def measure(*, rounds: int, steps: int, only: str = "") -> None:
    """Train each row in turn in each round, and append a line for each to the results.

    Args:
        rounds: how often.
        steps: environment steps of each training.
        only: part of the name of an environment or row; "off" is always measured.
    """
    torch.set_num_threads(1)
    with ExitStack() as cleanup:
        address = cleanup.enter_context(started(LATENCY))
        for env, rows in ROWS.items():
            chosen = {
                name: tuple(word.replace("SLOW", address) for word in words)
                for name, words in rows.items()
                if name == "off" or only in name or only in env
            }
            if len(chosen) == 1:
                continue
            results: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
            for _ in range(rounds):
                for name, overrides in chosen.items():
                    results[name].append(found := train(env, overrides, steps))
                    print(f"{env:22s} {name:30s} {found['steps_per_second']:10,.0f} steps/s")
            for name, found_ in results.items():
                words = f"rounds={rounds} steps={steps}" + (f" only={only}" if only else "")
                line = summarise(found_, results["off"]) | {
                    "row": name,
                    "env": env,
                    "load_average": round(os.getloadavg()[0], 1),
                    "command": f"firstlight-bench annotation {words}",
                }
                append("annotation", {**line, "commit": commit(), "hardware": hardware()})


def summarise(own: list[dict[str, float]], off: list[dict[str, float]]) -> dict[str, Any]:
    """Ratios of speed to "off" round by round, and the labels of the last round."""
    ratios = [a["steps_per_second"] / b["steps_per_second"] for a, b in zip(own, off, strict=True)]
    labels = {
        name: round(own[-1][f"llm/{name}"], 3)
        for name in ("labels", "coverage", "queue", "age", "latency", "errors", "calls")
        if f"llm/{name}" in own[-1]
    }
    return {
        "steps_per_second": [round(each["steps_per_second"]) for each in own],
        "ratio": [round(ratio, 3) for ratio in ratios],
        "ratio_median": round(statistics.median(ratios), 3),
        **labels,
    }
