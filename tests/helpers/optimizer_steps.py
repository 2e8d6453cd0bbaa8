"""Count the steps of an optimiser."""

from firstlight.networks.clipped_adam import ClippedAdam


def counted_steps(optimizer):
    """A list that grows by one with each step from now on."""
    taken = []
    name = "clipped_step" if isinstance(optimizer, ClippedAdam) else "step"
    step = getattr(optimizer, name)

    def counting(*words):
        taken.append(1)
        return step(*words)

    setattr(optimizer, name, counting)
    return taken
