"""`comfyload` as a person types it: help, a simulator that answers, and one message for each invalid argument."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from importlib.metadata import version
from pathlib import Path

import pytest
import typer.core
import typer.main
from typer.testing import CliRunner

from pytest_comfyload.cli import app
from pytest_comfyload.simulator.settings import read_object_info
from tests.run.balancer import Balancer


def _command() -> str:
    """Return the path of the command installed next to this Python."""
    command = shutil.which("comfyload", path=str(Path(sys.executable).parent))
    assert command is not None
    return command


def _comfyload(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([_command(), *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_help_names_the_commands() -> None:
    ended = _comfyload("--help")
    assert ended.returncode == 0
    assert "Tools around load tests of ComfyUI servers" in ended.stdout
    assert "simulate" in ended.stdout


_COMMANDS: dict[str, typer.core.TyperCommand] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert result.exception is None
    assert f" {name} " in result.output


@pytest.mark.parametrize("name", sorted(_COMMANDS.keys() - {"simulate"}))
def test_every_option_is_explained_with_its_default(name: str) -> None:
    for option in _COMMANDS[name].params:
        assert option.help, option.name  # type: ignore[attr-defined]
        assert option.default in (None, False) or option.show_default, option.name  # type: ignore[attr-defined]


def test_no_command_is_help() -> None:
    ended = _comfyload()
    assert "simulate" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_of_simulate_names_its_options() -> None:
    ended = _comfyload("simulate", "--help")
    assert ended.returncode == 0
    assert ended.stdout.startswith("usage: comfyload simulate ")
    for option in ("--port", "--gpu", "--time-scale", "--preview-method", "--cache", "--calibrate RUN", "--node-time"):
        assert option in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate", "--gpu", "nope"], "nope"),
        (["simulate", "--time-scale", "0"], "time_scale must be a positive number"),
        (["simulate", "--model", "nowhere/file.safetensors"], "unknown model folder 'nowhere'"),
        (["simulate", "--cache", "lru"], "cache mode 'lru' is not supported; choose one of: classic, lru=N, ram, none"),
        (["simulate", "--node-time", "KSampler"], "'KSampler' is not a node time; give CLASS=SECONDS"),
        (["simulate", "--object-info", "nowhere.json"], "cannot read the object info nowhere.json: No such file"),
        (["simulate", "--calibrate", "latest", "--store", "nowhere"], "no store in nowhere: there is no such folder"),
        (["record-nodes", "http://127.0.0.1:1"], "http://127.0.0.1:1"),
        (["simulate", "--colour"], "--colour"),
        (["simulat"], "No such command 'simulat'"),
    ],
)
def test_what_cannot_be_meant_is_one_message(arguments: list[str], message: str) -> None:
    ended = _comfyload(*arguments)
    assert ended.returncode == 2
    assert ended.stderr.count(message) == 1
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_bad_gpu_names_the_legal_ones() -> None:
    assert "rtx4090" in _comfyload("simulate", "--gpu", "nope").stderr


def test_simulate_serves_until_its_parent_lets_go() -> None:
    with subprocess.Popen(
        [_command(), "simulate", "--port", "0", "--gpu", "h100", "--time-scale", "50", "--exit-with-parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout
        url = child.stdout.readline().split()[-1]
        with urllib.request.urlopen(f"{url}/system_stats", timeout=10) as answer:
            stats = json.load(answer)
        assert stats["system"]["simulator"] == {"time_scale": 50.0, "gpu": "h100", "guessed_times": []}
        child.communicate(timeout=20)
    assert child.returncode == 0


def test_recorded_nodes_are_those_of_another_simulator(simulator: str, tmp_path: Path) -> None:
    recorded = _comfyload("record-nodes", simulator)
    assert (recorded.returncode, recorded.stderr) == (0, "")
    assert "ProbeSleep" in json.loads(recorded.stdout)
    (tmp_path / "nodes.json").write_text(recorded.stdout)
    assert "ProbeSleep" in read_object_info(str(tmp_path / "nodes.json"))


def test_commands_send_the_credentials_of_the_environment_and_of_files(
    simulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = "Authorization: Bearer s3cret"
    (tmp_path / "headers.txt").write_text(f"{header}\n", encoding="utf-8")
    with Balancer([simulator], authorization="Bearer s3cret") as proxy:
        refused = _comfyload("record-nodes", proxy.url)
        by_file = _comfyload("record-nodes", proxy.url, f"--comfyui-header-file={proxy.url}={tmp_path}/headers.txt")
        monkeypatch.setenv("COMFYUI_HEADERS", header)
        by_environment = _comfyload("record-nodes", proxy.url)
        # Separated by commas, as pytest accepts them.
        monkeypatch.setenv("COMFYUI_URL", f"{proxy.url},{simulator}")
        several = _comfyload("top", "--once", "--json")
    assert "requires a login" in refused.stderr
    assert (by_file.returncode, by_environment.returncode) == (0, 0)
    assert by_file.stdout == by_environment.stdout
    assert [(server["server"], server["up"]) for server in json.loads(several.stdout)] == [
        (proxy.url.removeprefix("http://"), True),
        (simulator.removeprefix("http://"), True),
    ]


def test_commands_for_one_server_take_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_URL", "http://127.0.0.1:1 http://127.0.0.1:2")
    ended = _comfyload("doctor")
    assert ended.returncode == 2
    assert "2 servers are named, this command takes one: http://127.0.0.1:1, http://127.0.0.1:2" in ended.stderr


def test_the_version_is_that_of_the_package() -> None:
    assert _comfyload("--version").stdout == f"pytest-comfyload {version('pytest-comfyload')}\n"


def test_wait_returns_when_a_prompt_has_executed(simulator: str) -> None:
    ended = _comfyload("wait", simulator)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"{simulator} executed a prompt after ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["http://127.0.0.1:1", "--timeout", "1s"], "ComfyUI at http://127.0.0.1:1 did not answer within"),
        (["https://gpu1"], "https://gpu1: wait needs the address of the server itself"),
        (["http://user:secret@gpu1:8188"], "http://gpu1:8188: wait needs the address of the server itself"),
        (["gpu1"], "not a server URL: 'gpu1'"),
        (["http://127.0.0.1:1", "--timeout", "soon"], "--timeout"),
    ],
)
def test_wait_says_why_it_gives_up(arguments: list[str], message: str) -> None:
    ended = _comfyload("wait", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert "secret" not in ended.stderr
