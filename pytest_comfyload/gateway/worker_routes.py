"""Routes for the files, capabilities and events of workers. Users cannot read files of other users."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from pytest_comfyload.errors import ServerError
from pytest_comfyload.gateway.file_access import FileReference, NotAccessible, input_path, resolve_file
from pytest_comfyload.gateway.front import GATEWAY, Gateway, caller, unavailable
from pytest_comfyload.gateway.worker_link import WorkerLink
from pytest_comfyload.protocol.json_values import as_dict, as_list

__all__ = ["WORKER_ROUTES", "any_worker", "located", "passed_on"]

# Age in seconds after which node classes are fetched again when a client requests them.
_CLASSES_AGE = 60.0
_CHUNK = 64 * 1024
# Response headers of /view that are passed on to the client.
_FILE_HEADERS = ("Content-Type", "Content-Disposition", "Content-Length", "Last-Modified", "ETag")


def any_worker(gateway: Gateway) -> WorkerLink:
    """Return the first worker that answers. Raises: web.HTTPServiceUnavailable."""
    if not gateway.up:
        raise unavailable("No worker answers")
    return gateway.up[0].link


# --- files -----------------------------------------------------------------------------------------------------------


async def _view(request: web.Request) -> web.StreamResponse:
    gateway = request.app[GATEWAY]
    if not request.query.get("filename"):
        raise web.HTTPBadRequest
    link, file = await located(gateway, caller(request).user, request.query)
    others = {name: value for name, value in request.query.items() if name in ("preview", "channel")}
    async with link.request("GET", "/view", {**others, **file.query()}) as answer:
        headers = {name: answer.headers[name] for name in _FILE_HEADERS if name in answer.headers}
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        if request.method != "HEAD":
            async for chunk in answer.content.iter_chunked(_CHUNK):
                await response.write(chunk)
        return response


async def located(gateway: Gateway, user: str, reference: Mapping[str, Any]) -> tuple[WorkerLink, FileReference]:
    """Return a file that the user may read, and its worker. Raises: web.HTTPNotFound."""
    try:
        file = await resolve_file(gateway.store, user, reference)
    except NotAccessible:
        raise web.HTTPNotFound from None
    if not file.worker:
        return await _with_input(gateway, input_path(file.subfolder, file.filename)), file
    if file.worker not in gateway.drivers:
        raise web.HTTPNotFound
    return gateway.drivers[file.worker].link, file


async def _with_input(gateway: Gateway, path: str) -> WorkerLink:
    """Return a worker that has the newest version of an upload, else any worker. Raises: web.HTTPServiceUnavailable."""
    versions = await gateway.store.upload_versions(path)
    newest = versions.get("")
    for each in gateway.up:
        if newest is not None and versions.get(each.link.name) == newest:
            return each.link
    return any_worker(gateway)


# --- capabilities ----------------------------------------------------------------------------------------------------


async def _get_system_stats(request: web.Request) -> web.Response:
    """Return the system of the first worker, and the devices of all workers."""
    gateway = request.app[GATEWAY]
    any_worker(gateway)
    devices = [device for each in gateway.up for device in as_list(each.stats.get("devices"))]
    return web.json_response({**gateway.up[0].stats, "devices": devices})


async def _get_object_info(request: web.Request) -> web.Response:
    gateway = request.app[GATEWAY]
    await gateway.refresh_classes(_CLASSES_AGE)
    return web.json_response(gateway.catalog.union)


async def _get_class_info(request: web.Request) -> web.Response:
    gateway, name = request.app[GATEWAY], request.match_info["class_type"]
    await gateway.refresh_classes(_CLASSES_AGE)
    return web.json_response({name: gateway.catalog.union[name]} if name in gateway.catalog.union else {})


async def _ask_one(request: web.Request) -> web.Response:
    """Pass a request on to any worker that answers."""
    path = request.path if not request.path.startswith("/api/") else request.path.removeprefix("/api")
    status, body = await any_worker(request.app[GATEWAY]).exchange("GET", path)
    return passed_on(status, body)


async def _tell_all(request: web.Request) -> web.Response:
    """Send a request to all workers, and return the answer with the highest status."""
    gateway, body = request.app[GATEWAY], await request.read()
    path, headers = request.path.removeprefix("/api"), {"Content-Type": "application/json"}
    any_worker(gateway)
    answers = [await each.link.exchange("POST", path, data=body, headers=headers) for each in gateway.up]
    await gateway.refresh_classes(0.0)
    status, said = max(answers)
    return passed_on(status, said)


def passed_on(status: int, body: bytes) -> web.Response:
    """Return a worker's JSON answer as a response; an error is passed on without its body."""
    if status != 200 or not body:
        return web.Response(status=status)
    return web.Response(body=body, content_type="application/json", charset="utf-8")


async def _connect(request: web.Request) -> web.StreamResponse:
    gateway = request.app[GATEWAY]
    assert gateway.sockets is not None
    client = request.query.get("clientId") or uuid.uuid4().hex
    flags = await _features(gateway)

    def answer(text: str) -> bytes:
        return json.dumps({"type": "feature_flags", "data": flags}).encode() if '"feature_flags"' in text else b""

    return await gateway.sockets.serve(
        request, caller(request).user, client[:200], request.query.get("lastEventId", ""), answer
    )


async def _features(gateway: Gateway) -> Mapping[str, Any]:
    try:
        return as_dict(await gateway.up[0].link.look("/features")) if gateway.up else {}
    except ServerError:
        return {}


async def _get_features(request: web.Request) -> web.Response:
    # Previews come as images only: no metadata is requested from workers.
    return web.json_response(dict(await _features(request.app[GATEWAY])) | {"supports_preview_metadata": False})


WORKER_ROUTES = [
    web.get("/ws", _connect),
    web.get("/view", _view),
    web.get("/system_stats", _get_system_stats),
    web.get("/object_info", _get_object_info),
    web.get("/object_info/{class_type}", _get_class_info),
    web.get("/features", _get_features),
    web.post("/free", _tell_all),
    web.get("/embeddings", _ask_one),
    web.get("/extensions", _ask_one),
    web.get("/models", _ask_one),
    web.get("/models/{folder}", _ask_one),
    web.get("/experiment/models/{folder}", _ask_one),
    web.get("/customnode/installed", _ask_one),
    # Announces a coming workflow to simulators.
    web.post("/simulator/workflow", _tell_all),
]
