"""Imports point downwards, `envs <- networks <- intrinsic <- agents <- scripts`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("envs", "networks", "intrinsic", "agents", "scripts")
LAYERS = (  # lowest first; the first prefix that fits a name is its layer
    "firstlight.envs.types",
    "firstlight.envs",
    "firstlight.networks",
    "firstlight.intrinsic",
    "firstlight.agents",
    "firstlight.scripts",
)
MIXER = "firstlight.intrinsic.mixer"
MIXER_USERS = ("firstlight.agents", "firstlight.scripts", MIXER)
PUBLIC = "firstlight.intrinsic"  # its `__init__` hands the mixer's names out
TERMS = (f"{MIXER}.terms", f"{MIXER}.transforms")  # what a module's `default_term` is made of
ONLY_IN_SCRIPTS = ("hydra", "omegaconf", "firstlight.conf")
OTHERS_TRAINER = "stable_baselines3"  # for the one adapter, and for what is measured beside ours
ITS_USERS = ("firstlight.agents.adapters.sb3", "firstlight.scripts")
FORBIDDEN = ("pickle", "cloudpickle", "dill", "shelve", "torch.load", "torch.save")
FORBIDDEN_CALLS = ("eval", "exec")
RUNS_PROGRAMS = "firstlight.intrinsic.design.sandbox_worker"  # reward programs, in its own process
BARE = (*FOLDERS, "conf")


def within(name: str, *parents: str) -> bool:
    """Whether dotted `name` is one of `parents` or lies inside one."""
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def layer(name: str) -> int:
    """The height of `name` in the DAG; below all of it for anything else."""
    return next((height for height, prefix in enumerate(LAYERS) if within(name, prefix)), -1)


def names_used(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and full dotted name of each absolute import and of each attribute of such a name."""
    used: list[tuple[int, str]] = []
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            used += [(node.lineno, alias.name) for alias in node.names]
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
            aliases |= {alias.name: alias.name for alias in node.names if not alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            used += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = aliases.get(node.value.id)
            if owner is not None:
                used.append((node.lineno, f"{owner}.{node.attr}"))
    return used


def broken_rules(module: str, source: str) -> list[str]:
    """Every rule that `source`, imported as `module`, breaks: one sentence each, in line order."""
    tree = ast.parse(source)
    found: list[tuple[int, str]] = []
    for line, name in names_used(tree):
        if layer(name) > layer(module):
            found.append((line, f"{name} lies above {module}"))
        hidden = within(name, MIXER) and not within(name, *TERMS) and module != PUBLIC
        if hidden and not within(module, *MIXER_USERS):
            found.append((line, f"{name} is for agents and scripts"))
        if within(name, *ONLY_IN_SCRIPTS) and not within(module, "firstlight.scripts"):
            found.append((line, f"{name} is for scripts"))
        if within(name, OTHERS_TRAINER) and not within(module, *ITS_USERS):
            found.append((line, f"{name} is for its adapter and for scripts"))
        if within(name, *FORBIDDEN):
            found.append((line, f"{name} reads or writes pickles"))
        if within(name, *BARE):
            found.append((line, f"import {name} as firstlight.{name}"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            found.append((node.lineno, "relative import"))
        called = node.func if isinstance(node, ast.Call) else None
        forbidden = isinstance(called, ast.Name) and called.id in FORBIDDEN_CALLS
        if forbidden and module != RUNS_PROGRAMS:
            found.append((node.lineno, f"{called.id}() is not used here"))
        if isinstance(node, ast.Call) and is_probe(node):
            found.append((node.lineno, "an optional method is a method with a default"))
    return [f"{module}:{line}: {problem}" for line, problem in sorted(set(found))]


def is_probe(call: ast.Call) -> bool:
    """Whether a call asks an object for an attribute of a fixed name that it may lack."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    constant = len(call.args) > 1 and isinstance(call.args[1], ast.Constant)
    return name == "hasattr" or (name == "getattr" and constant)


def module_name(path: Path) -> str:
    """`ROOT/envs/types.py` is `firstlight.envs.types`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("firstlight", *(part for part in parts if part != "__init__")))


def test_no_two_public_classes_share_a_name():
    places: dict[str, list[str]] = {}
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(module_name(file))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_downwards(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    sources = {module_name(file): file.read_text(encoding="utf-8") for file in files}
    assert [rule for name in sources for rule in broken_rules(name, sources[name])] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("envs.types", "from firstlight.envs.vec import VecEnv"),
        ("envs.types", "from firstlight.envs import vec"),
        ("envs.vec", "import firstlight.intrinsic.norm"),
        ("envs.vec", "from firstlight import agents"),
        ("intrinsic.norm", "def later():\n    from firstlight.agents.returns import gae"),
        ("agents.ppo", "import firstlight.scripts.train as train"),
        ("agents.ppo", "from firstlight.conf import anything"),
        ("intrinsic.base", "from firstlight.intrinsic.mixer import RewardMixer"),
        ("intrinsic.base", "from firstlight.intrinsic import mixer"),
        ("intrinsic.bonuses.rnd", "from firstlight.intrinsic.mixer.combines import Sum"),
        ("agents.trainer", "import hydra"),
        ("agents.trainer", "from omegaconf import OmegaConf"),
        ("agents.ppo", "from stable_baselines3 import PPO"),
        ("scripts.train", "import agents"),
        ("scripts.train", "from envs.vec import GymVec"),
        ("agents.ppo", "from .returns import gae"),
        ("agents.ppo", "from . import returns"),
        ("agents.checkpoint", "import pickle"),
        ("agents.checkpoint", "from pickle import loads"),
        ("agents.checkpoint", "import torch\nstate = torch.load(path)"),
        ("agents.checkpoint", "import torch as th\nth.save(state, path)"),
        ("agents.checkpoint", "from torch import load"),
        ("scripts.bench", "eval('1 + 1')"),
        ("scripts.bench", "exec('x = 1')"),
        ("envs.vec", "hasattr(vec, 'send')"),
        ("envs.vec", "getattr(vec, 'resume', 'dropped')"),
    ],
)
def test_each_rule_can_fail(module, source):
    assert len(broken_rules(f"firstlight.{module}", source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("envs.vec", "from firstlight.envs.types import Obs"),
        ("envs", "from firstlight.envs.types import Rollout"),
        ("intrinsic.base", "from firstlight.envs.types import Rollout"),
        ("intrinsic.base", "from firstlight.intrinsic.mixer.terms import Term"),
        ("intrinsic.bonuses.rnd", "from firstlight.intrinsic.mixer import terms, transforms"),
        ("intrinsic.mixer.mixer", "from firstlight.intrinsic.mixer.combines import Combine"),
        ("agents.trainer", "from firstlight.intrinsic.mixer import RewardMixer"),
        ("scripts.train", "import hydra\nfrom firstlight.agents.trainer import Trainer"),
        ("scripts.peers", "import stable_baselines3"),
        ("agents.ppo", "from firstlight import __version__\nimport torch\ntorch.tensor(0)"),
        ("agents.agent", "def load(run): ...\npolicy.eval()\nload('x')"),
        ("envs.types", "[getattr(step, name) for name in names]"),
    ],
)
def test_what_is_allowed(module, source):
    assert broken_rules(f"firstlight.{module}", source) == []


def python(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=cwd, capture_output=True, text=True)


def test_importing_firstlight_costs_nothing():
    code = "import sys, firstlight; print({'torch', 'numpy', 'gymnasium'} & set(sys.modules))"
    done = python("-P", "-c", code)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize("folder", BARE)
def test_a_bare_import_says_what_to_write(folder):
    done = python("-c", f"import {folder}")
    assert done.returncode != 0
    assert f"import it as 'firstlight.{folder}'" in done.stderr
