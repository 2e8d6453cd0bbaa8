"""`PseudoCounts`, visits of an episode counted by nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence

from gymnasium import spaces

from firstlight.intrinsic.bonuses.ngu import NGU
from firstlight.intrinsic.embedding import MakeEncoder
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.norm import RecentScale


class PseudoCounts(NGU):
    """One over the root of a pseudo-count of visits in the episode (Badia et al. 2020, §3).

    The episodic half of `NGU` alone: the sum of kernels over the nearest neighbours in the memory
    of the episode estimates how often the embedding of the successor was seen in it, from 0 to k.
    So the bonus falls from ``1 / c`` to ``1 / (sqrt(k) + c)``; where it would be less than ``1 /
    max_similarity``, it is 0. It is an episodic `HashCount` for states that are never the same
    twice.

    Args:
        obs_space: observation space of the policy.
        act_space: of the actions.
        encoder, keys, width, hidden, k, kernel_epsilon, cluster_distance, pseudo_count,
            max_similarity, capacity, decay, lr, num_epochs, num_minibatches, update_proportion,
            warmup_steps, seed: see `NGU`; c is `pseudo_count`.

    >>> space = spaces.Dict({"obs": spaces.Box(0, 1, (8,))})
    >>> PseudoCounts(space, spaces.Discrete(3)).rnd is None
    True
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        *,
        encoder: MakeEncoder | None = None,
        keys: Sequence[str] | None = None,
        width: int | None = 32,
        hidden: int = 64,
        k: int = 10,
        kernel_epsilon: float = 1e-3,
        cluster_distance: float = 8e-3,
        pseudo_count: float = 1e-3,
        max_similarity: float = 8.0,
        capacity: int = 1024,
        decay: float = 0.99,
        lr: float = 1e-3,
        num_epochs: int = 1,
        num_minibatches: int = 4,
        update_proportion: float = 1.0,
        warmup_steps: int = 128,
        seed: int = 0,
    ):
        super().__init__(
            obs_space,
            act_space,
            encoder=encoder,
            keys=keys,
            width=width,
            hidden=hidden,
            k=k,
            kernel_epsilon=kernel_epsilon,
            cluster_distance=cluster_distance,
            pseudo_count=pseudo_count,
            max_similarity=max_similarity,
            capacity=capacity,
            lifelong=False,
            decay=decay,
            lr=lr,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            update_proportion=update_proportion,
            warmup_steps=warmup_steps,
            seed=seed,
        )

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.1 in an episodic stream, scaled by `RecentScale`."""
        return Term(weight=0.1, transform=RecentScale(), gamma=0.99, episodic=True)
