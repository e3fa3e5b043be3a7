"""The routes that transfer files: /view, /upload/image and /upload/mask."""

from __future__ import annotations

import asyncio
import io
import json
import mimetypes
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.web_request import FileField
from PIL import Image

from pytest_comfyload.image_containers import PictureError
from pytest_comfyload.image_files import decoding
from pytest_comfyload.simulator.connections import SIMULATOR
from pytest_comfyload.simulator.pictures import Drawing, FilePlace, Pictures, split_annotation

__all__ = ["FILE_ROUTES"]

_FOLDERS = {"input": "input", "output": "output", "temp": "temp"}
_PREVIEW_FORMATS = ("webp", "jpeg")
_PREVIEW_QUALITY = 90


async def _view(request: web.Request) -> web.Response:
    place = _asked_for(request.query)
    if isinstance(place, int):
        return web.Response(status=place)
    found = request.app[SIMULATOR].machine.pictures.find(place)
    if found is None:
        return web.Response(status=404)
    content_type = mimetypes.guess_type(place.name)[0] or "application/octet-stream"
    try:
        content, content_type = await asyncio.to_thread(_rendered, found, content_type, request.query)
    except PictureError as error:
        return _undecodable(error)
    disposition = {"Content-Disposition": f'filename="{place.name}"'}
    return web.Response(body=content, content_type=content_type, headers=disposition)


def _undecodable(error: PictureError) -> web.Response:
    return web.Response(status=500, text=f"500 Internal Server Error: the picture cannot be decoded: {error}")


def _asked_for(query: Mapping[str, str]) -> FilePlace | int:
    """Return the file that a /view request names, or the real server's status for an invalid request."""
    if "filename" not in query:
        return 404
    path, annotated = split_annotation(query["filename"])
    folder, subfolder = query.get("type", annotated or "output"), query.get("subfolder", "")
    if not path or path.startswith("/") or ".." in path or folder not in _FOLDERS:
        return 400
    if _leads_out(subfolder):
        return 403
    return FilePlace(folder, subfolder, path.rpartition("/")[2])


def _leads_out(subfolder: str) -> bool:
    return subfolder.startswith("/") or ".." in subfolder.split("/")


def _rendered(found: bytes | Drawing, content_type: str, query: Mapping[str, str]) -> tuple[bytes, str]:
    """Return the content and its type, re-encoded if the query requests it."""
    content = found.content() if isinstance(found, Drawing) else found
    if "preview" in query:
        return _preview(content, query["preview"], query.get("channel", ""))
    if query.get("channel") == "rgb":
        return _reencoded(content, "PNG", lambda image: image.convert("RGB")), "image/png"
    if query.get("channel") == "a":
        return _reencoded(content, "PNG", _only_alpha), "image/png"
    return content, content_type


def _preview(content: bytes, wanted: str, channel: str) -> tuple[bytes, str]:
    """Re-encode to a format and quality such as `webp;60`; an unknown format means webp."""
    name, _, quality = wanted.partition(";")
    name = name if name in _PREVIEW_FORMATS else "webp"
    mode = "RGB" if name == "jpeg" or channel == "rgb" else "RGBA"
    number = int(quality) if quality.isdecimal() else _PREVIEW_QUALITY
    return _reencoded(content, name, lambda image: image.convert(mode), quality=number), f"image/{name}"


def _only_alpha(image: Image.Image) -> Image.Image:
    alpha = Image.new("RGBA", image.size)
    alpha.putalpha(image.convert("RGBA").getchannel("A"))
    return alpha


def _reencoded(content: bytes, form: str, change: Callable[[Image.Image], Image.Image], **options: Any) -> bytes:
    out = io.BytesIO()
    with decoding(content) as image:
        change(image).save(out, form, **options)
    return out.getvalue()


async def _upload_image(request: web.Request) -> web.Response:
    form = await request.post()
    return _upload(request, form, lambda content, pictures: content)


async def _upload_mask(request: web.Request) -> web.Response:
    """Store the picture that `original_ref` names, with the alpha channel of the upload."""
    form = await request.post()
    reference = json.loads(str(form["original_ref"]))
    original = FilePlace(reference.get("type", "output"), reference.get("subfolder", ""), reference["filename"])
    try:
        return _upload(request, form, lambda content, pictures: _masked(content, pictures.find(original)))
    except PictureError as error:
        return _undecodable(error)


def _upload(request: web.Request, form: Mapping[str, Any], change: Callable[[bytes, Pictures], bytes]) -> web.Response:
    image = form.get("image")
    if image is None:
        return web.Response(status=400)
    if not isinstance(image, FileField):
        raise TypeError("the field `image` is not a file")
    folder, subfolder = _FOLDERS[form.get("type", "input")], str(form.get("subfolder", ""))
    if _leads_out(subfolder) or _leads_out(image.filename):
        return web.Response(status=400)
    pictures = request.app[SIMULATOR].machine.pictures
    overwrite = form.get("overwrite") in ("true", "1")
    content = change(image.file.read(), pictures)
    stored = pictures.upload(content, FilePlace(folder, subfolder, image.filename), overwrite)
    return web.json_response({"name": stored.name, "subfolder": stored.subfolder, "type": stored.folder})


def _masked(mask: bytes, original: bytes | Drawing | None) -> bytes:
    """Return the original with the mask's alpha channel, or the mask itself if there is no original."""
    if original is None:
        return mask
    with decoding(mask) as image:
        alpha = image.convert("RGBA").getchannel("A")
    content = original.content() if isinstance(original, Drawing) else original
    return _reencoded(content, "PNG", lambda image: _with_alpha(image, alpha))


def _with_alpha(image: Image.Image, alpha: Image.Image) -> Image.Image:
    result = image.convert("RGBA")
    result.putalpha(alpha.resize(result.size))
    return result


FILE_ROUTES = [
    web.get("/view", _view),
    web.post("/upload/image", _upload_image),
    web.post("/upload/mask", _upload_mask),
]
