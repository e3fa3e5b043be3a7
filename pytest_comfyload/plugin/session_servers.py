"""Servers for the loads of a session: named or launched servers, or embedded simulators."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.location import home_of
from pytest_comfyload.plugin.screen import TerminalWriter
from pytest_comfyload.plugin.settings import PluginSettings

if TYPE_CHECKING:
    from pytest_comfyload.client.address import ServerAddress
    from pytest_comfyload.launch.fleet import LaunchedServers
    from pytest_comfyload.launch.workspace import ServerState
    from pytest_comfyload.monitor.session_exporter import SessionExporter
    from pytest_comfyload.plugin.baselines import SessionPast
    from pytest_comfyload.result.outcome import Outcome
    from pytest_comfyload.run.ab_servers import ABServers
    from pytest_comfyload.run.custom_nodes import NodeVersion
    from pytest_comfyload.run.gpu_sampling import GpuSampler
    from pytest_comfyload.run.load_run import LoadRun
    from pytest_comfyload.run.target import Target
    from pytest_comfyload.scenario.server_selection import ServerChoice
    from pytest_comfyload.simulator.settings import Calibration

__all__ = ["SessionServers"]

# Each is a process of its own, which takes 40 MB or more.
MOST_SIMULATORS = 16
_SIMULATION_REFUSED = (
    "--comfyload-require-server refuses a simulation; "
    "name a real one with --comfyui-url http://host:8188 or COMFYUI_URL"
)


class SessionServers:
    """Servers of a session. `samples_simulation`: the GPUs that tests sample themselves are a simulator's."""

    def __init__(
        self,
        settings: PluginSettings,
        screen: TerminalWriter,
        resources: ExitStack,
        project: Path,
        past: Callable[[Path], SessionPast],
    ) -> None:
        """Simulators stop when `resources` are closed; `past` returns the runs that they are calibrated with."""
        self.samples_simulation = False
        self._settings = settings
        self._screen = screen
        self._resources = resources
        self._project = project
        self._past = past
        self._simulators: list[ServerAddress] = []
        self._announced: set[tuple[str, ...]] = set()
        self._exporter: SessionExporter | None = None
        self._exports = settings.prometheus is not None
        self._launched: LaunchedServers | None = None
        # In xdist workers: where the controller writes the states of its servers.
        self.states_file: Path | None = None
        # Lines of the threads that watch servers, which must not write to the terminal themselves.
        self.news: deque[str] = deque()

    def expect_allowed(self, fixture: str) -> None:
        """Check that a server may be contacted. Raises: UsageError if stored runs are judged again instead."""
        if ref := self._settings.recheck:
            raise UsageError(f"--comfyload-recheck={ref} contacts no server, and `{fixture}` needs one")

    def addresses(self, least: int = 1) -> tuple[ServerAddress, ...]:
        """Return the named or launched servers; without any, `least` embedded simulators.

        They are started when first needed. Raises: UsageError; ServerError if a server does not start.
        """
        if self._settings.servers:
            return self._settings.servers
        if self._settings.launch is not None:
            return self._launched_addresses()
        if least > MOST_SIMULATORS:
            raise UsageError(
                f"the load needs {least} servers, and of the embedded simulator there are at most {MOST_SIMULATORS}; "
                "name servers with --comfyui-url"
            )
        while len(self._simulators) < least:
            self._simulators.append(self._simulator())
        return tuple(self._simulators[:least])

    def _launched_addresses(self) -> tuple[ServerAddress, ...]:
        from pytest_comfyload.client.address import ServerAddress

        if self.states_file is None:
            self.launched()
        return tuple(ServerAddress(state.url) for state in self.states())

    def launched(self) -> LaunchedServers:
        """Return the servers of --comfyui-launch, started by the first call.

        Raises: UsageError, also in xdist workers, since the controller owns the servers; ServerError.
        """
        request = self._settings.launch
        if request is None or self.states_file is not None:
            raise UsageError(
                "--comfyui-launch=DIR starts servers, and is not given"
                if request is None
                else "launched servers belong to the xdist controller: run tests with `comfyui_process` without -n"
            )
        if self._launched is None:
            from pytest_comfyload.launch.fleet import LaunchedServers

            self._screen.say(f"comfyload: starting ComfyUI from {request.directory}")
            launched = LaunchedServers(request.plan(self._versions), self._logs, self.news.append)
            self._launched = self._resources.enter_context(launched)
            for state in self.states():
                gpu = f" on {state.gpu}" if state.gpu else ""
                self._screen.say(f"comfyload: {state.url}{gpu} is ready after {state.starts[0]:.1f} s")
            self._screen.release()
        return self._launched

    @contextmanager
    def of_sides(self, sides: Mapping[str, Any], folder: Path) -> Iterator[ABServers | None]:
        """Launch the servers of a comparison for A and B, if it has any, and stop the session's servers meanwhile.

        Raises: UsageError, ServerError.
        """
        from pytest_comfyload.run.ab_servers import SIDES, ABServers, side_servers

        own = {side: sides[side] for side in SIDES if isinstance(sides.get(side), Mapping)}
        asked = side_servers(self._settings.launch, own, folder) if len(own) == len(SIDES) else None
        if asked is None:
            yield None
            return
        if self.states_file is not None:
            raise UsageError("launched servers belong to the xdist controller: compare versions of a node without -n")
        pause = self._launched.paused() if self._launched is not None else nullcontext()
        with pause, ABServers(asked, self._logs, self.news.append) as servers:
            yield servers

    @property
    def _logs(self) -> Path | None:
        """Folder for the logs of launched servers; None if they are not kept."""
        from pytest_comfyload.history.spool import log_folder

        return None if self._settings.store is None else log_folder(home_of(self._project))

    def states(self) -> tuple[ServerState, ...]:
        """Return the states of the launched servers; empty if there are none."""
        if self.states_file is not None:
            from pytest_comfyload.launch.workspace import read_states

            return read_states(self.states_file)
        return () if self._launched is None else self._launched.states()

    def log_tails(self) -> list[tuple[str, str]]:
        """Return a report section with the end of the log of each launched server."""
        if not (states := self.states()):
            return []
        from pytest_comfyload.launch.process import tail_of

        return [(f"ComfyUI at {state.url}", tail_of(Path(state.log))) for state in states]

    def custom_nodes(self) -> dict[str, str]:
        """Return the versions of the custom nodes that launched servers were given, by folder name."""
        return {node.name: node.version for node in self._versions}

    @cached_property
    def _versions(self) -> tuple[NodeVersion, ...]:
        """Versions as of the first access: servers keep the content that a folder has when they start."""
        request = self._settings.launch
        return () if request is None else request.versions()

    def count(self, choice: ServerChoice) -> int:
        """Return the number of ComfyUI servers that a load with this choice uses.

        Raises: UsageError.
        """
        if self._settings.workers:
            return len(self._settings.workers)
        return len(choice.of([server.url for server in self.addresses(choice.least)]))

    def _simulator(self) -> ServerAddress:
        from pytest_comfyload.client.address import ServerAddress
        from pytest_comfyload.launch.simulator import SimulatorProcess

        if self._settings.require_server:
            raise UsageError(f"no server was named, and {_SIMULATION_REFUSED}")
        run = self._calibration().with_times(self._settings.node_times)
        process = SimulatorProcess(
            gpu=self._settings.simulated_gpu,
            time_scale=self._settings.time_scale,
            object_info=self._settings.object_info,
            node_times=run.node_times,
            measured=run.prompts,
            gaps=run.gaps,
        )
        return ServerAddress(self._resources.enter_context(process).url)

    def _calibration(self) -> Calibration:
        """Return the times of the run that the simulator is calibrated with.

        Raises: UsageError, StoreError.
        """
        from pytest_comfyload.simulator.settings import Calibration

        if not self._settings.calibrate:
            return Calibration()
        from pytest_comfyload.history.calibration import calibration_of
        from pytest_comfyload.history.git import Git

        past = self._past(self._project)
        if past.store is None:
            raise UsageError("--comfyload-calibrate names a stored run, and --comfyload-store=none keeps none")
        store, git = past.store, Git(self._project)
        return past.without_damaged(lambda: calibration_of(store, past.rows, self._settings.calibrate, git))

    def greet(self, target: Target, say: Callable[[str], None]) -> None:
        """Announce the servers of a load, once.

        Raises: UsageError for a simulation if a real server is required.
        """
        self._refuse_simulated(target)
        if target.urls not in self._announced:
            self._announced.add(target.urls)
            kind = "real" if target.time_scale is None else f"SIMULATED at ×{target.time_scale:g}"
            everyone = [(server.url, "") for server in target.servers]
            everyone += [(worker.url, " (worker)") for worker in target.workers]
            for (url, role), stats in zip(everyone, (*target.stats, *target.worker_stats), strict=True):
                say(f"comfyload: {url}{role}: ComfyUI {stats.version} on {', '.join(stats.devices)}, {kind}")

    def _refuse_simulated(self, target: Target) -> None:
        if target.time_scale is not None and self._settings.require_server:
            raise UsageError(f"{', '.join(target.urls)} is a simulated server, and {_SIMULATION_REFUSED}")

    def name_gpus(self, lines: Sequence[str], say: Callable[[str], None]) -> None:
        """Announce the sources of GPU figures, each once."""
        for line in lines:
            if (line,) not in self._announced:
                self._announced.add((line,))
                say(f"comfyload: GPU of {line}")

    def publisher(self, run: LoadRun) -> Callable[[Outcome], None]:
        """Serve /metrics of the run's servers if requested; return the function that receives the run's outcomes."""
        if self._exports and self._exporter is None:
            self._exporter = self._started()
        if self._exporter is None:
            return lambda outcome: None
        self._exporter.watch((*run.servers, *run.workers), self._settings.gpus)
        return self._exporter.add

    def _started(self) -> SessionExporter | None:
        """Return the started exporter; None if the port is not available, since another xdist worker may use it."""
        from pytest_comfyload.monitor.exporter import Endpoint
        from pytest_comfyload.monitor.session_exporter import SessionExporter

        exporter = SessionExporter(Endpoint(port=self._settings.prometheus or 0))
        try:
            self._screen.say(f"comfyload: {exporter.start()}/metrics has the figures of the servers under load")
        except UsageError as error:
            self._screen.say(f"comfyload: --comfyload-prometheus: {error}")
            self._exports = False
            return None
        self._resources.callback(exporter.close)
        return exporter

    def gpu_sampler(self) -> GpuSampler:
        """Return a sampler of the servers' GPUs.

        If no server was named, it samples the GPUs of this machine, or of an embedded simulator.
        """
        from pytest_comfyload.run.gpu_sampling import GpuSampler

        def expect(target: Target) -> None:
            self._refuse_simulated(target)
            self.samples_simulation = target.time_scale is not None

        def say(lines: Sequence[str]) -> None:
            self.name_gpus(lines, self._screen.say)
            self._screen.release()

        settings = self._settings
        local = not settings.servers and settings.launch is None
        return GpuSampler(self.addresses, settings.workers, settings.gpus, expect, say, local=local)
