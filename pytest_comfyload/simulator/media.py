"""Small but valid animation, video and audio files, made with no encoders but Pillow's."""

from __future__ import annotations

import io
import struct
import wave
from collections.abc import Sequence

from PIL import Image

__all__ = ["SOUND_SUFFIXES", "animation", "sound"]

_RATE = 44_100
_SECONDS = 1
SOUND_SUFFIXES = (".wav", ".flac", ".mp3")


def animation(frames: Sequence[Image.Image], suffix: str, rate: float) -> bytes:
    """Return the frames as a file with this suffix, shown at `rate` frames per second."""
    if suffix == ".mp4":
        return _mp4([_encoded(frame, "JPEG", quality=80) for frame in frames], frames[0].size, rate)
    if suffix == ".webm":
        return _webm([_vp8(frame) for frame in frames], frames[0].size, rate)
    out = io.BytesIO()
    duration = max(1, round(1000 / rate))
    frames[0].save(out, suffix[1:].upper(), save_all=True, append_images=frames[1:], duration=duration, loop=0)
    return out.getvalue()


def sound(suffix: str) -> bytes:
    """Return a second of silence as a file with this suffix."""
    return {".wav": _wav, ".flac": _flac, ".mp3": _mp3}[suffix]()


def _encoded(frame: Image.Image, form: str, **options: int) -> bytes:
    out = io.BytesIO()
    frame.save(out, form, **options)
    return out.getvalue()


def _vp8(frame: Image.Image) -> bytes:
    """Return a VP8 key frame, which is the content of the only chunk of a lossy WebP file."""
    content = _encoded(frame, "WEBP", quality=80)
    at = content.index(b"VP8 ")
    return content[at + 8 : at + 8 + int.from_bytes(content[at + 4 : at + 8], "little")]


# --- MP4: boxes of a length, a name and content; the frames are JPEGs -----------------------------------------------


def _box(name: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), name) + content


_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_JPEG_OBJECT = 0x6C
_VISUAL = 0x11


def _mp4(frames: Sequence[bytes], size: tuple[int, int], rate: float) -> bytes:
    head = _box(b"ftyp", b"isom", struct.pack(">I", 0x200), b"isomiso2mp41")
    data = _box(b"mdat", *frames)
    return head + data + _moov(frames, len(head) + 8, size, rate)


def _moov(frames: Sequence[bytes], offset: int, size: tuple[int, int], rate: float) -> bytes:
    scale, delta = 12_800, max(1, round(12_800 / rate))
    length, (width, height) = delta * len(frames), size
    head = struct.pack(">5IIH10x", 0, 0, 0, scale, length, 0x10000, 0x100)
    mvhd = _box(b"mvhd", head, _MATRIX, bytes(24), struct.pack(">I", 2))
    tkhd = _box(
        b"tkhd", struct.pack(">6I8xHHHH", 7, 0, 0, 1, 0, length, 0, 0, 0, 0), _MATRIX,
        struct.pack(">II", width << 16, height << 16),
    )  # fmt: skip
    mdhd = _box(b"mdhd", struct.pack(">5IHH", 0, 0, 0, scale, length, 0x55C4, 0))
    hdlr = _box(b"hdlr", bytes(8), b"vide", bytes(12), b"VideoHandler\0")
    dinf = _box(b"dinf", _box(b"dref", struct.pack(">II", 0, 1), _box(b"url ", struct.pack(">I", 1))))
    minf = _box(b"minf", _box(b"vmhd", struct.pack(">I8x", 1)), dinf, _sample_table(frames, offset, size, delta))
    return _box(b"moov", mvhd, _box(b"trak", tkhd, _box(b"mdia", mdhd, hdlr, minf)))


def _sample_table(frames: Sequence[bytes], offset: int, size: tuple[int, int], delta: int) -> bytes:
    count = len(frames)
    visual = struct.pack(">6xH16xHHIIIH32xHh", 1, *size, 0x480000, 0x480000, 0, 1, 24, -1)
    return _box(
        b"stbl",
        _box(b"stsd", struct.pack(">II", 0, 1), _box(b"mp4v", visual, _elementary_stream())),
        _box(b"stts", struct.pack(">4I", 0, 1, count, delta)),
        _box(b"stsc", struct.pack(">5I", 0, 1, 1, count, 1)),
        _box(b"stsz", struct.pack(f">3I{count}I", 0, 0, count, *map(len, frames))),
        _box(b"stco", struct.pack(">3I", 0, 1, offset)),
    )


def _elementary_stream() -> bytes:
    decoder = struct.pack(">BBBHBII", 4, 13, _JPEG_OBJECT, _VISUAL << 8, 0, 0, 0)
    stream = struct.pack(">HB", 1, 0) + decoder + bytes((6, 1, 2))
    return _box(b"esds", bytes(4), bytes((3, len(stream))), stream)


# --- WebM: elements of an id, a length and content; the frames are VP8 -----------------------------------------------


_Pair = tuple[int, int | float | str]


def _element(name: int, content: bytes | int | float | str) -> bytes:
    if isinstance(content, float):
        content = struct.pack(">d", content)
    elif isinstance(content, int):
        content = content.to_bytes(max(1, (content.bit_length() + 7) // 8), "big")
    elif isinstance(content, str):
        content = content.encode()
    length = (len(content) | 1 << 56).to_bytes(8, "big")
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + length + content


def _webm(frames: Sequence[bytes], size: tuple[int, int], rate: float) -> bytes:
    milliseconds = [round(1000 * index / rate) for index in range(len(frames))]
    head: list[_Pair] = [(0x4286, 1), (0x42F7, 1), (0x42F2, 4), (0x42F3, 8), (0x4282, "webm"), (0x4287, 2), (0x4285, 2)]
    info: list[_Pair] = [
        (0x2AD7B1, 1_000_000),
        (0x4489, 1000.0 * len(frames) / rate),
        (0x4D80, "simulator"),
        (0x5741, "simulator"),
    ]
    video = _element(0xE0, _elements([(0xB0, size[0]), (0xBA, size[1])]))
    track = _elements([(0xD7, 1), (0x73C5, 1), (0x83, 1), (0x86, "V_VP8")]) + video
    blocks = [
        _element(0x1F43B675, _element(0xE7, moment) + _element(0xA3, b"\x81\0\0\x80" + frame))
        for moment, frame in zip(milliseconds, frames, strict=True)
    ]
    body = _element(0x1549A966, _elements(info)) + _element(0x1654AE6B, _element(0xAE, track)) + b"".join(blocks)
    return _element(0x1A45DFA3, _elements(head)) + _element(0x18538067, body)


def _elements(pairs: Sequence[_Pair]) -> bytes:
    return b"".join(_element(name, content) for name, content in pairs)


# --- sound -----------------------------------------------------------------------------------------------------------


def _wav() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        file.writeframes(bytes(2 * _RATE * _SECONDS))
    return out.getvalue()


def _mp3() -> bytes:
    """Return MPEG-1 Layer III at 128 kbit/s; frames without spectral data are silent."""
    return (b"\xff\xfb\x90\xc4" + bytes(413)) * (_RATE * _SECONDS // 1152 + 1)


def _flac() -> bytes:
    """Return mono FLAC with 16 bits, in which each frame has one constant value."""
    block, count = 4096, _RATE * _SECONDS // 4096 + 1
    packed = (_RATE << 44) | (0 << 41) | (15 << 36) | (block * count)
    info = struct.pack(">HH6x", block, block) + packed.to_bytes(8, "big") + bytes(16)
    frames = b"".join(map(_flac_frame, range(count)))
    return b"fLaC" + bytes((0x80,)) + len(info).to_bytes(3, "big") + info + frames


def _flac_frame(number: int) -> bytes:
    """Return header (4096 samples, 44.1 kHz, mono, 16 bits), header checksum, a constant of 0, and overall checksum."""
    head = bytes((0xFF, 0xF8, 0xC9, 0x08, number))
    frame = head + bytes((_checksum(head, 0x07, 8),)) + bytes((0, 0, 0))
    return frame + _checksum(frame, 0x8005, 16).to_bytes(2, "big")


def _checksum(content: bytes, polynomial: int, bits: int) -> int:
    value, top = 0, 1 << (bits - 1)
    for byte in content:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = ((value << 1) ^ polynomial if value & top else value << 1) & ((1 << bits) - 1)
    return value
