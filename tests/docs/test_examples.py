"""Every code block of the README and of docs/ does what it says, or is checked as far as possible without a run."""

from __future__ import annotations

import ast
import configparser
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from declared import command_options, plugin_options

from pytest_comfyload.cli import app
from pytest_comfyload.launch.simulator import SimulatorProcess
from tests.docs.blocks import PAGES, ROOT, Block, all_blocks, blocks_of
from tests.docs.page_run import PageRun, environ_of, is_printed
from tests.gateway.redis_server import redis_server

RUNS = {"console", "python"}
PARSED = {"yaml", "toml", "json", "ini", "groovy"}
_COMMAND = re.compile(r"\bcomfyload ([a-z-]+)((?:[^\n`]|\\\n)*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


@pytest.fixture(scope="session")
def addresses() -> Iterator[Mapping[str, str]]:
    """Yield simulators in place of the servers that the pages name; the third one runs in real time."""
    with ExitStack() as running:
        servers = [running.enter_context(SimulatorProcess(time_scale=scale)) for scale in (20.0, 20.0, 1.0)]
        yield {f"http://gpu{number}:8188": server.url for number, server in enumerate(servers, start=1)}


_REDIS = "redis://127.0.0.1:6379/0"


def _runs(block: Block, language: str) -> bool:
    return block.language == language and "static" not in block.options


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(_runs(block, "console") for block in blocks_of(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_commands_of_a_page(page: Path, tmp_path: Path, addresses: Mapping[str, str]) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    with _redis_of(page) as redis, PageRun(folder, {**addresses, **redis}).reading() as run:
        for block in blocks_of(page):
            run.do(block)


@contextmanager
def _redis_of(page: Path) -> Iterator[Mapping[str, str]]:
    """Run a Redis if the page needs one."""
    if _REDIS not in page.read_text(encoding="utf-8"):
        yield {}
        return
    with redis_server() as server:
        yield {_REDIS: server.url}


def test_the_suites_of_all_pages(tmp_path: Path) -> None:
    """One pytest session runs all Python blocks that are not files for their page's commands."""
    suites = []
    for page in PAGES:
        name = "_".join(page.relative_to(ROOT).with_suffix("").parts)
        folder = tmp_path / name
        folder.mkdir()
        with PageRun(folder, {}).reading() as run:
            for block in blocks_of(page):
                if "file" in block.options:
                    run.do(block)
                elif _runs(block, "python"):
                    suites.append(folder / f"test_{name}_{block.line}.py".replace("-", "_"))
                    suites[-1].write_text(block.text, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    # On a shared machine a run is invalid now and then; a real fault fails three times.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--reruns=2", *map(str, suites)]
    environ = environ_of(tmp_path)
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert suites
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_block_is_of_a_language_that_is_checked() -> None:
    blocks = list(all_blocks())
    assert [str(block) for block in blocks if block.language not in RUNS | PARSED] == []
    known = {"file", "static", "exit", "background", "schema"}
    assert [str(block) for block in blocks if block.options.keys() - known] == []
    assert [str(block) for block in blocks if not block.options.get("static", "a reason")] == []


@pytest.mark.parametrize("block", [each for each in all_blocks() if each.language in PARSED], ids=str)
def test_a_block_of_data_can_be_parsed(block: Block, tmp_path: Path) -> None:
    match block.language:
        case "json":
            assert [json.loads(text) for text in _documents(block.text)]
        case "toml":
            assert tomllib.loads(block.text)
        case "ini":
            parsed = configparser.ConfigParser()
            parsed.read_string(block.text)
            twins = {option.removeprefix("--").replace("-", "_") for option in plugin_options()}
            assert {name for name in parsed["pytest"] if name.startswith("comfy")} <= twins
        case "yaml":
            assert yaml.safe_load(block.text)
            _expect_schema(block, tmp_path / "block.yml")
        case "groovy":
            assert all(block.text.count(pair[0]) == block.text.count(pair[1]) for pair in ("{}", "()", "[]"))
            assert block.text.count("'") % 2 == 0


def _documents(text: str) -> list[str]:
    """Return the text as one document, or each line if it has a document per line."""
    return text.splitlines() if text.startswith("{") and "\n{" in text else [text]


def _expect_schema(block: Block, file: Path) -> None:
    file.write_text(block.text, encoding="utf-8")
    schema = f"vendor.{block.options['schema']}"
    command = [str(Path(sys.executable).parent / "check-jsonschema"), "--builtin-schema", schema, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("block", [each for each in all_blocks() if each.language == "python"], ids=str)
def test_python_compiles(block: Block) -> None:
    ast.parse(block.text, str(block))


def test_commands_and_options_exist_wherever_they_are_named() -> None:
    """In prose, in tables and in blocks, including those that are not run."""
    commands = {name: set(_OPTION.findall(" ".join(usages))) for name, usages in command_options().items()}
    group: Any = typer.main.get_command(app)
    before_any_command = {option for each in group.params for option in each.opts}
    ours = {*plugin_options(), *(option for options in commands.values() for option in options)}
    wrong = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        wrong += [f"{page.name}: {name}" for name in re.findall(r"--comfy[a-z-]+", text) if name not in ours]
        for name, rest in _COMMAND.findall(text):
            if name in commands:
                passed_on = {"baseline", "recheck"} & {name}
                wrong += [
                    f"{page.name}: comfyload {name} {option}"
                    for option in _OPTION.findall(rest)
                    if option not in commands[name] and not passed_on
                ]
            elif name not in before_any_command and re.search(
                rf"`comfyload {name}\b|^\$ comfyload {name}\b", text, re.MULTILINE
            ):
                wrong.append(f"{page.name}: comfyload {name}")
    assert wrong == []


@pytest.mark.parametrize(
    ("expected", "printed", "holds"),
    [
        ("pass  60  6.62 s", "pass      60  7.1 s\n", True),
        ("a …\n…\nz", "a b\nc\nd\nz\n", True),
        ("run 70af2f87", "run 12abcdef", True),
        ("pass  60", "fail  60", False),
        ("pass  60", "pass?  60", True),
        ("b\na", "a\nb\n", False),
    ],
)
def test_what_is_printed_is_found_whatever_its_numbers(expected: str, printed: str, holds: bool) -> None:
    assert is_printed(expected, printed) is holds
