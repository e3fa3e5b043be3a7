"""The pytest plugin: hooks only. What they need is imported when a load test is there that needs it."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.plugin.archive import KEEPER, SUMMARIES, RunArchiver, SummaryCollector
from pytest_comfyload.plugin.baselines import SessionIdentity
from pytest_comfyload.plugin.ci_output import CiOutput
from pytest_comfyload.plugin.fixtures import COMPARISONS, LOADS, comfyui, find_capacity, gpu, load, run_ab, run_load
from pytest_comfyload.plugin.options import add_options, read_settings
from pytest_comfyload.plugin.project import MARK, own_marks, session_project
from pytest_comfyload.plugin.repetition import begin_attempt
from pytest_comfyload.plugin.screen import TerminalWriter
from pytest_comfyload.plugin.session import SESSION, LoadSession
from pytest_comfyload.plugin.termination import contained
from pytest_comfyload.plugin.xdist import PROJECT, SHARED_FOLDER, Controller, SharedRuns
from pytest_comfyload.redaction import any_secrets, only_now
from pytest_comfyload.text import harmless

if TYPE_CHECKING:
    from pytest_comfyload.plugin.asserts import CheckRecorder

__all__ = ["comfyui", "find_capacity", "gpu", "load", "run_ab", "run_load"]

_COLLECTED = pytest.StashKey[list[pytest.Item]]()
_RECORDER: pytest.StashKey[CheckRecorder] = pytest.StashKey()
_CHECKED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARK}(workflow, users=, iterations=, duration=, burst=, …): the load that runs before the test"
    )
    # What is a secret is known as long as the session: another one in this process has its own.
    secrets = ExitStack()
    secrets.enter_context(only_now())
    config.add_cleanup(secrets.close)
    try:
        settings = read_settings(config)
    except ComfyloadError as error:
        raise pytest.UsageError(str(error)) from None
    screen = TerminalWriter(config)
    config.pluginmanager.register(screen, "comfyload-screen")
    shared = Path(config.workerinput[SHARED_FOLDER]) if hasattr(config, "workerinput") else None
    project = Path(config.workerinput[PROJECT]) if shared else session_project(config)  # type: ignore[attr-defined]
    origin = SessionIdentity(settings.label, shared.name if shared else None)
    session = LoadSession(settings, project, config.invocation_params.dir, screen, origin)
    config.stash[SESSION] = session
    if shared is not None:
        session.sharing = SharedRuns(shared, config.workerinput["workerid"])  # type: ignore[attr-defined]
    else:
        config.stash[SUMMARIES] = collector = SummaryCollector(config)
        config.pluginmanager.register(collector, "comfyload-summaries")
        config.stash[KEEPER] = keeper = RunArchiver(session, collector)
        config.pluginmanager.register(keeper, "comfyload-keeper")
        ci_output = CiOutput(config, collector, keeper, markdown=settings.markdown, annotations=settings.annotations)
        config.pluginmanager.register(ci_output, "comfyload-ci-output")


def pytest_unconfigure(config: pytest.Config) -> None:
    if SESSION in config.stash:
        with contained("not all that the loads used is closed", lambda line: print(line, file=sys.stderr)):
            config.stash[SESSION].close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist's controller prepares a worker."""
    manager, session = node.config.pluginmanager, node.config.stash[SESSION]
    if session.sharing is None:
        say = node.config.stash[KEEPER].lines.append
        controller = Controller(manager.get_plugin("session"), session.settings, session.hold, session.share(), say)
        manager.register(controller, "comfyload-controller")
    node.workerinput[SHARED_FOLDER] = str(session.share().folder)
    node.workerinput[PROJECT] = str(session.project)


def pytest_report_header(config: pytest.Config) -> str:
    settings = config.stash[SESSION].settings
    if settings.recheck:
        return f"comfyload: stored runs are judged again ({settings.recheck}); no server is contacted"
    if settings.servers:
        workers = f" (workers: {', '.join(worker.url for worker in settings.workers)})" if settings.workers else ""
        return "comfyload: " + ", ".join(server.url for server in settings.servers) + workers
    if settings.require_server:
        return "comfyload: no server named; simulation refused"
    return f"comfyload: embedded simulator ({settings.simulated_gpu} at ×{settings.time_scale:g})"


# --- collection ------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> Generator[None, Any, Any]:
    """An invalid mark, or a metric that does not exist, is an error of the collection, in one line."""
    files: Path = collector.path.parent
    try:
        # A module is asked about every name in it; its own mark is checked with the first.
        if isinstance(collector, pytest.Module) and not collector.stash.get(_CHECKED, False):
            _check_marks(collector.obj, files, [collector.nodeid])
            collector.stash[_CHECKED] = True
        _check_marks(obj, files, [collector.nodeid, name])
    except ComfyloadError as error:
        raise collector.CollectError(str(error)) from None
    made = yield
    if isinstance(made, list):
        # The items that a parametrised function is made into have one source.
        _expect_metrics_to_exist(collector, made[:1])
    return made


def _check_marks(obj: object, files: Path, node_names: Sequence[str]) -> None:
    """Raises: ComfyloadError."""
    if own_marks(obj):
        from pytest_comfyload.plugin.marker import check_marks

        check_marks(obj, files, node_names)


def _expect_metrics_to_exist(collector: pytest.Module | pytest.Class, items: Sequence[Any]) -> None:
    """Raises: CollectError."""
    if not any(map(_has_loads, items)):
        return
    from pytest_comfyload.plugin.misspelled import misspelled

    for item in items:
        if sentences := misspelled(item):
            raise collector.CollectError(f"{collector.nodeid}::{item.originalname}: {'; '.join(sentences)}")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker(MARK)]
    for item in marked:
        # The marker runs the load, whether the test asks for its result or not.
        names = getattr(item, "fixturenames", None)
        if names is not None and "load" not in names:
            names.append("load")
    if marked:
        _expect_overrides_to_match(config, marked)


def _expect_overrides_to_match(config: pytest.Config, marked: list[pytest.Item]) -> None:
    overrides = config.stash[SESSION].settings.overrides
    if not overrides:
        return
    from pytest_comfyload.plugin.collection import unmatched

    message = unmatched(overrides, marked)
    if message and hasattr(config, "workerinput"):
        # xdist makes an internal error of a worker's UsageError: there the loads say it.
        config.stash[SESSION].refusal = message
    elif message:
        raise pytest.UsageError(message)


# --- running ---------------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Each attempt at a test, of which pytest-rerunfailures makes several, starts anew."""
    begin_attempt(item)
    kept: tuple[pytest.StashKey[Any], ...] = (LOADS, COMPARISONS, _RECORDER)
    for key in kept:
        if key in item.stash:
            del item.stash[key]
    item.user_properties[:] = [each for each in item.user_properties if not each[0].startswith("comfyload.")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """While the body of a test with a load runs, its comparisons are watched."""
    if not _has_loads(item):
        return (yield)
    from pytest_comfyload.plugin.asserts import CheckRecorder

    item.stash[_RECORDER] = recorder = CheckRecorder()
    with recorder.watching():
        yield
    _expect_more(item, recorder)
    return None


def _expect_more(item: pytest.Item, recorder: CheckRecorder) -> None:
    """What the options ask of a test beyond its own asserts."""
    from pytest_comfyload.plugin.report_data import expect_asserts, expect_confidence, expect_no_regression

    session, loads = item.config.stash[SESSION], item.stash.get(LOADS, [])
    settings = session.settings
    if settings.verdict == "confident":
        expect_asserts(item.config)
        expect_confidence(recorder.checks(), loads)
    if settings.fail_on_regression:
        try:
            # Of several tests that share a load, the first fails.
            fresh = [load for load in loads if load.facts.run_id not in session.judged]
            session.judged.update(load.facts.run_id for load in fresh)
            expect_no_regression(fresh, allow_no_baseline=settings.allow_no_baseline)
        except ComfyloadError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if any_secrets():
        from pytest_comfyload.plugin.report_data import redact_report

        redact_report(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    if not _has_loads(item):
        report = yield
    else:
        report = yield from _report_loads(item, call)
    if any_secrets():
        from pytest_comfyload.plugin.report_data import redact_report

        redact_report(report)
    return report


def _report_loads(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    from pytest_comfyload.plugin.report_data import plain, report_loads

    item.user_properties[:] = plain(item.user_properties)
    report = yield
    if report.when == "call" or (report.when == "setup" and report.failed):
        recorder = item.stash.get(_RECORDER, None) if report.when == "call" else None
        error = call.excinfo.value if call.excinfo is not None else None
        report_loads(item, report, error, item.stash.get(LOADS, []), recorder, item.stash.get(COMPARISONS, []))
    return report


def _has_loads(item: pytest.Item) -> bool:
    return not {"load", "run_load", "run_ab", "find_capacity", "gpu"}.isdisjoint(getattr(item, "fixturenames", ()))


# --- showing ---------------------------------------------------------------------------------------------------------


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[_COLLECTED] = session.items


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.option.collectonly and config.get_verbosity() >= 0:
        _show_planned(terminalreporter, config.stash.get(_COLLECTED, []))
    summaries = config.stash[SUMMARIES].summaries if SUMMARIES in config.stash else []
    kept = config.stash[KEEPER].lines if KEEPER in config.stash else []
    if not summaries and not kept:
        return
    terminalreporter.write_sep("=", "comfyload")
    with contained("no summary of the loads", terminalreporter.write_line):
        _show_summaries(terminalreporter, config)
    for line in kept:
        terminalreporter.write_line(harmless(line))


def _show_summaries(terminalreporter: Any, config: pytest.Config) -> None:
    from pytest_comfyload.report.terminal import summary_lines

    collector = config.stash[SUMMARIES]
    color, width = terminalreporter.hasmarkup, terminalreporter._tw.fullwidth
    for line in summary_lines(collector.summaries, color=color, width=width):
        terminalreporter.write_line(line)
    for line in collector.notes():
        terminalreporter.write_line(harmless(line))


def _show_planned(terminalreporter: Any, items: list[pytest.Item]) -> None:
    """After the collected tests: what lists them for a program, which `-q` is for, must not meet it in between."""
    if not any(item.get_closest_marker(MARK) for item in items):
        return
    from pytest_comfyload.plugin.collection import planned_lines

    terminalreporter.write_sep("=", "planned loads")
    for line in planned_lines(items):
        terminalreporter.write_line(harmless(line))
