"""Driver of one worker that no other gateway drives: one prompt at a time, from the queue in Redis to its result."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from pytest_comfyload.errors import HttpError, ServerError, WorkerDead
from pytest_comfyload.gateway.catalog import NodeCatalog, model_of
from pytest_comfyload.gateway.gateway_metrics import GatewayMetrics
from pytest_comfyload.gateway.gateway_settings import GatewaySettings
from pytest_comfyload.gateway.prompt_attempt import PromptAttempt
from pytest_comfyload.gateway.prompt_execution import GRACE, PromptExecution
from pytest_comfyload.gateway.prompt_store import PromptStore, TakenPrompt
from pytest_comfyload.gateway.redis_calls import StoreUnavailable
from pytest_comfyload.gateway.rewriting import StampTranslator, gateway_time
from pytest_comfyload.gateway.worker_link import WorkerLink
from pytest_comfyload.protocol.bodies import parse_object_info
from pytest_comfyload.protocol.json_values import as_dict, finite

__all__ = ["OWNED", "WorkerDriver"]

# Seconds for which a gateway drives a worker unless it renews this lease.
OWNED = 3.0
# Seconds between two polls of a worker that answers.
LOOK = 5.0
# Seconds for which an idle worker waits for a change of the queue.
IDLE = 1.0

_LOG = logging.getLogger(__name__)


class WorkerDriver:
    """Driver of one worker in this gateway.

    Args:
        me: The id of this gateway.
        copy_inputs: See `PromptExecution`.
    """

    def __init__(
        self,
        link: WorkerLink,
        store: PromptStore,
        settings: GatewaySettings,
        catalog: NodeCatalog,
        metrics: GatewayMetrics,
        me: str,
        copy_inputs: Callable[[WorkerLink, TakenPrompt, bool], Awaitable[bool]],
    ) -> None:
        self.link = link
        self.news = asyncio.Event()
        self.is_up = False
        self.scale = 1.0
        self.stats: Mapping[str, Any] = {}
        self._store = store
        self._settings = settings
        self._catalog = catalog
        self._metrics = metrics
        self._me = me
        self._copy_inputs = copy_inputs
        self._owns = False
        self._loaded = ""
        # The worker answers, but executes nothing.
        self._is_stuck = False
        # Whether the worker answered when its state was last logged; None before the first time.
        self._is_told: bool | None = None
        self._stamps = StampTranslator()

    @property
    def owns(self) -> bool:
        """Whether this gateway drives the worker."""
        return self._owns

    async def run(self) -> None:
        """Drive the worker whenever no other gateway does, until cancelled."""
        keeper = asyncio.create_task(self._keep())
        try:
            while True:
                try:
                    await self._drive()
                except StoreUnavailable:
                    pass
                except Exception:
                    # A worker may send what no ComfyUI sends, which must not affect the other workers.
                    _LOG.exception("worker %s", self.link.name)
                await asyncio.sleep(0.2)
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await self.link.close_socket()

    async def _keep(self) -> None:
        """Acquire the lease on the worker and keep renewing it, until cancelled."""
        while True:
            try:
                self._owns = await self._store.own(self.link.name, self._me, OWNED)
            except StoreUnavailable:
                self._owns = False
            self._metrics.worker_owned.labels(self.link.name).set(self._owns)
            self.news.set()
            await asyncio.sleep(OWNED / 3 if self._owns else OWNED / 6)

    async def release(self) -> None:
        """Let another gateway drive the worker at once. Raises: StoreUnavailable."""
        if self._owns:
            self._owns = False
            await self._store.own(self.link.name, self._me, 0)

    async def watch(self) -> None:
        """Poll the worker, regardless of which gateway drives it, until cancelled."""
        while True:
            try:
                await self.learn(node_classes=not self.is_up)
            except ServerError as error:
                self._show(error)
            await asyncio.sleep(LOOK if self.is_up else LOOK / 5)

    async def learn(self, *, node_classes: bool) -> None:
        """Query the worker's system and, if requested, its node classes. Raises: ServerError."""
        self.stats = as_dict(await self.link.look("/system_stats"))
        system = as_dict(self.stats.get("system"))
        self.scale = finite(as_dict(system.get("simulator")).get("time_scale")) or 1.0
        if node_classes:
            self._catalog.learn(self.link.name, parse_object_info(await self.link.get_json("/object_info")))
        if not self._is_stuck:
            self._show(None)

    async def _drive(self) -> None:
        """Give the worker one prompt after another, as long as it answers. Raises: StoreUnavailable."""
        if not self._owns:
            return
        try:
            await self._connect(uuid.uuid4().hex)
            await self._resolve_suspects(go_on=True)
            while self._owns and self.link.is_open:
                await self._next()
        except WorkerDead as error:
            # The worker still answers, but only a restart helps.
            self._show(error)
            self._is_stuck = True
            await self.link.closed()
            self._is_stuck = False
        except ServerError as error:
            self._show(error)
            await self._leave_what_it_holds()

    async def _connect(self, client_id: str) -> None:
        """Open the worker's WebSocket, and query the worker, which may have changed while down. Raises: ServerError."""
        await self.link.open(client_id)
        await self.learn(node_classes=True)

    def _show(self, fault: ServerError | None) -> None:
        """Record whether the worker answers, and log each change."""
        if self._is_told is not (fault is None):
            self._is_told = fault is None
            if fault is None:
                _LOG.warning("%s answers", self.link.title)
            else:
                login = "; give its login with --comfyui-header-file" if _is_refusal(fault) else ""
                _LOG.warning("%s; it gets no prompts until it answers%s", fault, login)
        self.is_up = fault is None
        self._metrics.worker_up.labels(self.link.name).set(self.is_up)
        self._metrics.differing.set(self._catalog.differing)

    async def _resolve_suspects(self, *, go_on: bool) -> None:
        """Settle prompts that were returned to the queue although the worker may have continued them.

        Args:
            go_on: Follow a prompt that the worker still executes and no other worker has taken; otherwise interrupt it.

        Raises: ServerError, StoreUnavailable.
        """
        for id, attempt in (await self._store.suspects(self.link.name)).items():
            if await self._store.place_of(id) != ("running", self.link.name):
                await self._resolve(id, attempt, go_on=go_on)
            if not self._owns:
                return
            await self._store.clear_suspect(self.link.name, id)

    async def _resolve(self, id: str, attempt: int, *, go_on: bool) -> None:
        """Follow or drop a prompt of the worker, and store a late result. Raises: ServerError, StoreUnavailable."""
        while self._owns and await self.link.place_of(id):
            token, stall = uuid.uuid4().hex, self._settings.stall
            prompt = await self._store.take(self.link.name, self._me, token, stall, "", "", id) if go_on else None
            if prompt is not None:
                await self._execution(prompt, token).run()
                go_on = False
            else:
                await self.link.drop(id)
                await asyncio.sleep(0.5)
        if (entry := await self.link.history(id)) is not None:
            await self._late_result(id, attempt, entry)

    async def _late_result(self, id: str, attempt: int, entry: Mapping[str, Any]) -> None:
        known = await self._store.lookup(id)
        if known is not None and as_dict(entry.get("status")).get("completed"):
            await self._attempt(replace(known, attempt=attempt), uuid.uuid4().hex).finish(entry)

    async def _next(self) -> None:
        """Take the next prompt and execute it, or wait for one. Raises: ServerError, StoreUnavailable."""
        self.news.clear()
        self.link.changed.clear()
        # A prompt that another gateway gave this worker is followed at once; otherwise, an idle worker takes one.
        if self.link.remaining == 0 or await self._store.held(self.link.name):
            token = uuid.uuid4().hex
            lease = self._settings.stall
            prompt = await self._store.take(self.link.name, self._me, token, lease, self._loaded, self.link.client_id)
            if prompt is not None:
                if not prompt.found:
                    self._metrics.wait.observe(max(0.0, gateway_time(self.scale) - prompt.created) / self.scale)
                self._loaded = model_of(as_dict(prompt.body.get("prompt")))
                execution = self._execution(prompt, token)
                await execution.run()
                if execution.is_suspicious:
                    await self._resolve_suspects(go_on=False)
                    # A new client id keeps late messages about this try out of the next one.
                    await self.link.open(uuid.uuid4().hex)
                return
        waits = [asyncio.create_task(each.wait()) for each in (self.news, self.link.changed)]
        await asyncio.wait(waits, timeout=IDLE, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        self.link.skip_frames()

    def _attempt(self, prompt: TakenPrompt, token: str) -> PromptAttempt:
        return PromptAttempt(prompt, token, self.link.name, self.scale, self._store, self._stamps, self._metrics)

    def _execution(self, prompt: TakenPrompt, token: str) -> PromptExecution:
        attempt = self._attempt(prompt, token)
        stall = self._settings.stall
        return PromptExecution(self.link, self._store, attempt, stall, self._connect, self._copy_inputs)

    async def _leave_what_it_holds(self) -> None:
        """Return the worker's prompt to the queue unless it answers within `GRACE`. Raises: StoreUnavailable."""
        token = uuid.uuid4().hex
        if not await self._store.held(self.link.name):
            return
        begun = time.monotonic()
        while time.monotonic() - begun < GRACE:
            with contextlib.suppress(ServerError):
                await self._connect(uuid.uuid4().hex)
                return
            await asyncio.sleep(0.5)
        prompt = await self._store.take(self.link.name, self._me, token, self._settings.stall, "", "")
        if prompt is not None:
            await self._execution(prompt, token).give_up("its worker does not answer", suspicion=True)


def _is_refusal(fault: ServerError) -> bool:
    return isinstance(fault, HttpError) and fault.status in (401, 403)
