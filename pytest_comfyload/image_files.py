"""Decoding of pictures from servers and files, within limits: the only module that opens files with Pillow.

Pillow trusts the sizes, frames and metadata that a file states: a few kilobytes can make it allocate gigabytes, run for
minutes, or warn a thousand times. Therefore the file's structure is checked before Pillow sees it, and Pillow gets only
the parts that make up the pixels: text, EXIF, ICC profiles and comments are removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import importlib
import io
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.image_containers import (
    FORMATS,
    MAX_FRAMES,
    MAX_PIXELS,
    PictureError,
    PictureTooLarge,
    expect_size,
    needed_parts,
    recognized,
)

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "decoding",
    "format_of",
    "frames",
    "in_picture_thread",
    "is_animated",
    "is_tiny",
    "strips",
]

T = TypeVar("T")

# CPU seconds for one file. 64 megapixels take 1 to 3.
MAX_DECODING_TIME = 10.0
# Files that are decoded at the same time. Each may need the memory for MAX_PIXELS.
DECODERS = 2
# Pixels of one strip of a frame.
STRIP_PIXELS = 2**20


# Bytes and pixels of a PNG that is decoded in less time than it takes to hand it to a thread.
TINY_FILE = 64 * 1024
TINY = 128 * 128
_PNG = re.compile(rb"\x89PNG\r\n\x1a\n\0\0\0\rIHDR(.{8})", re.DOTALL)

# Pillow's plugins that are not named after the format.
_PLUGINS = {"WEBP": "WebP"}

_executor = ThreadPoolExecutor(DECODERS, thread_name_prefix="comfyload-picture")
_stop: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("stop", default=None)


async def in_picture_thread(function: Callable[..., T], *args: object) -> T:
    """Call a function that decodes pictures in one of a few threads; once cancelled, it stops at its next read."""
    stop = threading.Event()
    context = contextvars.copy_context()
    context.run(_stop.set, stop)
    try:
        decoding = asyncio.get_running_loop().run_in_executor(_executor, context.run, function, *args)
    except RuntimeError:
        # No thread can be started: the event loop is blocked meanwhile, and reports that as its lag.
        return context.run(function, *args)
    try:
        return await decoding
    except asyncio.CancelledError:
        stop.set()
        raise


def is_tiny(content: bytes) -> bool:
    """Return whether a file is decoded so quickly that it needs no thread: a small PNG with one frame."""
    head = _PNG.match(content)
    if head is None or len(content) > TINY_FILE or b"acTL" in content:
        return False
    width, height = struct.unpack(">II", head[1])
    return bool(width * height <= TINY)


def format_of(filename: str) -> str | None:
    """Return Pillow's name for the format of a file with this name; None if this Pillow cannot decode it."""
    from PIL import Image

    _load_plugins()
    _, dot, extension = filename.rpartition(".")
    form = Image.EXTENSION.get(dot + extension.lower())
    return form if form in FORMATS else None


@functools.cache
def _load_plugins() -> None:
    """Load Pillow's plugins for our formats; loading all of its formats would import sixty modules."""
    for form in FORMATS:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"PIL.{_PLUGINS.get(form, form.capitalize())}ImagePlugin")


@contextlib.contextmanager
def decoding(content: bytes, form: str | None = None, *, orientation: bool = False) -> Iterator[Image]:
    """Open a picture, and decode it in the `with` block.

    Args:
        form: The required format, by Pillow's name; None: any supported format.
        orientation: Keep the EXIF block, which states the orientation.

    Raises: PictureError for anything that Pillow raises; OtherFormat; PictureTooLarge.
    """
    from PIL import Image, UnidentifiedImageError

    form = recognized(content, form)
    try:
        with Image.open(_Watched(needed_parts(content, form, orientation)), formats=[form]) as picture:
            expect_size(*picture.size)
            yield picture
    except (PictureError, ComfyloadError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureTooLarge(str(error)) from None  # Pillow's own limit was set below ours
    except UnidentifiedImageError:
        raise PictureError("its header is damaged") from None
    except Exception as error:  # broken data can make Pillow's decoders raise anything
        raise PictureError(str(error) or type(error).__name__) from None


def frames(picture: Image) -> Iterator[Image]:
    """Yield the picture at each of its frames, up to the limits. Use it within `decoding`."""
    # These formats state the number of frames in a header; for the others Pillow would have to read all frames.
    stated = getattr(picture, "n_frames", 1) if picture.format in ("PNG", "WEBP", "AVIF") else 0
    left = MAX_PIXELS
    for number in range(MAX_FRAMES):
        try:
            picture.seek(number)
        except EOFError:
            if number < stated:
                raise PictureError(f"it has {number} of {stated} frames") from None
            return
        expect_size(*picture.size)
        left -= picture.width * picture.height
        if left < 0 and number:
            return
        _expect_not_stopped()
        yield picture


def strips(frame: Image) -> Iterator[Image]:
    """Yield the frame in full-width strips from top to bottom, so that copies of it take little memory."""
    rows = max(1, STRIP_PIXELS // max(1, frame.width))
    if frame.height <= rows:
        yield frame
        return
    for top in range(0, frame.height, rows):
        _expect_not_stopped()
        yield frame.crop((0, top, frame.width, min(top + rows, frame.height)))


def is_animated(picture: Image) -> bool:
    """Return whether a picture has a second frame. Use it within `decoding`."""
    try:
        picture.seek(1)
    except EOFError:
        return False
    return True


def _expect_not_stopped() -> None:
    stop = _stop.get()
    if stop is not None and stop.is_set():
        raise PictureError("decoding was stopped")


class _Watched(io.BytesIO):
    """File object whose reader gets a limited CPU time, and none once decoding is stopped."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._begin = time.perf_counter(), time.thread_time()

    def read(self, size: int | None = -1, /) -> bytes:
        wall, cpu = self._begin
        # Reading the thread's CPU time is a system call, which is not needed until that much wall time has passed.
        if time.perf_counter() - wall > MAX_DECODING_TIME < time.thread_time() - cpu:
            raise PictureError(f"decoding takes more than {MAX_DECODING_TIME:g} s")
        _expect_not_stopped()
        return super().read(size)
