"""The house rules: formatted, linted, typed, and every room imports only rooms below it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = Path(sys.executable).parent


@pytest.mark.parametrize("command", ["ruff check .", "ruff format --check .", "mypy", "lint-imports --no-cache"])
def test_tool_is_content(command: str) -> None:
    name, *arguments = command.split()
    done = subprocess.run([TOOLS / name, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_walk_of_the_architecture_names_modules_that_exist() -> None:
    """ARCHITECTURE.md: each `room/module` in it, and what follows it in the same room."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+)(?:\.py)?`", text)
    package = ROOT / "pytest_comfyload"
    assert named
    assert [each for each in named if not (package / f"{each}.py").exists()] == []


# As in a clone where only the package itself is installed.
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


@pytest.mark.parametrize("room", ["scenario", "workflow", "metrics", "protocol", "result"])
def test_tests_of_a_pure_room_start_no_server(room: str) -> None:
    """They request no fixture that starts one, or pytest: these rooms are pure."""
    fixture = re.compile(r"\b(simulator|target|real_comfyui\w*|pytester): ")
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "tests" / room).rglob("*.py"))
    requests = [line for source in sources for line in source.splitlines() if line.lstrip().startswith("def ")]
    assert requests
    assert [line for line in requests if fixture.search(line)] == []
