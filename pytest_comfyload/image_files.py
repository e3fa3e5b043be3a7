"""Pictures from servers and files, decoded within limits: the one place that opens a file with Pillow.

Pillow reads sizes, frames and metadata as a file states them: some kilobytes can make it allocate gigabytes, run for
minutes, or warn a thousand times. So the file's structure is checked before Pillow sees it, and Pillow gets only the
parts that pixels are made of: text, EXIF, ICC profiles and comments are removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import importlib
import io
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from pytest_comfyload.errors import ComfyloadError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "MAX_FRAMES",
    "MAX_PIXELS",
    "OtherFormat",
    "PictureError",
    "PictureTooLarge",
    "decoding",
    "expect_complete",
    "format_of",
    "frames",
    "in_picture_thread",
    "is_animated",
    "strips",
]

T = TypeVar("T")

# Of one frame, and of all frames of a file that are decoded: 8192 × 8192, up to 1 GiB of memory while they are decoded.
MAX_PIXELS = 64 * 2**20
# Frames of a file that are decoded; later ones are left out, as are those beyond MAX_PIXELS.
MAX_FRAMES = 4096
# CPU seconds for one file. 64 megapixels take 1 to 3.
MAX_DECODING_TIME = 10.0
# Files that are decoded at the same time. Each may take the memory of MAX_PIXELS.
DECODERS = 2
# Passes over a progressive JPEG; encoders make about ten.
MAX_SCANS = 100
# Pixels of one strip of a frame.
STRIP_PIXELS = 2**20
# Bytes of the one EXIF block that says which side is up.
MAX_EXIF = 64 * 1024


class PictureError(Exception):
    """The file cannot be decoded."""


class OtherFormat(PictureError):
    """The file is of none of the expected formats."""


class PictureTooLarge(PictureError):
    """The file may be valid, but has more pixels than are decoded."""


_executor = ThreadPoolExecutor(DECODERS, thread_name_prefix="comfyload-picture")
_stop: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("stop", default=None)


async def in_picture_thread(function: Callable[..., T], *args: object) -> T:
    """Call a function that decodes pictures in one of a few threads; once cancelled, it ends at its next read."""
    stop = threading.Event()
    context = contextvars.copy_context()
    context.run(_stop.set, stop)
    try:
        decoding = asyncio.get_running_loop().run_in_executor(_executor, context.run, function, *args)
    except RuntimeError:
        # No thread can be started. The loop waits meanwhile, and says so as its lag.
        return context.run(function, *args)
    try:
        return await decoding
    except asyncio.CancelledError:
        stop.set()
        raise


def format_of(filename: str) -> str | None:
    """Pillow's name of the format of a picture with this file name; None where this Pillow cannot decode it."""
    from PIL import Image

    _load_plugins()
    form = Image.EXTENSION.get(PurePosixPath(filename).suffix.lower())
    return form if form in _FORMATS else None


@functools.cache
def _load_plugins() -> None:
    """Load Pillow's plugins of our formats; it would load sixty modules to know all of its own."""
    for form in _FORMATS:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"PIL.{_PLUGINS.get(form, form.capitalize())}ImagePlugin")


@contextlib.contextmanager
def decoding(content: bytes, form: str | None = None, *, orientation: bool = False) -> Iterator[Image]:
    """Open a picture, and decode it in the `with` block.

    Args:
        form: The format that it must have, by Pillow's name; None for any of those that are supported.
        orientation: Keep the EXIF block, which says which side is up.

    Raises: PictureError for whatever Pillow raises; OtherFormat; PictureTooLarge.
    """
    from PIL import Image, UnidentifiedImageError

    form = _recognized(content, form)
    try:
        with Image.open(_Watched(_checked(content, form, orientation)), formats=[form]) as picture:
            _expect_size(*picture.size)
            yield picture
    except (PictureError, ComfyloadError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureTooLarge(str(error)) from None  # Pillow's own limit was set below ours
    except UnidentifiedImageError:
        raise PictureError("its header is damaged") from None
    except Exception as error:  # its decoders raise whatever broken bytes lead them to
        raise PictureError(str(error) or type(error).__name__) from None


def expect_complete(content: bytes, form: str) -> None:
    """Check by the container alone that no pixel data is missing: of PNG, JPEG and WebP. Raises: PictureError."""
    complete = {"PNG": _png_complete, "JPEG": _jpeg_complete, "WEBP": _webp_complete}.get(form)
    if complete is not None and not complete(content):
        raise PictureError("image file is truncated")


def frames(picture: Image) -> Iterator[Image]:
    """Yield the picture at each of its frames, as far as they are decoded. Use it within `decoding`."""
    # Formats that state the number in a header; for the others Pillow would have to read all of them.
    stated = getattr(picture, "n_frames", 1) if picture.format in ("PNG", "WEBP", "AVIF") else 0
    left = MAX_PIXELS
    for number in range(MAX_FRAMES):
        try:
            picture.seek(number)
        except EOFError:
            if number < stated:
                raise PictureError(f"it has {number} of {stated} frames") from None
            return
        _expect_size(*picture.size)
        left -= picture.width * picture.height
        if left < 0 and number:
            return
        _expect_not_stopped()
        yield picture


def strips(frame: Image) -> Iterator[Image]:
    """Yield the frame in strips of full width from top to bottom, whose copies take little memory."""
    rows = max(1, STRIP_PIXELS // max(1, frame.width))
    for top in range(0, frame.height, rows):
        _expect_not_stopped()
        yield frame.crop((0, top, frame.width, min(top + rows, frame.height)))


def is_animated(picture: Image) -> bool:
    """Whether it has a second frame. Use it within `decoding`."""
    try:
        picture.seek(1)
    except EOFError:
        return False
    return True


def _expect_size(width: int, height: int) -> None:
    if abs(width) * abs(height) > MAX_PIXELS:
        raise PictureTooLarge(f"it has {width} × {height} pixels, more than {MAX_PIXELS / 1e6:.0f} million")


def _expect_not_stopped() -> None:
    stop = _stop.get()
    if stop is not None and stop.is_set():
        raise PictureError("decoding was stopped")


class _Watched(io.BytesIO):
    """A file whose reader gets only so much CPU time, and none once it is stopped."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._end = time.thread_time() + MAX_DECODING_TIME

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._end:
            raise PictureError(f"decoding takes more than {MAX_DECODING_TIME:g} s")
        _expect_not_stopped()
        return super().read(size)


# --- what of a file Pillow gets --------------------------------------------------------------------------------------


def _recognized(content: bytes, form: str | None) -> str:
    found = next((each for each, begins in _SIGNATURES.items() if begins(content)), None)
    if found is None or form not in (None, found):
        raise OtherFormat(f"it begins with {content[:8].hex(' ')}")
    return found


def _checked(content: bytes, form: str, orientation: bool) -> bytes:
    try:
        return _FORMATS[form](content, orientation)
    except (IndexError, struct.error):
        raise PictureError("its header is truncated") from None


def _png(content: bytes, orientation: bool) -> bytes:
    """Without text and profiles, further headers and empty chunks."""
    kept, at, view = bytearray(content[:8]), 8, memoryview(content)
    while at < len(content):
        length, kind = int.from_bytes(view[at : at + 4]), content[at + 4 : at + 8]
        end = at + 12 + length
        if at == 8 and kind != b"IHDR":
            raise PictureError("its header is damaged")
        if kind == b"IHDR" and at == 8:
            _expect_size(*struct.unpack(">II", content[16:24]))
            kept += view[at:end]
        elif (length and kind in _PNG_PIXELS) or (kind == b"eXIf" and orientation and length <= MAX_EXIF):
            kept += view[at:end]
        elif kind == b"IEND":
            kept += view[at:end]
            break
        at = end
    return bytes(kept)


_PNG_PIXELS = (b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT")


def _png_complete(content: bytes) -> bool:
    """Whether it has pixel data, and all that its chunks state; decoders do not miss checksums and the end chunk."""
    at, found = 8, False
    while at + 8 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        if kind == b"IEND":
            break
        if kind in (b"IDAT", b"fdAT"):
            found = True
            if at + 8 + length > len(content):
                return False
        at += 12 + length
    return found


def _jpeg(content: bytes, orientation: bool) -> bytes:
    """Without what applications have added and comments; the colour transform of Adobe's segment stays."""
    kept, at = bytearray(b"\xff\xd8"), 2
    while content[at] == 0xFF and (marker := content[at + 1]) != _SOS:
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        segment = content[at : at + 2 + int.from_bytes(content[at + 2 : at + 4])]
        if marker in _SOF:
            height, width = struct.unpack(">HH", segment[5:9])
            _expect_size(width, height)
        if not (marker in _JPEG_METADATA or len(segment) < 4) or (
            orientation and segment[4:10] == b"Exif\0\0" and not kept.count(b"Exif\0\0")
        ):
            kept += segment
        at += max(2, len(segment))
    end = content.find(b"\xff\xd9", at)
    data = content[at:] if end < 0 else content[at : end + 2]
    if (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise PictureError(f"it has {scans} scans, more than {MAX_SCANS}")
    return bytes(kept) + data


def _jpeg_complete(content: bytes) -> bool:
    return content.rfind(b"\xff\xd9") > content.find(b"\xff\xda") > 0


_SOS = 0xDA
_SOF = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}


def _gif(content: bytes, orientation: bool) -> bytes:
    """Without comments and what applications have added, and with the first frames only."""
    width, height, flags = struct.unpack("<HHB", content[6:11])
    _expect_size(width, height)
    at = 13 + _gif_colours(flags)
    kept, found = bytearray(content[:at]), 0
    while at < len(content) and content[at] != 0x3B and found < MAX_FRAMES:
        begin, kind = at, content[at]
        if kind == 0x2C:
            left, top, wide, high, flags = struct.unpack("<4HB", content[at + 1 : at + 10])
            _expect_size(max(width, left + wide), max(height, top + high))
            at = _after_blocks(content, at + 11 + _gif_colours(flags))
            found += 1
        elif kind == 0x21:
            at = _after_blocks(content, at + 2)
        else:
            at += 1
        if kind == 0x2C or content[begin : begin + 2] == b"\x21\xf9":
            kept += content[begin:at]
    return bytes(kept) + content[at : at + 1]


def _gif_colours(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(content: bytes, at: int) -> int:
    while at < len(content) and (length := content[at]):
        at += 1 + length
    return at + 1


def _webp(content: bytes, orientation: bool) -> bytes:
    kind, data = content[12:16], content[20:30]
    if kind == b"VP8X":
        _expect_size(1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little"))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        _expect_size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    elif kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[6:10])
        _expect_size(width & 0x3FFF, height & 0x3FFF)
    return content


def _webp_complete(content: bytes) -> bool:
    return len(content) >= 8 + int.from_bytes(content[4:8], "little")


def _bmp(content: bytes, orientation: bool) -> bytes:
    old = content[14:18] == b"\x0c\0\0\0"
    _expect_size(*struct.unpack("<HH" if old else "<ii", content[18 : 22 if old else 26]))
    if not old and content[30] in (1, 2):
        raise PictureError("run-length encoding is not supported")  # Pillow decodes it in Python, 0.5 µs a byte
    return content


def _avif(content: bytes, orientation: bool) -> bytes:
    at = -1
    while (at := content.find(b"ispe", at + 1, 65_536)) >= 0:
        _expect_size(*struct.unpack(">II", content[at + 8 : at + 16]))
    return content


def _tiff(content: bytes, orientation: bool) -> bytes:
    """Its directories are checked: what their entries point to must lie in the file, and not be the same bytes."""
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    pointer = struct.Struct(order + ("Q" if big else "I"))
    (at,) = pointer.unpack_from(content, 8 if big else 4)
    seen: set[int] = set()
    while at and at not in seen and len(seen) < MAX_FRAMES:
        seen.add(at)
        end = _check_directory(content, at, order, big)
        (at,) = pointer.unpack_from(content, end)
    return content


def _check_directory(content: bytes, at: int, order: str, big: bool) -> int:
    """Where it ends. Raises: PictureError."""
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    number = struct.Struct(order + ("Q" if big else "H"))
    count: int = number.unpack_from(content, at)[0]
    at, end = at + number.size, at + number.size + count * entry.size
    pointed, sides = 0, {}
    if end > len(content):
        raise PictureError("its directory is longer than the file")
    for tag, kind, values, data in entry.iter_unpack(content[at:end]):
        size = values * _TIFF_TYPES.get(kind, 0)
        pointed += size if size > len(data) else 0
        if tag in _TIFF_SIDES and values:
            sides[tag] = int.from_bytes(data[: _TIFF_TYPES.get(kind, 4)], "little" if order == "<" else "big")
    if pointed > len(content):
        raise PictureError("its directory points to more data than there is")
    for width, height in ((256, 257), (322, 323)):
        _expect_size(sides.get(width, 0), sides.get(height, 0))
    return end


# Bytes of a value, by its type; the tags for width and height of the picture and of its tiles.
_TIFF_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_SIDES = (256, 257, 322, 323)

# Of Pillow, where the name of a format's plugin is not its own.
_PLUGINS = {"WEBP": "WebP"}

_FORMATS: Mapping[str, Callable[[bytes, bool], bytes]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "WEBP": _webp,
    "GIF": _gif,
    "BMP": _bmp,
    "TIFF": _tiff,
    "AVIF": _avif,
}


def _begins(*signatures: bytes, at: int = 0) -> Callable[[bytes], bool]:
    return lambda content: content.startswith(signatures, at)


_SIGNATURES: Mapping[str, Callable[[bytes], bool]] = {
    "PNG": _begins(b"\x89PNG\r\n\x1a\n"),
    "JPEG": _begins(b"\xff\xd8\xff"),
    "WEBP": lambda content: content.startswith(b"RIFF") and content.startswith(b"WEBP", 8),
    "GIF": _begins(b"GIF87a", b"GIF89a"),
    "BMP": _begins(b"BM"),
    "TIFF": _begins(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "AVIF": _begins(b"ftypavif", b"ftypavis", b"ftypmif1", b"ftypmsf1", at=4),
}
