"""Faults of the worker: prompts that fail, a worker that dies or restarts, foreign prompts."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pytest_comfyload.simulator.execution import Worker
from pytest_comfyload.simulator.faults import Faults
from pytest_comfyload.simulator.node_cache import Cached
from pytest_comfyload.simulator.prompt_run import PromptRun
from pytest_comfyload.simulator.queue import QueuedPrompt
from pytest_comfyload.simulator.work import NodeFailure, NodeWork

__all__ = ["FaultyExecutor"]

_MORE_THAN_ANY_GPU_HAS = 10**15
_BAD_SHAPES = "mat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)\n"
_PROMPTS_BEFORE_CLOCK_STEP = 2
_FOREIGN = "foreign-client"


class _WorkerDied(Exception):
    """The worker's thread has died."""


class FaultyExecutor(Worker):
    """A Worker with faults; `restart` is called when the server is to restart."""

    def __init__(self, faults: Faults, restart: Callable[[], None], *parts: Any, **options: Any) -> None:
        super().__init__(*parts, **options)
        self._faults = faults
        self._restart = restart
        self._begun = self._ended = self._foreign = 0

    async def work(self) -> None:
        for _ in range(int(self._faults.get("foreign", 0))):
            self._submit_foreign()
        with suppress(_WorkerDied):
            await super().work()

    def _begin(self, item: QueuedPrompt, start: float) -> PromptRun:
        self._begun += 1
        parts = (self._machine, self._clock, self._hub, self._previews)
        return _FaultyRun(self._faults, self._begun, item, start, *parts)

    async def _finish(self, run: PromptRun, succeeded: bool) -> None:
        self._free_at += self._faults.get("history-race", 0)
        await self._clock.until(self._free_at)
        await super()._finish(run, succeeded)
        self._ended += 1
        if run.item.client_id == _FOREIGN:
            self._submit_foreign()
        if self._ended == _PROMPTS_BEFORE_CLOCK_STEP:
            self._clock.skew = self._faults.get("clock-step", 0)
        if self._due("clear-queue"):
            self._queue.clear()
        if self._due("restart"):
            self._restart()
        if self._due("restart") or self._due("dead-worker"):
            raise _WorkerDied

    def _due(self, fault: str) -> bool:
        return self._ended == self._faults.get(fault, 0)

    def _submit_foreign(self) -> None:
        """Submit a prompt of another client, which takes about 1.2 s and is never cached."""
        self._foreign += 1
        image = {"width": 1024, "height": 1024, "batch_size": 8, "color": self._foreign}
        prompt = {
            "1": {"class_type": "EmptyImage", "inputs": image},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }
        now = self._clock.now()
        extra_data = {"client_id": _FOREIGN, "create_time": self._clock.stamp(now)}
        self.submit(QueuedPrompt(self._queue.next_number(), str(uuid.uuid4()), prompt, extra_data, ["2"], now))


class _FaultyRun(PromptRun):
    """A PromptRun with faults; `ordinal`, the prompt's number on this server, decides which of them occur."""

    def __init__(self, faults: Faults, ordinal: int, *parts: Any) -> None:
        super().__init__(*parts)
        self._faults = faults
        self._ordinal = ordinal

    async def _perform(self, node: str, work: NodeWork) -> None:
        if work.steps:
            work = self._sampling(work)
        if work.tiled and self._struck("silent-oom"):
            work = replace(work, working=_MORE_THAN_ANY_GPU_HAS)
        await super()._perform(node, work)

    def _sampling(self, work: NodeWork) -> NodeWork:
        if self._struck("node-error"):
            raise NodeFailure("RuntimeError", _BAD_SHAPES)
        if self._struck("interrupt"):
            self.interrupted_at = self.time
        return replace(work, working=_MORE_THAN_ANY_GPU_HAS) if self._struck("oom") else work

    def _reuse(self, node: str, hit: Cached) -> None:
        super()._reuse(node, hit)
        if "cached-empty-outputs" in self._faults:
            self.outputs.pop(node, None)
            self.meta.pop(node, None)

    def _struck(self, fault: str) -> bool:
        return self._faults.strikes(fault, self._ordinal)
