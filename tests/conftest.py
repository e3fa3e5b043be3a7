"""The servers that tests run against, each started once per session (per worker under xdist) and only where asked for.

Tests against a real ComfyUI run with `--real` only; it is built at its first use.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from pytest_comfyload.launch import ComfyInstall, ComfyProcess
from pytest_comfyload.redaction import only_now
from tests.real_comfyui import build
from tests.real_comfyui.target import Target

pytest_plugins = ["pytester"]

# Of the extra `test`; where it is not installed, no module of tests is loaded.
_MISSING = [name for name in ("hypothesis", "xdist", "pytest_rerunfailures", "yaml") if not find_spec(name)]
if _MISSING:
    collect_ignore_glob = ["*"]
else:
    from hypothesis import HealthCheck, settings

    # Time says nothing on a machine that is shared; what a property says holds all the same.
    settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("shared machine")

# A shell that starts a command in the background has it ignore Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What CI sets changes what pytest and the plugin print: pytest cuts no summary line where CI is set.
_OF_A_CI = ("CI", "BUILD_NUMBER", "COMFYLOAD_REPORT_URL")
_PREFIXES = ("CI_", "COMFYUI_", "GITHUB_", "GITLAB_", "JENKINS_")

TESTS = Path(__file__).parent
CHECKPOINT = "tiny_sd15.safetensors"
TIME_SCALE = 20.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real", action="store_true", help="run the tests against a real ComfyUI, too")
    parser.addoption("--long", action="store_true", help="run those of some minutes, too: before a release")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Without what they need, say so in one line; `--markers` and `--fixtures` work all the same."""
    if _MISSING and not session.config.option.showfixtures:
        raise pytest.UsageError(
            f"the tests need {', '.join(_MISSING)}: pip install -e '.[test]'; without it: pytest sample_suites"
        )


@pytest.fixture(autouse=True)
def _as_on_a_desk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test as outside CI; tests of what CI changes set its variables themselves."""
    for name in [name for name in os.environ if name in _OF_A_CI or name.startswith(_PREFIXES)]:
        monkeypatch.delenv(name)


# Their tests run loads in real time. A machine that others use stands still for some 0.1 s now and then, which makes a
# run invalid or late, as it should: a second try tells that from a fault.
_TIMED = (
    "cli",
    "contract",
    "deploy",
    "engine",
    "faults",
    "gateway",
    "gpu",
    "hostile",
    "monitor",
    "plugin",
    "run",
    "capacity",
    "simulator",
)


# What these say does not depend on how tests are dealt out: under xdist they run with `--long`.
_THE_SAME_UNDER_XDIST = ("test_baselines.py", "test_benchmark.py", "test_gpu.py", "test_verdict_modes.py")


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by mark
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(TESTS).parts[0] in _TIMED:
            item.add_marker(pytest.mark.flaky(reruns=1))
        if "real_comfyui_install" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real)
        if item.path.name in _THE_SAME_UNDER_XDIST and "[xdist" in item.name:
            item.add_marker(pytest.mark.long)
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="takes long: --long runs it"))
        if item.get_closest_marker("real") and not config.getoption("--real"):
            item.add_marker(pytest.mark.skip(reason="needs a real ComfyUI: --real builds and starts one"))


@pytest.fixture(autouse=True)
def _own_secrets() -> Iterator[None]:
    """What a test makes a secret is none in the next one."""
    with only_now():
        yield


@pytest.fixture(scope="session")
def real_comfyui_install() -> ComfyInstall:
    """The real ComfyUI, built if need be, for tests that start a server of their own."""
    # On a machine that is shared, threads that wait for each other take ten times as long as one alone.
    install = build.install()
    return dataclasses.replace(install, env={**install.env, "OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="session")
def real_comfyui(real_comfyui_install: ComfyInstall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real ComfyUI with the tiny models and the probe nodes (0.9 GB of memory)."""
    folder = tmp_path_factory.mktemp("comfyui")
    base = build.new_base_directory(folder / "base", build.models(real_comfyui_install.python))
    with ComfyProcess(real_comfyui_install, base, log=folder / "comfyui.log") as server:
        yield server.url


@pytest.fixture(scope="session")
def simulator() -> Iterator[str]:
    """The URL of a simulator with the probe nodes, of the version of the real ComfyUI."""
    from pytest_comfyload.launch.simulator import SimulatorProcess

    with SimulatorProcess(time_scale=TIME_SCALE, probe_nodes=True, strict=True, comfyui_version="0.3.75") as server:
        yield server.url


@pytest.fixture(scope="session", params=["simulator", pytest.param("real", marks=pytest.mark.real)])
def target(request: pytest.FixtureRequest) -> Target:
    """Each server in turn, for tests of what both must do alike."""
    name = request.param
    url = request.getfixturevalue("real_comfyui" if name == "real" else "simulator")
    return Target(name=name, url=url, checkpoint=CHECKPOINT)
