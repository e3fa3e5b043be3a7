"""Uploads: stored on every worker that answers, and copied to the others before they execute a prompt that reads them.

Redis records which version of each upload each worker has, so that a worker that was down while a file was replaced
does not execute a prompt with the old version.
"""

from __future__ import annotations

import asyncio
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
from pytest_comfyload.gateway.file_access import NotAccessible, input_path, is_plain, named_files, resolve_file
from pytest_comfyload.gateway.front import GATEWAY, Gateway, caller
from pytest_comfyload.gateway.prompt_execution import UploadMissing
from pytest_comfyload.gateway.prompt_store import TakenPrompt
from pytest_comfyload.gateway.worker_link import WorkerLink
from pytest_comfyload.gateway.worker_routes import any_worker, located, passed_on
from pytest_comfyload.protocol.json_values import NotJson, as_dict, parse_json

__all__ = ["MAX_UPLOAD", "UPLOAD_ROUTES", "copy_inputs"]

MAX_UPLOAD = 100 * 2**20


async def _upload(request: web.Request) -> web.Response:
    """Send a file to all workers, or to one of them if they share the input folder."""
    gateway, user = request.app[GATEWAY], caller(request).user
    form = await request.post()
    image = form.get("image")
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    if not isinstance(image, FileField) or fields.get("type", "input") != "input":
        raise web.HTTPBadRequest(text="send a file `image` of type input")
    if (subfolder := fields.get("subfolder", "")) and not is_plain(subfolder):
        raise web.HTTPBadRequest(text="subfolder is not a relative path")
    name, content = image.filename, image.file.read()
    links = [each.link for each in gateway.up] or [any_worker(gateway)]
    if gateway.settings.shared_input:
        links = links[:1]
    if "original_ref" in fields:
        links, fields["original_ref"] = await _masked(gateway, user, fields["original_ref"], links)
    try:
        await resolve_file(gateway.store, user, {"type": "input", "subfolder": subfolder, "filename": name})
    except NotAccessible:
        # Another user's file is not overwritten, and a name that is not plain is replaced by a plain one.
        name = _own_name(PurePosixPath(name).name, user.encode())
    answers = await _stored(links, request.path.removeprefix("/api"), name, content, fields)
    status, body = next(iter(answers.values()))
    if status == 200:
        stored = as_dict(parse_json(body))
        path = input_path(str(stored.get("subfolder", "")), str(stored.get("name", "")))
        await gateway.store.own_upload(path, user, uuid.uuid4().hex, [link.name for link in answers])
    return passed_on(status, body)


async def _masked(gateway: Gateway, user: str, text: str, links: list[WorkerLink]) -> tuple[list[WorkerLink], str]:
    """Return the workers that have the image that a mask belongs to, and its reference there as JSON.

    Raises: web.HTTPNotFound; web.HTTPBadRequest if the reference is not JSON.
    """
    try:
        reference = as_dict(parse_json(text))
    except NotJson:
        raise web.HTTPBadRequest(text="original_ref is not JSON") from None
    link, file = await located(gateway, user, reference)
    return [link] if file.worker else links, json.dumps(file.query())


async def _stored(
    links: Sequence[WorkerLink], path: str, name: str, content: bytes, fields: Mapping[str, str]
) -> dict[WorkerLink, tuple[int, bytes]]:
    """Return the identical answers of the workers that stored a file, or one refusal if none did.

    Raises: ServerError if no worker answers.
    """
    answers = await _answers(links, path, name, content, fields)
    stored = {link: answer for link, answer in answers.items() if answer[0] == 200}
    if len({body for _, body in stored.values()}) > 1:
        # The workers had different files under that name: use one that is derived from the content.
        own = _own_name(name, content)
        answers = await _answers([*stored], path, own, content, {**fields, "overwrite": "true"})
        stored = {link: answer for link, answer in answers.items() if answer[0] == 200}
    return stored or dict(list(answers.items())[:1])


async def _answers(
    links: Sequence[WorkerLink], path: str, name: str, content: bytes, fields: Mapping[str, str]
) -> dict[WorkerLink, tuple[int, bytes]]:
    """Send a file to all these workers at once. Raises: ServerError if none answers."""

    async def send(link: WorkerLink) -> tuple[int, bytes] | ServerError:
        try:
            return await _sent(link, path, name, content, fields)
        except ServerError as error:
            return error

    sent = await asyncio.gather(*map(send, links))
    answers = {link: each for link, each in zip(links, sent, strict=True) if isinstance(each, tuple)}
    if not answers:
        raise next(each for each in sent if isinstance(each, ServerError))
    return answers


def _own_name(name: str, content: bytes) -> str:
    path = PurePosixPath(name)
    return f"{path.stem}-{hashlib.sha256(content).hexdigest()[:12]}{path.suffix}"


async def _sent(link: WorkerLink, path: str, name: str, content: bytes, fields: Mapping[str, str]) -> tuple[int, bytes]:
    """Upload a file to one worker. Raises: ServerError."""
    form = aiohttp.FormData(dict(fields))
    form.add_field("image", content, filename=name, content_type="application/octet-stream")
    return await link.exchange("POST", path, data=form)


# --- before a prompt -------------------------------------------------------------------------------------------------


async def copy_inputs(gateway: Gateway, link: WorkerLink, prompt: TakenPrompt, again: bool) -> bool:
    """Copy the uploads that a prompt reads to a worker that lacks their newest version; return whether any was copied.

    Args:
        again: Also copy missing files that the worker should have: it refused the prompt, and may have lost its folder.

    Raises: UploadMissing; ServerError if the worker itself does not answer; StoreUnavailable.
    """
    if gateway.settings.shared_input:
        return False
    copied = False
    for path in named_files(as_dict(prompt.body.get("prompt"))):
        query = _query(path)
        key = input_path(query["subfolder"], query["filename"])
        versions = await gateway.store.upload_versions(key)
        newest = versions.pop("", None)
        if newest is None or (versions.get(link.name) == newest and not again):
            continue
        if again and (await link.exchange("GET", "/view", query))[0] == 200:
            continue
        content = await _fetched(gateway, [name for name, each in versions.items() if each == newest], link, query)
        fields = {"type": "input", "subfolder": query["subfolder"], "overwrite": "true"}
        if (await _sent(link, "/upload/image", query["filename"], content, fields))[0] == 200:
            await gateway.store.note_copy(key, link.name, newest)
            copied = True
    return copied


async def _fetched(gateway: Gateway, names: Sequence[str], link: WorkerLink, query: Mapping[str, str]) -> bytes:
    """Return the content of an upload, fetched from one of the workers `names`. Raises: UploadMissing."""
    others = [name for name in names if name != link.name]
    for name in others:
        if name in gateway.drivers:
            try:
                status, content = await gateway.drivers[name].link.exchange("GET", "/view", query)
            except ServerError:
                continue
            if status == 200:
                return content
    where = ", ".join(others) or "no other worker"
    raise UploadMissing(f"the upload {query['filename']} is on {where}, and cannot be fetched from there")


def _query(path: str) -> dict[str, Any]:
    """Return the query parameters of /view for an uploaded file."""
    found = PurePosixPath(path)
    folder = str(found.parent)
    return {"filename": found.name, "subfolder": "" if folder == "." else folder, "type": "input"}


UPLOAD_ROUTES = [web.post("/upload/image", _upload), web.post("/upload/mask", _upload)]
