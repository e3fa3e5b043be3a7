"""Servers that are launched for an A/B comparison: one at a time, on one GPU, that of the side that is running.

Two at a time would share the GPU's memory and the machine. Two versions of a node, or of ComfyUI, need two processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import UsageError
from pytest_comfyload.launch.fleet import LaunchedServers, LaunchPlan
from pytest_comfyload.launch.process import free_port
from pytest_comfyload.launch.workspace import ServerState
from pytest_comfyload.run.background import run_in_background
from pytest_comfyload.run.custom_nodes import NodeVersion, changed_requirements, find_node, parse_node
from pytest_comfyload.run.launching import LaunchRequest
from pytest_comfyload.run.target import unsocketed

__all__ = ["LAUNCHED", "SIDES", "ABServers", "Side", "SideServer", "side_servers"]

Side = Literal["A", "B"]
SIDES: tuple[Side, Side] = ("A", "B")

# Arguments of A and B in addition to those of a load.
LAUNCHED = frozenset({"node", "comfyui"})


@dataclass(frozen=True, slots=True)
class SideServer:
    """How the server of a side is set up.

    Args:
        request: The installation, and how it is started.
        nodes: The custom nodes that replace those of the installation.
        node: The one of them that is compared, if any.
        comfyui: The version of ComfyUI itself; None for that of the installation.
    """

    request: LaunchRequest
    nodes: tuple[NodeVersion, ...]
    node: NodeVersion | None = None
    comfyui: NodeVersion | None = None

    @property
    def label(self) -> str:
        """What is compared: `my-node 042b91c`, `ComfyUI 8f12d23`, or `~/ComfyUI-new`."""
        versions = [f"{each.name} {each.version}" for each in (self.comfyui, self.node) if each]
        return ", ".join(versions) or str(self.request.directory)

    @property
    def custom_nodes(self) -> dict[str, str]:
        return {node.name: node.version for node in self.nodes}

    def plan(self, port: int) -> LaunchPlan:
        plan = replace(self.request, count=1).plan(self.nodes, self.comfyui)
        return replace(plan, ports=(port,))


def side_servers(
    request: LaunchRequest | None, own: Mapping[Side, Mapping[str, Any]], folder: Path
) -> dict[Side, SideServer] | None:
    """Return the server of each side; None if neither side has one of its own.

    Args:
        request: What both servers have in common; None if no server is launched otherwise.
        own: The arguments of each side. `node` is a REF, PATH[@REF], or None for the folder as it is; `comfyui` is the
            folder of an installation.
        folder: Where relative paths, and a node without a path, are looked up.

    Raises:
        UsageError: Something does not exist, or is given for one side only.
    """
    asked = [LAUNCHED & set(arguments) for arguments in own.values()]
    if not any(asked):
        return None
    if asked[0] != asked[1]:
        raise UsageError(
            f"{', '.join(sorted(asked[0] ^ asked[1]))}= is given for one side only: give both sides theirs"
        )
    return {side: _side_server(request, own[side], folder) for side in SIDES}


def _side_server(request: LaunchRequest | None, own: Mapping[str, Any], folder: Path) -> SideServer:
    comfyui = None
    if "comfyui" in own:
        path, ref = parse_node(_text("comfyui", own["comfyui"]))
        directory = folder / path
        request = replace(request, directory=directory) if request else LaunchRequest(directory)
        if ref is not None:
            comfyui = replace(find_node(request.install.main.parent, ref, directory / "custom_nodes"), name="ComfyUI")
    if request is None:
        raise UsageError("a version of a custom node needs a server to run in: add --comfyui-launch=DIR")
    request.check()
    others = request.versions()
    if "node" not in own:
        return SideServer(request, others, comfyui=comfyui)
    node = _node(request, own["node"], folder)
    return SideServer(request, (*(each for each in others if each.name != node.name), node), node, comfyui)


def _node(request: LaunchRequest, given: object, folder: Path) -> NodeVersion:
    """Return the version that a side names, of the request's only node or else of the node in `folder`."""
    path = request.nodes[0] if len(request.nodes) == 1 else str(folder)
    if given is None:
        return request.version_of(path)
    text = _text("node", given)
    other, _, ref = text.rpartition("@")
    if other and (folder / other).is_dir():
        return request.version_of(str(folder / other), ref)
    return request.version_of(path, text)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str | Path):
        raise UsageError(f"{name}={value!r} is not a text")
    return str(value)


class ABServers:
    """The servers of a comparison, as a context manager that stops them on exit."""

    def __init__(self, sides: Mapping[Side, SideServer], logs: Path | None, say: Callable[[str], None]) -> None:
        """Set the servers of both sides.

        Args:
            sides: The server of each side.
            logs: The folder for their logs; None to keep none.
            say: Called with messages, from other threads.
        """
        self._sides = sides
        self._differ = sides["A"] != sides["B"]
        self._logs = logs
        self._say = say
        self._port = free_port()
        self._running: tuple[Side, LaunchedServers] | None = None

    @property
    def labels(self) -> tuple[str, str] | None:
        """What A and B run on; None if both have the same server and no version of a node is compared."""
        if not self._differ and self._sides["A"].node is None:
            return None
        return self._sides["A"].label, self._sides["B"].label

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know about the two versions."""
        a, b = (self._sides[side] for side in SIDES)
        return (*_notes_on(a.comfyui, b.comfyui), *_notes_on(a.node, b.node))

    def on(self, side: Side) -> SideServer:
        """Ensure that only the server of this side is running. Raises: UsageError, ServerError."""
        if self._running is None or (self._differ and self._running[0] != side):
            self.stop()
            launched = LaunchedServers(self._sides[side].plan(self._port), self._logs, self._say)
            self._running = side, launched.start()
        return self._sides[side]

    def states(self) -> tuple[ServerState, ...]:
        return self._running[1].states() if self._running else ()

    def for_run(self, side: Side) -> dict[str, Any]:
        """Start a side's server if necessary, and return the arguments of `LoadRun` that concern it.

        Raises: UsageError, ServerError.
        """
        custom_nodes = self.on(side).custom_nodes
        return {"servers": self._addresses(), "launched": self.states, "custom_nodes": custom_nodes, "private": False}

    def _addresses(self) -> tuple[ServerAddress, ...]:
        return tuple(ServerAddress(state.url) for state in self.states())

    def node_classes(self) -> frozenset[str] | None:
        """Return the node classes of the compared node as reported by A's server; None if no node is compared.

        Raises: UsageError if it has none; ServerError.
        """
        node = self.on("A").node
        if node is None:
            return None
        told = run_in_background(self._object_info)
        module = f"custom_nodes.{node.name}"
        classes = frozenset(name for name, about in told.items() if _module_of(about) == module)
        if not classes:
            log = self.states()[0].log
            raise UsageError(f"{node.name} {node.version} has no node class on the server; {log} says why")
        return classes

    async def _object_info(self) -> Mapping[str, Any]:
        async with unsocketed(self._addresses()[0]) as client:
            return await client.object_info()

    def stop(self) -> None:
        if self._running is not None:
            running, self._running = self._running[1], None
            running.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            self.stop()


def _module_of(about: object) -> object:
    return about.get("python_module") if isinstance(about, Mapping) else None


def _notes_on(a: NodeVersion | None, b: NodeVersion | None) -> list[str]:
    if a is None or b is None:
        return []
    notes = [
        f"{file} of {a.name} differs between A and B; both ran with the packages that are installed"
        for file in changed_requirements(a, b)
    ]
    if a.commit == b.commit and a.dirty == b.dirty:
        notes.append(f"A and B are the same commit of {a.name}: what differs is noise")
    dirty = [side for side, version in zip(SIDES, (a, b), strict=True) if version.dirty]
    if dirty:
        notes.append(f"{' and '.join(dirty)}: {a.name} with changes that are not committed")
    return notes
