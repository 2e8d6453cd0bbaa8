"""Measure training throughput against Stable-Baselines3 and a single-file PPO, alternating."""

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


US, THEM, SINGLE = "firstlight", "Stable-Baselines3", "single-file PPO"
COMMAND = ("env=minigrid/doorkey_8x8", "intrinsic=[count]")
DEFAULT = "firstlight-train, grid encoder and count bonus"


def commands(peer: str) -> dict[str, list[str]]:
    """Name of each row to its command, without the number of steps.

    Args:
        peer: Python of the peers' environment.
    """
    here = Path(__file__).parent / "peers"

    def words(python: str, script: str, *options: str) -> list[str]:
        return [python, "-P", str(here / script), TASK, *options]

    me = sys.executable
    return {
        f"{US}, 1 torch thread": words(me, "ours_ppo.py", "1"),
        f"{US}, 2 torch threads, EnvPool pinned": words(me, "ours_ppo.py", "2", "pinned"),
        f"{THEM}, 1 torch thread": words(peer, "sb3_ppo.py", "1"),
        f"{THEM}, 2 torch threads": words(peer, "sb3_ppo.py", "2"),
        f"{THEM}, 2 torch threads, EnvPool pinned": words(peer, "sb3_ppo.py", "2", "pinned"),
        f"{THEM} with VecMonitor, 2 torch threads": words(peer, "sb3_ppo.py", "2", "monitor"),
        f"{SINGLE}, 1 torch thread": words(peer, "single_file_ppo.py", "1"),
        f"{SINGLE}, 2 torch threads, EnvPool pinned": words(
            peer, "single_file_ppo.py", "2", "pinned"
        ),
        DEFAULT: words(me, "ours_command.py", "1", *COMMAND),
        f"{DEFAULT}, on EnvPool": words(
            me, "ours_command.py", "1", *COMMAND, "env.backend=envpool"
        ),
    }


def measure(*, rounds: int, steps: int, peers: str) -> None:
    """Alternate our PPO and the peers' in several settings; append lines, print ratios.

    Args:
        rounds: how often.
        steps: environment steps of each run.
        peers: folder of the peers' environment.
    """
    timed = {
        name: [*words[:4], str(steps), *words[4:]]
        for name, words in commands(peer_python(peers)).items()
    }
    rates: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, command in timed.items():
            rates[name].append(steps_per_second(command))
            print(f"{name:62s} {rates[name][-1]:9,.0f} steps/s", flush=True)
    for name, values in rates.items():
        line = {"row": name, "command": displayed(timed[name]), "steps_per_second": values}
        append("throughput", {**line, "commit": commit(), "hardware": hardware()})
    best = {
        peer: max(
            (name for name in rates if name.startswith(peer) and "Monitor" not in name),
            key=lambda name: statistics.median(rates[name]),
        )
        for peer in (f"{US},", THEM, SINGLE)
    }
    for one, other in (
        (best[f"{US},"], best[THEM]),
        (best[f"{US},"], best[SINGLE]),
        (DEFAULT, best[THEM]),
        (f"{DEFAULT}, on EnvPool", best[THEM]),
    ):
        ratios = sorted(a / b for a, b in zip(rates[one], rates[other], strict=True))
        span = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{one} to {other}: {span}")
