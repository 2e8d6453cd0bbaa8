"""Vector environments, the runner that collects rollouts, and the shape law."""

if __name__ != "firstlight.envs":
    raise ImportError(
        f"{__name__!r} is a folder of the firstlight repository, not a package of its own: "
        "import it as 'firstlight.envs'."
    )

from firstlight.envs.check import check_vec
from firstlight.envs.frame_stack import FrameStack
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.types import Obs, Rollout, Snapshot, State, Step, check
from firstlight.envs.vec import VecEnv
from firstlight.envs.vector.gym import GymVec
from firstlight.envs.vector.isolated import Isolated, WorkerDiedError
from firstlight.envs.vector.pool import PoolVec
from firstlight.envs.worlds.chain import Chain
from firstlight.envs.worlds.collect_ball import CollectBall
from firstlight.envs.worlds.curling import Curling
from firstlight.envs.worlds.deepsea import DeepSea
from firstlight.envs.worlds.gymnasium_env import WorldEnv, register
from firstlight.envs.worlds.hard_maze import HardMaze
from firstlight.envs.worlds.race import Race
from firstlight.envs.worlds.redundant_arm import RedundantArm
from firstlight.envs.worlds.walks import Walks
from firstlight.envs.worlds.warehouse import Warehouse
from firstlight.envs.wrapper import VecWrapper

__all__ = [
    "Chain",
    "CollectBall",
    "Curling",
    "DeepSea",
    "FrameStack",
    "GymVec",
    "HardMaze",
    "Isolated",
    "Obs",
    "PoolVec",
    "Race",
    "RandomActor",
    "RedundantArm",
    "Rollout",
    "Runner",
    "Snapshot",
    "State",
    "Step",
    "VecEnv",
    "VecWrapper",
    "Walks",
    "Warehouse",
    "WorkerDiedError",
    "WorldEnv",
    "check",
    "check_vec",
]

register()
