"""Submodular rewards: what each step adds to a set function of the episode."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.minigrid.seen_cells import POSE, SeenCells
from firstlight.envs.minigrid.seen_map import SEEN, SeenMap
from firstlight.envs.types import Obs, Rollout, map_obs
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.submodular.base import SetFunction
from firstlight.intrinsic.submodular.coverage import Coverage
from firstlight.intrinsic.submodular.items import ExploredTiles, Items


class Submodular(IntrinsicModule):
    """Pays what each step adds to a set function of the episode (Prajapat et al. 2024, SubPO).

    The bonus of step t is ``F(S_t + item) - F(S_t)``, item made of its true successor and S_t of
    all that came before in the episode. Its first observation is in the set and pays nothing, so
    the bonuses of an episode add up to ``F(all) - F(first)``. A gain depends on the whole episode,
    which a policy without memory does not see: `features` shows it, or use a recurrent policy.

    Without a `function` it is `Coverage` of the cells that a MiniGrid agent has seen, or of the
    tiles that NetHack's map shows. That is a domain prior, as in `MapChange`. It looks at the
    agent's view; where the agent is, it takes from `agent_pos`, or else follows the agent's moves.

    With `features`, observations get a field `seen` (`SeenMap`), in evaluation too: then a run
    with weight 0 is one in which the policy still sees that field.

    Args:
        obs_space: what policies see.
        info_space: side channels.
        function: of the items; None as above. It is kept, and holds the episodes' sets.
        items: makes items of observations and side channels; needed with `function` and only then.
        features: show the policy how often each cell around the agent was seen; MiniGrid only.
        size: of that picture, odd.
        modular: pay each step ``F({item})`` as if nothing came before: the paper's baseline, which
            does not know diminishing returns.

    Raises:
        ValueError: for an environment for which a `function` must be given, one of `function` and
            `items` without the other, or `features` where there is no MiniGrid view.
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        info_space: spaces.Dict | None = None,
        function: SetFunction | None = None,
        items: Items | None = None,
        features: bool = False,
        size: int = 15,
        modular: bool = False,
    ):
        super().__init__()
        if (function is None) != (items is None):
            raise ValueError("a set function and the items that it takes are given together")
        if function is None or items is None:
            items = _default_items(obs_space, info_space)
            function = Coverage(items.num_cells, max_cells=items.item_size)
        if features:
            if {"visits", "visited"} <= set(obs_space.spaces):
                raise ValueError("features are for a view; the map shows what was seen already")
            SeenCells(obs_space, info_space)  # complains if there is no view
        self.function, self.items = function, items
        self.features, self.size, self.modular = features, size, modular
        self.novelty = not modular

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Returns [T, N], at least 0 for a monotone function."""
        T, N = rollout.num_steps, rollout.num_envs
        here = self._make(rollout.obs, rollout.info, 2).unflatten(0, (T + 1, N))
        after = here[1:]
        if len(rollout.final_at):
            after = after.clone()
            at, n = rollout.final_at.cpu().unbind(1)
            after[at, n] = self._make(rollout.final_obs, rollout.final_info, 1)
        env_ids, valid = rollout.env_ids.cpu(), rollout.valid.cpu()
        opens = rollout.is_first[:-1].cpu()
        bonus = torch.zeros(T, N)
        for t in range(T):
            first, rows = opens[t].nonzero()[:, 0], valid[t].nonzero()[:, 0]
            if len(first):
                self.function.reset(env_ids[first])
                self.function.add(here[t, first], env_ids[first])
            if len(rows):
                if self.modular:
                    self.function.reset(env_ids[rows])
                bonus[t, rows] = self.function.add(after[t, rows], env_ids[rows]).float()
        return bonus.to(rollout.device)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learns nothing. Returns the mean of F over what is in the running episodes' sets."""
        ids = rollout.env_ids.cpu()
        known = ids[ids < len(self.function.total)]
        return {"value": self.function.total[known].mean().item() if len(known) else 0.0}

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Empty the sets of the running episodes."""
        self.function.reset(env_ids)

    def wrap(self, vec: VecEnv) -> VecEnv:
        """Add the side channel `pose` and the field `seen` where they are needed."""
        if self.features:
            return vec if SEEN in vec.obs_space.spaces else SeenMap(vec, size=self.size)
        places = {POSE, "agent_pos"} & set(vec.info_space.spaces)
        if isinstance(self.items, SeenCells) and not places:
            return SeenMap(vec, show=False)
        return vec

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.002 in an episodic stream: a seen cell is paid as `MapChange` pays one."""
        return Term(weight=0.002, gamma=0.99, episodic=True)

    def _make(self, obs: Obs, info: Obs, lead: int) -> Tensor:
        """Items [R, *item] of fields with `lead` leading axes, on the CPU."""

        def flat(field: Tensor) -> Tensor:
            return field.flatten(0, lead - 1)

        return self.items(map_obs(flat, obs), map_obs(flat, info)).cpu()


def _default_items(
    obs_space: spaces.Dict, info_space: spaces.Dict | None
) -> SeenCells | ExploredTiles:
    """What is covered by default."""
    if "glyphs" in obs_space.spaces:
        return ExploredTiles(obs_space, info_space)
    try:
        return SeenCells(obs_space, info_space)
    except ValueError as error:
        have = ", ".join(obs_space.spaces)
        raise ValueError(
            "the default set function, cells seen, needs MiniGrid's view `image` [7, 7, 3] and "
            f"`direction`, or NetHack's `glyphs`; the environment shows {have}: give a function "
            "and items"
        ) from error
