"""The project's rules: formatting, linting, types, imports of lower layers only, and valid project files."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import QUICK, SLOW

ROOT = Path(__file__).parents[1]
TOOLS = Path(sys.executable).parent


@pytest.mark.parametrize("command", ["ruff check .", "ruff format --check .", "mypy", "lint-imports --no-cache"])
def test_tool_is_content(command: str) -> None:
    name, *arguments = command.split()
    done = subprocess.run([TOOLS / name, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_walk_of_the_architecture_names_modules_that_exist() -> None:
    """Every `room/module` in ARCHITECTURE.md and in the design notes exists."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("ARCHITECTURE.md", "docs/design.md")]
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+)(?:\.py)?`", "\n".join(texts))
    package = ROOT / "pytest_comfyload"
    assert named
    assert [each for each in named if not (package / f"{each}.py").exists()] == []


# As in a clone with only the package itself installed.
_WITHOUT_EXTRAS = """
import importlib.util, sys, pytest
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "hypothesis" else found(name, *more)
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("option", "status", "said"),
    [
        ("--markers", 0, "@pytest.mark.load_scenario"),
        ("--fixtures", 0, "real_comfyui_install [session scope]"),
        ("tests", 4, "ERROR: the tests need hypothesis: pip install -e '.[test]'; without it: pytest sample_suites"),
    ],
)
def test_without_the_test_extra_pytest_says_what_to_install(option: str, status: int, said: str) -> None:
    command = [sys.executable, "-c", _WITHOUT_EXTRAS, option, "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "error" not in done.stdout


def test_continuous_integration_leaves_no_tests_out_but_the_long_ones() -> None:
    """In `.ci/run`, each run of all tests has the option that adds the slow ones."""
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    of_all = [line for line in lines if re.search(r"bin/pytest (?!sample_suites)", line)]
    assert len(of_all) == 2
    assert [line for line in of_all if "--slow" not in line] == []


def test_what_is_slow_exists_and_what_is_left_out_is_counted() -> None:
    assert [each for each in (*SLOW, *QUICK) if not (ROOT / "tests" / each).exists()] == []
    left_out = r"^\d+ tests were left out: --slow adds \d+, --real adds \d+[,;] "
    assert re.search(left_out, _collected("tests/launch"), re.MULTILINE)
    assert "left out" not in _collected("tests/launch", "--slow", "--real", "--long")
    assert "left out" not in _collected("tests/launch/test_process.py"), "a file that is named is run whole"


def test_plain_pytest_meets_every_room() -> None:
    def is_quick(path: Path) -> bool:
        place, room = path.relative_to(ROOT / "tests").as_posix(), path.relative_to(ROOT / "tests").parts[0]
        return place in QUICK or {place, room}.isdisjoint({*SLOW, "plugin"})  # nearly all of `plugin` start pytest

    rooms = [path.parent.name for path in (ROOT / "pytest_comfyload").glob("*/__init__.py")]
    assert [room for room in rooms if not any(map(is_quick, (ROOT / "tests" / room).rglob("test_*.py")))] == []


def _collected(*arguments: str) -> str:
    command: list[str | Path] = [TOOLS / "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_changelog_can_be_built_from_its_fragments() -> None:
    fragments = [path for path in (ROOT / "changes").iterdir() if path.suffix == ".md"]
    command: list[str | Path] = [TOOLS / "towncrier", "build", "--draft", "--version", "9.9.9", "--dir", ROOT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "## 9.9.9 (" in done.stdout
    shown = " ".join(done.stdout.split())
    missing = [path.name for path in fragments if " ".join(path.read_text(encoding="utf-8").split()) not in shown]
    assert missing == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md", "SECURITY.md"])
def test_the_projects_files_name_files_that_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    linked = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("https://")]
    paths = re.findall(r"`((?:tests|pytest_comfyload|\.ci|changes)/[\w./]+)`", text)
    assert [each for each in linked + paths if not (ROOT / each).exists() and not each.startswith("changes/123")] == []


def test_the_sample_suites_are_in_their_reading_order() -> None:
    folder = ROOT / "sample_suites"
    listed = re.findall(r"\]\((test_\w+\.py)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert listed[0] == "test_txt2img_slo.py"
    assert sorted(listed) == sorted(path.name for path in folder.glob("test_*.py"))


def test_the_floors_of_the_architecture_are_those_of_the_import_contract() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    rooms = [room for floor in contracts[0]["layers"] for room in floor.split(" | ")]
    rows = re.findall(r"^\| \d.*$", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(r"`([a-z_]+)`", "\n".join(rows))
    assert [name for name in named if name in rooms] == rooms


@pytest.mark.parametrize("room", ["scenario", "workflow", "metrics", "protocol", "result"])
def test_tests_of_a_pure_room_start_no_server(room: str) -> None:
    """They request no fixture that starts a server or pytest: these sub-packages are pure."""
    fixture = re.compile(r"\b(simulator|target|real_comfyui\w*|pytester): ")
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "tests" / room).rglob("*.py"))
    requests = [line for source in sources for line in source.splitlines() if line.lstrip().startswith("def ")]
    assert requests
    assert [line for line in requests if fixture.search(line)] == []
