from __future__ import annotations

import io
import wave

import pytest
from PIL import Image

from pytest_comfyload.simulator.media import animation, sound

FRAMES = [Image.new("RGB", (64, 48), (shade, 0, 255 - shade)) for shade in (0, 100, 200)]


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".png"])
def test_pillow_reads_all_frames(suffix: str) -> None:
    with Image.open(io.BytesIO(animation(FRAMES, suffix, 10.0))) as picture:
        assert (picture.size, picture.n_frames) == ((64, 48), 3)  # type: ignore[attr-defined]


def boxes(content: bytes) -> dict[bytes, bytes]:
    """Return the MP4 boxes that make up `content`."""
    found = {}
    while content:
        length = int.from_bytes(content[:4], "big")
        found[content[4:8]] = content[8:length]
        content = content[length:]
    return found


def test_an_mp4_says_where_its_frames_are() -> None:
    content = animation(FRAMES, ".mp4", 25.0)
    track = boxes(boxes(boxes(content)[b"moov"])[b"trak"])
    table = boxes(boxes(boxes(track[b"mdia"])[b"minf"])[b"stbl"])
    sizes = [int.from_bytes(table[b"stsz"][at : at + 4], "big") for at in (12, 16, 20)]
    at = int.from_bytes(table[b"stco"][8:12], "big")
    for size in sizes:
        with Image.open(io.BytesIO(content[at : at + size])) as frame:
            assert (frame.format, frame.size) == ("JPEG", (64, 48))
        at += size
    assert track[b"tkhd"][-8:] == (64 << 16).to_bytes(4, "big") + (48 << 16).to_bytes(4, "big")


def test_a_webm_has_a_vp8_key_frame_for_each_picture() -> None:
    content = animation(FRAMES, ".webm", 25.0)
    assert content.startswith(b"\x1a\x45\xdf\xa3")
    # The start code of a VP8 key frame, followed by its width and height.
    assert content.count(b"\x9d\x01\x2a" + (64).to_bytes(2, "little") + (48).to_bytes(2, "little")) == 3
    assert b"V_VP8" in content


def test_silence_is_a_second_of_valid_sound() -> None:
    with wave.open(io.BytesIO(sound(".wav"))) as file:
        assert file.getnframes() == file.getframerate() == 44_100
    assert sound(".flac").startswith(b"fLaC\x80\x00\x00\x22")
    mp3 = sound(".mp3")
    assert all(mp3[at : at + 2] == b"\xff\xfb" for at in range(0, len(mp3), 417))
