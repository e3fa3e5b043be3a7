"""A thumbnail is a picture made small enough to be kept with a run: its pixels and nothing else that was in its file.

What a server embeds in a picture, such as the whole workflow, stays behind.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_comfyload.client.outputs import picture_format
from pytest_comfyload.image_files import PictureError, decoding
from pytest_comfyload.protocol.bodies import OutputFile

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["LARGEST", "Thumbnail", "thumbnail"]

# Bytes; noise, which compresses worst, comes to 30 kB.
LARGEST = 32 * 1024
# Longest side in pixels and WebP's quality: the first that is small enough is taken.
_ATTEMPTS = ((256, 75), (256, 30), (128, 50))


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A WebP picture; width and height in pixels."""

    content: bytes
    width: int
    height: int


def thumbnail(file: OutputFile, content: bytes) -> Thumbnail | None:
    """30 ms for a 1024² PNG, so use a thread. None for what cannot be shown, whatever its bytes are."""
    encoding = picture_format(file)
    if encoding is None:
        return None
    try:
        with decoding(content, encoding) as picture:
            # Much of a photo need not even be decoded.
            picture.draft("RGB", (2 * _ATTEMPTS[0][0],) * 2)
            return _small(_plain(picture))
    except PictureError:
        return None


def _plain(picture: Image) -> Image:
    """In a mode that WebP knows, without what else the file said."""
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda level: level * (1 / 256)).convert("L")
    mode = "RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB"
    plain = picture if picture.mode == mode else picture.convert(mode)
    plain.info = {}
    return plain


def _small(picture: Image) -> Thumbnail | None:
    for side, quality in _ATTEMPTS:
        picture.thumbnail((side, side))
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=quality)
        if buffer.tell() <= LARGEST:
            return Thumbnail(buffer.getvalue(), *picture.size)
    return None
