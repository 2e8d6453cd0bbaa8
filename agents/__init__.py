"""Policies, learners, the trainer, evaluation and diagnostics."""

if __name__ != "firstlight.agents":
    raise ImportError(
        f"{__name__!r} is a folder of the firstlight repository, not a package of its own: "
        "import it as 'firstlight.agents'."
    )

from firstlight.agents.agent import Agent, load
from firstlight.agents.algorithms.appo import APPO
from firstlight.agents.algorithms.ppo import PPO
from firstlight.agents.algorithms.subpo import SubPO
from firstlight.agents.async_trainer import AsyncTrainer
from firstlight.agents.diagnostics.pictures import HeatMaps
from firstlight.agents.diagnostics.reward_video import record_rewards
from firstlight.agents.diagnostics.run_diagnostics import run_diagnostics
from firstlight.agents.evaluation import evaluate, record
from firstlight.agents.learner import Auxiliary, Learner
from firstlight.agents.policy import ActorCritic, Policy
from firstlight.agents.session.callbacks import Evaluate, StopAt
from firstlight.agents.session.progress import Progress
from firstlight.agents.session.run_session import RunSession
from firstlight.agents.trainer import Trainer
from firstlight.networks.cores import GRU, LSTM
from firstlight.networks.encoders import (
    MLP,
    Grid,
    Impala,
    MultiInput,
    NetHack,
    ONINet,
    Pixel,
    TwinMLP,
)
from firstlight.networks.spec import rebuildable

__all__ = [
    "APPO",
    "GRU",
    "LSTM",
    "MLP",
    "PPO",
    "ActorCritic",
    "Agent",
    "AsyncTrainer",
    "Auxiliary",
    "Evaluate",
    "Grid",
    "HeatMaps",
    "Impala",
    "Learner",
    "MultiInput",
    "NetHack",
    "ONINet",
    "Pixel",
    "Policy",
    "Progress",
    "RunSession",
    "StopAt",
    "SubPO",
    "Trainer",
    "TwinMLP",
    "evaluate",
    "load",
    "rebuildable",
    "record",
    "record_rewards",
    "run_diagnostics",
]
