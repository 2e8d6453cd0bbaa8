"""Distances between rewards that do not change with potential shaping and scale: STARC and EPIC.

STARC (Skalse et al. 2024): d(R, Q) = ½ ‖s(R) − s(Q)‖₂ with s(R) = c(R) / ‖c(R)‖₂, where the
canonicalisation c maps rewards that differ by potential shaping, or by moving reward between the
successors of an action without changing its mean (S'-redistribution), to the same values. The
distance is 0 for such rewards and their positive multiples, 1 for opposite ones, and bounds the
regret of optimising one for the other from below and above.

EPIC (Gleave et al. 2021) is √((1 − ρ) / 2), ρ the correlation of its own canonicalised rewards. It
averages over transitions that may be impossible, so it bounds no regret.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
_ZERO = 1e-10
"""A canonicalised reward smaller than this, in relation to the reward, is that of no preference."""


@dataclass(frozen=True)
class TabularMDP:
    """What the distances need to know of a finite Markov decision process.

    Args:
        transition: [S, A, S] probabilities of successors.
        discount: γ, at least 0 and below 1.

    Raises:
        ValueError: for other shapes, numbers that are no probabilities, or another discount.
    """

    transition: Array
    discount: float

    def __post_init__(self) -> None:
        shape = self.transition.shape
        if len(shape) != 3 or shape[0] != shape[2]:
            raise ValueError(f"transition has shape {shape}, expected [S, A, S]")
        if (self.transition < 0).any() or not np.allclose(self.transition.sum(-1), 1.0):
            raise ValueError("transition holds no probabilities: each [s, a] must sum to 1")
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount is {self.discount}, expected at least 0 and below 1")

    def mean_reward(self, reward: Array) -> Array:
        """Average a reward [S, A, S] over successors: [S, A]."""
        return (self.transition * reward).sum(-1)

    def advance(self, values: Array) -> Array:
        """Discounted mean [S, A] of successors' values [S]."""
        return self.discount * self.transition @ values


def canonicalize_by_value(reward: Array, mdp: TabularMDP, policy: Array | None = None) -> Array:
    """Canonicalise with the values of a policy (VAL): E[R(s, a, S') − V(s) + γ V(S')].

    Args:
        reward: [S, A, S].
        mdp: its transitions.
        policy: [S, A] probabilities of actions, all above 0; default uniform.

    Returns:
        [S, A, S], the same for every successor.
    """
    S, A, _ = mdp.transition.shape
    policy = np.full((S, A), 1 / A) if policy is None else policy
    mean = mdp.mean_reward(reward)
    under_policy = np.einsum("sa,sat->st", policy, mdp.transition)
    value = np.linalg.solve(np.eye(S) - mdp.discount * under_policy, (policy * mean).sum(1))
    canonical = mean - value[:, None] + mdp.advance(value)
    return np.repeat(canonical[:, :, None], S, axis=2)


def canonicalize_minimally(reward: Array, mdp: TabularMDP) -> Array:
    """Find the reward [S, A, S] of the smallest L2 norm among those equivalent to `reward`.

    The rewards with the mean r(s, a) over successors have the smallest norm where they are
    proportional to the probabilities; so the potential is fitted to r / ‖T(s, a, ·)‖₂.
    """
    S, A, _ = mdp.transition.shape
    size = np.linalg.norm(mdp.transition, axis=-1)  # [S, A]
    shaping = mdp.discount * mdp.transition - np.eye(S)[:, None]  # γ Φ(s') − Φ(s), of each Φ
    columns = (shaping / size[..., None]).reshape(S * A, S)
    target = mdp.mean_reward(reward) / size
    potential = np.linalg.lstsq(columns, target.ravel(), rcond=None)[0]
    rest = target - (columns @ potential).reshape(S, A)
    return rest[..., None] * mdp.transition / size[..., None]


Canonicalize = Callable[[Array, TabularMDP], Array]


def starc_distance(
    first: Array,
    second: Array,
    mdp: TabularMDP,
    canonicalize: Canonicalize = canonicalize_by_value,
) -> float:
    """Compute the STARC distance of two rewards [S, A, S], from 0 to 1.

    Args:
        first: a reward.
        second: another.
        mdp: their transitions.
        canonicalize: `canonicalize_by_value` or `canonicalize_minimally`.
    """
    pair = [_standardize(canonicalize(reward, mdp), reward) for reward in (first, second)]
    return _half_distance(*pair)


def epic_distance(
    first: Array, second: Array, discount: float, weights: tuple[Array, Array] | None = None
) -> float:
    """Compute the EPIC distance of two rewards [S, A, S], from 0 to 1.

    Args:
        first: a reward.
        second: another.
        discount: γ.
        weights: probabilities of states [S] and actions [A], from which state, action and successor
            are drawn independently; default uniform.
    """
    S, A, _ = first.shape
    states, actions = weights or (np.full(S, 1 / S), np.full(A, 1 / A))
    coverage = states[:, None, None] * actions[:, None] * states
    pair = []
    for reward in (first, second):
        leaving = np.einsum("a,t,sat->s", actions, states, reward)  # E R(s, A, S')
        canonical = reward + discount * leaving - leaving[:, None, None]
        canonical = canonical - discount * states @ leaving
        pair.append(_standardize(np.sqrt(coverage) * _centred(canonical, coverage), reward))
    return _half_distance(*pair)


def sampled_starc(
    rewards: tuple[Array, Array],
    features: Array,
    next_features: Array,
    discount: float,
    *,
    by_value: bool = False,
) -> float:
    """Estimate the STARC distance of two rewards from recorded transitions.

    Potentials and values are linear in features of states. The minimal canonicalisation is then the
    rest of a least-squares fit of the reward by γ Φ(s') − Φ(s); the one by values takes those of
    the policy that acted, by temporal differences (LSTD, Bradtke & Barto 1996). The mean over
    successors is left out, so the estimate is too large where successors are random; compare it
    with `noise_floor`.

    Args:
        rewards: two of [B].
        features: [B, F] of the states.
        next_features: [B, F] of the successors, 0 where the episode terminated.
        discount: γ.
        by_value: canonicalise by values in place of minimally.
    """
    shaping = features - discount * next_features
    pair = []
    for reward in rewards:
        if by_value:
            normal, target = features.T @ shaping, features.T @ reward
            value = np.linalg.lstsq(normal, target, rcond=1e-8)[0]
        else:
            value = np.linalg.lstsq(shaping, reward, rcond=1e-8)[0]
        pair.append(_standardize(reward - shaping @ value, reward))
    return _half_distance(*pair)


def sampled_epic(
    rewards: tuple[Array, Array], features: Array, next_features: Array, discount: float
) -> float:
    """Estimate the EPIC distance of two rewards from recorded transitions.

    EPIC needs rewards of states and successors that were drawn independently, which no recording
    holds. So each reward is fitted by a sum of a function of the state and one of the successor,
    and the means are those of the fit.

    Args:
        rewards: two of [B].
        features: [B, F] of the states.
        next_features: [B, F] of the successors, 0 where the episode terminated.
        discount: γ.
    """
    B, F = features.shape
    columns = np.concatenate([features, next_features, np.ones((B, 1))], 1)
    mean = features.mean(0)
    pair = []
    for reward in rewards:
        fit = np.linalg.lstsq(columns, reward, rcond=1e-8)[0]
        anywhere = mean @ fit[F:-1] + fit[-1]  # of the successor
        leaving, arriving = features @ fit[:F], next_features @ fit[:F]
        canonical = reward + discount * (arriving + anywhere) - leaving - anywhere
        canonical = canonical - discount * (mean @ fit[:F] + anywhere)
        pair.append(_standardize(canonical - canonical.mean(), reward))
    return _half_distance(*pair)


def noise_floor(
    distance: Callable[[tuple[Array, Array]], float],
    reward: Array,
    potential: Array,
    next_potential: Array,
    discount: float,
) -> float:
    """Estimate the distance of a reward to a shaped copy of itself, which is 0 without noise.

    Args:
        distance: estimates the distance of two rewards [B].
        reward: [B].
        potential: [B] of the states, which the features of `distance` need not represent.
        next_potential: [B] of the successors, 0 where the episode terminated.
        discount: γ.
    """
    shaping = discount * next_potential - potential
    spread = shaping.std()
    scale = reward.std() / spread if spread > 0 else 0.0
    return distance((reward, reward + scale * shaping))


def _centred(values: Array, weights: Array) -> Array:
    return values - (weights * values).sum()


def _standardize(canonical: Array, reward: Array) -> Array:
    """Divide a canonicalised reward by its L2 norm; a reward of rounding errors becomes 0."""
    size = np.linalg.norm(canonical)
    is_zero = size <= _ZERO * np.linalg.norm(reward)
    return np.zeros_like(canonical) if is_zero else canonical / size


def _half_distance(first: Array, second: Array) -> float:
    return float(0.5 * np.linalg.norm(first - second))
