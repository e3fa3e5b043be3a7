"""ComfyUI servers of one installation, one per GPU, that are started, kept alive and stopped together."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pytest_comfyload.errors import ComfyloadError, ServerError, UsageError
from pytest_comfyload.launch.installation import PutNode, lay_out, with_code
from pytest_comfyload.launch.process import ComfyInstall, ComfyProcess, free_port
from pytest_comfyload.launch.workspace import ServerState, Workspace, write_states

__all__ = ["LaunchPlan", "LaunchedServer", "LaunchedServers", "planned_servers"]

# Seconds between polls of a server, and within which a server must become ready.
PERIOD, STARTING_TIME = 0.2, 300.0
# A server that has died more often than this is not restarted.
MOST_RESTARTS = 10
# Logs of earlier servers that are kept in the log folder.
KEPT_LOGS = 20


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Plan of the servers to start.

    Args:
        install: The installation, with the arguments that every server gets.
        devices: CUDA_VISIBLE_DEVICES of each server, the UUID of a GPU; empty: the variable is not set.
        nodes: Custom nodes by folder name; they replace those of the installation.
        ports: One per server; default: free ports.
        code: Creates the folder of another ComfyUI, which runs with the models and custom nodes of the installation.
    """

    install: ComfyInstall
    devices: tuple[str, ...] = ("",)
    nodes: Mapping[str, PutNode] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    code: PutNode | None = None


def planned_servers(install: ComfyInstall, gpus: Sequence[str], count: int | None) -> tuple[str, ...]:
    """Return the device of each server: one server per GPU, or `count` servers without GPUs or with `--cpu`.

    Raises: UsageError if there are fewer GPUs than `count`.
    """
    if not gpus or "--cpu" in install.args:
        return ("",) * (count or 1)
    if count is not None and count > len(gpus):
        raise UsageError(f"{count} servers are requested, but there are only {len(gpus)} GPUs, each of which has one")
    return tuple(gpus[:count])


class LaunchedServer:
    """One server of an installation, which is restarted when it dies.

    `state` records its starts and deaths so far.
    """

    def __init__(
        self,
        process: ComfyProcess,
        workspace: Workspace,
        gpu: str,
        say: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called after each change of the state, in the thread that starts or watches the server."""
        self.state = ServerState(process.url, gpu, str(process.log))
        self._process = process
        self._workspace = workspace
        self._say = say
        self._changed = changed
        self._unwanted = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def url(self) -> str:
        return self.state.url

    @property
    def pid(self) -> int:
        """Process id. Raises: UsageError while the server is not started."""
        return self._process.pid

    @property
    def log(self) -> Path:
        return self._process.log

    def start(self) -> None:
        """Start the server, wait until it is ready, and keep watching it. Raises: UsageError, ServerError."""
        self._start()
        self._watcher = threading.Thread(target=self._watch, name=f"comfyload-launch-{self.url}", daemon=True)
        self._watcher.start()

    def kill(self) -> None:
        """Kill the server, as a crash would; it is restarted automatically."""
        os.killpg(self.pid, signal.SIGKILL)

    def cancel(self) -> None:
        """Cancel a start that is in progress, and do not restart the server any more."""
        self._unwanted.set()

    def stop(self) -> None:
        self.cancel()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None
        self._process.stop()

    def _start(self) -> None:
        noted: list[int] = []

        def check() -> None:
            if not noted:
                noted.append(self._process.pid)
                self._workspace.note_server(self._process.pid)
            if self._unwanted.is_set():
                raise ServerError("the server is no longer needed")

        self._process.start(check)
        self._became(starts=(*self.state.starts, self._process.start_time))

    def _became(self, **what: Any) -> None:
        self.state = replace(self.state, **what)
        self._changed()

    def _watch(self) -> None:
        while not self._unwanted.wait(PERIOD):
            death = self._process.death()
            if death is not None:
                self._became(deaths=(*self.state.deaths, death))
                if not self._restarted(death):
                    return

    def _restarted(self, death: str) -> bool:
        self._say(f"comfyload: {self.url} {death}; {self.log} is its log")
        # Its children may have outlived it.
        self._process.kill()
        if len(self.state.deaths) > MOST_RESTARTS:
            self._say(f"comfyload: {self.url} died {len(self.state.deaths)} times, and is not restarted")
            return False
        try:
            self._start()
        except (ComfyloadError, OSError) as error:
            if not self._unwanted.is_set():
                self._say(f"comfyload: {self.url} could not be restarted: {error}")
            return False
        self._say(f"comfyload: {self.url} is ready again after {self.state.starts[-1]:.1f} s")
        return True


class LaunchedServers:
    """The servers of a plan; use it as a context manager, or call `start` and `stop`."""

    def __init__(
        self, plan: LaunchPlan, logs: Path | None = None, say: Callable[[str], None] = lambda line: None
    ) -> None:
        """`logs`: the log folder; None: logs are next to the base directories, and removed with them."""
        # Chosen once, so that the URLs stay the same after a pause.
        self._plan = plan if plan.ports else replace(plan, ports=tuple(free_port() for _ in plan.devices))
        self._logs = logs
        self._say = say
        self._workspace: Workspace | None = None
        self._writing = threading.Lock()
        self.servers: tuple[LaunchedServer, ...] = ()

    @property
    def urls(self) -> tuple[str, ...]:
        """URLs of the servers."""
        return tuple(server.url for server in self.servers)

    @property
    def url(self) -> str:
        """URL of the first server."""
        return self.urls[0]

    def states(self) -> tuple[ServerState, ...]:
        """Return the current state of each server."""
        return tuple(server.state for server in self.servers)

    @property
    def states_file(self) -> Path:
        """File from which other processes read the states, by `read_states`."""
        assert self._workspace is not None
        return self._workspace.folder / "servers.json"

    def start(self) -> Self:
        """Start all servers at the same time.

        Raises: UsageError or ServerError if one does not become ready; all are stopped then.
        """
        self._workspace = Workspace()
        try:
            self.servers = tuple(self._made(number) for number in range(len(self._plan.devices)))
            self._start_all()
        except OSError as error:
            self.stop()
            raise UsageError(f"no server could be started: {error}") from None
        except BaseException:
            self.stop()
            raise
        return self

    def _start_all(self) -> None:
        with ThreadPoolExecutor(len(self.servers), "comfyload-launch") as pool:
            try:
                for started in as_completed([pool.submit(server.start) for server in self.servers]):
                    started.result()
            except BaseException:
                for server in self.servers:
                    server.cancel()
                raise

    def stop(self) -> None:
        """Stop the servers, and remove everything they created, except logs in a log folder."""
        with ThreadPoolExecutor(len(self.servers) or 1, "comfyload-launch") as pool:
            list(pool.map(LaunchedServer.stop, self.servers))
        if self._workspace is not None:
            self._workspace.remove()
            self._workspace = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the servers during the `with` block, which needs the GPUs. Raises: UsageError, ServerError."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _made(self, number: int) -> LaunchedServer:
        plan, workspace = self._plan, self._workspace
        assert workspace is not None
        base = workspace.folder / f"server{number}"
        install = plan.install if plan.code is None else with_code(plan.install, plan.code, base.with_suffix(".code"))
        lay_out(base, plan.install.main.parent, plan.nodes)
        process = ComfyProcess(
            replace(install, env={**self._environment(plan.devices[number]), **install.env}),
            base,
            log=self._log(workspace.folder, number),
            timeout=STARTING_TIME,
            port=plan.ports[number],
        )
        return LaunchedServer(process, workspace, plan.devices[number], self._say, self._write_states)

    def _write_states(self) -> None:
        with self._writing, contextlib.suppress(OSError):
            write_states(self.states_file, self.states())

    def _environment(self, device: str) -> Mapping[str, str]:
        if device:
            return {"CUDA_VISIBLE_DEVICES": device}
        # Torch threads that compete for busy cores are many times slower than a single thread. One core is left to the
        # load generator.
        threads = max(1, ((os.cpu_count() or 1) - 1) // len(self._plan.devices))
        return {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}

    def _log(self, workspace: Path, number: int) -> Path:
        folder = self._logs or workspace
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in sorted(folder.glob("comfyui-*.log"), key=_age)[:-KEPT_LOGS]:
            old.unlink(missing_ok=True)
        return folder / f"comfyui-{workspace.name}-{number}.log"


def _age(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0
