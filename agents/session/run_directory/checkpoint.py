"""Checkpoints: folders of safetensors and JSON, written atomically and checked by hash.

::

    checkpoints/
        step_000000200000/
            tensors.safetensors   every tensor and array, named by its path in the state
            state.json            everything else, with a placeholder where a tensor was
            manifest.json         format, step, sha256 of the two files and of itself
        best/                     the same, for the policy that evaluated best

Nothing here is a pickle: reading a checkpoint runs no code that came with it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from firstlight.agents.session.run_directory.files import sync, to_json, write_bytes
from firstlight.networks import collective
from firstlight.networks.spec import with_new_keywords

FORMAT = 3
"""Format that `save` writes; `load` also reads all earlier ones, see `upgraded`."""
_SINCE_3: dict[str, dict[str, Any]] = {
    "firstlight.networks.encoders.mlp.MLP": {"scale_bytes": False, "normalize_obs": False},
    "firstlight.networks.encoders.mlp.TwinMLP": {"scale_bytes": False, "normalize_obs": False},
    "firstlight.networks.encoders.multi_input.MultiInput": {"normalize_obs": False},
    "firstlight.networks.encoders.pixel.Pixel": {"divisor": 255.0},
}
"""Keywords that classes have since format 3, with the values of what was trained before."""
_ACTOR_CRITIC = {"obs_space", "act_space", "encoder", "critic_encoder", "num_streams"}
"""Keywords of `ActorCritic` before format 3."""
_FILES = ("tensors.safetensors", "state.json")
_NAME = re.compile(r"step_(\d+)(\.old)?")

log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read; the message names it and the reason."""


def save(folder: Path | str, state: dict, step: int, keep: int = 3) -> Path:
    """Write `state` to ``folder/step_{step:012d}/``, atomically.

    Leaves may be tensors of any shape, device and stride, numpy arrays, numpy scalars (which come
    back as Python numbers), None, bool, int, float, str; they may sit in dicts with keys of any of
    these kinds, lists and tuples. Tensors that share memory are written apart.

    Args:
        folder: made if it is not there.
        state: nested dict.
        step: environment steps so far.
        keep: number of checkpoints up to `step` to keep, the newest.

    Raises:
        CheckpointError: naming the first leaf of another kind; then nothing is written.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}, expected at least 1")
    path = Path(folder) / f"step_{step:012d}"
    _write(path, state, step)
    past = {number for number, _ in _steps(path.parent) if number <= step}
    drop = sorted(past)[:-keep]
    for number, old in _steps(path.parent):
        if number in drop:
            shutil.rmtree(old, ignore_errors=True)
    return path


def save_best(folder: Path | str, state: dict, step: int) -> Path:
    """Write `state` to ``folder/best/``, replacing the old one. Otherwise like `save`."""
    path = Path(folder) / "best"
    _write(path, state, step)
    return path


def load(path: Path | str) -> dict:
    """Read the state of one checkpoint; tensors on the CPU.

    Raises:
        CheckpointError: if a file is missing or differs from what was written.
    """
    number, files = _read(Path(path))
    return upgraded(_unpacked(files), number)


def broadcast(state: dict | None) -> dict | None:
    """Return the state, or None, that rank 0 gives, in every process of the run."""
    if collective.size() == 1:
        return state
    files = [] if state is None else [*_packed(state).values()]
    if collective.total(len(files)) == 0:
        return None
    files = [collective.broadcast_bytes(data) for data in files or [b""] * len(_FILES)]
    return state or _unpacked(dict(zip(_FILES, files, strict=True)))


def policy_spec(path: Path | str) -> dict | None:
    """Return only the description of the policy in a checkpoint; None if it has none.

    Raises:
        CheckpointError: as `load`.
    """
    number, files = _read(Path(path))
    spec = json.loads(files["state.json"]).get("policy_spec")
    return upgraded({"policy_spec": _unflatten(spec, {})}, number)["policy_spec"]


def newest(folder: Path | str) -> Path | None:
    """Return the newest undamaged checkpoint in `folder`; a warning names damaged ones."""
    candidates = sorted(_steps(Path(folder)), key=lambda c: (c[0], not c[1].suffix), reverse=True)
    return _first_whole([path for _, path in candidates])


def best(folder: Path | str) -> Path | None:
    """Return the checkpoint that `save_best` wrote; None, with a warning, if it is damaged."""
    paths = [Path(folder) / "best", Path(folder) / "best.old"]
    return _first_whole([path for path in paths if path.is_dir()])


def find(run_or_checkpoint: Path, which: str = "best") -> Path:
    """Find the checkpoint at a path, which is a checkpoint or a run directory.

    Args:
        run_or_checkpoint: path.
        which: of a run, "best" if there is a best one, or "newest".

    Raises:
        CheckpointError: if there is no complete checkpoint.
    """
    if which not in ("best", "newest"):
        raise ValueError(f"which is {which!r}, expected 'best' or 'newest'")
    if (run_or_checkpoint / "manifest.json").exists():
        return run_or_checkpoint
    folder = run_or_checkpoint / "checkpoints"
    found = best(folder) if which == "best" else None
    found = found or newest(folder)
    if found is None:
        raise CheckpointError(
            f"{run_or_checkpoint} is neither a checkpoint nor a run with a complete one"
        )
    return found


def step_of(path: Path | str) -> int:
    """Return the environment steps at which a checkpoint was written."""
    return int(json.loads((Path(path) / "manifest.json").read_bytes())["step"])


def _first_whole(paths: list[Path]) -> Path | None:
    for path in paths:
        try:
            _read(path)
        except CheckpointError as error:
            log.warning("skipping a damaged checkpoint: %s", error)
        else:
            return path
    return None


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Return step and path of everything in `folder` that is named like a checkpoint."""
    if not folder.is_dir():
        return []
    named = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return [(int(match[1]), path) for match, path in named if match]


def _write(path: Path, state: dict, step: int) -> None:
    files = _packed(state)
    manifest = {"format": FORMAT, "step": step, "files": {k: _digest(v) for k, v in files.items()}}
    manifest["sha256"] = _digest(to_json(manifest).encode())
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
        sync(path.parent.parent)
    for stale in path.parent.glob(".*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary, old = path.with_name(f".{path.name}.tmp"), path.with_name(f"{path.name}.old")
    try:
        temporary.mkdir()
        for name, data in files.items():
            write_bytes(temporary / name, data)
        write_bytes(temporary / "manifest.json", to_json(manifest, indent=2).encode())
        sync(temporary)
        if path.exists():  # a stop between the renames leaves `.old`, which readers accept
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _packed(state: dict) -> dict[str, bytes]:
    """Convert a state to the contents of the files that hold it."""
    tensors: dict[str, Tensor] = {}
    text = to_json(_flatten(state, (), tensors))
    return dict(zip(_FILES, (safetensors.torch.save(tensors), text.encode()), strict=True))


def _unpacked(files: dict[str, bytes]) -> dict:
    tensors = safetensors.torch.load(files["tensors.safetensors"])
    return _unflatten(json.loads(files["state.json"]), tensors)


def upgraded(state: dict, number: int) -> dict:
    """Convert a trainer's state of format `number` to `FORMAT`."""
    if number == 1 and "runner" in state:  # open episodes were not saved; `resets` had begun
        runner = {**state["runner"], "resets": state["runner"]["resets"] + 1}
        added = {"warmed": sys.maxsize, "dropped": 0, "skipped": [0, 0], "rng": None}
        state = {**state, **added, "runner": {**runner, "open": True, "envs": None}}
    if number <= 2 and state.get("policy_spec") is not None:
        state = {**state, "policy_spec": _upgraded_policy(state["policy_spec"])}
    return state


def _upgraded_policy(spec: dict) -> dict:
    """Convert the description of a policy to format 3: it acts as it was trained, unscaled."""
    spec = with_new_keywords(spec, _SINCE_3)
    kwargs = spec["kwargs"]
    # also of a subclass without a constructor of its own, whatever its name
    if kwargs.keys() == _ACTOR_CRITIC:
        added: dict[str, Any] = {"normalize_value": "none"}
        if kwargs["act_space"].get("space") == "Box":
            added |= {"scale_actions": False, "squash": False, "state_dependent_std": False}
        return {**spec, "kwargs": {**kwargs, **added}}
    return spec


def _read(path: Path) -> tuple[int, dict[str, bytes]]:
    """Read format and files of a checkpoint and verify their hashes."""
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        number = manifest["format"]
        if number not in range(1, FORMAT + 1):
            raise CheckpointError(
                f"{path} has checkpoint format {number}, which needs a newer firstlight"
            )
        if manifest.pop("sha256") != _digest(to_json(manifest).encode()):
            raise CheckpointError(f"{path / 'manifest.json'} differs from what was written")
        files = {name: (path / name).read_bytes() for name in _FILES}
    except OSError as error:
        raise CheckpointError(f"{path} is not a complete checkpoint: {error}") from None
    except CheckpointError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError):
        raise CheckpointError(f"{path / 'manifest.json'} differs from what was written") from None
    for name, data in files.items():
        if _digest(data) != manifest["files"][name]:
            raise CheckpointError(f"{path / name} differs from what was written")
    return number, files


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _flatten(value: Any, path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    """Convert `value` to JSON values; put its tensors into `tensors`, each under its path."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, list | tuple):
        items = [_flatten(item, (*path, str(i)), tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {k: _flatten(v, (*path, k), tensors) for k, v in value.items()}
        pairs = [
            [_flatten(k, path, tensors), _flatten(v, (*path, repr(k)), tensors)]
            for k, v in value.items()
        ]
        return {"$items": pairs}
    name = "/".join(map(_escape, path))
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_complex():
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"$tensor": name}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.itemsize <= 8:
        native = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        tensors[name] = torch.from_numpy(native)
        return {"$array": name}
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise CheckpointError(f"a checkpoint cannot hold {name!r}, which is a {kind}")


def _escape(part: str) -> str:
    """Escape as in RFC 6901, so that no two paths share a name; safetensors reserves one name."""
    return part.replace("~", "~0").replace("/", "~1").replace("__metadata__", "~2")


def _unflatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unflatten(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$float": text}:
            return float(text)
        case {"$tuple": items}:
            return tuple(_unflatten(items, tensors))
        case {"$items": pairs}:
            return {_unflatten(k, tensors): _unflatten(v, tensors) for k, v in pairs}
        case {"$tensor": name}:
            return tensors[name]
        case {"$array": name}:
            return tensors[name].numpy()
    return {key: _unflatten(item, tensors) for key, item in value.items()}
