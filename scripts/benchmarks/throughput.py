"""Measure training throughput against Stable-Baselines3, in alternating runs."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from firstlight.scripts.benchmarks.peer_process import displayed, peer_python, run_script
from firstlight.scripts.benchmarks.results import append, commit, hardware

TASK = "MiniGrid-DoorKey-8x8-v0"


def steps_per_second(command: list[str]) -> float:
    """Run a timed script and return its steps per second."""
    timed = run_script(command)
    return timed["steps"] / timed["seconds"]


def measure(*, rounds: int, steps: int, peers: str) -> None:
    """Alternate our PPO and Stable-Baselines3's in several settings; append lines, print the ratio.

    Args:
        rounds: how often.
        steps: environment steps of each run.
        peers: folder of the peers' environment.
    """
    here = Path(__file__).parent / "peers"
    ours, theirs = str(here / "ours_ppo.py"), str(here / "sb3_ppo.py")
    peer = peer_python(peers)
    us, them, monitored = "firstlight", "Stable-Baselines3", "Stable-Baselines3 with VecMonitor"
    commands = {
        f"{name}, {threads} torch threads{', EnvPool pinned' if 'pinned' in words else ''}": [
            *([sys.executable, "-P", ours] if name == us else [peer, "-P", theirs]),
            *(TASK, str(steps), str(threads), *words),
        ]
        for name, threads, words in (
            (us, 1, []),
            (them, 1, []),
            (us, 2, []),
            (them, 2, []),
            (us, 2, ["pinned"]),
            (them, 2, ["pinned"]),
            (monitored, 2, ["monitor"]),
        )
    }
    rates: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            rates[name].append(steps_per_second(command))
            print(f"{name:55s} {rates[name][-1]:9,.0f} steps/s", flush=True)
    for name, values in rates.items():
        line = {"row": name, "command": displayed(commands[name]), "steps_per_second": values}
        append("throughput", {**line, "commit": commit(), "hardware": hardware()})
    medians = {name: statistics.median(values) for name, values in rates.items()}
    lean = [name for name in rates if name.startswith("S") and "Monitor" not in name]
    best = max(lean, key=medians.__getitem__)
    mine = max((name for name in rates if name.startswith("f")), key=medians.__getitem__)
    ratios = sorted(a / b for a, b in zip(rates[mine], rates[best], strict=True))
    middle = statistics.median(ratios)
    print(f"best against best: {middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
