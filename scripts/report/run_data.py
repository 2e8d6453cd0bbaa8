"""What a run directory holds, read for its page, without importing torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from firstlight.scripts.errors import BadInputError
from firstlight.scripts.run_options import leaves
from firstlight.scripts.sweeps.outcome import read_metrics

NOT_THE_METHOD = ("seed", "run_dir", "resume", "device", "num_threads", "tracker")
"""Options in which runs of one method may differ."""


@dataclass(frozen=True)
class RunData:
    """One run.

    Args:
        path: its directory.
        status: content of ``status.json``, empty if there is none.
        config: its options, nested; empty for a run from Python.
        config_text: ``config.yaml``.
        command: that started it; empty if it is not known.
        lines: of ``metrics.jsonl``.
        pictures: maps of rewards by source, each by step.
        episode: the newest video, with rewards if there is one; or None.
    """

    path: Path
    status: Mapping[str, Any]
    config: Mapping[str, Any]
    config_text: str
    command: str
    lines: Sequence[Mapping[str, Any]]
    pictures: Mapping[str, Mapping[int, Path]]
    episode: Path | None

    @property
    def seed(self) -> Any:
        """The run's seed; None if it is not known."""
        return self.config.get("seed")

    @property
    def tags(self) -> list[str]:
        """Every metric that was logged, sorted."""
        return sorted({tag for line in self.lines for tag in line} - {"step", "time"})

    def curve(self, tag: str) -> list[tuple[float, float]]:
        """Steps and values of a metric; lines without it, and without a number, are left out."""
        found = ((line["step"], line.get(tag)) for line in self.lines)
        return [(float(step), float(value)) for step, value in found if value is not None]

    def last(self, tag: str) -> float | None:
        """Return the last value of a metric."""
        curve = self.curve(tag)
        return curve[-1][1] if curve else None

    def sources(self) -> list[str]:
        """Sources of reward: the task's first, then by name."""
        names = {tag.split("/")[1] for tag in self.tags if re.match(r"reward/[^/]+/share$", tag)}
        return sorted(names, key=lambda name: (name != "reward", name))


@dataclass
class Group:
    """Runs that differ in nothing but their seed.

    Args:
        label: of the group, unique among the groups of a page.
        runs: at least one.
    """

    label: str
    runs: list[RunData] = field(default_factory=list)


def read_run(path: Path) -> RunData:
    """Read a run directory; the run may still be writing to it.

    Raises:
        BadInputError: if it holds no metrics, or a file that is damaged.
    """
    if not (path / "metrics.jsonl").is_file():
        raise BadInputError(f"run={path} is no run directory: it holds no metrics.jsonl")
    config_path, status_path = path / "config.yaml", path / "status.json"
    text = config_path.read_text(encoding="utf-8") if config_path.is_file() else ""
    try:
        config = OmegaConf.to_container(OmegaConf.create(text)) if text else {}
        lines = read_metrics(path)
        status = json.loads(status_path.read_text(encoding="utf-8")) if status_path.exists() else {}
    except (ValueError, yaml.YAMLError) as error:
        raise BadInputError(f"run={path} cannot be read: {error}") from error
    if not lines or not isinstance(config, dict):
        raise BadInputError(f"run={path} holds no metrics yet")
    return RunData(
        path=path,
        status=status,
        config={str(key): value for key, value in config.items()},
        config_text=text,
        command=command_in(text),
        lines=lines,
        pictures=_pictures(path / "pictures"),
        episode=_episode(path / "videos"),
    )


def command_in(config_text: str) -> str:
    r"""Read the command from the comment at the beginning of a run's ``config.yaml``.

    >>> command_in("# firstlight-train env=chain\nseed: 0\n")
    'firstlight-train env=chain'
    """
    lines = []
    for line in config_text.splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# "))
    return "\n".join(lines)


def grouped(runs: Sequence[RunData]) -> list[Group]:
    """Group runs by their options, and name each group by what distinguishes it."""
    groups: dict[str, list[RunData]] = {}
    for run in runs:
        options = {k: v for k, v in leaves(run.config) if k.split(".")[0] not in NOT_THE_METHOD}
        key = json.dumps(options, sort_keys=True, default=str) if options else str(run.path)
        groups.setdefault(key, []).append(run)
    members = list(groups.values())
    labels = _labels(members)
    return [Group(label, own) for label, own in zip(labels, members, strict=True)]


def differing(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Options in which groups differ, with the value of each group; empty text where it has none.

    Of a part that only some groups have, such as a reward module, only its class is listed.
    """
    options = [dict(leaves(group.runs[0].config)) for group in groups]
    keys = sorted({key for one in options for key in one})
    found = {
        key: [str(one.get(key, "")) for one in options]
        for key in keys
        if key.split(".")[0] not in NOT_THE_METHOD
        and len({str(one.get(key)) for one in options}) > 1
    }
    partly = {k.removesuffix("._target_") for k in found if k.endswith("._target_")}
    partly = {name for name in partly if "" in found[f"{name}._target_"]}
    return {
        key: values
        for key, values in found.items()
        if key.endswith("._target_") or not any(key.startswith(f"{name}.") for name in partly)
    }


def _labels(members: Sequence[Sequence[RunData]]) -> list[str]:
    """Name groups by their reward modules if these differ, else by their directories.

    A directory's name ends in the seed, which is left out of the name of a group of several.
    """
    modules = [_modules(runs[0]) for runs in members]
    if len(set(modules)) == len(members) > 1:
        return modules
    full = [runs[0].path.name for runs in members]
    short = [
        re.sub(r"-s\d+$", "", name) if len(runs) > 1 else name
        for name, runs in zip(full, members, strict=True)
    ]
    return short if len(set(short)) == len(short) else [str(runs[0].path) for runs in members]


def _modules(run: RunData) -> str:
    chosen = run.config.get("intrinsic") or {}
    names = [name for name, node in chosen.items() if isinstance(node, dict) and "_target_" in node]
    return " + ".join(names) or "no bonus"


def _pictures(folder: Path) -> dict[str, dict[int, Path]]:
    found: dict[str, dict[int, Path]] = {}
    for path in folder.glob("step_*.png"):
        if match := re.fullmatch(r"step_(\d+)_(.+)", path.stem):
            found.setdefault(match[2], {})[int(match[1])] = path
    return {name: dict(sorted(found[name].items())) for name in sorted(found)}


def _episode(folder: Path) -> Path | None:
    """Find the newest video; one with rewards before one without."""
    videos = [path for path in folder.glob("step_*") if path.suffix in (".gif", ".mp4")]

    def order(path: Path) -> tuple[bool, int]:
        step = re.match(r"step_(\d+)", path.stem)
        return path.stem.endswith("_rewards"), int(step[1]) if step else 0

    return max(videos, key=order, default=None)
