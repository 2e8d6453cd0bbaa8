"""Evaluation counts the right episodes and changes no state of the run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from torch import nn

from firstlight.agents.evaluation import SeedCheck, evaluate, record
from firstlight.envs.optional_box import OptionalBox
from firstlight.envs.runner import RandomActor
from firstlight.envs.types import Step
from firstlight.envs.vec import VecEnv
from firstlight.envs.worlds.chain import Chain


class Clocks(VecEnv):
    """Environment i has episodes of i + 1 steps, with their length as the final reward.

    With `next_step` the call after an end only resets, and returns an invalid reward and end.
    """

    success_threshold = 2.0

    def __init__(self, num_envs, next_step=False, success=None):
        self.num_envs, self.next_step, self.success = num_envs, next_step, success
        self.obs_space = spaces.Dict({"obs": spaces.Box(0, 255, (1,), np.uint8)})
        self.info_space = spaces.Dict({})
        self.act_space = spaces.Discrete(2)
        self.lengths = torch.arange(1, num_envs + 1)
        self.seeds, self.actions, self.seen = [], [], []

    def reset(self, seed=None):
        self.seeds.append(seed)
        self.time = torch.zeros(self.num_envs, dtype=torch.int64)
        self.over = torch.zeros(self.num_envs, dtype=torch.bool)
        return self._obs(), self._info(self.time)

    def _obs(self):
        return {"obs": self.time[:, None].to(torch.uint8)}

    def _info(self, time):
        if self.success is None:
            return {}
        return {"success": torch.full(time.shape, self.success, dtype=torch.int8)}

    def step(self, action):
        self.actions.append(action.clone())
        valid = ~self.over
        self.time = torch.where(valid, self.time + 1, 0)
        done = valid & (self.time == self.lengths)
        reward = torch.where(valid, torch.where(done, self.lengths, 0).float(), 99.0)
        ids = torch.zeros(0, dtype=torch.int64) if self.next_step else done.nonzero()[:, 0]
        final = self.time[ids]
        if self.next_step:
            is_first, self.over = ~valid, done
        else:
            is_first, self.time = done, torch.where(done, 0, self.time)
        info = self._info(self.time)
        if self.success is not None and not self.next_step:
            info["success"][ids] = 0  # of the episode that just began
        return Step(
            obs=self._obs(),
            info=info,
            reward=reward,
            terminated=done | ~valid,
            truncated=torch.zeros_like(done),
            valid=valid,
            is_first=is_first,
            final_ids=ids,
            final_obs={"obs": final[:, None].to(torch.uint8)},
            final_info=self._info(final),
        )

    def render(self, env_id=0):
        return np.full((4, 6, 3), 40 * int(self.time[env_id]), np.uint8)


class Probe(nn.Module):
    """Counts the steps of each episode in its state; records the mode of each call."""

    def __init__(self):
        super().__init__()
        self.head, self.norm = nn.Linear(1, 2), nn.Dropout(0.5)
        self.frozen = nn.Linear(1, 1).eval()
        self.calls = []

    def initial_state(self, num_envs):
        return {"count": torch.zeros(num_envs)}

    def forward(self, obs, state, is_first):
        assert is_first.shape == obs["obs"].shape[:2]
        assert not any(module.training for module in self.modules())
        assert not torch.is_grad_enabled()
        count = torch.where(is_first[0], 0.0, state["count"])
        self.calls.append((count.clone(), obs["obs"][0, :, 0].clone()))
        logits = self.head(self.norm(obs["obs"].float()))
        dist = torch.distributions.Categorical(logits=logits)

        def sample(generator):
            flat = torch.multinomial(dist.probs.flatten(0, 1), 1, generator=generator)
            return flat.reshape(is_first.shape)

        return SimpleNamespace(
            dist=SimpleNamespace(sample=sample, mode=lambda: logits.argmax(-1)),
            value=None,
            state={"count": count + 1},
        )


@pytest.mark.parametrize("next_step", [False, True])
@pytest.mark.parametrize("episodes", [1, 4, 5, 8, 11])
def test_short_episodes_are_not_overrepresented(episodes, next_step):
    result = evaluate(Probe(), Clocks(4, next_step), episodes=episodes, seed=3)
    wanted = [float(i % 4 + 1) for i in range(episodes)]
    assert result.returns == wanted
    assert result.episodes == episodes
    assert result.return_mean == pytest.approx(np.mean(wanted))
    assert result.return_std == pytest.approx(np.std(wanted))
    assert result.length_mean == pytest.approx(np.mean(wanted))
    assert result.success_rate == pytest.approx(np.mean([w > 2 for w in wanted]))


@pytest.mark.parametrize("next_step", [False, True])
@pytest.mark.parametrize(("success", "rate"), [(1, 1.0), (0, 0.0), (-1, None)])
def test_success_in_the_info_takes_precedence(success, rate, next_step):
    vec = Clocks(3, next_step, success)
    vec.success_threshold = None
    assert evaluate(Probe(), vec, episodes=7, seed=0).success_rate == rate


def test_the_state_is_reset_for_each_episode():
    policy = Probe()
    evaluate(policy, Clocks(3), episodes=9, seed=0)
    for count, shown in policy.calls:  # the observation is the time in the episode
        assert torch.equal(count, shown.float())


def test_evaluation_leaves_the_policy_unchanged():
    policy = Probe().train()
    policy.frozen.eval()
    modes = [module.training for module in policy.modules()]
    random_state = torch.get_rng_state()
    evaluate(policy, Clocks(3), episodes=4, seed=0)
    assert [module.training for module in policy.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.is_grad_enabled()

    def fail(action):
        raise RuntimeError("broken")

    vec = Clocks(3)
    vec.step = fail
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(policy, vec, episodes=4, seed=0)
    assert [module.training for module in policy.modules()] == modes
    assert torch.is_grad_enabled()


def test_the_result_depends_on_the_seed_alone():
    def actions(seed, deterministic=False):
        torch.manual_seed(0)
        policy, vec = Probe(), Clocks(4)
        with torch.no_grad():
            policy.head.weight.zero_()
            policy.head.bias.zero_()
        evaluate(policy, vec, episodes=12, seed=seed, deterministic=deterministic)
        assert vec.seeds == [seed]
        return torch.stack(vec.actions)

    assert torch.equal(actions(1), actions(1))
    assert not torch.equal(actions(1), actions(2))
    assert torch.equal(actions(1, True), actions(2, True))
    assert set(actions(1).unique().tolist()) == {0, 1}


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_a_policy_need_not_be_a_torch_module(autoreset):
    vec = Chain(4, length=2, autoreset=autoreset)
    result = evaluate(RandomActor(vec.act_space), vec, episodes=400, seed=0)
    assert result.success_rate == result.return_mean  # one reward of 1
    assert 0.4 < result.return_mean < 0.65  # 1/4 at once, else 1/4 and 1/2 of the ways later


def test_zero_episodes_raise():
    with pytest.raises(ValueError, match="episodes is 0"):
        evaluate(Probe(), Clocks(2), episodes=0, seed=0)


def frames_of(path):
    with Image.open(path) as image:
        shades = []
        for i in range(image.n_frames):
            image.seek(i)
            shades.append(int(np.asarray(image.convert("RGB"))[0, 0, 0]) // 40)
        return shades


@pytest.mark.parametrize(
    ("next_step", "episodes", "shades"),
    [
        (True, 1, [0, 1, 2, 3]),
        (True, 2, [0, 1, 2, 3, 0, 1, 2, 3]),
        (False, 1, [0, 1, 2]),  # the reset replaces the last frame
        (False, 2, [0, 1, 2, 0, 1, 2]),
    ],
)
def test_a_recording_shows_the_episode_from_reset_to_end(tmp_path, next_step, episodes, shades):
    vec = Clocks(2, next_step)
    vec.lengths[0] = 3
    policy = Probe().train()
    ended = record(policy, vec, tmp_path / "v" / "a.gif", episodes=episodes, seed=1)
    assert [(e.ret, e.length) for e in ended] == [(3.0, 3)] * episodes
    assert frames_of(tmp_path / "v" / "a.gif") == shades
    assert policy.training


def test_a_recording_respects_max_steps_and_scale(tmp_path):
    vec = Clocks(1)
    vec.lengths[0] = 100
    assert record(Probe(), vec, tmp_path / "a.gif", seed=1, max_steps=3, scale=2) == []
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.size) == (4, (12, 8))


def test_an_evaluation_is_bounded_and_says_what_it_cut(caplog):
    vec = Clocks(3)  # episodes of 1, 2 and 3 steps
    actor = RandomActor(vec.act_space)
    found = evaluate(actor, vec, episodes=6, seed=0, max_steps=4)
    # two episodes each: environment 2 ends its first after 3 steps and is in the second after 4
    assert found.returns == [1.0, 2.0, 3.0, 1.0, 2.0, 0.0]
    assert (found.episodes, found.cut) == (6, 1)
    assert "1 were cut" in caplog.text
    found = evaluate(actor, vec, episodes=6, seed=0, max_steps=2)
    assert (found.returns, found.cut) == ([1.0, 2.0, 1.0, 0.0, 0.0], 2)
    assert "1 did not begin" in caplog.text
    assert evaluate(actor, vec, episodes=6, seed=0, max_steps=6).cut == 0
    with pytest.raises(ValueError, match="max_steps is 0"):
        evaluate(actor, vec, seed=0, max_steps=0)


def test_an_evaluation_ends_at_the_step_in_which_its_check_raises():
    vec, left = Clocks(3), [3]

    def check():
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(RandomActor(vec.act_space), vec, episodes=6, seed=0, check=check)
    assert len(vec.actions) == 3


def test_a_field_that_a_reward_module_added_may_differ_after_equal_seeds(caplog):
    space = spaces.Dict(
        {"obs": spaces.Box(0, 1, (2,)), "goal": OptionalBox(0, 1, (2,), default=0.0)}
    )
    zeros, ones = torch.zeros(3, 2), torch.ones(3, 2)
    check = SeedCheck(space)
    check({"obs": zeros, "goal": zeros})
    check({"obs": zeros, "goal": ones})
    assert not caplog.records
    check = SeedCheck(space)
    check({"obs": zeros, "goal": zeros})
    check({"obs": ones, "goal": zeros})
    assert "the observation 'obs' differs" in caplog.text
