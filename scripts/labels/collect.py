"""Record the captions of play with random actions, or with the policy of a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from firstlight.agents.agent import load
from firstlight.agents.evaluation import frozen
from firstlight.envs.runner import Actor, RandomActor, Runner
from firstlight.envs.seeding import derive
from firstlight.envs.types import Rollout
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.language.caption_counts import Caption, CaptionCounts
from firstlight.intrinsic.language.choices import family_of
from firstlight.intrinsic.language.texts import StepTexts
from firstlight.scripts.build import make_modules
from firstlight.scripts.build_env import make_vec, taken_options
from firstlight.scripts.errors import BadInputError
from firstlight.scripts.saved_run import load_persistent_state, read_config

CAPTIONS = "captions.sqlite"
"""Name of the file of captions in a folder of firstlight-motif."""

_STEPS = 64  # of a rollout


def collect(folder: Path, options: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Play until there are enough steps, and add the captions to those of the folder.

    Args:
        folder: made if missing.
        options: ``steps``, ``run``, ``which``, ``allow``, ``status``, ``seed``.
        overrides: of ``conf/train.yaml``, to choose an environment; none with ``run``.
    """
    if options["which"] not in ("newest", "best"):
        raise BadInputError(f"which={options['which']}: expected newest or best")
    if bool(options["run"]) == bool(overrides):
        raise BadInputError("collect needs a policy: give run=RUN, or env=… for random actions")
    with ExitStack() as cleanup:
        torch.set_num_threads(1)  # environments need the other cores
        vec, actor, source = _from_run(options) if options["run"] else _random(overrides)
        cleanup.callback(vec.close)
        cleanup.enter_context(frozen(actor))
        if vec.text_table is None or "text_id" not in vec.info_space.spaces:
            raise BadInputError(
                "this environment has no captions: expected MiniGrid, NetHack, MiniHack, or a "
                "VecEnv with text_table and the side channel text_id"
            )
        if options["status"] and "blstats" not in vec.obs_space.spaces:
            raise BadInputError("status=true needs NetHack's bottom line, which is not observed")
        with_mission = "mission_id" in vec.info_space.spaces
        texts = StepTexts(vec.text_table, with_mission=with_mission)
        captions = CaptionCounts(folder / CAPTIONS)
        cleanup.callback(captions.close)
        _check_same_form(
            captions, family=family_of("auto", vec.info_space), with_mission=with_mission
        )
        name = json.dumps({**source, "seed": options["seed"], "status": options["status"]})
        done = captions.steps(name)
        runner = Runner(vec, seed=derive(options["seed"], "captions", done))
        while done < options["steps"]:
            rollout = runner.collect(actor, _STEPS)
            steps = int(rollout.valid.sum())
            captions.add(name, steps, count_captions(rollout, texts, options["status"]))
            done += steps
        found, counts = captions.read()
    print(
        f"{folder / CAPTIONS} holds {len(found):,} different captions of {int(counts.sum()):,} "
        f"steps with one; this policy has played {done:,} steps"
    )


def count_captions(rollout: Rollout, texts: StepTexts, with_status: bool) -> Counter[Caption]:
    """Count the captions of a rollout's valid steps that have one.

    Args:
        rollout: with `blstats` among its observations if `with_status`.
        texts: of the environments.
        with_status: whether a caption holds the status of the player after the step.
    """
    ids = texts.ids(rollout)[1]
    chosen = rollout.valid & (ids != 0)
    sentences = [texts.sentences.text(i) for i in ids[chosen].tolist()]
    if not with_status:
        return Counter(map(Caption, sentences))
    from firstlight.envs.nethack.status import describe_status

    line = rollout.successors(rollout.obs["blstats"], rollout.final_obs["blstats"])
    lines = map(describe_status, line[chosen].numpy())
    return Counter(Caption(*both) for both in zip(sentences, lines, strict=True))


def _random(overrides: Sequence[str]) -> tuple[VecEnv, Actor, dict[str, Any]]:
    """Environments of a command line, with random actions."""
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        cfg = compose("train", overrides=list(overrides))
    if OmegaConf.is_missing(cfg.env, "_target_"):
        raise BadInputError("choose an environment, such as env=minigrid/doorkey_8x8")
    vec = make_vec(cfg.env, **taken_options(cfg.env, ["text"]))
    return vec, RandomActor(vec.act_space), {"random": sorted(overrides)}


def _from_run(options: Mapping[str, Any]) -> tuple[VecEnv, Actor, dict[str, Any]]:
    """Environments and policy of a run."""
    run, which = Path(options["run"]), options["which"]
    allow = (options["allow"],) if options["allow"] else ()
    config: DictConfig = read_config(run, allow)
    try:
        agent = load(run, which=which, allow=allow)
    except (ValueError, FileNotFoundError) as error:
        raise BadInputError(str(error)) from error
    vec = make_vec(config.env, **taken_options(config.env, ["text"]))
    vec = make_modules(config.intrinsic, vec, options["seed"])[1]
    load_persistent_state(run, which, vec)
    return vec, agent.policy, {"run": str(run.absolute()), "step": agent.step}


def _check_same_form(captions: CaptionCounts, **form: Any) -> None:
    """Raise `BadInputError` if the folder has captions of environments of another kind."""
    for name, value in form.items():
        known = captions.fact(name)
        if known is not None and known != value:
            raise BadInputError(
                "the folder holds captions of another kind of environment "
                f"({name}={known}, here {value}): give another folder"
            )
    captions.note(**form)
