"""Build a search of genomes from a composed config."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from firstlight.scripts.build_env import make_vec
from firstlight.scripts.errors import BadInputError
from firstlight.scripts.instantiate import instantiate, locate

if TYPE_CHECKING:
    from firstlight.agents.search.evaluators.base import Evaluator
    from firstlight.agents.search.search_trainer import SearchTrainer
    from firstlight.envs.vec import VecEnv


def is_search(cfg: DictConfig) -> bool:
    """Whether the learner of a config is a search."""
    from firstlight.agents.search.algorithm import SearchAlgorithm

    kind = locate(str(cfg.learner["_target_"]))
    return isinstance(kind, type) and issubclass(kind, SearchAlgorithm)


def check_search(cfg: DictConfig) -> None:
    """Raise `BadInputError` for options that a search cannot have."""
    name = str(cfg.learner["_target_"]).rpartition(".")[2]
    if modules := [str(key) for key, node in cfg.intrinsic.items() if "_target_" in node]:
        raise BadInputError(
            f"{name} searches by whole episodes and takes no reward modules: leave out "
            f"intrinsic=[{','.join(modules)}]"
        )
    if cfg.init_from is not None:
        raise BadInputError(f"init_from={cfg.init_from}: {name} begins with random genomes")
    if cfg.reset_points is not None:
        raise BadInputError(f"reset_points={cfg.reset_points}: {name} begins each episode anew")
    if cfg.alternate:
        raise BadInputError(f"alternate=true collects rollouts, and {name} evaluates episodes")
    if cfg.doctor:
        raise BadInputError(f"doctor=true checks reward modules, and {name} has none")
    if "evaluator" not in cfg:
        raise BadInputError(f"{name} needs an evaluator: give trainer=search")
    if cfg.checkpoint.barrier:
        raise BadInputError(f"checkpoint.barrier=true: {name} resumes bit for bit without")


def make_evaluator(cfg: DictConfig, vec: VecEnv, policy: Any) -> Evaluator:
    """Make the evaluator of a search, in this process or in those of Ray."""
    pictures = locate(str(cfg.learner["_target_"])).needs_pictures
    local = instantiate(cfg.evaluator, vec=vec, policy=policy, seed=cfg.seed, pictures=pictures)
    chosen = cfg.search
    if chosen.evaluator == "local":
        return local
    if chosen.evaluator != "ray":
        raise BadInputError(f"search.evaluator={chosen.evaluator}: expected local or ray")
    from firstlight.agents.search.evaluators.ray_evaluator import RayEvaluator

    nodes = ("env", "policy", "evaluator", "learner")
    config = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in nodes}
    make = functools.partial(make_worker_evaluator, config | {"seed": cfg.seed})
    try:
        return RayEvaluator(local, make, num_workers=chosen.workers, address=chosen.address)
    except (ValueError, ImportError, ConnectionError) as error:
        raise BadInputError(f"search.evaluator=ray: {error}") from error


def make_worker_evaluator(config: dict[str, Any]) -> Evaluator:
    """Make the evaluator of a process of Ray, with environments of its own."""
    cfg = OmegaConf.create({**config, "search": {"evaluator": "local"}})
    if "num_threads" in cfg.evaluator:
        cfg.evaluator.num_threads = 1  # a process for each core
    vec = make_vec(cfg.env)
    policy = instantiate(cfg.policy, obs_space=vec.obs_space, act_space=vec.act_space)
    return make_evaluator(cfg, vec, policy)


def build_search(cfg: DictConfig, vec: VecEnv) -> SearchTrainer:
    """Build the trainer of a search and its environments."""
    check_search(cfg)
    policy = instantiate(cfg.policy, obs_space=vec.obs_space, act_space=vec.act_space)
    evaluator = make_evaluator(cfg, vec, policy)
    algorithm = instantiate(cfg.learner, evaluator=evaluator, seed=cfg.seed)
    return instantiate(
        cfg.trainer,
        vec=vec,
        algorithm=algorithm,
        evaluator=evaluator,
        run_dir=cfg.run_dir,
        resume=cfg.resume == "auto",
        checkpoint_every=cfg.checkpoint.every,
        stall_after=cfg.stall_after,
    )
