"""Routes that workers answer: files, capabilities, events. Users cannot read files of other users."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.web_request import FileField

from pytest_comfyload.errors import ServerError
from pytest_comfyload.gateway.file_access import (
    FileReference,
    NotAccessible,
    input_path,
    is_plain,
    named_files,
    resolve_file,
)
from pytest_comfyload.gateway.front import GATEWAY, Gateway, caller
from pytest_comfyload.gateway.prompt_store import TakenPrompt
from pytest_comfyload.gateway.worker_link import WorkerLink
from pytest_comfyload.protocol.json_values import NotJson, as_dict, as_list, parse_json

__all__ = ["MAX_UPLOAD", "WORKER_ROUTES", "copy_inputs"]

MAX_UPLOAD = 100 * 2**20
# Seconds after which the node classes are asked for again when a client asks for them.
_CLASSES_AGE = 60.0
_CHUNK = 64 * 1024
# What a client learns of a file besides its bytes.
_FILE_HEADERS = ("Content-Type", "Content-Disposition", "Content-Length", "Last-Modified", "ETag")


def _any_worker(gateway: Gateway) -> WorkerLink:
    """Raises: web.HTTPServiceUnavailable."""
    if not gateway.up:
        raise web.HTTPServiceUnavailable(text="no worker answers", headers={"Retry-After": "5"})
    return gateway.up[0].link


# --- files -----------------------------------------------------------------------------------------------------------


async def _view(request: web.Request) -> web.StreamResponse:
    gateway = request.app[GATEWAY]
    if not request.query.get("filename"):
        raise web.HTTPBadRequest
    link, file = await _located(gateway, caller(request).user, request.query)
    others = {name: value for name, value in request.query.items() if name in ("preview", "channel")}
    async with link.request("GET", "/view", {**others, **file.query()}) as answer:
        headers = {name: answer.headers[name] for name in _FILE_HEADERS if name in answer.headers}
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        if request.method != "HEAD":
            async for chunk in answer.content.iter_chunked(_CHUNK):
                await response.write(chunk)
        return response


async def _located(gateway: Gateway, user: str, reference: Mapping[str, Any]) -> tuple[WorkerLink, FileReference]:
    """Return a file that the user may read, and its worker. Raises: web.HTTPNotFound."""
    try:
        file = await resolve_file(gateway.store, user, reference)
    except NotAccessible:
        raise web.HTTPNotFound from None
    if not file.worker:
        return _any_worker(gateway), file
    if file.worker not in gateway.drivers:
        raise web.HTTPNotFound
    return gateway.drivers[file.worker].link, file


async def _upload(request: web.Request) -> web.Response:
    """Send a file to all workers, or to one where they share the folder."""
    gateway, user = request.app[GATEWAY], caller(request).user
    form = await request.post()
    image = form.get("image")
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    if not isinstance(image, FileField) or fields.get("type", "input") != "input":
        raise web.HTTPBadRequest(text="send a file `image` of type input")
    if (subfolder := fields.get("subfolder", "")) and not is_plain(subfolder):
        raise web.HTTPBadRequest(text="subfolder is no relative path")
    name, content = image.filename, image.file.read()
    links = [each.link for each in gateway.up] or [_any_worker(gateway)]
    if gateway.settings.shared_input:
        links = links[:1]
    if "original_ref" in fields:
        links, fields["original_ref"] = await _masked(gateway, user, fields["original_ref"], links)
    try:
        await resolve_file(gateway.store, user, {"type": "input", "subfolder": subfolder, "filename": name})
    except NotAccessible:
        # The file of another user is not overwritten; what is no plain name becomes one.
        name = _own_name(PurePosixPath(name).name, user.encode())
    status, body = await _stored(links, request.path.removeprefix("/api"), name, content, fields)
    if status == 200:
        stored = as_dict(parse_json(body))
        path = input_path(str(stored.get("subfolder", "")), str(stored.get("name", "")))
        await gateway.store.own_file(path, user)
    return _passed_on(status, body)


async def _masked(gateway: Gateway, user: str, text: str, links: list[WorkerLink]) -> tuple[list[WorkerLink], str]:
    """Return the workers that have the picture that a mask is for, and its name there. Raises: web.HTTPNotFound."""
    try:
        reference = as_dict(parse_json(text))
    except NotJson:
        raise web.HTTPBadRequest(text="original_ref is no JSON") from None
    link, file = await _located(gateway, user, reference)
    return [link] if file.worker else links, json.dumps(file.query())


async def _stored(
    links: Sequence[WorkerLink], path: str, name: str, content: bytes, fields: Mapping[str, str]
) -> tuple[int, bytes]:
    """Raises: ServerError."""
    answers = [await _sent(link, path, name, content, fields) for link in links]
    if len({body for _, body in answers}) > 1 and all(status == 200 for status, _ in answers):
        # Workers had different files of that name.
        own = _own_name(name, content)
        answers = [await _sent(link, path, own, content, {**fields, "overwrite": "true"}) for link in links]
    return max(answers)


def _own_name(name: str, content: bytes) -> str:
    path = PurePosixPath(name)
    return f"{path.stem}-{hashlib.sha256(content).hexdigest()[:12]}{path.suffix}"


async def _sent(link: WorkerLink, path: str, name: str, content: bytes, fields: Mapping[str, str]) -> tuple[int, bytes]:
    """Raises: ServerError."""
    form = aiohttp.FormData(dict(fields))
    form.add_field("image", content, filename=name, content_type="application/octet-stream")
    return await link.exchange("POST", path, data=form)


async def copy_inputs(gateway: Gateway, link: WorkerLink, prompt: TakenPrompt) -> bool:
    """Copy the uploaded files that a prompt names to a worker that lacks them; whether there was one."""
    copied = False
    for path in named_files(as_dict(prompt.body.get("prompt"))):
        if await gateway.store.owner_of(f"input/{path}") != prompt.user:
            continue
        query = {"filename": PurePosixPath(path).name, "subfolder": str(PurePosixPath(path).parent), "type": "input"}
        query["subfolder"] = "" if query["subfolder"] == "." else query["subfolder"]
        try:
            copied |= await _copied(gateway, link, query)
        except ServerError:
            continue
    return copied


async def _copied(gateway: Gateway, link: WorkerLink, query: Mapping[str, str]) -> bool:
    """Raises: ServerError."""
    if (await link.exchange("GET", "/view", query))[0] == 200:
        return False
    for other in gateway.up:
        status, content = await other.link.exchange("GET", "/view", query)
        if status == 200:
            fields = {"type": "input", "subfolder": query["subfolder"], "overwrite": "true"}
            return (await _sent(link, "/upload/image", query["filename"], content, fields))[0] == 200
    return False


# --- what workers are ------------------------------------------------------------------------------------------------


async def _get_system_stats(request: web.Request) -> web.Response:
    """The first worker's system, and the devices of all."""
    gateway = request.app[GATEWAY]
    _any_worker(gateway)
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
    """What any worker can answer."""
    path = request.path if not request.path.startswith("/api/") else request.path.removeprefix("/api")
    status, body = await _any_worker(request.app[GATEWAY]).exchange("GET", path)
    return _passed_on(status, body)


async def _tell_all(request: web.Request) -> web.Response:
    """What all workers are to do."""
    gateway, body = request.app[GATEWAY], await request.read()
    path, headers = request.path.removeprefix("/api"), {"Content-Type": "application/json"}
    _any_worker(gateway)
    answers = [await each.link.exchange("POST", path, data=body, headers=headers) for each in gateway.up]
    await gateway.refresh_classes(0.0)
    status, said = max(answers)
    return _passed_on(status, said)


def _passed_on(status: int, body: bytes) -> web.Response:
    """What a worker has answered with JSON, or without a body."""
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
        return as_dict(await gateway.up[0].link.get_json("/features")) if gateway.up else {}
    except ServerError:
        return {}


async def _get_features(request: web.Request) -> web.Response:
    # Previews come as pictures alone: workers are not asked for more.
    return web.json_response(dict(await _features(request.app[GATEWAY])) | {"supports_preview_metadata": False})


WORKER_ROUTES = [
    web.get("/ws", _connect),
    web.get("/view", _view),
    web.post("/upload/image", _upload),
    web.post("/upload/mask", _upload),
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
    # A simulator learns a workflow that is to come.
    web.post("/simulator/workflow", _tell_all),
]
