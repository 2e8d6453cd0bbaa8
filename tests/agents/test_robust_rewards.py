"""PPO on a sparse task with a reward model trained on labels of which 40 % are wrong."""

import gymnasium
import pytest
import torch

from firstlight.agents import MLP, PPO, ActorCritic, Trainer
from firstlight.envs import GymVec
from firstlight.intrinsic import IntrinsicModule, RewardMixer, Sum, Term
from firstlight.intrinsic.mixer import Pessimism, SoftMin

STAGES, DOORS, MEMBERS = 3, 50, 5
KNOWN, RARE = 400, 2  # labels of the five doors that people took, and of each that nobody did


class Doors(gymnasium.Env):
    """Three rooms of fifty doors; the reward is 1 if door 0 was taken in each."""

    observation_space = gymnasium.spaces.Discrete(STAGES)
    action_space = gymnasium.spaces.Discrete(DOORS)

    def reset(self, *, seed=None, options=None):
        self.stage, self.right = 0, True
        return 0, {}

    def step(self, action):
        self.right &= int(action) == 0
        self.stage += 1
        over = self.stage == STAGES
        return min(self.stage, STAGES - 1), float(over and self.right), over, False, {}


class Judge(IntrinsicModule):
    """Five models' ratings of room and door: means of labels, corrected for known flip rates."""

    novelty = False

    def __init__(self, flips, seed):
        super().__init__()
        numbers = torch.Generator().manual_seed(seed)
        good = torch.tensor([1.0] + [0.3] * 4 + [0.0] * (DOORS - 5))
        labels = torch.rand(STAGES, DOORS, MEMBERS, KNOWN, generator=numbers) < good[:, None, None]
        labels = (labels ^ (torch.rand(labels.shape, generator=numbers) < flips)).float()
        mean = torch.where(good[:, None] > 0, labels.mean(-1), labels[..., :RARE].mean(-1))
        self.ratings = (mean - flips) / (1 - 2 * flips)  # [STAGES, DOORS, MEMBERS]

    def compute(self, rollout):
        return self.ratings[rollout.obs["obs"][:-1].long(), rollout.action]

    def update(self, rollout):
        return {}


def solved(reduce, *, flips=0.4, seed=0):
    """Train, and return the success rate of the last hundred episodes."""
    vec = GymVec([Doors] * 16)
    torch.manual_seed(seed)
    policy = ActorCritic(vec.obs_space, vec.act_space, encoder=MLP(vec.obs_space, hidden=(32,)))
    mixer = RewardMixer({"judge": Term(weight=0.3, reduce=reduce)}, Sum())
    learner = PPO(policy, lr=5e-3, minibatch_size=256, entropy_coef=0.005, seed=seed)
    judge = Judge(flips, seed)
    run = Trainer(vec, learner, {"judge": judge}, mixer, num_steps=32, seed=seed)
    run.run(12_000)
    return run.session.episodes.metrics()["rollout/return_mean"]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("reduce", "flips", "reaches"),
    [
        (None, 0.4, False),
        (None, 0.0, True),
        (SoftMin(), 0.4, True),
        (Pessimism(coef=2.0), 0.4, True),
    ],
    ids=["mean", "mean of right labels", "worst case", "two deviations"],
)
def test_with_wrong_labels_only_the_robust_forms_solve_the_task(reduce, flips, reaches, seed):
    part = solved(reduce, flips=flips, seed=seed)
    assert part > 0.9 if reaches else part < 0.1
