"""The wheel holds what the repository holds, and works without it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("agents", "intrinsic", "envs", "conf", "scripts")


def run(*command: str | Path, cwd: Path, **kwargs) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def repository_files() -> list[Path]:
    """Files git tracks or would track; links as links."""
    listed = run("git", "ls-files", "-coz", "--exclude-standard", cwd=ROOT).split("\0")
    paths = sorted({Path(name) for name in listed if name})
    return [path for path in paths if (ROOT / path).is_symlink() or (ROOT / path).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from an sdist built from a copy of the repository's files."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    source = tmp_path_factory.mktemp("source")
    for path in repository_files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, source / path, follow_symlinks=False)
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", out, cwd=source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-P", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", target, wheel, cwd=target)
    return target


def run_from(installed: Path, code: str) -> str:
    """What `code` prints with the installed wheel ahead of the repository on the path."""
    preamble = f"import sys; sys.path.insert(0, {str(installed)!r})\n"
    return run(sys.executable, "-P", "-c", preamble + code, cwd=installed).strip()


def test_wheel_holds_every_file_of_the_packages(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = set()
    for path in repository_files():
        if path.parts[0] in FOLDERS:
            expected.add(f"firstlight/{path.as_posix()}")
        elif path.parts[:2] == ("src", "firstlight") and not (ROOT / path).is_symlink():
            expected.add(path.relative_to("src").as_posix())
    assert names == expected


def test_wheel_imports_by_itself(installed):
    code = "import firstlight.agents; print(firstlight.agents.__file__)"
    assert run_from(installed, code) == str(installed / "firstlight" / "agents" / "__init__.py")


@pytest.mark.skipif(not (ROOT / "conf" / "train.yaml").exists(), reason="no conf/train.yaml yet")
def test_wheel_composes_its_configuration(installed):
    code = (
        "import hydra\n"
        "with hydra.initialize_config_module('firstlight.conf', version_base='1.3'):\n"
        "    print(len(hydra.compose('train')) > 0)"
    )
    assert run_from(installed, code) == "True"
