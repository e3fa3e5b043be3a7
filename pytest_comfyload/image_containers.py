"""Containers of image files: their structure is parsed, the sizes that they state are checked, only pixels are kept.

Nothing is decoded here. A file that would cost a decoder gigabytes or minutes is rejected before the decoder sees it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

__all__ = [
    "FORMATS",
    "MAX_FRAMES",
    "MAX_PIXELS",
    "OtherFormat",
    "PictureError",
    "PictureTooLarge",
    "expect_complete",
    "expect_size",
    "needed_parts",
    "recognized",
]

# Pixels of one frame, and of all decoded frames of a file: 8192 × 8192, up to 1 GiB of memory during decoding.
MAX_PIXELS = 64 * 2**20
# Frames of a file that are decoded; later frames are skipped, as are those beyond MAX_PIXELS.
MAX_FRAMES = 4096
# Scans of a progressive JPEG; encoders use about ten.
MAX_SCANS = 100
# Bytes of the EXIF block that states the orientation.
MAX_EXIF = 64 * 1024


class PictureError(Exception):
    """The file cannot be decoded."""


class OtherFormat(PictureError):
    """The file has none of the expected formats."""


class PictureTooLarge(PictureError):
    """The file may be valid, but has more pixels than are decoded."""


def expect_complete(content: bytes, form: str) -> None:
    """Check, by the container alone, that no pixel data of a PNG, JPEG or WebP is missing. Raises: PictureError."""
    complete = {"PNG": _png_complete, "JPEG": _jpeg_complete, "WEBP": _webp_complete}.get(form)
    if complete is not None and not complete(content):
        raise PictureError("image file is truncated")


def expect_size(width: int, height: int) -> None:
    """Check that a picture of this size may be decoded. Raises: PictureTooLarge."""
    if abs(width) * abs(height) > MAX_PIXELS:
        raise PictureTooLarge(f"it has {width} × {height} pixels, more than {MAX_PIXELS / 1e6:.0f} million")


def recognized(content: bytes, form: str | None) -> str:
    """Return the format of a file by its first bytes. Raises: OtherFormat, also for a format other than `form`."""
    found = next((each for each, begins in _SIGNATURES.items() if begins(content)), None)
    if found is None or form not in (None, found):
        raise OtherFormat(f"it begins with {content[:8].hex(' ')}")
    return found


def needed_parts(content: bytes, form: str, orientation: bool) -> bytes:
    """Return the parts that make up the pixels, and EXIF if `orientation`. Raises: PictureError, PictureTooLarge."""
    try:
        return FORMATS[form](content, orientation)
    except (IndexError, struct.error):
        raise PictureError("its header is truncated") from None


def _png(content: bytes, orientation: bool) -> bytes:
    """Return a PNG without text, profiles, repeated headers and empty chunks."""
    kept, at, view = bytearray(content[:8]), 8, memoryview(content)
    while at < len(content):
        length, kind = int.from_bytes(view[at : at + 4]), content[at + 4 : at + 8]
        end = at + 12 + length
        if at == 8 and kind != b"IHDR":
            raise PictureError("its header is damaged")
        if kind == b"IHDR" and at == 8:
            expect_size(*struct.unpack(">II", content[16:24]))
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
    """Return whether a PNG has pixel data, and as much of it as its chunks state.

    Decoders do not need checksums or the end chunk.
    """
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
    """Return a JPEG without comments and application segments, except JFIF's and Adobe's (the colour transform)."""
    kept, at = bytearray(b"\xff\xd8"), 2
    while content[at] == 0xFF and (marker := content[at + 1]) != _SOS:
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        segment = content[at : at + 2 + int.from_bytes(content[at + 2 : at + 4])]
        if marker in _SOF:
            height, width = struct.unpack(">HH", segment[5:9])
            expect_size(width, height)
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
    """Return a GIF without comments and application extensions, and with only the first frames."""
    width, height, flags = struct.unpack("<HHB", content[6:11])
    expect_size(width, height)
    at = 13 + _gif_colours(flags)
    kept, found = bytearray(content[:at]), 0
    while at < len(content) and content[at] != 0x3B and found < MAX_FRAMES:
        begin, kind = at, content[at]
        if kind == 0x2C:
            left, top, wide, high, flags = struct.unpack("<4HB", content[at + 1 : at + 10])
            expect_size(max(width, left + wide), max(height, top + high))
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
    """Return the size of a colour table in bytes."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(content: bytes, at: int) -> int:
    while at < len(content) and (length := content[at]):
        at += 1 + length
    return at + 1


def _webp(content: bytes, orientation: bool) -> bytes:
    kind, data = content[12:16], content[20:30]
    if kind == b"VP8X":
        expect_size(1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little"))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        expect_size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    elif kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[6:10])
        expect_size(width & 0x3FFF, height & 0x3FFF)
    return content


def _webp_complete(content: bytes) -> bool:
    return len(content) >= 8 + int.from_bytes(content[4:8], "little")


def _bmp(content: bytes, orientation: bool) -> bytes:
    old = content[14:18] == b"\x0c\0\0\0"
    expect_size(*struct.unpack("<HH" if old else "<ii", content[18 : 22 if old else 26]))
    if not old and content[30] in (1, 2):
        raise PictureError("run-length encoding is not supported")  # Pillow decodes it in Python, 0.5 µs per byte
    return content


def _avif(content: bytes, orientation: bool) -> bytes:
    at = -1
    while (at := content.find(b"ispe", at + 1, 65_536)) >= 0:
        expect_size(*struct.unpack(">II", content[at + 8 : at + 16]))
    return content


def _tiff(content: bytes, orientation: bool) -> bytes:
    """Return a TIFF whose directories are valid: the data that each points to must not exceed the size of the file."""
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
    """Check a directory, and return where it ends. Raises: PictureError, PictureTooLarge."""
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
        expect_size(sides.get(width, 0), sides.get(height, 0))
    return end


# Bytes per value, by type; the tags for width and height of the picture and of its tiles.
_TIFF_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_SIDES = (256, 257, 322, 323)

FORMATS: Mapping[str, Callable[[bytes, bool], bytes]] = {
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
