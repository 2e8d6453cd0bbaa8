"""`Submodular`, the marginal gains of a set function as a bonus."""

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
    """Marginal gain of each step in a set function of the episode (Prajapat et al. 2024, SubPO).

    The bonus of step t is ``F(S_t + item) - F(S_t)``, where the item is computed from its true
    successor and S_t contains all earlier items of the episode. The first observation is in the set
    without a bonus, so the bonuses of an episode add up to ``F(all) - F(first)``. A gain depends on
    the whole episode, which a policy without memory does not see: set `features`, or use a
    recurrent policy.

    The default `function` is `Coverage` of the cells that a MiniGrid agent has seen, or of the
    tiles on NetHack's map. That is a domain prior, as in `MapChange`. It uses the agent's view; the
    agent's position is read from `agent_pos`, or else tracked from its moves.

    With `features`, observations get a field `seen` (`SeenMap`), in evaluation too, and also in a
    run with weight 0.

    Args:
        obs_space: observation space of the policy.
        info_space: space of the info channels.
        function: set function of the items; it holds the sets of the running episodes. Default as
            above.
        items: computes items from observations and info channels; required with `function`, and
            only then.
        features: show the policy how often each cell around the agent was seen; MiniGrid only.
        size: height and width of the field `seen`, odd.
        modular: give each step ``F({item})``, as if nothing came before: the paper's baseline
            without diminishing returns.

    Raises:
        ValueError: if the environment has no default `function`, if only one of `function` and
            `items` is given, or for `features` without a MiniGrid view.
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
            raise ValueError("function and items are required together; only one of them is given")
        if function is None or items is None:
            items = _default_items(obs_space, info_space)
            function = Coverage(items.num_cells, max_cells=items.item_size)
        if features:
            if {"visits", "visited"} <= set(obs_space.spaces):
                raise ValueError("features=True needs a view; the map shows what was seen already")
            SeenCells(obs_space, info_space)  # raises if there is no view
        self.function, self.items = function, items
        self.features, self.size, self.modular = features, size, modular
        self.novelty = not modular

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the gains [T, N], at least 0 for a monotone function."""
        T, N = rollout.num_steps, rollout.num_envs
        here = self._make(rollout.obs, rollout.info, 2).unflatten(0, (T + 1, N))
        after = here[1:]
        if len(rollout.final_at):
            final = self._make(rollout.final_obs, rollout.final_info, 1)
            after = rollout.successors(here, final)
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
        """Return the mean of F over the sets of the running episodes; nothing is learned."""
        ids = rollout.env_ids.cpu()
        known = ids[ids < len(self.function.total)]
        return {"value": self.function.total[known].mean().item() if len(known) else 0.0}

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Empty the sets of the running episodes of `env_ids` [*] int64, or of all."""
        self.function.reset(env_ids)

    def wrap(self, vec: VecEnv) -> VecEnv:
        """Add the info channel `pose` and the field `seen` if they are needed."""
        if self.features:
            return vec if SEEN in vec.obs_space.spaces else SeenMap(vec, size=self.size)
        places = {POSE, "agent_pos"} & set(vec.info_space.spaces)
        if isinstance(self.items, SeenCells) and not places:
            return SeenMap(vec, show=False)
        return vec

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.002 in an episodic stream, so that a seen cell counts as in `MapChange`."""
        return Term(weight=0.002, gamma=0.99, episodic=True)

    def _make(self, obs: Obs, info: Obs, lead: int) -> Tensor:
        """Compute items [R, *item] from fields with `lead` leading axes, on the CPU."""

        def flat(field: Tensor) -> Tensor:
            return field.flatten(0, lead - 1)

        return self.items(map_obs(flat, obs), map_obs(flat, info)).cpu()


def _default_items(
    obs_space: spaces.Dict, info_space: spaces.Dict | None
) -> SeenCells | ExploredTiles:
    """Items of the default set function."""
    if "glyphs" in obs_space.spaces:
        return ExploredTiles(obs_space, info_space)
    try:
        return SeenCells(obs_space, info_space)
    except ValueError as error:
        have = ", ".join(obs_space.spaces)
        raise ValueError(
            "the default set function, cells seen, needs MiniGrid's view `image` [7, 7, 3] and "
            f"`direction`, or NetHack's `glyphs`; the environment has {have}: pass function and "
            "items"
        ) from error
