"""What `test_distributed` calls in each rank: train on rollouts that differ in what can be used."""

import dataclasses
import json

import torch
from split_training import T, flat, is_local, trainer_of

from firstlight.networks import collective


def uneven_training():
    """Train on rollouts without a valid row, with one, and with a NaN, in one rank each."""
    with collective.joined():
        rank, number = collective.rank(), 0
        trainer = trainer_of("discrete", 2)
        trainer.learner.minibatch_size = 12  # of 64 rows
        collect = trainer.runner.collect

        def changed(actor, num_steps):
            nonlocal number
            rollout = collect(actor, num_steps)
            number += 1
            kept = torch.zeros_like(rollout.valid)
            if (rank, number) == (1, 3):
                return without(rollout, kept)
            if (rank, number) == (0, 4):
                kept[5, 1] = rollout.valid[5, 1]
                return without(rollout, kept)
            if (rank, number) == (1, 5):
                rollout.reward[rollout.valid] = torch.nan
            return rollout

        trainer.runner.collect = changed
        trainer.run(4 * T * 7)
        found = flat(trainer.state_dict())
        sums = [x.sum().item() for name, x in found.items() if not is_local(name)]
        steps = next(iter(trainer.learner.optimizer.state.values()))["step"].item()
    print(
        json.dumps(
            {
                "sums": sums,
                "steps": trainer.session.steps,
                "gradient_steps": steps,
                "skipped": trainer.session.guard.skipped,
                "rollouts": number,
            }
        )
    )


def without(rollout, kept):
    """A rollout of which only the rows `kept` [T, N] are valid."""
    never = torch.zeros_like(rollout.valid)
    return dataclasses.replace(rollout, valid=kept, reward=rollout.reward * kept, truncated=never)
