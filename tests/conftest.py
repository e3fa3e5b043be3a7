"""Which tests run, and the servers that they run against.

Plain `pytest` runs all that is quick, on all cores; `--slow`, `--real` and `--long` add the others. A server is started
once per session (per worker under xdist), and only where a test asks for it; a real ComfyUI is built at its first use.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
    settings.register_profile("thorough", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("quick", parent=settings.get_profile("thorough"), max_examples=25)
    settings.load_profile("thorough")

# A shell that starts a command in the background has it ignore Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What CI sets changes what pytest and the plugin print: pytest cuts no summary line where CI is set.
_OF_A_CI = ("CI", "BUILD_NUMBER", "COMFYLOAD_REPORT_URL")
_PREFIXES = ("CI_", "COMFYUI_", "GITHUB_", "GITLAB_", "JENKINS_")

TESTS = Path(__file__).parent
CHECKPOINT = "tiny_sd15.safetensors"
TIME_SCALE = 20.0


# Marks of tests that run only with the option of the same name.
_TIERS = {
    "slow": "also run the tests that start pytest, browsers, databases, web servers or many loads (15 to 20 minutes)",
    "real": "also run the tests against a real ComfyUI, which the first run builds",
    "long": "also run the tests of a minute and more, before a release",
}
_LEFT_OUT: pytest.StashKey[Counter[str]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tests of pytest-comfyload")
    for name, meaning in _TIERS.items():
        group.addoption(f"--{name}", action="store_true", help=meaning)


@pytest.hookimpl(tryfirst=True)  # before xdist reads its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Distribute a run of all tests over the cores, unless `-n`, a debugger or a listing is asked for."""
    option = config.option
    runs_here = option.usepdb or option.collectonly or option.showfixtures or hasattr(config, "workerinput")
    if _runs_all(config) and not runs_here and getattr(option, "numprocesses", 0) is None:
        # One more than cores: tests also wait.
        option.numprocesses, option.dist = (os.cpu_count() or 1) + 1, "worksteal"


def pytest_configure(config: pytest.Config) -> None:
    if _runs_all(config) and not config.getoption("--slow") and not _MISSING:
        settings.load_profile("quick")


def _runs_all(config: pytest.Config) -> bool:
    """Return whether no file or folder is named: plain `pytest`, or one of its workers."""
    return config.args_source is config.ArgsSource.TESTPATHS or config.args == config.getini("testpaths")


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
    "docs",
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


# Tests that take a second or more each: those that request one of these fixtures, and these folders and files.
_SLOW_FIXTURES = {"chromium", "pytester", "redis_process"}
SLOW = (
    "capacity/test_crowd.py", "capacity/test_find.py", "capacity/test_plan.py",
    "capacity/test_plan_against_measurement.py", "capacity/test_search.py", "capacity/test_solve.py",
    "cli/test_ab.py", "cli/test_ab_launch.py", "cli/test_baseline.py", "cli/test_init.py", "cli/test_plan.py",
    "cli/test_recheck.py",
    "client/test_comfy.py", "compare/test_stories.py", "contract", "deploy/test_doctor.py", "deploy/test_front.py",
    "deploy/test_watchdog.py", "docs/test_examples.py", "engine/test_broken_servers.py",
    "engine/test_engine.py", "faults", "gateway",
    "gpu/test_nvml_thread.py", "history/test_calibration.py", "hostile", "launch/test_fleet.py",
    "launch/test_process.py", "monitor/test_configuration.py", "monitor/test_monitor.py",
    "monitor/test_recorder.py", "monitor/test_top.py", "monitor/test_watch.py", "report/html/test_accessibility.py",
    "report/html/test_facts.py", "report/html/test_serve.py", "run/test_ab.py", "run/test_background.py",
    "run/test_distributed.py",
    "run/test_gpu_load.py", "run/test_thumbnails.py", "run/test_truth.py", "run/test_workers.py",
    "simulator/test_conformance.py", "simulator/test_faults.py",
)  # fmt: skip
# Of those, the ones without which a run of all quick tests would miss a room, or the plugin as its users meet it.
QUICK = (
    "contract/test_outputs.py", "contract/test_workflows.py", "gateway/test_rewriting.py",
    "gateway/test_validation.py", "hostile/test_pictures.py", "plugin/test_asserts.py", "plugin/test_bad_marks.py",
    "plugin/test_misspelled.py",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by mark
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = {config.invocation_params.dir / argument.partition("::")[0] for argument in config.args}
    chosen: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    counts = config.stash[_LEFT_OUT] = Counter()
    for item in items:
        if item.path.is_relative_to(TESTS):
            _mark(item)
        if tier := _missing_tier(item, is_named=item.path in named):
            counts[tier] += 1
        (left_out if tier else chosen).append(item)
    # mypy is the longest of all: under xdist, it does not begin last.
    items[:] = sorted(chosen, key=lambda item: item.path.name != "test_house.py")
    config.hook.pytest_deselected(items=left_out)


def _mark(item: pytest.Item) -> None:
    if item.path.relative_to(TESTS).parts[0] in _TIMED:
        item.add_marker(pytest.mark.flaky(reruns=1))
    if "real_comfyui_install" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.real)
    if item.path.name in _THE_SAME_UNDER_XDIST and "[xdist" in item.name:
        item.add_marker(pytest.mark.long)
    if _is_slow(item):
        item.add_marker(pytest.mark.slow)


def _is_slow(item: pytest.Item) -> bool:
    path = item.path.relative_to(TESTS)
    if path.as_posix() in QUICK:
        return False
    places = {path.as_posix(), *(folder.as_posix() for folder in path.parents)}
    return not _SLOW_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())) or not places.isdisjoint(SLOW)


def _missing_tier(item: pytest.Item, *, is_named: bool) -> str | None:
    """Return the option without which a test is left out; a file that is named on the command line is not slow."""
    return next(
        (
            tier
            for tier in _TIERS
            if item.get_closest_marker(tier)
            and not item.config.getoption(f"--{tier}")
            and not (tier == "slow" and is_named)
        ),
        None,
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = dict(session.config.stash.get(_LEFT_OUT, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if counts := getattr(node, "workeroutput", {}).get("left out"):
        node.config.stash[_LEFT_OUT] = Counter(counts)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if counts := config.stash.get(_LEFT_OUT, Counter()):
        options = ", ".join(f"--{tier} adds {counts[tier]}" for tier in _TIERS if counts[tier])
        terminalreporter.write_line(
            f"{counts.total()} tests were left out: {options}; .ci/run runs all but the long ones"
        )


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
