"""Measure training throughput of APPO against Sample Factory's, alternating."""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

from firstlight.scripts.benchmarks.peer_process import (
    SAMPLE_FACTORY,
    displayed,
    peer_python,
    run_script,
)
from firstlight.scripts.benchmarks.results import append, commit, hardware

DOORKEY, NETHACK = "MiniGrid-DoorKey-8x8-v0", "NetHackScore-v0"
ONE_EPOCH = ("learner.num_epochs=1", "learner.minibatch_size=1024")
"""Sample Factory's number of epochs and minibatch size by default."""
_DOORKEY = ("env=minigrid/doorkey_8x8", "learner=appo")
_NETHACK = (
    "env=nethack/score",
    "env.keys=[glyphs,blstats]",
    "learner=appo",
    *ONE_EPOCH,
    "encoder._target_=firstlight.scripts.benchmarks.peers.glyph_network.GlyphNetwork",
)
_MANY = ("num_workers=2", "num_envs_per_worker=16", "use_rnn=False", "batch_size=1024")

ROWS: dict[str, dict[str, tuple[str, ...]]] = {
    DOORKEY: {
        "Sample Factory, its defaults": (),
        "Sample Factory, 32 environments, layers of 64-64, no memory": (
            *_MANY,
            "encoder_mlp_layers=64 64",
        ),
        "firstlight, its defaults": _DOORKEY,
        "firstlight, one epoch": (*_DOORKEY, *ONE_EPOCH),
        "firstlight, one epoch, Python MiniGrid, 32 environments": (
            *(
                "env=pool",
                "env.id=minigrid:MiniGrid-DoorKey-8x8-v0",
                "env.num_envs=32",
                "learner=appo",
            ),
            *ONE_EPOCH,
        ),
    },
    NETHACK: {
        "Sample Factory, 32 environments, the glyph network, no memory": _MANY,
        "firstlight, one epoch, the glyph network": _NETHACK,
        "firstlight, its defaults": ("env=nethack/score", "learner=appo"),
    },
}
"""Task to rows: options of Sample Factory, or of ``firstlight-train``."""


def commands(peer: str, task: str) -> dict[str, list[str]]:
    """Name of each row to its command, with {steps} for the number of steps.

    Args:
        peer: Python of Sample Factory's environment.
        task: of `ROWS`.
    """
    here = Path(__file__).parent / "peers"
    theirs = [peer, str(here / "sample_factory_appo.py"), task, "{steps}"]
    ours = [sys.executable, "-P", str(here / "ours_command.py"), task, "{steps}", "1"]
    return {
        name: [*(ours if name.startswith("firstlight") else theirs), *options]
        for name, options in ROWS[task].items()
    }


def measure(*, rounds: int, steps: int, peers: str, only: str = "") -> None:
    """Train with each row in turn in each round, append lines, print ratios to the first row.

    Args:
        rounds: how often.
        steps: environment steps of each run.
        peers: folder of Sample Factory's environment, beside that of the other peers.
        only: part of the name of a task.
    """
    peer = peer_python(f"{peers}-sample-factory", SAMPLE_FACTORY, constrained=False)
    for task in (name for name in ROWS if only in name):
        rows = commands(peer, task)
        rates: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(rounds):
            for name, command in rows.items():
                timed = run_script([word.replace("{steps}", str(steps)) for word in command])
                rates[name].append(timed["steps"] / timed["seconds"])
                print(f"{task} {name:60s} {rates[name][-1]:9,.0f} steps/s", flush=True)
        base = next(iter(rates.values()))
        for name, values in rates.items():
            ratios = [own / other for own, other in zip(values, base, strict=True)]
            line = {
                "task": task,
                "row": name,
                "steps_per_second": [round(value) for value in values],
                "ratio": [round(ratio, 2) for ratio in ratios],
                "ratio_median": round(statistics.median(ratios), 2),
                "load_average": round(os.getloadavg()[0], 1),
                "command": displayed(rows[name]).replace("{steps}", str(steps)),
            }
            append("appo_speed", {**line, "commit": commit(), "hardware": hardware()})
