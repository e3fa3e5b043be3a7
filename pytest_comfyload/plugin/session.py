"""The loads of one pytest process: that each runs once, and what is compared with it."""

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
    """Runs scenarios and shows them on the screen meanwhile.

    `project` is that of the first test; spools go below its `home`. `started`: where pytest was. `judged`: the ids of
    the runs that were failed for being slower than those before. `origin` is what their spools say of them. `refusal`
    is why none may run. `recheck` has stored runs in place of loads. `sharing` is with the other processes of this
    test run.
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
        """Return the runs before this session that are of a project."""
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
        """Return the stores whose runs this process looked at."""
        stores = [past.store for past in self._pasts.values() if "rows" in vars(past)]
        return [store for store in stores if store is not None]

    def project_of(self, folder: Path) -> Path:
        return project_of(folder, self.started)

    def result_of(self, marked: MarkedScenario) -> LoadResult:
        """The result of a marked scenario, run at its first use.

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
        """Return what runs the load again, where `result` was measured."""
        return lambda number: self._shared(marked, f"rerun {number}", result.facts.servers)

    def _shared(self, marked: MarkedScenario, rerun: str = "", among: Collection[str] = ()) -> LoadResult:
        """Run by the first process that asks for it."""
        repetition = joined(marked.repetition, rerun)

        def run() -> LoadResult:
            return self.run(
                marked.scenario, marked.title, marked.files, marked.parameters, repetition=repetition, among=among
            )

        if self.recheck is not None:
            return run()
        return self.sharing.once(f"{marked.name}, {rerun}", run)

    def past_of(self, result: LoadResult, folder: Path, rerun: Callable[[int], LoadResult]) -> BaselineSource:
        """Return the runs before one that a test in `folder` made; where none are kept, none.

        If the session makes a baseline, the load runs so many times.
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
        """`kept`: the run goes to the store. `place`: which one it is of so many like it. `repetition`: which time it
        is that the same load runs. `half`: of an A/B comparison, for which the servers drop cached results and models
        first. `among`: the URLs of the servers that a scenario with a number of servers chooses from; empty: all.
        `on`: what `LoadRun` is told of servers that are not the session's.

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
            # Nothing in a load fails a test: its time has run out. All tests of this load have to know.
            raise ComfyloadError(f"the load was cut short: {error.msg}") from None

    def _servers_of(self, scenario: Scenario) -> dict[str, Any]:
        """Return what `LoadRun` is told of the session's servers."""
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
        """Return the controller's sharing, made for the first worker."""
        if isinstance(self.sharing, LocalRuns):
            self.sharing = sharing = SharedRuns.begin()
            self._resources.callback(sharing.remove)
            self.origin = SessionIdentity(self.settings.label, sharing.folder.name)
            # In a project without spools there is nothing to hold yet, and no folder to make for it.
            if (self.home / STORE / "spool").is_dir():
                self.hold()
            # The controller runs no load itself: it is told of the first one.
            self._end_orderly(needed=sharing.in_use)
        return self.sharing

    def hold(self) -> None:
        """Let other sessions leave the spools of this one alone."""
        if self.settings.store is not None:
            self.origin.hold(self.home, self.sharing.process)
            self._resources.callback(self.origin.release)

    @contextmanager
    def _under_way(self) -> Iterator[Callable[[Path], None]]:
        """Tell the spools of loads that are cut off from those of loads that end, be it with an error of their own."""
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
        """Have SIGTERM interrupt as Ctrl-C does."""
        if not self._orderly:
            self._orderly = True
            self._resources.enter_context(orderly_termination(needed))

    def close(self) -> None:
        self._resources.close()


SESSION = pytest.StashKey[LoadSession]()
# What a test has looked at: its load results, and its comparisons.
LOADS = pytest.StashKey[list["LoadResult"]]()
COMPARISONS = pytest.StashKey[list["ABResult"]]()
