"""One pytest process's load runs: where they go, that each runs once, and the simulator that stands in for a server."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_comfyload.errors import ComfyloadError, UsageError
from pytest_comfyload.plugin.marker import MarkedScenario
from pytest_comfyload.plugin.options import Settings
from pytest_comfyload.plugin.screen import Screen

if TYPE_CHECKING:
    from pytest_comfyload.client.address import ServerAddress
    from pytest_comfyload.plugin.live import LiveView
    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.run.target import Target
    from pytest_comfyload.scenario.scenario import Scenario

__all__ = ["SESSION", "LoadSession"]


@dataclass(slots=True)
class LoadSession:
    """Runs scenarios and shows them on the screen meanwhile. `refusal` is why none may run."""

    settings: Settings
    store: Path
    screen: Screen
    refusal: str | None = None
    _results: dict[tuple[Any, ...], LoadResult | ComfyloadError] = field(default_factory=dict)
    _servers: tuple[ServerAddress, ...] | None = None
    _resources: ExitStack = field(default_factory=ExitStack)
    _announced: set[tuple[str, ...]] = field(default_factory=set)

    def result_of(self, marked: MarkedScenario) -> LoadResult:
        """The result of a marked scenario, run at its first use. Raises: ComfyloadError, the same one each time."""
        if marked.key not in self._results:
            try:
                self._results[marked.key] = self.run(marked.scenario, marked.title, marked.files)
            except ComfyloadError as error:
                self._results[marked.key] = error
        result = self._results[marked.key]
        if isinstance(result, ComfyloadError):
            raise result
        return result

    def run(self, scenario: Scenario, title: str, files: Path) -> LoadResult:
        """Raises: ComfyloadError."""
        from pytest_comfyload.plugin.live import LiveView
        from pytest_comfyload.run.load_run import LoadRun, run_load

        if self.refusal is not None:
            raise UsageError(self.refusal)
        view = LiveView(self.screen, title, str(scenario))
        run = LoadRun(
            scenario=scenario,
            servers=self.servers(),
            title=title,
            files=files,
            store=self.store,
            overrides=self.settings.overrides,
            on_target=lambda target: self._greet(target, view),
            on_progress=view.tell,
            tick=view.tick,
        )
        try:
            return run_load(run)
        finally:
            view.close()

    def servers(self) -> tuple[ServerAddress, ...]:
        """Those that were named, or an embedded simulator, started now. Raises: UsageError."""
        if self._servers is None:
            self._servers = self.settings.servers or (self._simulator(),)
        return self._servers

    def close(self) -> None:
        self._resources.close()

    def _simulator(self) -> ServerAddress:
        from pytest_comfyload.client.address import ServerAddress
        from pytest_comfyload.simulator import SimulatorProcess

        if self.settings.require_server:
            raise UsageError(f"no server was named, and {_SIMULATION_REFUSED}")
        settings = self.settings
        process = SimulatorProcess(gpu=settings.simulated_gpu, time_scale=settings.time_scale)
        return ServerAddress(self._resources.enter_context(process).url)

    def _greet(self, target: Target, view: LiveView) -> None:
        """Say at the first load what it goes to. Raises: UsageError for a simulation that is not wanted."""
        if target.time_scale is not None and self.settings.require_server:
            raise UsageError(f"{', '.join(target.urls)} is a simulated server, and {_SIMULATION_REFUSED}")
        if target.urls not in self._announced:
            self._announced.add(target.urls)
            for url, stats in zip(target.urls, target.stats, strict=True):
                kind = "real" if target.time_scale is None else f"SIMULATED at ×{target.time_scale:g}"
                view.say(f"comfyload: {url}: ComfyUI {stats.version} on {', '.join(stats.devices)}, {kind}")


_SIMULATION_REFUSED = (
    "--comfyload-require-server refuses a simulation; "
    "name a real one by --comfyui-url http://host:8188 or by COMFYUI_URL"
)

SESSION = pytest.StashKey[LoadSession]()
