"""Inspection of a prompt's outputs: pictures are decoded frame by frame; other files must be of the kind they claim.

Decoding takes 25 ms of CPU for a 1024² PNG. It happens in a thread, after the fetch time has been measured. If more
pictures arrive than can be decoded without disturbing the load, a random sample is decoded (`DecodingSample`).
"""

from __future__ import annotations

import hashlib
import io
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pytest_comfyload.image_containers import OtherFormat, PictureError, PictureTooLarge, expect_complete
from pytest_comfyload.image_files import decoding, format_of, frames, strips
from pytest_comfyload.protocol.outputs import OutputFile, is_picture

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "LARGEST",
    "PIXELS_PER_SECOND",
    "DecodingSample",
    "Inspection",
    "Thumbnail",
    "inspect",
    "picture_format",
    "thumbnail",
]

# Five pictures of 1024 × 1024 a second take an eighth of a core.
PIXELS_PER_SECOND = 5 * 2**20
# Wall seconds over which that is averaged, so that a burst is decoded completely.
_AVERAGED = 10.0
# The minimum that a picture counts as: opening one takes as long as decoding 128 × 128 pixels.
_LEAST_PIXELS = 128 * 128


class DecodingSample:
    """Choice of the pictures of a load that are decoded; it can be used by several threads.

    Up to `PIXELS_PER_SECOND`, averaged over ten wall seconds, every picture is decoded; beyond that, each with the same
    probability, such that about this rate is kept. The choice depends on the seed and a picture's key, so that both
    loads of an A/B comparison decode the same pairs.
    """

    def __init__(self, seed: int, now: Callable[[], float] = time.monotonic) -> None:
        self._seed = seed
        self._now = now
        self._lock = threading.Lock()
        self._arrived: deque[tuple[float, int]] = deque()
        self._pixels = 0

    def draws(self, key: str, pixels: int) -> bool:
        """Return whether to decode this picture."""
        share = self._share(max(pixels, _LEAST_PIXELS))
        return share >= 1 or random.Random(f"{self._seed} {key}").random() < share

    def _share(self, pixels: int) -> float:
        with self._lock:
            now = self._now()
            self._arrived.append((now, pixels))
            self._pixels += pixels
            while self._arrived[0][0] <= now - _AVERAGED:
                self._pixels -= self._arrived.popleft()[1]
            return PIXELS_PER_SECOND * _AVERAGED / max(1, self._pixels)


@dataclass(frozen=True, slots=True)
class Inspection:
    """Result of the inspection of a file; `fault` None: the file is what its name says.

    `width` and `height` are those of a picture, in pixels. `pixels` is a hash of its visible content, regardless of the
    file's metadata, or None if it was not decoded. `blank`: every channel is constant, in every frame.
    """

    fault: str | None = None
    width: int | None = None
    height: int | None = None
    pixels: str | None = None
    blank: bool = False


# Magic bytes of file types, with their offsets; files of other types only have to be non-empty.
_BEGINNINGS: dict[str, tuple[tuple[int, bytes], ...]] = {
    ".mp4": ((4, b"ftyp"),),
    ".mov": ((4, b"ftyp"),),
    ".m4a": ((4, b"ftyp"),),
    ".webm": ((0, b"\x1a\x45\xdf\xa3"),),
    ".mkv": ((0, b"\x1a\x45\xdf\xa3"),),
    ".avi": ((8, b"AVI "),),
    ".wav": ((8, b"WAVE"),),
    ".flac": ((0, b"fLaC"),),
    ".ogg": ((0, b"OggS"),),
    ".opus": ((0, b"OggS"),),
    ".mp3": ((0, b"ID3"), (0, b"\xff\xfb"), (0, b"\xff\xf3"), (0, b"\xff\xf2"), (0, b"\xff\xfa")),
    ".glb": ((0, b"glTF"),),
}


def picture_format(file: OutputFile) -> str | None:
    """Return the only format Pillow may decode the file as; None if it is not a picture or the format is unknown."""
    return format_of(file.filename) if is_picture(file.filename) else None


def inspect(file: OutputFile, content: bytes, draws: Callable[[int], bool] = lambda pixels: True) -> Inspection:
    """Judge one fetched file by its bytes.

    Args:
        draws: Whether to decode a picture with this number of pixels; if not, its size, header and container are
            checked.
    """
    if not content:
        return Inspection(f"{file.filename} is empty")
    if is_picture(file.filename):
        return _inspect_picture(file, content, draws)
    beginnings = _BEGINNINGS.get(_suffix(file))
    if beginnings and not any(content[at : at + len(magic)] == magic for at, magic in beginnings):
        return _misnamed(file, content)
    return Inspection()


def _inspect_picture(file: OutputFile, content: bytes, draws: Callable[[int], bool]) -> Inspection:
    encoding = picture_format(file)
    if encoding is None:
        return Inspection()  # an older Pillow, which does not support AVIF
    try:
        with decoding(content, encoding) as picture:
            width, height = picture.size
            if draws(width * height):
                return _seen(picture)
        expect_complete(content, encoding)
        return Inspection(None, width, height)
    except OtherFormat:
        return _misnamed(file, content)
    except PictureTooLarge:
        return Inspection()  # a large upscale is not a fault
    except PictureError as error:
        return Inspection(f"{file.filename} cannot be decoded ({error})")


def _seen(picture: Image) -> Inspection:
    """Decode all frames, since an animation that fades in from black is not blank."""
    pixels, blank = hashlib.blake2b(digest_size=8), True
    width, height = picture.size
    for frame in frames(picture):
        pixels.update(f"{frame.mode} {width} {height} ".encode())
        extrema = set()
        for strip in strips(frame):
            pixels.update(strip.tobytes())
            extrema.add(strip.getextrema())
        blank = blank and len(extrema) == 1 and _is_flat(extrema.pop())
    # A single pixel always has one colour, and does not count as blank.
    return Inspection(None, width, height, pixels.hexdigest(), blank and width * height > 1)


def _is_flat(extrema: tuple[Any, ...]) -> bool:
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in bands)


def _misnamed(file: OutputFile, content: bytes) -> Inspection:
    return Inspection(f"{file.filename} is not a {_suffix(file)[1:]} file: it begins with {content[:8].hex(' ')}")


def _suffix(file: OutputFile) -> str:
    return PurePosixPath(file.filename).suffix.lower()


# Maximum bytes; noise, which compresses worst, takes 30 kB.
LARGEST = 32 * 1024
# Longest side in pixels and WebP's quality: the first result that is small enough is used.
_ATTEMPTS = ((256, 75), (256, 30), (128, 50))


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A WebP picture; width and height in pixels."""

    content: bytes
    width: int
    height: int


def thumbnail(file: OutputFile, content: bytes) -> Thumbnail | None:
    """Return a thumbnail, or None for what cannot be shown. A 1024² PNG takes 30 ms: call this in a thread."""
    encoding = picture_format(file)
    if encoding is None:
        return None
    try:
        with decoding(content, encoding) as picture:
            # Much of a JPEG need not even be decoded.
            picture.draft("RGB", (2 * _ATTEMPTS[0][0],) * 2)
            return _small(_plain(picture))
    except PictureError:
        return None


def _plain(picture: Image) -> Image:
    """Convert to a mode that WebP supports, without the file's metadata."""
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
