"""Reward shaping functions: pure functions of tensors of any shape.

They hold no state. What must be remembered within an episode is an argument and a result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def potential_shaping(phi: Tensor, next_phi: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """``gamma * Phi(s') - Phi(s)``, which does not change the best policy (Ng et al. 1999).

    The potential of a terminal state is 0. That of a truncated state counts in full, as its value
    does. To use a source that rates the state a step led to as a potential, see the transform
    `firstlight.intrinsic.mixer.Potential`.

    Args:
        phi: [...] potential of the states before the step.
        next_phi: [...] potential of the states after the step.
        terminated: [...] bool.
        gamma: discount of the stream that gets the reward.

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

    1 at the target and falling towards 0. If signed, the exponential e becomes ``2 e - 1``, and the
    density applies to its absolute value: between 1 and -1, and 0 at the distance
    ``2 * log(2) * scale * dispersion``.

    Args:
        distance: [...] at least 0.
        scale: of distances; the paper uses the maximum speed of the moving object.
        dispersion: above 1 widens the curve.
        density: above 1 keeps values high over a longer distance.
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

    The sign s is 1 if no R_i is negative, else -1. The result is large only if all R_i are, and 0
    if one of them is; two negatives do not cancel.

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
    """Reward each milestone once per episode, for example depth 5, depth 10 and depth 20.

    Args:
        value: [...] current progress.
        best: [...] highest progress so far in the episode; -inf at its start.
        thresholds: progress from which each milestone counts as reached.
        rewards: of each milestone.

    Returns:
        [...] reward of the milestones reached in this step; at most ``sum(rewards)`` per episode.
        [...] the new best.

    >>> reward, best = milestones(
    ...     torch.tensor([3.0, 12.0]), torch.tensor([2.0, 7.0]), [5, 10, 11], [1.0, 2.0, 4.0]
    ... )
    >>> reward, best
    (tensor([0., 6.]), tensor([ 3., 12.]))
    """
    line = torch.tensor(list(thresholds), dtype=value.dtype, device=value.device)
    amounts = torch.tensor(list(rewards), dtype=torch.float32, device=value.device)
    crossed = (value[..., None] >= line) & (best[..., None] < line)  # [...] -> [..., M]
    return (crossed * amounts).sum(-1), torch.maximum(value, best)


def checklist(done: Tensor, before: Tensor, rewards: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Reward each item of a list once per episode, in any order: key found, door open, lamp lit.

    Args:
        done: [..., M] bool, whether each item holds now.
        before: [..., M] bool, whether it held earlier in the episode; all False at its start.
        rewards: of the M items.

    Returns:
        [...] reward of the items that hold for the first time.
        [..., M] bool, whether each item has held so far.

    >>> reward, before = checklist(
    ...     torch.tensor([True, False, True]), torch.tensor([True, False, False]), [1.0, 2.0, 4.0]
    ... )
    >>> reward, before
    (tensor(4.), tensor([ True, False,  True]))
    """
    amounts = torch.tensor(list(rewards), dtype=torch.float32, device=done.device)
    return ((done & ~before) * amounts).sum(-1), done | before
