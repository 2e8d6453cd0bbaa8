"""`firstlight-train` with options, timed with its logging but without its evaluations."""

from __future__ import annotations

import json
import sys
import tempfile

import torch

from firstlight.scripts.benchmarks.stages import SETTLED, IterationClock, configured


def main(task: str, steps: int, threads: int, *overrides: str) -> None:
    """Train and print one JSON object with steps and seconds after the first rollouts.

    Args:
        task: name in the results.
        steps: to time, about.
        threads: of torch.
        overrides: of ``firstlight-train``.
    """
    torch.set_num_threads(threads)
    clock = IterationClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = configured(task, *overrides).make(f"{folder}/run")
        rows = trainer.vec.num_envs * trainer.num_steps
        trainer.run(SETTLED * rows + steps, [clock])
        trainer.vec.close()
    counted = rows * (len(clock.ticks) - SETTLED)
    seconds = clock.ticks[-1] - clock.ticks[SETTLED - 1]
    print(json.dumps({"steps": counted, "seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
