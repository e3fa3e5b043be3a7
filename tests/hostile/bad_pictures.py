"""Images made to consume memory or time, or that lie about themselves; all are small files."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping

from PIL import Image

__all__ = ["BOMBS", "HAS_AVIF", "gif", "png", "png_chunk", "tiff"]

Image.init()
HAS_AVIF = "AVIF" in Image.SAVE  # Pillow 11.3 or newer


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _ihdr(width: int, height: int) -> bytes:
    return png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def png(width: int, height: int, *chunks: bytes, pixels: bytes | None = None) -> bytes:
    """Return a PNG with `chunks` before its pixels, which match its size unless given."""
    data = zlib.compress((b"\0" + b"\1\2\3" * width) * height) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + _ihdr(width, height) + b"".join(chunks) + _idat(data) + png_chunk(b"IEND", b"")


def _idat(data: bytes) -> bytes:
    return png_chunk(b"IDAT", data)


def _zeros(count: int) -> bytes:
    """Return `count` zero bytes, compressed."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(count >> 20)) + packer.flush()


def _encoded(form: str, size: tuple[int, int] = (16, 16), **options: object) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(out, form, **options)
    return out.getvalue()


# --- PNG -------------------------------------------------------------------------------------------------------------


def _png_flat(side: int) -> bytes:
    """Return a file of a few kilobytes with all of its `side`² pixels, which are black."""
    return png(side, side, pixels=_zeros((3 * side + 1) * side + (1 << 20)))


def _apng(frames: int, side: int, told: int | None = None) -> bytes:
    """Return an APNG whose one-pixel frames must each be composed on a large canvas."""
    pixel = zlib.compress(b"\0\1\2\3")
    parts = [png_chunk(b"acTL", struct.pack(">II", told or frames, 0))]
    whole = zlib.compress(bytes((3 * side + 1) * side), 9)
    parts.append(png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 1, 10, 0, 0)))
    parts.append(_idat(whole))
    for number in range(1, frames):
        parts.append(png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2 * number - 1, 1, 1, 0, 0, 1, 10, 1, 0)))
        parts.append(png_chunk(b"fdAT", struct.pack(">I", 2 * number) + pixel))
    return b"\x89PNG\r\n\x1a\n" + _ihdr(side, side) + b"".join(parts) + png_chunk(b"IEND", b"")


def _text_bomb(kind: bytes, count: int) -> bytes:
    body = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}[kind] + _zeros(20 << 20)
    return png(16, 16, *[png_chunk(kind, body)] * count)


# --- JPEG ------------------------------------------------------------------------------------------------------------


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _exif_bomb(segments: int = 40) -> bytes:
    """Return a JPEG whose Exif tags all have the data of all segments as their value."""
    count = 5000
    size = segments * 60_000
    entries = b"".join(struct.pack("<HHII", 1000 + number, 7, size - 70_000, 8) for number in range(count))
    block = b"II*\0" + struct.pack("<IH", 8, count) + entries
    block += bytes(size - len(block))
    parts = [block[at : at + 60_000] for at in range(0, size, 60_000)]
    whole = _encoded("JPEG")
    return whole[:2] + b"".join(_segment(0xE1, b"Exif\0\0" + part) for part in parts) + whole[2:]


def _scan_bomb(side: int, scans: int) -> bytes:
    """Return a progressive JPEG with one small scan repeated: each repetition passes over all pixels."""
    out = io.BytesIO()
    Image.new("L", (side, side), 77).save(out, "JPEG", progressive=True, quality=50)
    content = out.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * scans + content[-2:]


def _jpeg_header(width: int, height: int) -> bytes:
    content = bytearray(_encoded("JPEG"))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


# --- GIF -------------------------------------------------------------------------------------------------------------


def gif(screen: tuple[int, int], frames: int, size: tuple[int, int] = (1, 1)) -> bytes:
    """Return a GIF with frames of `size`; large frames are truncated after a few pixels."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, *size, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * frames + b";"


# --- TIFF ------------------------------------------------------------------------------------------------------------


def tiff(entries: list[tuple[int, int, int, int]], body: bytes = b"", following: int = 0) -> bytes:
    """Build a TIFF from entries of tag, type, count and value; the body starts at byte 8."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + struct.pack("<I", following)


def _plain_tiff(width: int = 16, height: int = 16) -> list[tuple[int, int, int, int]]:
    return [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 256),
    ]  # fmt: skip


def _tiff_tag_bomb() -> bytes:
    body = bytes(4 << 20)
    return tiff([*_plain_tiff(), *((40_000 + number, 7, len(body), 8) for number in range(2000))], body)


def _tiff_loop() -> bytes:
    body = bytes(range(256))
    return tiff(_plain_tiff(), body, following=8 + len(body))


def _tiff_chain(count: int) -> bytes:
    """Return a TIFF with a long chain of directories."""
    body = bytes(range(256))
    length = 2 + 12 * len(_plain_tiff()) + 4
    first = tiff(_plain_tiff(), body, following=8 + len(body) + length)
    one = first[8 + len(body) :]
    places = (8 + len(body) + (number + 2) * length for number in range(count))
    return first + b"".join(one[:-4] + struct.pack("<I", place) for place in places)


def _tiff_tile() -> bytes:
    entries = [each for each in _plain_tiff() if each[0] not in (273, 278, 279)]
    entries = [(259, 3, 1, 8) if each[0] == 259 else each for each in entries]
    return tiff(
        sorted([*entries, (322, 4, 1, 32_000), (323, 4, 1, 32_000), (324, 4, 1, 8), (325, 4, 1, 256)]), bytes(256)
    )


# --- WebP, BMP, AVIF -------------------------------------------------------------------------------------------------


def _webp_canvas(side: int) -> bytes:
    """Return an animation on a canvas of `side`² pixels; its only frame has 16² pixels."""
    picture = _encoded("WEBP")[12:]
    frame = bytes(6) + (15).to_bytes(3, "little") * 2 + (100).to_bytes(3, "little") + b"\0" + picture
    head = b"\x02\0\0\0" + (side - 1).to_bytes(3, "little") * 2
    chunks = b"VP8X" + struct.pack("<I", 10) + head + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    chunks += b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def _webp_frames(side: int, count: int) -> bytes:
    whole = _webp_canvas(side)
    at = whole.index(b"ANMF")
    chunks = whole[12:at] + whole[at:] * count
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def _bmp(width: int, height: int) -> bytes:
    content = bytearray(_encoded("BMP"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def _bmp_rle(side: int) -> bytes:
    """Return a run-length encoded BMP with two pixels per run, which Pillow decodes in Python."""
    palette = b"".join(bytes((level, level, level, 0)) for level in range(256))
    data = (b"\x02\x55" * (side // 2) + b"\0\0") * side + b"\0\1"
    at = 14 + 40 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", at + len(data), 0, 0, at) + head + palette + data


def _avif_header(side: int) -> bytes:
    content = bytearray(_encoded("AVIF"))
    at = content.index(b"ispe")
    content[at + 8 : at + 16] = struct.pack(">II", side, side)
    return bytes(content)


def _half(form: str) -> bytes:
    whole = _encoded(form, (200, 200))
    return whole[: len(whole) // 2]


_AVIF: Mapping[str, Callable[[], bytes]] = {
    "avif header 60000.avif": lambda: _avif_header(60_000),
    "avif header 16384.avif": lambda: _avif_header(16_384),
    "truncated.avif": lambda: _half("AVIF"),
}

BOMBS: Mapping[str, Callable[[], bytes]] = {
    "header 60000.png": lambda: png(60_000, 60_000, pixels=zlib.compress(bytes(100))),
    "header 2**31.png": lambda: png(2**31 - 1, 2**31 - 1, pixels=zlib.compress(bytes(100))),
    "header 10000.png": lambda: png(10_000, 10_000, pixels=zlib.compress(bytes(100))),
    "second header.png": lambda: png(16, 16, _ihdr(12_000, 12_000)),
    "flat 8400.png": lambda: _png_flat(8400),
    "zTXt.png": lambda: _text_bomb(b"zTXt", 40),
    "iTXt.png": lambda: _text_bomb(b"iTXt", 40),
    "iCCP.png": lambda: _text_bomb(b"iCCP", 2),
    "chunks.png": lambda: png(16, 16, png_chunk(b"ruBb", b"") * 500_000),
    "empty data.png": lambda: png(16, 16, _idat(b"") * 500_000),
    "eXIf.png": lambda: png(16, 16, png_chunk(b"eXIf", _exif_bomb()[12:4_000_000])),
    "frames.png": lambda: _apng(3000, 2000),
    "frames told.png": lambda: _apng(3, 16, told=2**31 - 1),
    "header 65000.jpg": lambda: _jpeg_header(65_000, 65_000),
    "header 9000.jpg": lambda: _jpeg_header(9000, 9000),
    "exif.jpg": _exif_bomb,
    "comments.jpg": lambda: (whole := _encoded("JPEG"))[:2] + _segment(0xFE, b"") * 500_000 + whole[2:],
    "scans.jpg": lambda: _scan_bomb(2000, 3000),
    "header 65000.gif": lambda: gif((65_000, 65_000), 1),
    "growing.gif": lambda: gif((1, 1), 1) [:-1] + gif((1, 1), 1, (12_000, 9000))[19:],
    "growing far.gif": lambda: gif((1, 1), 1) [:-1] + gif((1, 1), 1, (65_000, 65_000))[19:],
    "100000 frames.gif": lambda: gif((16, 16), 100_000),
    "1000000 frames.gif": lambda: gif((16, 16), 1_000_000),
    "large frames.gif": lambda: gif((8000, 8000), 1000, (8000, 8000)),
    "comments.gif": lambda: gif((16, 16), 1)[:19] + b"!\xfe\x01a\0" * 500_000 + gif((16, 16), 1)[19:],
    "header 60000.tif": lambda: tiff(_plain_tiff(60_000, 60_000), bytes(256)),
    "tags.tif": _tiff_tag_bomb,
    "loop.tif": _tiff_loop,
    "chain.tif": lambda: _tiff_chain(20_000),
    "tile.tif": _tiff_tile,
    "canvas 16000.webp": lambda: _webp_canvas(16_000),
    "canvas 12000.webp": lambda: _webp_canvas(12_000),
    "frames.webp": lambda: _webp_frames(2000, 3000),
    "header 60000.bmp": lambda: _bmp(60_000, 60_000),
    "header 2**31.bmp": lambda: _bmp(2**31 - 1, -(2**31)),
    "runs.bmp": lambda: _bmp_rle(8000),
    **{f"truncated.{suffix}": lambda form=form: _half(form) for suffix, form in (  # type: ignore[misc]
        ("png", "PNG"), ("jpg", "JPEG"), ("gif", "GIF"), ("tif", "TIFF"), ("webp", "WEBP"), ("bmp", "BMP"),
    )},
    **(_AVIF if HAS_AVIF else {}),
}  # fmt: skip
"""Functions by file name; the suffix is the claimed file type."""
