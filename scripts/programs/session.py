"""One search of ``firstlight-design``: set up, rounds, final check, report."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from firstlight.intrinsic.design.design_search import DesignSearch, ProgramCheck, TrainedProgram
from firstlight.intrinsic.design.designers.base import Designer, ProgramResult, SearchState
from firstlight.intrinsic.design.designers.text_models import (
    AnswerJudge,
    ChatModel,
    ReplayModel,
    TextModel,
)
from firstlight.intrinsic.design.program import RewardProgram
from firstlight.intrinsic.design.trial_run import trial_run
from firstlight.intrinsic.language.choices import check_endpoint
from firstlight.intrinsic.language.judges.judge import JudgeError
from firstlight.intrinsic.language.limits import Limits
from firstlight.intrinsic.language.local_server import NAME
from firstlight.scripts.errors import CONF, BadInputError, print_line, suggestion
from firstlight.scripts.instantiate import instantiate, locate
from firstlight.scripts.programs.final_check import FinalCheck
from firstlight.scripts.programs.finalists import choose_finalists
from firstlight.scripts.programs.preference_page import PreferencePage
from firstlight.scripts.programs.program_cells import SEARCH, ProgramCells
from firstlight.scripts.programs.saved_agents import describe_failed_episodes, record_agent
from firstlight.scripts.programs.task_recording import record_task
from firstlight.scripts.report.design_report import write_report

ANSWERS, SETTINGS = "answers.sqlite", "design.json"
"""Files of a folder: answers of the language model; the options that the search began with."""

_MAY_CHANGE = (
    *("budget", "jobs", "remark", "dry_run", "dir", "allow_unsandboxed", "calls_per_minute"),
    *("max_calls", "max_tokens", "max_cost", "input_price", "output_price"),
    *("finalists", "finalist_seeds", "seeds", "final_steps"),  # of what follows the search
)


def design(
    options: Mapping[str, Any], of_designer: Mapping[str, str], overrides: Sequence[str]
) -> bool:
    """Run a search, or go on with it, and write its report.

    Args:
        options: of the command.
        of_designer: options of the designer.
        overrides: of ``firstlight-train``.

    Returns:
        False if a language model could not be asked; all that was done before is kept.

    Raises:
        BadInputError: for options that do not fit.
    """
    cfg = _compose(overrides)
    folder = _folder(options, overrides)
    if not options["dry_run"]:
        _check_same_search(folder, options, of_designer, overrides)
    with closing(_make_designer(options, of_designer, folder)) as designer:
        task, rollout, threshold = record_task(cfg, options)
        try:
            designer.check_task(task)
        except ValueError as error:
            raise BadInputError(str(error)) from error
        if options["dry_run"]:
            print(designer.preview(SearchState(task)) or "the designer sends nothing")
            return True
        _save_settings(folder, options, of_designer, overrides)
        cells = ProgramCells(
            folder,
            overrides,
            jobs=options["jobs"],
            budget=options["budget"],
            allow_unsandboxed=options["allow_unsandboxed"],
            describe=describe_failed_episodes if designer.reads_failures else None,
        )

        def train(programs: Mapping[str, RewardProgram]) -> Mapping[str, TrainedProgram]:
            seeds, steps = [options["seed"]], options["steps"]
            found = cells.train(programs, task=SEARCH, seeds=seeds, steps=steps)
            return {name: trained for (name, _), trained in found.items()}

        def check(program: RewardProgram) -> ProgramCheck:
            return trial_run(
                program,
                rollout,
                success_threshold=threshold,
                allow_unsandboxed=options["allow_unsandboxed"],
            )

        try:
            search = DesignSearch(
                designer, task, folder, check=check, train=train, remark=options["remark"]
            )
        except ValueError as error:  # a file of the folder is damaged
            raise BadInputError(str(error)) from error
        failure = None
        try:
            finished = search.run()
        except JudgeError as error:
            finished, failure = False, error
        finalists, final = None, None
        if finished:
            finalists = choose_finalists(search.table.results, cells, options)
        if finalists:
            final = FinalCheck(cells, options, folder).run(finalists[0])
        command = ["firstlight-design", *_words(options, of_designer), *overrides]
        write_report(folder, search, finalists or (), final, command, designer.metrics())
        if failure is not None:
            print_line(f"firstlight: {failure}; the same command continues")
        elif finalists is None or (finalists and final is None):
            print("the budget is spent; run the command again to continue")
    return failure is None


def _compose(overrides: Sequence[str]) -> DictConfig:
    """Compose the config of the trainings, to refuse what is wrong before anything is written."""
    from firstlight.scripts.run_options import check_options

    own = [word for word in overrides if word.partition("=")[0] in ("run_dir", "resume")]
    if own or any(word.startswith(("intrinsic.program", "total_steps=")) for word in overrides):
        raise BadInputError(
            "firstlight-design sets run_dir, resume, total_steps and intrinsic.program itself: "
            "give dir, steps and final_steps"
        )
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        cfg = compose("train", list(overrides))
    if "program" in cfg.intrinsic:
        raise BadInputError("firstlight-design adds the module program itself: leave it out")
    check_options(cfg)
    return cfg


def _folder(options: Mapping[str, Any], overrides: Sequence[str]) -> Path:
    if options["dir"]:
        return Path(options["dir"])
    choices = dict(word.split("=", 1) for word in overrides if word.startswith("env="))
    env = choices.get("env", "own").replace("/", "-")
    designer = options["designer"].rpartition(".")[2]
    return Path("runs/design") / f"{env}-{designer}-s{options['seed']}"


def _make_designer(
    options: Mapping[str, Any], of_designer: Mapping[str, str], folder: Path
) -> Designer:
    """Make the designer; a language model only if it takes one."""
    name = options["designer"]
    path = CONF / "designer" / f"{name}.yaml"
    if path.is_file():
        node = OmegaConf.load(path)
    elif "." in name:
        node = OmegaConf.create({"_target_": name})
    else:
        known = [file.stem for file in (CONF / "designer").glob("*.yaml")]
        raise BadInputError(f"there is no designer={name}{suggestion(name, known)}")
    assert isinstance(node, DictConfig)
    for key, text in of_designer.items():
        OmegaConf.update(node, key, parse_value(text))
    target = locate(str(node["_target_"]))
    takes_model = callable(target) and "model" in inspect.signature(target).parameters
    model = {"model": _make_model(options, folder)} if takes_model else {}
    person = PreferencePage(options["task"], lambda result: _video(folder, result))
    made = instantiate(node, seed=options["seed"], person=person, **model)
    if not isinstance(made, Designer):
        raise BadInputError(f"designer={name} is a {type(made).__name__}, expected a Designer")
    return made


def _video(folder: Path, result: ProgramResult) -> Path:
    """Record the agent that was trained with a program, unless it has been recorded."""
    path = folder / "videos" / f"{result.proposal.hash}.gif"
    if not path.is_file():
        run_dirs = sorted(folder.glob(f"{SEARCH}-{result.proposal.hash}-s*/config.yaml"))
        if not run_dirs:
            raise ValueError("its training is not in the folder of the search")
        record_agent(run_dirs[0].parent, path)
    return path


_VALUE = re.compile(r"\[.*\]|\{.*\}|'.*'|\".*\"|null|true|false|[-+]?\.?\d[\w.+-]*", re.DOTALL)


def parse_value(text: str) -> Any:
    """Return the number, boolean, null, list or mapping that a text is in YAML; else the text.

    >>> parse_value("3"), parse_value("[1, a]"), parse_value("door: a # in it")
    (3, [1, 'a'], 'door: a # in it')
    """
    if _VALUE.fullmatch(text) is None:
        return text
    try:
        value = OmegaConf.from_dotlist([f"value={text}"]).value
    except YAMLError:
        return text
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _make_model(options: Mapping[str, Any], folder: Path) -> TextModel:
    """Make the model of recorded answers, or one behind an endpoint."""
    try:
        if options["answers"]:
            return ReplayModel.read(options["answers"])
        url, llm = options["url"] or None, options["llm"] or None
        check_endpoint(url, llm, 1.0)
        limits = Limits(
            calls=options["max_calls"],
            tokens=options["max_tokens"],
            calls_per_minute=options["calls_per_minute"],
            cost=options["max_cost"],
            input_price=options["input_price"],
            output_price=options["output_price"],
        )
    except (ValueError, ImportError) as error:
        raise BadInputError(str(error)) from error

    def make_judge() -> AnswerJudge:
        return AnswerJudge(
            model=llm,
            url=url,
            temperature=options["temperature"],
            max_tokens=options["answer_tokens"],
        )

    return ChatModel(
        make_judge,
        name=llm or NAME,
        store=folder / ANSWERS,
        limits=limits,
        num_workers=1 if llm is None else 4,  # the local one answers one after the other
    )


def _settings(
    options: Mapping[str, Any], of_designer: Mapping[str, str], overrides: Sequence[str]
) -> dict[str, Any]:
    kept = {k: v for k, v in options.items() if k not in _MAY_CHANGE}
    return {**kept, "designer options": dict(of_designer), "overrides": [*overrides]}


def _save_settings(
    folder: Path,
    options: Mapping[str, Any],
    of_designer: Mapping[str, str],
    overrides: Sequence[str],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_settings(options, of_designer, overrides), indent=1)
    (folder / SETTINGS).write_text(text, encoding="utf-8")


def _check_same_search(
    folder: Path,
    options: Mapping[str, Any],
    of_designer: Mapping[str, str],
    overrides: Sequence[str],
) -> None:
    """Raise `BadInputError` if the folder holds a search with other options, or something else."""
    path = folder / SETTINGS
    if not path.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise BadInputError(f"{folder} holds something else: give another dir")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(_settings(options, of_designer, overrides)))
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        key = changed[0]
        raise BadInputError(
            f"{folder} holds a search with other options: {key}={before.get(key)} is now "
            f"{now[key]}; give another dir"
        )


def _words(options: Mapping[str, Any], of_designer: Mapping[str, str]) -> list[str]:
    """Words of the command that differ from its defaults."""
    from firstlight.scripts.design import DEFAULTS

    own = [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in options.items()
        if key == "designer" or value != DEFAULTS[key]
    ]
    return [*own, *(f"designer.{key}={value}" for key, value in of_designer.items())]
