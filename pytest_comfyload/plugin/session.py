"""One pytest process's load runs: where they go, that each runs once, and the simulator that stands in for a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_comfyload.errors import ComfyloadError, UsageError
from pytest_comfyload.plugin.baselines import SessionIdentity, SessionPast
from pytest_comfyload.plugin.options import PluginSettings
from pytest_comfyload.plugin.project import project_of
from pytest_comfyload.plugin.recheck import Recheck
from pytest_comfyload.plugin.repetition import joined
from pytest_comfyload.plugin.screen import TerminalWriter
from pytest_comfyload.plugin.termination import orderly_termination
from pytest_comfyload.plugin.xdist import SharedRuns

if TYPE_CHECKING:
    from pytest_comfyload.client.address import ServerAddress
    from pytest_comfyload.history.store import Store
    from pytest_comfyload.plugin.live import LiveView
    from pytest_comfyload.plugin.marker import MarkedScenario
    from pytest_comfyload.result.baseline import BaselineSource
    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.run.gpu_sampling import GpuSampler
    from pytest_comfyload.run.target import Target
    from pytest_comfyload.scenario.scenario import Scenario
    from pytest_comfyload.scenario.server_selection import ServerChoice

__all__ = ["SESSION", "LoadSession"]

# Each is a process of its own, of 40 MB or more.
MOST_SIMULATORS = 16


@dataclass(slots=True)
class LoadSession:
    """Runs scenarios and shows them on the screen meanwhile.

    `project` is that of the first test; spools go below it. `started`: where pytest was. `judged`: the ids of the runs
    that were failed for being slower than those before. `origin` is what their spools say of them. `refusal` is why
    none may run. `recheck` has stored runs in place of loads. `sharing` is there where xdist is at work.
    `samples_simulation`: the GPUs that tests sample themselves are a simulator's.
    """

    settings: PluginSettings
    project: Path
    started: Path
    screen: TerminalWriter
    origin: SessionIdentity
    sharing: SharedRuns | None = None
    refusal: str | None = None
    samples_simulation: bool = False
    judged: set[str] = field(default_factory=set)
    recheck: Recheck | None = field(init=False)
    _unfinished: list[Path] = field(default_factory=list)
    _results: dict[tuple[Any, ...], LoadResult | ComfyloadError] = field(default_factory=dict)
    _simulators: list[ServerAddress] = field(default_factory=list)
    _pasts: dict[Path, SessionPast] = field(default_factory=dict)
    _resources: ExitStack = field(default_factory=ExitStack)
    _announced: set[tuple[str, ...]] = field(default_factory=set)
    _orderly: bool = False

    def __post_init__(self) -> None:
        self.recheck = Recheck(self.settings.recheck) if self.settings.recheck else None

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
        result.past = self.past_of(result, marked.files, lambda number: self._shared(marked, f"rerun {number}"))
        return result

    def _shared(self, marked: MarkedScenario, rerun: str = "") -> LoadResult:
        """Run by the first process that asks for it."""
        repetition = joined(marked.repetition, rerun)

        def run() -> LoadResult:
            return self.run(marked.scenario, marked.title, marked.files, marked.parameters, repetition=repetition)

        if self.sharing is None or self.recheck is not None:
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
            return RunPast(self.past(project), result, provenance, None, self._say)
        runs = self.settings.baseline_runs if result.invalid_because is None else 1
        again = [rerun(number) for number in range(1, runs)]
        return RunPast(self.past(project), result, self.origin.provenance_of(project), rerun, self._say, again)

    def _say(self, text: str) -> None:
        self.screen.write([text])

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
        emptied: bool = False,
    ) -> LoadResult:
        """`kept`: the run goes to the store. `place`: which one it is of so many like it. `repetition`: which time it
        is that the same load runs. `emptied`: the servers drop cached results and models first.

        Raises: ComfyloadError, LoadStopped.
        """
        if self.refusal is not None:
            raise UsageError(self.refusal)
        project = self.project_of(files)
        self.past(project).expect_comparable()
        if self.recheck is not None:
            return self.recheck.result_of(scenario, title, parameters, project, self.past(project))
        self._end_orderly()
        self.hold()
        try:
            kept = kept and self.settings.store is not None
            return self._run(scenario, title, files, parameters, kept, place, repetition, emptied)
        except pytest.fail.Exception as error:
            # Nothing in a load fails a test: its time has run out. All tests of this load have to know.
            raise ComfyloadError(f"the load was cut short: {error.msg}") from None

    def _run(
        self,
        scenario: Scenario,
        title: str,
        files: Path,
        parameters: str,
        kept: bool,
        place: tuple[int, int],
        repetition: str,
        emptied: bool,
    ) -> LoadResult:
        from pytest_comfyload.plugin.live import LiveView
        from pytest_comfyload.run.load_run import LoadRun, run_load

        session = self

        class SessionView(LiveView):
            def on_target(self, target: Target) -> None:
                session._greet(target, self)

            def on_gpus(self, lines: Sequence[str]) -> None:
                session._tell_gpus(lines, self.say)

            def on_spool(self, path: Path) -> None:
                begins(path)

            def stopped(self) -> bool:
                return session.sharing is not None and session.sharing.stopped()

        view = SessionView(self.screen, title, str(scenario), place)
        with closing(view), self._under_way() as begins:
            return run_load(
                LoadRun(
                    scenario=scenario,
                    servers=self.servers(max(part.servers.least for _, part in scenario.parts)),
                    title=title,
                    files=files,
                    store=self.project,
                    workers=self.settings.workers,
                    overrides=self.settings.overrides,
                    allow_busy=self.settings.allow_busy,
                    delete_leftovers=self.settings.delete_leftovers,
                    private=not self.settings.servers,
                    gpus=self.settings.gpus,
                    observer=view,
                    parameters=parameters,
                    repetition=repetition,
                    emptied=emptied,
                    told=self.origin.header(self.project_of(files), kept=kept),
                    keep_pictures=kept and self.settings.keep_pictures,
                )
            )

    def share(self) -> SharedRuns:
        """The controller's sharing, made for the first worker."""
        if self.sharing is None:
            self.sharing = sharing = SharedRuns.begin()
            self._resources.callback(sharing.remove)
            self.origin = SessionIdentity(self.settings.label, sharing.folder.name)
            # In a project without spools there is nothing to hold yet, and no folder to make for it.
            if (self.project / ".comfyload" / "spool").is_dir():
                self.hold()
            # The controller runs no load itself: it is told of the first one.
            self._end_orderly(needed=sharing.in_use)
        return self.sharing

    def hold(self) -> None:
        """From now on other sessions leave the spools of this one to it."""
        if self.settings.store is not None:
            self.origin.hold(self.project, "main" if self.sharing is None else self.sharing.process)
            self._resources.callback(self.origin.release)

    def unfinished_spools(self) -> list[Path]:
        """Of loads that began and were cut off, in whatever process of this test run."""
        return self._unfinished if self.sharing is None else self.sharing.unfinished()

    @contextmanager
    def _under_way(self) -> Iterator[Callable[[Path], None]]:
        """Tells the spools of loads that are cut off from those of loads that end, be it with an error of their own."""
        begun: list[Path] = []

        def begins(spool: Path) -> None:
            begun.append(spool)
            self._unfinished.append(spool)
            if self.sharing is not None:
                self.sharing.begins(spool)

        def ends() -> None:
            for spool in begun:
                self._unfinished.remove(spool)
                if self.sharing is not None:
                    self.sharing.ends(spool)

        try:
            yield begins
        except ComfyloadError:
            ends()
            raise
        ends()

    def _end_orderly(self, needed: Callable[[], bool] = lambda: True) -> None:
        """From now on SIGTERM interrupts as Ctrl-C does."""
        if not self._orderly:
            self._orderly = True
            self._resources.enter_context(orderly_termination(needed))

    def servers(self, least: int = 1) -> tuple[ServerAddress, ...]:
        """Those that were named; where none was, so many embedded simulators, started when first needed.

        Raises: UsageError.
        """
        if self.settings.servers:
            return self.settings.servers
        if least > MOST_SIMULATORS:
            raise UsageError(
                f"the load needs {least} servers, and of the embedded simulator there are at most {MOST_SIMULATORS}; "
                "name servers by --comfyui-url"
            )
        while len(self._simulators) < least:
            self._simulators.append(self._simulator())
        return tuple(self._simulators[:least])

    def expect_servers(self, fixture: str) -> None:
        """Raises: UsageError where stored runs are judged again, and no server may be contacted."""
        if self.recheck is not None:
            raise UsageError(f"--comfyload-recheck={self.recheck.ref} contacts no server, and `{fixture}` needs one")

    def server_count(self, choice: ServerChoice) -> int:
        """How many ComfyUI servers a load with this choice uses. Raises: UsageError."""
        if self.settings.workers:
            return len(self.settings.workers)
        return len(choice.of([server.url for server in self.servers(choice.least)]))

    def close(self) -> None:
        self._resources.close()

    def _simulator(self) -> ServerAddress:
        from pytest_comfyload.client.address import ServerAddress
        from pytest_comfyload.launch.simulator import SimulatorProcess

        if self.settings.require_server:
            raise UsageError(f"no server was named, and {_SIMULATION_REFUSED}")
        settings = self.settings
        process = SimulatorProcess(
            gpu=settings.simulated_gpu,
            time_scale=settings.time_scale,
            object_info=settings.object_info,
            node_times={**self._calibration(), **settings.node_times},
        )
        return ServerAddress(self._resources.enter_context(process).url)

    def _calibration(self) -> dict[str, float]:
        """Seconds by node class of the run that the simulator is calibrated by. Raises: UsageError, StoreError."""
        if not self.settings.calibrate:
            return {}
        from pytest_comfyload.history.calibration import node_times_of
        from pytest_comfyload.history.git import Git

        past = self.past(self.project)
        if past.store is None:
            raise UsageError("--comfyload-calibrate names a stored run, and --comfyload-store=none keeps none")
        store, git = past.store, Git(self.project)
        return past.without_damaged(lambda: node_times_of(store, past.rows, self.settings.calibrate, git))

    def _greet(self, target: Target, view: LiveView) -> None:
        """Say at the first load what it goes to. Raises: UsageError for a simulation that is not wanted."""
        self._refuse_simulated(target)
        if target.urls not in self._announced:
            self._announced.add(target.urls)
            kind = "real" if target.time_scale is None else f"SIMULATED at ×{target.time_scale:g}"
            everyone = [(server.url, "") for server in target.servers]
            everyone += [(worker.url, " (worker)") for worker in target.workers]
            for (url, role), stats in zip(everyone, (*target.stats, *target.worker_stats), strict=True):
                view.say(f"comfyload: {url}{role}: ComfyUI {stats.version} on {', '.join(stats.devices)}, {kind}")

    def _refuse_simulated(self, target: Target) -> None:
        if target.time_scale is not None and self.settings.require_server:
            raise UsageError(f"{', '.join(target.urls)} is a simulated server, and {_SIMULATION_REFUSED}")

    def gpu_sampler(self) -> GpuSampler:
        """Of the servers' GPUs; where none was named, of this machine's, or of an embedded simulator's."""
        from pytest_comfyload.run.gpu_sampling import GpuSampler

        def expect(target: Target) -> None:
            self._refuse_simulated(target)
            self.samples_simulation = target.time_scale is not None

        def say(lines: Sequence[str]) -> None:
            self._tell_gpus(lines, lambda line: self.screen.write([line]))
            self.screen.release()

        settings = self.settings
        return GpuSampler(self.servers, settings.workers, settings.gpus, expect, say, local=not settings.servers)

    def _tell_gpus(self, lines: Sequence[str], say: Callable[[str], None]) -> None:
        """Say at the first load where the GPUs are read."""
        for line in lines:
            if (line,) not in self._announced:
                self._announced.add((line,))
                say(f"comfyload: GPU of {line}")


_SIMULATION_REFUSED = (
    "--comfyload-require-server refuses a simulation; "
    "name a real one by --comfyui-url http://host:8188 or by COMFYUI_URL"
)

SESSION = pytest.StashKey[LoadSession]()
