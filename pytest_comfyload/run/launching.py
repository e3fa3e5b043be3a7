"""Launched servers of runs: a request becomes a launch plan, and starts and crashes become facts and notes of a run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_comfyload.errors import UsageError
from pytest_comfyload.gpu.nvml_devices import NoGpus, nvml_devices
from pytest_comfyload.gpu.nvml_select import visible_devices
from pytest_comfyload.gpu.spec import GpuSpec
from pytest_comfyload.launch.fleet import LaunchPlan, planned_servers
from pytest_comfyload.launch.installation import install_at
from pytest_comfyload.launch.process import ComfyInstall
from pytest_comfyload.launch.workspace import ServerState
from pytest_comfyload.run.custom_nodes import NodeVersion, find_node, parse_node

__all__ = ["LaunchRequest", "RunLaunches", "gpu_specs", "split_arguments"]


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """Servers that a user requests.

    Args:
        directory: The ComfyUI installation.
        python: The interpreter that runs it; None for that of its virtual environment.
        args: Further arguments of main.py.
        nodes: Custom nodes, PATH or PATH@REF, that replace those of the installation.
        count: The number of servers; None for one on each GPU, or one if there are no GPUs.
    """

    directory: Path
    python: Path | None = None
    args: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    count: int | None = None

    @property
    def install(self) -> ComfyInstall:
        """The installation. Raises: UsageError."""
        return install_at(self.directory, self.python, self.args)

    def version_of(self, node: str, ref: str | None = None) -> NodeVersion:
        """Return the version of a node, PATH or PATH@REF, at `ref` if that is given. Raises: UsageError."""
        path, named = parse_node(node)
        return find_node(path, ref or named, self.install.main.parent / "custom_nodes")

    def check(self) -> None:
        """Check that everything exists. Raises: UsageError."""
        _ = self.install
        self.versions()

    def versions(self) -> tuple[NodeVersion, ...]:
        """Return the versions of the nodes. Raises: UsageError."""
        found = tuple(map(self.version_of, self.nodes))
        names = [node.name for node in found]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"two custom nodes have the same name {twice[0]}: give each node once")
        return found

    def plan(self, nodes: Sequence[NodeVersion], comfyui: NodeVersion | None = None) -> LaunchPlan:
        """Return the plan to launch the servers with these versions of the nodes and of ComfyUI. Raises: UsageError."""
        devices = planned_servers(self.install, _visible_gpus(), self.count)
        code = None if comfyui is None else comfyui.put
        return LaunchPlan(self.install, devices, {node.name: node.put for node in nodes}, code=code)


def split_arguments(text: str) -> tuple[str, ...]:
    """Split --comfyui-args as a shell would. Raises: UsageError."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--comfyui-args {text!r} cannot be split into arguments: {error}") from None


def _visible_gpus() -> tuple[str, ...]:
    """Return the UUIDs of the GPUs visible to a process started here. Raises: UsageError if they are unknown."""
    devices = nvml_devices()
    if isinstance(devices, NoGpus):
        return ()
    visible = visible_devices(os.environ, devices)
    if isinstance(visible, NoGpus):
        raise UsageError(f"the GPU of each launched server cannot be determined: {visible.reason}")
    return tuple(device.uuid for device in visible)


def gpu_specs(states: Sequence[ServerState]) -> dict[str, GpuSpec]:
    """Return, by URL, where the GPUs of launched servers are read, since each server's GPU is known."""
    return {state.url: GpuSpec(state.url, "nvml", gpus=(state.gpu,)) for state in states if state.gpu}


@dataclass(frozen=True, slots=True)
class RunLaunches:
    """The launched servers of a run, at its start and at its end."""

    before: Mapping[str, ServerState]
    after: Mapping[str, ServerState]

    @classmethod
    def of(cls, urls: Sequence[str], before: Sequence[ServerState], after: Sequence[ServerState]) -> RunLaunches:
        """Return the launched servers whose URLs are among `urls`, those of the run."""
        known = [{state.url: state for state in states if state.url in urls} for states in (before, after)]
        return cls(*known)

    @property
    def cold_starts(self) -> tuple[float, ...]:
        """Seconds of each server's last start before the run, and of its starts during the run."""
        return tuple(
            start for url, state in self.after.items() for start in state.starts[max(0, self._begun(url) - 1) :]
        )

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(
            f"{url} {death} during the run{_again(state, self._begun(url))}; its log: {state.log}"
            for url, state in self.after.items()
            for death in state.deaths[len(self.before[url].deaths) if url in self.before else 0 :]
        )

    def _begun(self, url: str) -> int:
        """Return the number of times that a server had been started before the run."""
        return len(self.before[url].starts) if url in self.before else 0


def _again(state: ServerState, begun: int) -> str:
    later = state.starts[begun:]
    return f" and was restarted in {later[0]:.1f} s" if later else ", and was not restarted by its end"
