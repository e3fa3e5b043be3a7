"""Which tests run, and the servers that they run against.

Plain `pytest` runs all quick tests on all cores; `--slow`, `--real` and `--long` add the others. A server is started
once per session (per worker under xdist), and only if a test requests it; the first use of a real ComfyUI builds it.
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

# Packages of the extra `test`; if any is not installed, no test module is loaded.
_MISSING = [name for name in ("hypothesis", "xdist", "pytest_rerunfailures", "yaml") if not find_spec(name)]
if _MISSING:
    collect_ignore_glob = ["*"]
else:
    from hypothesis import HealthCheck, settings

    # Deadlines are meaningless on a shared machine; the properties themselves do not depend on time.
    settings.register_profile("thorough", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("quick", parent=settings.get_profile("thorough"), max_examples=25)
    settings.load_profile("thorough")

# A shell makes background commands ignore Ctrl-C, and all processes started by the tests would inherit this.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# CI variables change what pytest and the plugin print; for example, pytest does not truncate summary lines in CI.
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
    """Distribute a run of all tests over the cores, unless `-n`, a debugger or a listing is requested."""
    option = config.option
    runs_here = option.usepdb or option.collectonly or option.showfixtures or hasattr(config, "workerinput")
    if _runs_all(config) and not runs_here and getattr(option, "numprocesses", 0) is None:
        # One more than the number of cores, because tests also wait.
        option.numprocesses, option.dist = (os.cpu_count() or 1) + 1, "worksteal"


def pytest_configure(config: pytest.Config) -> None:
    if _runs_all(config) and not config.getoption("--slow") and not _MISSING:
        settings.load_profile("quick")


def _runs_all(config: pytest.Config) -> bool:
    """Return whether no file or folder was named: plain `pytest`, or one of its workers."""
    return config.args_source is config.ArgsSource.TESTPATHS or config.args == config.getini("testpaths")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Report missing packages in one line; `--markers` and `--fixtures` work without them."""
    if _MISSING and not session.config.option.showfixtures:
        raise pytest.UsageError(
            f"the tests need {', '.join(_MISSING)}: pip install -e '.[test]'; without it: pytest sample_suites"
        )


@pytest.fixture(autouse=True)
def _as_on_a_desk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test as if outside CI; tests of behaviour in CI set its variables themselves."""
    for name in [name for name in os.environ if name in _OF_A_CI or name.startswith(_PREFIXES)]:
        monkeypatch.delenv(name)


# These tests run loads in real time. A shared machine occasionally stalls for some 0.1 s, which makes a run invalid or
# late, as it should: a second try tells that from a failure.
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


# The results of these tests do not depend on how tests are distributed: under xdist they run only with `--long`.
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
# Of these, the ones without which the quick tests would miss a whole sub-package, or the plugin as users see it.
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
    # mypy takes longest: under xdist, it must not start last.
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
    """Return the option that a test lacks, if any; a file named on the command line does not need `--slow`."""
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
    """Forget the secrets of a test before the next one."""
    with only_now():
        yield


@pytest.fixture(scope="session")
def real_comfyui_install() -> ComfyInstall:
    """The real ComfyUI, built if necessary, for tests that start their own servers."""
    # On a shared machine, threads that wait for each other take ten times as long as a single thread.
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
    """The URL of a simulator with the probe nodes, of the same version as the real ComfyUI."""
    from pytest_comfyload.launch.simulator import SimulatorProcess

    with SimulatorProcess(time_scale=TIME_SCALE, probe_nodes=True, strict=True, comfyui_version="0.3.75") as server:
        yield server.url


@pytest.fixture(scope="session", params=["simulator", pytest.param("real", marks=pytest.mark.real)])
def target(request: pytest.FixtureRequest) -> Target:
    """Each server in turn, for tests of common behaviour."""
    name = request.param
    url = request.getfixturevalue("real_comfyui" if name == "real" else "simulator")
    return Target(name=name, url=url, checkpoint=CHECKPOINT)
