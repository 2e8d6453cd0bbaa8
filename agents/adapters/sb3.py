"""`IntrinsicCallback`, our reward modules in an algorithm of Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from firstlight.agents.adapters.fields import action_tensor, field_tensors, stacked_tensors
from firstlight.agents.adapters.intrinsic_rewards import IntrinsicRewards
from firstlight.agents.adapters.recorder import RolloutRecorder
from firstlight.envs.types import Obs, Step, take
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.mixer import RewardMixer


class IntrinsicCallback(BaseCallback):
    """Adds bonuses to the rewards of PPO, A2C or another on-policy algorithm.

    At the end of each rollout the mixer's reward replaces the environment's in the rollout buffer,
    and the advantages are computed again, so that returns and advantages contain the bonus.

    - Where an episode was truncated, Stable-Baselines3 adds the discounted value of the last
      observation to the reward; that part stays as it is.
    - Of `VecNormalize`, the mixer gets the normalised reward, and modules see observations and
      rewards as they were before. The statistics of `VecNormalize` are those of the environment's
      reward only, because a bonus is added after them; the scale of a bonus is a `Term`'s. Where
      the last observation of an episode was clipped, modules see the clipped one.
    - The logged ``rollout/ep_rew_mean`` stays the environment's. The mixer's and the modules'
      scalars are logged beside it, under the names of docs/metrics.md.

    Args:
        modules: name to reward module, built for ``field_spaces(env.observation_space)``.
        mixer: the reward layer, which must form one stream with the algorithm's discount; default
            the sum of all by each module's default term.
        device: of modules and mixer.
        verbose: of Stable-Baselines3.

    Attributes:
        intrinsic: the modules and the mixer, whose `state_dict` saves them; made when training
            begins.
    """

    intrinsic: IntrinsicRewards
    recorder: RolloutRecorder

    def __init__(
        self,
        modules: Mapping[str, IntrinsicModule],
        mixer: RewardMixer | None = None,
        *,
        device: torch.device | str = "cpu",
        verbose: int = 0,
    ):
        super().__init__(verbose)
        self.modules, self.mixer, self.device = dict(modules), mixer, device
        self._made = False
        self._rewards: list[Tensor] = []

    def _init_callback(self) -> None:
        """Check the algorithm and the mixer.

        Raises:
            TypeError: for an algorithm without rollouts, such as DQN.
            ValueError: for a mixer whose streams the algorithm cannot learn, or observations that
                are changed after `VecNormalize` normalised them.
        """
        model = self.model
        if not isinstance(model, OnPolicyAlgorithm):
            raise TypeError(
                f"{type(model).__name__} has no rollouts: use PPO, A2C or another on-policy "
                "algorithm"
            )
        if not self._made:  # `learn` calls this each time
            self.intrinsic = IntrinsicRewards(
                self.modules, self.mixer, gamma=model.gamma, device=self.device
            )
            self._made = True
        streams = self.intrinsic.mixer.streams
        if len(streams) != 1 or not streams[0].episodic or streams[0].gamma != model.gamma:
            kinds = [(stream.gamma, stream.episodic) for stream in streams]
            raise ValueError(
                f"the mixer forms streams of (gamma, episodic) {kinds}, but the algorithm learns "
                f"one, {(model.gamma, True)}: use Sum() and Term(gamma={model.gamma}) for "
                "'reward'"
            )
        self.normalize = model.get_vec_normalize_env()
        if self.normalize is not None and self.normalize.norm_obs:
            self._check_space(self.normalize.observation_space)
        self.recorder = RolloutRecorder(model.n_envs)

    def _check_space(self, normalised: spaces.Space) -> None:
        """Raise ValueError if observations are changed after `VecNormalize`."""
        if normalised != self.model.observation_space:
            raise ValueError(
                "a wrapper around VecNormalize changes observations: make VecNormalize the "
                "outermost wrapper, or set norm_obs=False"
            )

    def _on_rollout_start(self) -> None:
        """Forget an unfinished rollout, and note the observations before the first step."""
        model: Any = self.model
        self.recorder.discard()
        self._rewards = []
        is_first = torch.from_numpy(np.array(model._last_episode_starts, bool))
        self.recorder.begin(self._before_normalisation(model._last_obs), is_first)

    def _on_step(self) -> bool:
        """Record a step, as `collect_rollouts` has it in its local variables."""
        known = self.locals
        rewards, infos = known["rewards"], known["infos"]
        obs = self._before_normalisation(known["new_obs"])
        done = torch.from_numpy(np.array(known["dones"], bool))
        cut = torch.tensor([bool(info.get("TimeLimit.truncated", False)) for info in infos])
        final_ids = done.nonzero()[:, 0]
        final_obs = take(obs, final_ids)
        if len(final_ids):
            last = [infos[n]["terminal_observation"] for n in final_ids.tolist()]
            final_obs = self._last_obs(last)
        untouched = rewards if self.normalize is None else self.normalize.get_original_reward()
        step = Step(
            obs=obs,
            info={},
            reward=torch.from_numpy(np.array(untouched, np.float32)),
            terminated=done & ~cut,
            truncated=done & cut,
            valid=torch.ones_like(done),
            is_first=done,
            final_ids=final_ids,
            final_obs=final_obs,
            final_info={},
        )
        taken = known.get("clipped_actions", known["actions"])
        self.recorder.add(action_tensor(self.model.action_space, taken), step)
        # a copy, because the value of a truncated episode's end is added to it later
        self._rewards.append(torch.from_numpy(np.array(rewards, np.float32)))
        return True

    def _on_rollout_end(self) -> None:
        """Replace the rewards in the rollout buffer, and compute the advantages again."""
        model: Any = self.model
        given = torch.stack(self._rewards)
        progress = min(model.num_timesteps / model._total_timesteps, 1.0)
        rewards, metrics = self.intrinsic(self.recorder.rollout(), progress, extrinsic=given)
        mixed, seen = rewards.reward[..., 0].cpu().numpy(), given.numpy()
        buffer = model.rollout_buffer
        bootstrap = buffer.rewards - seen  # not 0 where an episode was truncated
        buffer.rewards = np.where(mixed == seen, buffer.rewards, mixed + bootstrap)
        buffer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])
        for tag, value in metrics.items():
            self.logger.record(tag, value)

    def _before_normalisation(self, obs: Any) -> Obs:
        """The current observations [N, ...] without the normalisation of `VecNormalize`."""
        if self.normalize is not None and self.normalize.norm_obs:
            obs = self.normalize.get_original_obs()
        return field_tensors(self.model.observation_space, obs)

    def _last_obs(self, obs: list[Any]) -> Obs:
        """Last observations of D episodes without that normalisation, each [D, ...]."""
        space = self.model.observation_space
        if self.normalize is None or not self.normalize.norm_obs:
            return stacked_tensors(space, obs)
        plain = [_rounded(space, self.normalize.unnormalize_obs(one)) for one in obs]
        return stacked_tensors(space, plain)


def _rounded(space: Any, obs: Any) -> Any:
    """Round the integer fields of an observation, which normalisation made floats."""
    if isinstance(obs, dict):
        return {name: _rounded(space[name], field) for name, field in obs.items()}
    return np.rint(obs) if np.dtype(space.dtype).kind in "iu" else obs
