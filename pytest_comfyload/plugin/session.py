"""Loads of one pytest process: each runs once, and is compared with earlier runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_comfyload.errors import ComfyloadError, UsageError
from pytest_comfyload.history.location import STORE, home_of, project_of
from pytest_comfyload.plugin.baselines import SessionIdentity, SessionPast
from pytest_comfyload.plugin.recheck import Recheck
from pytest_comfyload.plugin.repetition import joined
from pytest_comfyload.plugin.running import RunningTest
from pytest_comfyload.plugin.screen import TerminalWriter
from pytest_comfyload.plugin.session_servers import SessionServers
from pytest_comfyload.plugin.settings import PluginSettings
from pytest_comfyload.plugin.termination import orderly_termination
from pytest_comfyload.plugin.xdist import LocalRuns, SharedRuns

if TYPE_CHECKING:
    from pytest_comfyload.history.store import Store
    from pytest_comfyload.plugin.marker import MarkedScenario
    from pytest_comfyload.result.ab_result import ABResult
    from pytest_comfyload.result.baseline import BaselineSource
    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.result.run_facts import ABHalf
    from pytest_comfyload.run.load_run import LoadRun
    from pytest_comfyload.scenario.scenario import Scenario

__all__ = ["COMPARISONS", "LOADS", "SESSION", "LoadSession"]


@dataclass(slots=True)
class LoadSession:
    """Runner of scenarios, which shows their progress on the screen.

    Attributes:
        project: The project of the first test; spools are below its `home`.
        started: The folder in which pytest was started.
        origin: The identity of this session, as recorded in spools.
        sharing: What is shared with the other processes of this test run.
        refusal: Why no load may run; None if loads may run.
        judged: The ids of runs whose regressions have been checked.
        recheck: Stored runs that replace loads.
    """

    settings: PluginSettings
    project: Path
    started: Path
    screen: TerminalWriter
    origin: SessionIdentity
    sharing: LocalRuns | SharedRuns
    running: RunningTest = field(default_factory=RunningTest)
    refusal: str | None = None
    judged: set[str] = field(default_factory=set)
    recheck: Recheck | None = field(init=False)
    servers: SessionServers = field(init=False)
    _results: dict[tuple[Any, ...], LoadResult | ComfyloadError] = field(default_factory=dict)
    _pasts: dict[Path, SessionPast] = field(default_factory=dict)
    _resources: ExitStack = field(default_factory=ExitStack)
    _orderly: bool = False

    def __post_init__(self) -> None:
        self.recheck = Recheck(self.settings.recheck) if self.settings.recheck else None
        self.servers = SessionServers(self.settings, self.screen, self._resources, self.project, self.past)

    @property
    def home(self) -> Path:
        return home_of(self.project)

    def past(self, project: Path) -> SessionPast:
        """Return a project's runs from before this session."""
        if project not in self._pasts:
            settings = self.settings
            self._pasts[project] = SessionPast(
                project,
                settings.store_of(project),
                settings.baseline,
                required=settings.require_baseline,
                asked=bool(settings.baseline) or settings.require_baseline or settings.fail_on_regression,
            )
        return self._pasts[project]

    def stores_read(self) -> list[Store]:
        """Return the stores whose runs this process has read."""
        stores = [past.store for past in self._pasts.values() if "rows" in vars(past)]
        return [store for store in stores if store is not None]

    def project_of(self, folder: Path) -> Path:
        return project_of(folder, self.started)

    def result_of(self, marked: MarkedScenario) -> LoadResult:
        """Return the result of a marked scenario, which runs at its first use.

        Raises: ComfyloadError, the same one each time; LoadStopped.
        """
        if marked.key not in self._results:
            try:
                self._results[marked.key] = self._once(marked)
            except ComfyloadError as error:
                self._results[marked.key] = error
        result = self._results[marked.key]
        if isinstance(result, ComfyloadError):
            raise result
        return result

    def _once(self, marked: MarkedScenario) -> LoadResult:
        result = self._shared(marked)
        result.past = self.past_of(result, marked.files, self._rerun_of(marked, result))
        return result

    def _rerun_of(self, marked: MarkedScenario, result: LoadResult) -> Callable[[int], LoadResult]:
        """Return a function that runs the load again, on the servers on which `result` was measured."""
        return lambda number: self._shared(marked, f"rerun {number}", result.facts.servers)

    def _shared(self, marked: MarkedScenario, rerun: str = "", among: Collection[str] = ()) -> LoadResult:
        """Return the result of a load, run by the first process that requests it."""
        repetition = joined(marked.repetition, rerun)

        def run() -> LoadResult:
            return self.run(
                marked.scenario, marked.title, marked.files, marked.parameters, repetition=repetition, among=among
            )

        if self.recheck is not None:
            return run()
        return self.sharing.once(f"{marked.name}, {rerun}", run)

    def past_of(self, result: LoadResult, folder: Path, rerun: Callable[[int], LoadResult]) -> BaselineSource:
        """Return the runs before `result`, which a test in `folder` made; empty if no runs are stored.

        If the session makes a baseline, this runs the load again, `baseline_runs` times in all.
        """
        from pytest_comfyload.plugin.baselines import RunPast
        from pytest_comfyload.result.baseline import NO_PAST

        if self.settings.store is None:
            return NO_PAST
        project = self.project_of(folder)
        if self.recheck is not None:
            provenance = self.recheck.provenances[result.facts.run_id]
            return RunPast(self.past(project), result, provenance, None, self.screen.say)
        runs = self.settings.baseline_runs if result.invalid_because is None else 1
        again = [rerun(number) for number in range(1, runs)]
        return RunPast(self.past(project), result, self.origin.provenance_of(project), rerun, self.screen.say, again)

    def run(
        self,
        scenario: Scenario,
        title: str,
        files: Path,
        parameters: str = "",
        *,
        kept: bool = True,
        place: tuple[int, int] = (1, 1),
        repetition: str = "",
        half: ABHalf | None = None,
        among: Collection[str] = (),
        on: Callable[[], Mapping[str, Any]] | None = None,
    ) -> LoadResult:
        """Run a scenario.

        Args:
            kept: Store the run.
            place: The number of this run among similar runs, and how many there are.
            repetition: Identifies a repeated run of the same load; empty for the first run.
            half: The half of an A/B comparison, for which the servers first drop cached results and models.
            among: The URLs of the servers that a scenario with a number of servers chooses from; empty: all.
            on: Returns the arguments of `LoadRun` for servers that are not the session's.

        Raises: ComfyloadError, LoadStopped.
        """
        if self.refusal is not None:
            raise UsageError(self.refusal)
        project = self.project_of(files)
        self.past(project).expect_comparable()
        if self.recheck is not None:
            return self.recheck.result_of(scenario, title, parameters, project, self.past(project))
        from pytest_comfyload.run.load_run import LoadRun

        self._end_orderly()
        self.hold()
        kept = kept and self.settings.store is not None
        try:
            return self._watched(
                LoadRun(
                    **(self._servers_of(scenario) if on is None else on()),
                    scenario=scenario,
                    title=title,
                    files=files,
                    store=self.home,
                    workers=self.settings.workers,
                    overrides=self.settings.overrides,
                    allow_busy=self.settings.allow_busy,
                    delete_leftovers=self.settings.delete_leftovers,
                    among=among,
                    search_from=self.sharing.number,
                    generators=self.settings.generators,
                    gpus=self.settings.gpus,
                    parameters=parameters,
                    repetition=repetition,
                    half=half,
                    told=self.origin.header(project, kept=kept),
                    keep_pictures=kept and self.settings.keep_pictures,
                ),
                place,
            )
        except pytest.fail.Exception as error:
            # Nothing in a load fails a test, so the test timed out. All tests of this load must report it.
            raise ComfyloadError(f"the load was cut short: {error.msg}") from None

    def _servers_of(self, scenario: Scenario) -> dict[str, Any]:
        """Return the arguments of `LoadRun` for the session's servers."""
        servers, settings = self.servers, self.settings
        return {
            "servers": servers.addresses(max(part.servers.least for _, part in scenario.parts)),
            "private": not settings.servers and settings.launch is None,
            "launched": servers.states,
            "custom_nodes": servers.custom_nodes(),
        }

    def _watched(self, run: LoadRun, place: tuple[int, int]) -> LoadResult:
        from pytest_comfyload.plugin.live import LiveView
        from pytest_comfyload.run.load_run import run_load

        with self._under_way() as begins:
            view = LiveView(
                self.screen,
                self.servers,
                run.title,
                str(run.scenario),
                place,
                begins,
                self.sharing.stopped,
                self.servers.publisher(run),
            )
            with closing(view):
                return run_load(replace(run, observer=view))

    def share(self) -> SharedRuns:
        """Return the controller's `SharedRuns`, created for the first worker."""
        if isinstance(self.sharing, LocalRuns):
            self.sharing = sharing = SharedRuns.begin()
            self._resources.callback(sharing.remove)
            self.origin = SessionIdentity(self.settings.label, sharing.folder.name)
            # A project without spools has nothing to lock yet, and should get no folder for the lock.
            if (self.home / STORE / "spool").is_dir():
                self.hold()
            # The controller runs no loads itself, but can see whether a worker has begun one.
            self._end_orderly(needed=sharing.in_use)
        return self.sharing

    def hold(self) -> None:
        """Lock this session's spools, so that other sessions leave them alone."""
        if self.settings.store is not None:
            self.origin.hold(self.home, self.sharing.process)
            self._resources.callback(self.origin.release)

    @contextmanager
    def _under_way(self) -> Iterator[Callable[[Path], None]]:
        """Mark a load's spool as unfinished until the load ends, also by an error; if it is cut off, the mark stays."""
        begun: list[Path] = []

        def begins(spool: Path) -> None:
            begun.append(spool)
            self.sharing.begins(spool)

        def ends() -> None:
            for spool in begun:
                self.sharing.ends(spool)

        try:
            yield begins
        except ComfyloadError:
            ends()
            raise
        ends()

    def _end_orderly(self, needed: Callable[[], bool] = lambda: True) -> None:
        """Make SIGTERM interrupt the session as Ctrl-C does."""
        if not self._orderly:
            self._orderly = True
            self._resources.enter_context(orderly_termination(needed))

    def close(self) -> None:
        self._resources.close()


SESSION = pytest.StashKey[LoadSession]()
# What a test has used: its load results, and its A/B comparisons.
LOADS = pytest.StashKey[list["LoadResult"]]()
COMPARISONS = pytest.StashKey[list["ABResult"]]()
