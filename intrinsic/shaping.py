"""Shapes for rewards of one's own: small pure functions over tensors of any shape.

None of them keeps anything. What has to be remembered within an episode goes in and comes out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def potential_shaping(phi: Tensor, next_phi: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """``gamma * Phi(s') - Phi(s)``, a shape that leaves the best policy alone (Ng et al. 1999).

    The potential of a terminal state counts as 0. That of a state in which the episode was merely
    truncated counts in full, as its value does. A source that only rates what a step led to is
    made a potential by the transform `firstlight.intrinsic.mixer.Potential`.

    Args:
        phi: [...] potential of the states that were left.
        next_phi: [...] potential of the states that were reached.
        terminated: [...] bool, where the episode ended by itself.
        gamma: discount of the stream that the reward goes into.

    Returns:
        [...]

    >>> phi = torch.tensor([0.0, 1.0, 2.0, 4.0])
    >>> potential_shaping(phi[:-1], phi[1:], torch.tensor([False, False, True]), gamma=1.0)
    tensor([ 1.,  1., -2.])
    """
    return torch.where(terminated, 0.0, gamma * next_phi) - phi


def exp_distance(
    distance: Tensor,
    *,
    scale: float,
    dispersion: float = 1.0,
    density: float = 1.0,
    signed: bool = False,
) -> Tensor:
    """``exp(-distance / (2 * scale * dispersion)) ** (1 / density)`` (Lucy-SKG, 2305.15801, eq. 3).

    1 at the target and falling towards 0. Signed, the exponential e becomes ``2 e - 1``, and the
    density applies to its absolute value: between 1 and -1, and 0 at the distance
    ``2 * log(2) * scale * dispersion``.

    Args:
        distance: [...] at least 0.
        scale: of distances; the paper takes the top speed of what moves.
        dispersion: above 1 widens the shape.
        density: above 1 keeps values high for longer.
        signed: negative when far.

    Returns:
        [...]

    >>> exp_distance(torch.tensor([0.0, 2.0, 4.0]), scale=1.0)
    tensor([1.0000, 0.3679, 0.1353])
    """
    near = torch.exp(-0.5 * distance / (scale * dispersion))
    if not signed:
        return near ** (1 / density)
    centred = 2 * near - 1
    return centred.sign() * centred.abs() ** (1 / density)


def geometric_and(components: Tensor) -> Tensor:
    """``s * (prod_i |R_i|)^(1/n)`` over the last axis (Lucy-SKG, 2305.15801, eq. 2).

    The sign s is 1 if no R_i is negative, else -1. All must be large for the whole to be; one that
    is 0 makes it 0; two negatives do not cancel.

    Args:
        components: [..., n], by the paper in [-1, 1].

    Returns:
        [...]

    >>> geometric_and(torch.tensor([[0.25, 1.0], [-0.25, -1.0], [0.0, 1.0]]))
    tensor([ 0.5000, -0.5000,  0.0000])
    """
    size = (components.abs() ** (1 / components.shape[-1])).prod(-1)
    return torch.where((components >= 0).all(-1), size, -size)


def milestones(
    value: Tensor, best: Tensor, thresholds: Sequence[float], rewards: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Pay each step of a ladder once an episode: depth 5, depth 10, depth 20.

    Args:
        value: [...] how far it is now.
        best: [...] how far it was at best so far in the episode; -inf at its start.
        thresholds: from which value on each milestone counts as reached.
        rewards: for each of them.

    Returns:
        [...] the rewards of all that were reached just now; at most ``sum(rewards)`` an episode.
        [...] the new best.

    >>> reward, best = milestones(
    ...     torch.tensor([3.0, 12.0]), torch.tensor([2.0, 7.0]), [5, 10, 11], [1.0, 2.0, 4.0]
    ... )
    >>> reward, best
    (tensor([0., 6.]), tensor([ 3., 12.]))
    """
    line = torch.tensor(list(thresholds), dtype=value.dtype, device=value.device)
    pays = torch.tensor(list(rewards), dtype=torch.float32, device=value.device)
    crossed = (value[..., None] >= line) & (best[..., None] < line)  # [...] -> [..., M]
    return (crossed * pays).sum(-1), torch.maximum(value, best)


def checklist(done: Tensor, before: Tensor, rewards: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Pay each item of a list once an episode, in any order: key found, door open, lamp lit.

    Args:
        done: [..., M] bool, what holds now.
        before: [..., M] bool, what has held before in the episode; all False at its start.
        rewards: for each of the M items.

    Returns:
        [...] the rewards of what holds for the first time.
        [..., M] bool, what has held so far.

    >>> reward, before = checklist(
    ...     torch.tensor([True, False, True]), torch.tensor([True, False, False]), [1.0, 2.0, 4.0]
    ... )
    >>> reward, before
    (tensor(4.), tensor([ True, False,  True]))
    """
    pays = torch.tensor(list(rewards), dtype=torch.float32, device=done.device)
    return ((done & ~before) * pays).sum(-1), done | before
