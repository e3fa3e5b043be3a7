"""Execution of one prompt from execution_start to its end: runs the nodes in virtual time and sends their progress."""

from __future__ import annotations

import asyncio
from typing import Any

from pytest_comfyload.simulator.events import Hub
from pytest_comfyload.simulator.machine import SimulatedMachine
from pytest_comfyload.simulator.node_cache import Cached, ExecutionOrder
from pytest_comfyload.simulator.pictures import preview_jpeg
from pytest_comfyload.simulator.queue import QueuedPrompt
from pytest_comfyload.simulator.virtual_clock import VirtualClock
from pytest_comfyload.simulator.work import SOCKET, NodeFailure, NodeWork, Picture, is_link

__all__ = ["PromptProgress", "PromptRun"]

_PLANNING_SECONDS = 0.001
_PREVIEW_VARIANTS = 4
_COPYING = 0.05
"""Share of the time in which kernels run while weights are copied onto the card."""
_PROGRESS_SECONDS, _PROGRESS_SHARE = 0.1, 0.005
_CLOCK_RESOLUTION = 1e-6
_FAILING_SECONDS = 1.0
"""Seconds from a node's start to the failing allocation: weights are loaded, and the allocator frees all it can."""


class _Interrupted(Exception):
    """The prompt was interrupted."""


class PromptRun:
    """The running prompt and its state. `time` is its virtual epoch time, ahead of the clock while it waits."""

    def __init__(
        self, item: QueuedPrompt, start: float, machine: SimulatedMachine, clock: VirtualClock, hub: Hub, previews: bool
    ) -> None:
        self.item = item
        self.time = start
        self.interrupted_at: float | None = None
        self.current_node: str | None = None
        self.messages: list[Any] = []
        self.outputs: dict[str, Any] = {}
        self.meta: dict[str, Any] = {}
        self._machine = machine
        self._clock = clock
        self._hub = hub
        self._previews = previews
        self._throttled = machine.version.modern
        self._told = (0.0, 0)
        self._keys = machine.keys(item.prompt)
        self._made: dict[str, Cached] = {}
        self._executed: list[str] = []
        self._progress = PromptProgress(item.prompt_id)

    async def execute(self) -> bool:
        """Run every node that is needed; return whether the prompt succeeded."""
        self._tell("execution_start", {})
        cache = self._machine.cache
        cache.begin(self._keys)
        cached = [node for node in self.item.prompt if self._keys[node] in cache]
        planning = self._machine.draw([self._class_of(node) for node in self._to_run(set(cached))])
        await self._spend_until(self.time + (planning or _PLANNING_SECONDS), kernels=0)
        self._tell("execution_cached", {"nodes": cached})
        order = ExecutionOrder(self.item.prompt, self.item.outputs, set(cached).__contains__, self._is_output)
        while (node := order.next()) is not None:
            try:
                await self._node(node)
            except _Interrupted:
                self._machine.log.write("Processing interrupted\n")
                self._tell("execution_interrupted", self._where(node), broadcast=True)
                return False
            except Exception as error:  # as in ComfyUI, any exception of a node ends its prompt and nothing else
                self._tell("execution_error", self._account(node, error))
                return False
            order.done(node)
        self._tell("execution_success", {})
        return True

    def _to_run(self, cached: set[str]) -> set[str]:
        """Return the nodes that an output needs and that are not cached."""
        found: set[str] = set()
        waiting = list(self.item.outputs)
        while waiting:
            node = waiting.pop()
            if node not in found and node not in cached and node in self.item.prompt:
                found.add(node)
                inputs = self.item.prompt[node]["inputs"]
                waiting += [value[0] for value in inputs.values() if is_link(value)]
        return found

    def tell_end(self) -> None:
        """Send the last message of a prompt: no node is executing any more."""
        if self.item.client_id is not None:
            data = {"node": None, "prompt_id": self.item.prompt_id}
            self._hub.send("executing", data, self.item.client_id)

    async def _node(self, node: str) -> None:
        hit = self._machine.cache.get(self._keys[node])
        if hit:
            self._reuse(node, hit)
            return
        self._progress.start(node)
        self._tell_progress()
        self._tell_client("executing", {"node": node, "display_node": node})
        self.current_node = node
        self._check_interrupt()
        work = self._machine.work(self._class_of(node), self._inputs(node), self._keys[node])
        await self._perform(node, work)
        await self._send_pictures(work)
        made = self._machine.keep(self._class_of(node), self._keys[node], work, self._save(work))
        self._made[node] = made
        self._executed.append(node)
        if made.ui is not None:
            self._show(node, made.ui)
            self._tell_client("executed", {"node": node, "display_node": node, "output": made.ui})
        self._progress.finish(node)
        self._tell_progress()

    def _reuse(self, node: str, hit: Cached) -> None:
        """Use a cached result.

        It is announced even if it shows nothing; if the prompt has no client, its output does not reach the history.
        """
        self._made[node] = hit
        if self.item.client_id is not None:
            self._tell_client("executed", {"node": node, "display_node": node, "output": hit.ui})
            if hit.ui is not None:
                self._show(node, hit.ui)
        self._progress.finish(node)
        self._tell_progress()

    async def _perform(self, node: str, work: NodeWork) -> None:
        """Let the node's time pass, step by step if it has steps."""
        started = self.time
        try:
            begin, end = self._machine.timed(work)
        except NodeFailure:
            await self._spend_until(started + _FAILING_SECONDS, work.kernels)
            raise
        await self._spend_until(started + begin, _COPYING)
        for step in range(1, work.steps + 1):
            await self._spend_until(started + begin + (end - begin) * step / work.steps, work.kernels)
            self._check_interrupt()
            self._tell_step(node, step, work)
        if work.steps:
            self._machine.log.write(_bar(work.steps, end - begin))
            self._machine.log.write("\n")
        await self._spend_until(started + end, work.kernels)

    def _tell_step(self, node: str, step: int, work: NodeWork) -> None:
        preview = work.preview if self._previews else None
        if self._throttled and not preview and not self._is_due(step, work.steps):
            return
        self._told = (self.time, step)
        self._progress.step(node, step, work.steps)
        self._tell_progress()
        sid = self.item.client_id
        data = {"value": step, "max": work.steps, "prompt_id": self.item.prompt_id, "node": node}
        if preview and self._hub.takes_metadata(sid):
            self._hub.send_preview_with_metadata(_jpeg(preview, step), self._progress.identity(node), sid)
            preview = None
        self._hub.send("progress", data, sid)
        if preview:
            self._hub.send_preview(_jpeg(preview, step), sid)

    def _is_due(self, step: int, steps: int) -> bool:
        """Return whether newer servers report a step: first, last, and 100 ms and 0.5 % after the last report."""
        time, told = self._told
        later = self.time - time >= _PROGRESS_SECONDS - _CLOCK_RESOLUTION and step - told >= _PROGRESS_SHARE * steps
        return step in (1, steps) or later

    async def _spend_until(self, moment: float, kernels: float) -> None:
        """Wait until `moment`; kernels run for this share of the time."""
        self._machine.activity.spend(self.time, moment, kernels)
        self.time = moment
        await self._clock.until(moment)

    def _check_interrupt(self) -> None:
        if self.interrupted_at is not None and self.interrupted_at <= self.time:
            raise _Interrupted

    def _save(self, work: NodeWork) -> dict[str, Any] | None:
        if work.save is None or work.save.folder == SOCKET:
            return None
        extra = self.item.extra_data.get("extra_pnginfo") or {}
        return self._machine.pictures.save(work.save, self.item.prompt, extra)

    async def _send_pictures(self, work: NodeWork) -> None:
        if work.save is not None and work.save.folder == SOCKET and self.item.client_id is not None:
            for drawing in self._machine.pictures.sent(work.save):
                self._hub.send_png(await asyncio.to_thread(drawing.content), self.item.client_id)

    def _show(self, node: str, ui: dict[str, Any]) -> None:
        self.outputs[node] = ui
        self.meta[node] = {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node}

    def _inputs(self, node: str) -> dict[str, Any]:
        """Return the inputs, with links replaced by the values that they refer to."""
        return {
            name: self._value(value) if is_link(value) and value[0] in self.item.prompt else value
            for name, value in self.item.prompt[node]["inputs"].items()
        }

    def _value(self, link: list[Any]) -> Any:
        source, slot = link
        made = self._made.get(source) or self._machine.cache.get(self._keys[source])
        return made.outputs[slot] if made else None

    def _where(self, node: str) -> dict[str, Any]:
        return {"node_id": node, "node_type": self._class_of(node), "executed": self._executed}

    def _account(self, node: str, error: Exception) -> dict[str, Any]:
        """Return the content of an execution_error; an OutOfMemoryError also empties the VRAM."""
        failure = error if isinstance(error, NodeFailure) else NodeFailure(type(error).__name__, f"{error}\n")
        self._machine.log.write(f"!!! Exception during processing !!! {failure.message}\n")
        if failure.kind.endswith("OutOfMemoryError"):
            self._machine.log.write("Got an OOM, unloading all loaded models.\n")
            self._machine.vram.clear()
        return {
            **self._where(node),
            "exception_message": failure.message,
            "exception_type": failure.kind,
            "traceback": [f'  File "simulator/work.py", line 1, in {self._class_of(node)}\n'],
            "current_inputs": {name: [_printed(value)] for name, value in self._inputs(node).items()},
            "current_outputs": list(self.item.prompt),
        }

    def _tell(self, event: str, data: dict[str, Any], broadcast: bool = False) -> None:
        """Record a stamped message for the history and send it to the client; without one, to all if `broadcast`."""
        stamped = {"prompt_id": self.item.prompt_id, **data, "timestamp": self._clock.stamp(self.time)}
        self.messages.append([event, stamped])
        if broadcast or self.item.client_id is not None:
            self._hub.send(event, stamped, self.item.client_id)

    def _tell_client(self, event: str, data: dict[str, Any]) -> None:
        if self.item.client_id is not None:
            self._hub.send(event, {**data, "prompt_id": self.item.prompt_id}, self.item.client_id)

    def _tell_progress(self) -> None:
        self._hub.send("progress_state", self._progress.to_json(), self.item.client_id)

    def _class_of(self, node: str) -> str:
        return str(self.item.prompt[node]["class_type"])

    def _is_output(self, node: str) -> bool:
        return self._machine.library.is_output(self._class_of(node))


def _jpeg(picture: Picture, step: int) -> bytes:
    return preview_jpeg(picture.width, picture.height, step % _PREVIEW_VARIANTS)


def _bar(steps: int, seconds: float) -> str:
    """Return the final state of a sampler's progress bar, as tqdm writes it."""
    pace = f"{steps / seconds:5.2f}it/s" if seconds < steps else f"{seconds / steps:5.2f}s/it"
    return f"\r100%|{'█' * 10}| {steps}/{steps} [{int(seconds) // 60:02}:{int(seconds) % 60:02}<00:00, {pace}]"


def _printed(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | str) else f"tensor({value})"


class PromptProgress:
    """The states of one prompt's nodes."""

    def __init__(self, prompt_id: str) -> None:
        self._prompt_id = prompt_id
        self._nodes: dict[str, dict[str, Any]] = {}

    def start(self, node: str) -> None:
        self._set(node, 0.0, 1.0, "running")

    def step(self, node: str, value: int, steps: int) -> None:
        self._set(node, value, steps, "running")

    def finish(self, node: str) -> None:
        """Mark a node as finished; a cached one, which never started, counts as 1 of 1."""
        highest = self._nodes[node]["max"] if node in self._nodes else 1
        self._set(node, highest, highest, "finished")

    def identity(self, node: str) -> dict[str, Any]:
        """Return the fields by which messages identify a node."""
        return {
            "node_id": node,
            "prompt_id": self._prompt_id,
            "display_node_id": node,
            "parent_node_id": None,
            "real_node_id": node,
        }

    def to_json(self) -> dict[str, Any]:
        return {"prompt_id": self._prompt_id, "nodes": self._nodes}

    def _set(self, node: str, value: float, highest: float, state: str) -> None:
        self._nodes[node] = {"value": value, "max": highest, "state": state, **self.identity(node)}
