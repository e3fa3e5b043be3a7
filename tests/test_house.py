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


@pytest.mark.parametrize("room", ["scenario", "workflow", "metrics", "protocol", "result"])
def test_tests_of_a_pure_room_start_no_server(room: str) -> None:
    """They request no fixture that starts one, or pytest: these rooms are pure."""
    fixture = re.compile(r"\b(simulator|target|real_comfyui\w*|pytester): ")
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "tests" / room).rglob("*.py"))
    requests = [line for source in sources for line in source.splitlines() if line.lstrip().startswith("def ")]
    assert requests
    assert [line for line in requests if fixture.search(line)] == []
