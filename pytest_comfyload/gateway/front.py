"""Routes for prompts: submit, queue, history, interrupt. Users see and change only their own prompts."""

from __future__ import annotations

import asyncio
import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from pytest_comfyload.errors import ServerError
from pytest_comfyload.gateway.catalog import NodeCatalog, model_of
from pytest_comfyload.gateway.client_sockets import ClientSockets
from pytest_comfyload.gateway.file_access import NotAccessible, claim_inputs
from pytest_comfyload.gateway.gateway_metrics import GatewayMetrics
from pytest_comfyload.gateway.gateway_settings import Caller, GatewaySettings, caller_of
from pytest_comfyload.gateway.prompt_attempt import queue_item
from pytest_comfyload.gateway.prompt_store import NewPrompt, PromptStore
from pytest_comfyload.gateway.rewriting import gateway_time
from pytest_comfyload.gateway.validation import PromptJudgement, refusal
from pytest_comfyload.gateway.worker_driver import WorkerDriver
from pytest_comfyload.protocol.json_values import NotJson, as_dict, as_list, finite, parse_json, write_json

__all__ = ["GATEWAY", "PROMPT_ROUTES", "Gateway", "caller", "unavailable"]

# Maximum size of a prompt in bytes: a workflow may embed an image.
MAX_PROMPT = 16 * 2**20
# Maximum total bytes of the entries in a /history response, and of the prompts in a /queue response.
MAX_ANSWER = 32 * 2**20
# Seconds after which a prompt that was refused because the queue is full may be sent again.
_RETRY_FULL = 10
# Age in seconds after which node classes are fetched again before a prompt is refused because of them.
_STALE = 5.0


@dataclass(slots=True)
class Gateway:
    """State shared by the routes; `drivers` are keyed by worker name."""

    settings: GatewaySettings
    store: PromptStore
    catalog: NodeCatalog
    metrics: GatewayMetrics
    drivers: dict[str, WorkerDriver] = field(default_factory=dict)
    sockets: ClientSockets | None = None

    @property
    def up(self) -> list[WorkerDriver]:
        """The workers that answer."""
        return [each for each in self.drivers.values() if each.is_up]

    @property
    def now(self) -> float:
        """The current time on the gateway's clock, in seconds."""
        return gateway_time(max((each.scale for each in self.drivers.values()), default=1.0))

    async def refresh_classes(self, older_than: float) -> None:
        """Fetch the node classes of all workers, unless they were fetched within the last `older_than` seconds."""
        if asyncio.get_running_loop().time() - self.catalog.asked_at > older_than:
            await asyncio.gather(*(each.learn(node_classes=True) for each in self.up), return_exceptions=True)


GATEWAY = web.AppKey("gateway", Gateway)


def unavailable(message: str) -> web.HTTPServiceUnavailable:
    """Return a 503 response in ComfyUI's format."""
    body = json.dumps({"error": refusal("unavailable", message), "node_errors": {}})
    return web.HTTPServiceUnavailable(text=body, content_type="application/json", headers={"Retry-After": "5"})


def caller(request: web.Request) -> Caller:
    """Return the sender of a request."""
    proxies = request.app[GATEWAY].settings.proxies
    return caller_of(request.remote or "unix", request.headers, request.query, proxies)


async def _post_prompt(request: web.Request) -> web.Response:
    gateway, user = request.app[GATEWAY], caller(request)
    body = as_dict(await _json(request))
    if "prompt" not in body:
        return _refused(gateway, refusal("no_prompt", "No prompt provided", "No prompt provided"))
    id = body.get("prompt_id", str(uuid.uuid4()))
    if not _is_canonical(id):
        message = "prompt_id must be a valid UUID"
        return _refused(gateway, refusal("invalid_prompt_id", message, _PROMPT_ID))
    judgement, fit = await _judged(gateway, body)
    if not gateway.catalog.union:
        raise unavailable("No worker has answered yet")
    if judgement.error is not None:
        return _refused(gateway, judgement.error, judgement.node_errors)
    try:
        graph, worker = await claim_inputs(gateway.store, user.user, body["prompt"], gateway.catalog.union)
    except NotAccessible as error:
        return _refused(gateway, _not_yours(str(error)))
    body, fit = {**body, "prompt": graph}, f",{worker}," if worker else fit
    answer = await gateway.store.enqueue(_new(id, body, judgement, fit, user, gateway))
    return _answered(gateway, id, answer, judgement)


async def _judged(gateway: Gateway, body: Mapping[str, Any]) -> tuple[PromptJudgement, str]:
    """Validate a prompt; before refusing it, fetch the workers' node classes again."""
    graph, targets = body["prompt"], body.get("partial_execution_targets")
    found = gateway.catalog.judge(graph, targets)
    if found[0].error is None and not found[0].node_errors:
        return found
    await gateway.refresh_classes(_STALE)
    return gateway.catalog.judge(graph, targets)


def _new(
    id: str, body: Mapping[str, Any], judgement: PromptJudgement, fit: str, user: Caller, gateway: Gateway
) -> NewPrompt:
    client = body.get("client_id")
    order = "front" if body.get("front") else ""
    if (number := finite(body.get("number"))) is not None:
        order = str(number)
    kept = {
        "prompt": body["prompt"],
        "extra_data": dict(as_dict(body.get("extra_data"))),
        "outputs": judgement.outputs,
        "targets": body.get("partial_execution_targets"),
    }
    return NewPrompt(
        id=id,
        user=user.user,
        client=client if isinstance(client, str) else "",
        priority=user.priority,
        order=order,
        body=write_json(kept),
        fit=fit,
        model=model_of(as_dict(body["prompt"])),
        created=gateway.now,
    )


def _answered(gateway: Gateway, id: str, answer: list[str], judgement: PromptJudgement) -> web.Response:
    match answer:
        case ["ok" | "same" as word, number]:
            if word == "ok":
                gateway.metrics.accepted.inc()
            told = {"prompt_id": id, "number": int(number), "node_errors": dict(judgement.node_errors)}
            return web.json_response(told)
        case ["slow", seconds]:
            gateway.metrics.refused.labels("rate").inc()
            message = f"More than {60 * (gateway.settings.rate or 0):g} prompts per minute"
            return _later(refusal("rate_limited", message), math.ceil(float(seconds)))
        case ["full"]:
            gateway.metrics.refused.labels("full").inc()
            return _later(refusal("queue_full", "Too many prompts wait"), _RETRY_FULL)
    return _refused(gateway, refusal("invalid_prompt_id", "prompt_id is in use", "choose a new UUID"))


def _refused(gateway: Gateway, error: Mapping[str, Any], node_errors: Mapping[str, Any] | None = None) -> web.Response:
    gateway.metrics.refused.labels("invalid").inc()
    return web.json_response({"error": error, "node_errors": node_errors or {}}, status=400)


def _later(error: Mapping[str, Any], seconds: int) -> web.Response:
    headers = {"Retry-After": str(max(1, seconds))}
    return web.json_response({"error": error, "node_errors": {}}, status=429, headers=headers)


def _not_yours(path: str) -> dict[str, Any]:
    return refusal(
        "prompt_outputs_failed_validation", "Prompt outputs failed validation", f"Invalid image file: {path}"
    )


async def _get_prompt(request: web.Request) -> web.Response:
    remaining = await request.app[GATEWAY].store.remaining()
    return web.json_response({"exec_info": {"queue_remaining": remaining}})


async def _get_queue(request: web.Request) -> web.Response:
    lists: dict[str, list[Any]] = {"queue_running": [], "queue_pending": []}
    size = 0
    for prompt in await request.app[GATEWAY].store.queued(caller(request).user):
        size += prompt.size
        item = queue_item(prompt.id, prompt.number, prompt.body if size < MAX_ANSWER else {}, prompt.client)
        item[3] |= {"create_time": round(prompt.created * 1000)}
        lists["queue_running" if prompt.is_running else "queue_pending"].append(item)
    return web.json_response(lists)


async def _post_queue(request: web.Request) -> web.Response:
    gateway, user = request.app[GATEWAY], caller(request).user
    body = as_dict(await _json(request))
    ids = [each for each in as_list(body.get("delete")) if isinstance(each, str)]
    if body.get("clear"):
        ids += await gateway.store.unended(user)
    if ids:
        await gateway.store.cancel(user, ids, waiting=True)
    return web.Response()


async def _post_interrupt(request: web.Request) -> web.Response:
    gateway, user = request.app[GATEWAY], caller(request).user
    prompt_id = as_dict(await _json(request, empty={})).get("prompt_id")
    ids = [prompt_id] if isinstance(prompt_id, str) else await gateway.store.unended(user)
    found = iter(await gateway.store.cancel(user, ids, running=True) if ids else [])
    for worker, id in zip(found, found, strict=True):
        if worker in gateway.drivers:
            try:
                await gateway.drivers[worker].link.interrupt(id)
            except ServerError:
                continue  # the gateway that drives the worker sees that the prompt is cancelled
    return web.Response()


async def _get_history(request: web.Request) -> web.Response:
    gateway, user = request.app[GATEWAY], caller(request).user
    ids = await gateway.store.history(user)
    most, offset = _whole(request, "max_items"), _whole(request, "offset")
    start = max(0, len(ids) - most if most is not None else 0) if offset is None or offset < 0 else offset
    chosen = ids[start:] if most is None else ids[start : start + max(0, most)]
    parts, size = [], 0
    for id, entry in (await gateway.store.entries(user, chosen)).items():
        size += len(entry)
        if size > MAX_ANSWER:
            break
        parts.append(json.dumps(id).encode() + b": " + entry)
    return web.Response(body=b"{" + b", ".join(parts) + b"}", content_type="application/json", charset="utf-8")


async def _get_history_entry(request: web.Request) -> web.Response:
    gateway, id = request.app[GATEWAY], request.match_info["prompt_id"]
    entry = await gateway.store.entry(caller(request).user, id)
    body = b"{}" if entry is None else b"{" + json.dumps(id).encode() + b": " + entry + b"}"
    return web.Response(body=body, content_type="application/json", charset="utf-8")


async def _post_history(request: web.Request) -> web.Response:
    gateway, user = request.app[GATEWAY], caller(request).user
    body = as_dict(await _json(request))
    ids = [each for each in as_list(body.get("delete")) if isinstance(each, str)]
    if body.get("clear"):
        ids += await gateway.store.history(user)
    await gateway.store.forget(user, ids)
    return web.Response()


async def _json(request: web.Request, empty: Any = None) -> Any:
    """Return the JSON body of a request. Raises: web.HTTPBadRequest, web.HTTPRequestEntityTooLarge."""
    if (request.content_length or 0) > MAX_PROMPT:
        raise web.HTTPRequestEntityTooLarge(MAX_PROMPT, request.content_length or 0)
    text = await request.read()
    if not text.strip() and empty is not None:
        return empty
    try:
        return parse_json(text)
    except NotJson as error:
        raise web.HTTPBadRequest(text=f"the body is not JSON: {error}") from None


def _whole(request: web.Request, name: str) -> int | None:
    """Return a query parameter as an integer, or None if it is absent. Raises: web.HTTPBadRequest."""
    try:
        return int(request.query[name]) if name in request.query else None
    except ValueError:
        raise web.HTTPBadRequest(text=f"{name} is not a whole number") from None


_PROMPT_ID = (
    "prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the server generate one"
)


def _is_canonical(id: object) -> bool:
    try:
        return isinstance(id, str) and str(uuid.UUID(id)) == id
    except ValueError:
        return False


PROMPT_ROUTES = [
    web.post("/prompt", _post_prompt),
    web.get("/prompt", _get_prompt),
    web.get("/queue", _get_queue),
    web.post("/queue", _post_queue),
    web.post("/interrupt", _post_interrupt),
    web.get("/history", _get_history),
    web.post("/history", _post_history),
    web.get("/history/{prompt_id}", _get_history_entry),
]
