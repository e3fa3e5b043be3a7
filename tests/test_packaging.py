"""The wheel: its content, that it works with its own dependencies alone, and that it changes no ComfyUI environment."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import pytest_comfyload

ROOT = Path(__file__).parents[1]
# The requirements.txt of two versions of ComfyUI, each with the versions that it installed at the time of the test.
COMFYUI = ROOT / "tests" / "comfyui_requirements"
SUITE = """
from pytest_comfyload import load_scenario

@load_scenario("txt2img", users=2, iterations=2, max_send_lag="30s")
def test_it(load):
    assert load.success_rate == 100
    assert load.generation_time.p50 < 60
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a wheel and a source archive, built offline."""
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", folder, cwd=ROOT)
    return folder


def test_the_wheel_has_all_that_runs_and_no_tests(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = ROOT / "pytest_comfyload"
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    expected |= {f"pytest_comfyload/workflows/{path.name}" for path in (ROOT / "workflows").glob("*.json")}
    assert {"pytest_comfyload/py.typed", "pytest_comfyload/workflows/txt2img.json"} <= expected
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_the_source_archive_has_what_a_contributor_needs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = [
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "LICENSE",
        "pyproject.toml",
        "tests/conftest.py",
        ".github/workflows/ci.yml",
    ]
    assert [name for name in needed if name not in names] == []
    assert [name for name in names if name.endswith(".pyc") or name.startswith((".venv", ".comfyload"))] == []


@pytest.mark.flaky(reruns=1)
def test_the_wheel_runs_a_load_with_its_own_dependencies_alone(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    python = _environment(tmp_path / "venv", wheel)
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "test_it.py").write_text(SUITE, encoding="utf-8")
    suite = tmp_path / "suite"
    where = _run(python, "-c", "import pytest_comfyload; print(pytest_comfyload.__file__)", cwd=suite)
    assert Path(where.strip()).is_relative_to(tmp_path / "venv")
    assert "1 passed" in _run(python, "-m", "pytest", "--comfyload-time-scale=40", cwd=suite)
    help_text = _run(python.with_name("comfyload"), "--help", cwd=suite)
    assert "simulate" in help_text
    assert "test_it.py::test_it" in _run(python.with_name("comfyload"), "history", cwd=suite)


def test_one_version_stands_everywhere() -> None:
    assert pytest_comfyload.__version__ == metadata.version("pytest-comfyload")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert pytest_comfyload.__version__ == project["version"], "run: pip install -e '.[test]'"


@pytest.mark.parametrize("comfyui", sorted(path.stem for path in COMFYUI.glob("*.txt")))
def test_no_version_of_a_comfyui_environment_has_to_change(comfyui: str) -> None:
    """Our ranges, with all extras but `test`, admit what ComfyUI installs and the bounds of what it admits."""
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (COMFYUI / f"{comfyui}.lock").read_text(encoding="utf-8"), re.M))
    theirs = {canonicalize_name(each.name): each.specifier for each in _lines(COMFYUI / f"{comfyui}.txt")}
    shared = [each for each in _what_users_install() if canonicalize_name(each.name) in {*theirs, *pinned}]
    assert {"aiohttp", "pillow", "numpy", "filelock"} <= {canonicalize_name(each.name) for each in shared}
    for ours in shared:
        name = canonicalize_name(ours.name)
        bounds = theirs.get(name, SpecifierSet())
        versions = {pinned[name], "9999", *(each.version for each in bounds)}
        admitted = {version for version in versions if bounds.contains(version)}
        refused = [version for version in admitted if not ours.specifier.contains(version)]
        assert refused == [], f"{ours} changes {name} of ComfyUI {comfyui}"


def _lines(path: Path) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def _what_users_install() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [each for name, each in project["optional-dependencies"].items() if name != "test"]
    return [Requirement(line) for line in itertools.chain(project["dependencies"], *extras)]


def _run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _environment(folder: Path, wheel: Path) -> Path:
    """Create an environment with the wheel and, as links, its requirements without extras; return its Python."""
    _run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=wheel.parent)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for distribution in _required(wheel):
        for name in {path.parts[0] for path in distribution.files or () if path.parts[0] not in ("..", "__pycache__")}:
            if not (site / name).exists():
                (site / name).symlink_to(Path(str(distribution.locate_file(name))))
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index")
    _run(*pip, wheel, cwd=wheel.parent)
    return python


def _required(wheel: Path) -> list[metadata.Distribution]:
    """Return the installed distributions that the wheel requires, directly or indirectly."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        own = metadata.PathDistribution(zipfile.Path(archive, name.removesuffix("METADATA")))
        found: dict[str, metadata.Distribution] = {}
        waiting = list(own.requires or ())
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found[name] = metadata.distribution(name)
            waiting += found[name].requires or ()
    return list(found.values())
