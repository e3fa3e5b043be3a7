"""Hooks of a test run with load tests, or with options for them; `activate` registers them when they are needed."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.plugin.archive import RunArchiver, SummaryCollector
from pytest_comfyload.plugin.baselines import SessionIdentity
from pytest_comfyload.plugin.ci_output import CiOutput
from pytest_comfyload.plugin.hookspecs import add_extensions, faults_of_extensions
from pytest_comfyload.plugin.load_tests import FIXTURES, has_loads, requests_any
from pytest_comfyload.plugin.project import package_error, session_project
from pytest_comfyload.plugin.repetition import begin_attempt
from pytest_comfyload.plugin.screen import TerminalWriter
from pytest_comfyload.plugin.session import COMPARISONS, LOADS, SESSION, LoadSession
from pytest_comfyload.plugin.settings import read_settings
from pytest_comfyload.plugin.source import forget_sources
from pytest_comfyload.plugin.termination import contained
from pytest_comfyload.plugin.xdist import PROJECT, SHARED_FOLDER, STATES_FILE, Controller, LocalRuns, SharedRuns
from pytest_comfyload.redaction import any_secrets, only_now
from pytest_comfyload.text import harmless

if TYPE_CHECKING:
    from pytest_comfyload.plugin.asserts import CheckRecorder

__all__ = ["LoadHooks", "activate"]


def activate(config: pytest.Config, running: pytest.Item | None = None) -> LoadHooks:
    """Return the hooks of this test run, registered by the first call.

    Args:
        running: The test that is being set up or called, if any; it is already past the first hooks.

    Raises:
        pytest.UsageError: An option is invalid.
    """
    hooks = config.stash.get(_HOOKS, None)
    if hooks is None:
        hooks = config.stash[_HOOKS] = LoadHooks(config)
        if running is not None:
            hooks.session.screen.pytest_runtest_logstart(running.nodeid, running.location)
            hooks.pytest_runtest_setup(running)
    return hooks


class LoadHooks:
    """Plugin that also registers its parts: the screen and, except in xdist workers, collector, archive and outputs."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.session = session = config.stash[SESSION] = _begin_session(config)
        self._collector = SummaryCollector(config)
        self._archiver = RunArchiver(session, self._collector)
        self._items: list[pytest.Item] = []
        manager = config.pluginmanager
        manager.register(session.screen, "comfyload-screen")
        if not hasattr(config, "workerinput"):
            manager.register(self._collector, "comfyload-summaries")
            if session.settings.otlp:
                from pytest_comfyload.plugin.otlp import OtlpExport

                manager.register(OtlpExport(session.settings.otlp, session, self._archiver), "comfyload-otlp")
            manager.register(self._archiver, "comfyload-archiver")
            manager.register(CiOutput(config, self._collector, self._archiver, session.settings), "comfyload-ci-output")
            if session.settings.webhook is not None:
                from pytest_comfyload.plugin.webhook import Webhook

                webhook = Webhook(session.settings.webhook, session, self._collector, self._archiver)
                manager.register(webhook, "comfyload-webhook")
        manager.register(self, "comfyload-hooks")

    def prepare_worker(self, node: Any) -> None:
        """Pass an xdist worker what its session shares with the controller's. Raises: pytest.UsageError."""
        manager, session = self._config.pluginmanager, self.session
        if isinstance(session.sharing, LocalRuns):
            running: Any = manager.get_plugin("session")
            say = self._archiver.lines.append
            controller = Controller(running, session.settings, session.hold, session.share(), say)
            manager.register(controller, "comfyload-controller")
        node.workerinput[SHARED_FOLDER] = str(session.share().folder)
        node.workerinput[PROJECT] = str(session.project)
        if session.settings.launch is not None:
            try:
                node.workerinput[STATES_FILE] = str(session.servers.launched().states_file)
            except ComfyloadError as error:
                raise pytest.UsageError(str(error)) from None

    def pytest_unconfigure(self) -> None:
        with contained("some resources of the loads were not closed", lambda line: print(line, file=sys.stderr)):
            self.session.close()

    # --- collection ---

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        _redact(report)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._items = session.items
        forget_sources()

    # --- running ---

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Discard the results of an earlier attempt at this test, such as those of pytest-rerunfailures."""
        self.session.running.item = item
        begin_attempt(item)
        kept: tuple[pytest.StashKey[Any], ...] = (LOADS, COMPARISONS, _RECORDER)
        for key in kept:
            if key in item.stash:
                del item.stash[key]
        item.user_properties[:] = [each for each in item.user_properties if not each[0].startswith("comfyload.")]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: object, request: pytest.FixtureRequest) -> Iterator[None]:
        """Assign loads that a class- or module-scoped fixture runs to every test that requests this fixture."""
        if request.scope == "function":
            return (yield)
        with self.session.running.setting_up(fixturedef, request.node):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Record the comparisons in the body of a test with a load."""
        if not has_loads(item):
            return (yield)
        from pytest_comfyload.plugin.asserts import CheckRecorder

        self.session.running.share(item)
        item.stash[_RECORDER] = recorder = CheckRecorder()
        with recorder.watching():
            yield
        self._expect_more(item, recorder)
        return None

    def _expect_more(self, item: pytest.Item, recorder: CheckRecorder) -> None:
        """Check what the options require of a test beyond its own asserts."""
        from pytest_comfyload.plugin.report_data import expect_asserts, expect_confidence, expect_no_regression

        settings, loads = self.session.settings, item.stash.get(LOADS, [])
        if settings.verdict == "confident":
            expect_asserts(item.config)
            expect_confidence(recorder.checks(), loads)
        if settings.fail_on_regression:
            try:
                # If several tests share a load, only the first fails.
                fresh = [load for load in loads if load.facts.run_id not in self.session.judged]
                self.session.judged.update(load.facts.run_id for load in fresh)
                expect_no_regression(fresh, allow_no_baseline=settings.allow_no_baseline)
            except ComfyloadError as error:
                raise pytest.fail.Exception(str(error), pytrace=False) from None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = (yield from _report_loads(item, call)) if has_loads(item) else (yield)
        if report.failed and requests_any(item, FIXTURES):
            report.sections += self.session.servers.log_tails()
        _redact(report)
        return report

    # --- showing ---

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._config.option.collectonly and self._config.get_verbosity() >= 0:
            self._show_planned(terminalreporter)
        if not self._collector.summaries and not self._archiver.lines and not faults_of_extensions():
            return
        terminalreporter.write_sep("=", "comfyload")
        with contained("no summary of the loads", terminalreporter.write_line):
            self._show_summaries(terminalreporter)
        self._write(terminalreporter, self._archiver.lines)
        self._write(terminalreporter, [f"warning: {line}" for line in faults_of_extensions()])

    def _show_summaries(self, terminalreporter: Any) -> None:
        from pytest_comfyload.report.terminal import summary_lines

        color, width = terminalreporter.hasmarkup, terminalreporter._tw.fullwidth
        verbosity = self.session.screen.verbosity
        for line in summary_lines(self._collector.summaries, color=color, width=width, verbosity=verbosity):
            terminalreporter.write_line(line)
        self._write(terminalreporter, self._collector.notes())

    @staticmethod
    def _write(terminalreporter: Any, lines: Sequence[str]) -> None:
        if not lines:
            return
        from pytest_comfyload.report.comparisons import coloured
        from pytest_comfyload.report.table import rendered

        color, width = terminalreporter.hasmarkup, terminalreporter._tw.fullwidth
        for line in rendered(map(coloured, lines), color=color, width=width):
            terminalreporter.write_line(line)

    def _show_planned(self, terminalreporter: Any) -> None:
        """Show the planned loads after the list of collected tests, which programs may parse."""
        from pytest_comfyload.plugin.collection import planned_lines

        if lines := planned_lines(self._items):
            terminalreporter.write_sep("=", "planned loads")
            for line in lines:
                terminalreporter.write_line(harmless(line))


def _begin_session(config: pytest.Config) -> LoadSession:
    # Secrets are registered for the duration of the session: another session in this process has its own.
    secrets = ExitStack()
    secrets.enter_context(only_now())
    config.add_cleanup(secrets.close)
    add_extensions(config)
    try:
        settings = read_settings(config)
    except ComfyloadError as error:
        raise pytest.UsageError(str(error)) from None
    shared: dict[str, Any] | None = getattr(config, "workerinput", None)
    sharing: LocalRuns | SharedRuns = LocalRuns()
    project, name = session_project(config), None
    if shared is not None:
        sharing = SharedRuns(Path(shared[SHARED_FOLDER]), shared["workerid"])
        project, name = Path(shared[PROJECT]), sharing.folder.name
    origin = SessionIdentity(settings.label, name)
    session = LoadSession(settings, project, config.invocation_params.dir, TerminalWriter(config), origin, sharing)
    if shared is not None and STATES_FILE in shared:
        session.servers.states_file = Path(shared[STATES_FILE])
    return session


def _report_loads(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    from pytest_comfyload.plugin.report_data import plain, report_loads

    item.user_properties[:] = plain(item.user_properties)
    report = yield
    if report.when == "setup" and report.failed and item.config.get_verbosity() < 2:
        report.longrepr = package_error(report.longreprtext) or report.longrepr
    if report.when == "call" or (report.when == "setup" and report.failed):
        recorder = item.stash.get(_RECORDER, None) if report.when == "call" else None
        error = call.excinfo.value if call.excinfo is not None else None
        report_loads(item, report, error, item.stash.get(LOADS, []), recorder, item.stash.get(COMPARISONS, []))
    return report


def _redact(report: pytest.TestReport | pytest.CollectReport) -> None:
    if any_secrets():
        from pytest_comfyload.plugin.report_data import redact_report

        redact_report(report)


_HOOKS: pytest.StashKey[LoadHooks] = pytest.StashKey()
_RECORDER: pytest.StashKey[CheckRecorder] = pytest.StashKey()
