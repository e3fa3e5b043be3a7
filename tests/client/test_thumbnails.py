"""Thumbnails are small regardless of their source, contain only pixels, and no input makes them raise."""

from __future__ import annotations

import io
import json
import random
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from pytest_comfyload.client.outputs import LARGEST, Thumbnail, thumbnail
from tests.client.test_outputs import FORMATS, encoded, file, noise


def shown(small: Thumbnail | None) -> Image.Image:
    """Decode a thumbnail and check its size against what it declares."""
    assert small is not None
    picture = Image.open(io.BytesIO(small.content), formats=["WEBP"])
    picture.load()
    assert picture.size == (small.width, small.height)
    return picture


@pytest.mark.parametrize("suffix", FORMATS)
def test_of_every_format(suffix: str) -> None:
    red = Image.new("RGB", (600, 300), (200, 30, 30))
    picture = shown(thumbnail(file(f"a{suffix}"), encoded(red, suffix)))
    assert picture.size == (256, 128)
    middle = picture.convert("RGB").getpixel((128, 64))
    assert isinstance(middle, tuple)
    assert all(abs(level - true) < 12 for level, true in zip(middle, (200, 30, 30), strict=True))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_of_every_mode(mode: str) -> None:
    picture = shown(thumbnail(file("a.png"), encoded(Image.new(mode, (300, 400)), ".png")))
    assert picture.size == (192, 256)
    assert (picture.mode == "RGBA") == (mode in ("LA", "RGBA"))


def test_sixteen_bits_keep_their_brightness() -> None:
    picture = Image.new("I;16", (64, 64), 128 * 256)
    levels = shown(thumbnail(file("a.png"), encoded(picture, ".png"))).convert("L").getextrema()
    assert levels in [(level, level) for level in range(122, 135)]


def test_a_small_picture_stays_as_it_is() -> None:
    assert shown(thumbnail(file("a.png"), encoded(noise("RGB", (24, 16)), ".png"))).size == (24, 16)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(256, 256), (1024, 700), (4000, 1), (255, 257)])
def test_noise_is_small_enough(mode: str, size: tuple[int, int]) -> None:
    small = thumbnail(file("a.png"), encoded(noise(mode, size), ".png"))
    assert max(shown(small).size) <= 256
    assert small is not None
    assert len(small.content) <= LARGEST


def test_what_was_embedded_stays_behind() -> None:
    secret = json.dumps({"Api.api_key": "hunter2" * 50})
    texts, exif = PngImagePlugin.PngInfo(), Image.Exif()
    texts.add_text("prompt", secret)
    exif[0x010E] = secret
    out = io.BytesIO()
    noise("RGB", (64, 64)).save(out, "PNG", pnginfo=texts, exif=exif, icc_profile=b"hunter2" * 99, compress_level=0)
    assert b"hunter2" in out.getvalue()
    for suffix in (".png", ".webp", ".jpg"):
        content = out.getvalue()
        if suffix != ".png":
            again = io.BytesIO()
            noise("RGB", (64, 64)).save(again, FORMATS[suffix], exif=exif, icc_profile=b"hunter2" * 99)
            content = again.getvalue()
        small = thumbnail(file(f"a{suffix}"), content)
        assert small is not None
        assert b"hunter2" not in small.content
        assert shown(small).info.keys().isdisjoint({"exif", "icc_profile", "xmp"})


def _png(width: int, height: int) -> bytes:
    """Return a small file that claims to be this large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (100_000, 100_000), (9000, 9000), (2000, 2000)])
def test_a_bomb_is_no_picture(size: tuple[int, int]) -> None:
    assert thumbnail(file("a.png"), _png(*size)) is None


def test_a_torn_picture_is_none() -> None:
    whole = encoded(noise("RGB", (200, 200)), ".png")
    assert thumbnail(file("a.png"), whole[: len(whole) // 2]) is None


@pytest.mark.parametrize("name", ["a.mp4", "a.wav", "a.glb", "a", "a.svg", "a.eps"])
def test_what_is_no_picture_by_name(name: str) -> None:
    assert thumbnail(file(name), encoded(noise("RGB"), ".png")) is None


def test_a_format_is_believed_only_under_its_own_name() -> None:
    assert thumbnail(file("a.png"), encoded(noise("RGB"), ".jpg")) is None


@given(content=st.binary(max_size=300), suffix=st.sampled_from(list(FORMATS)))
def test_no_bytes_whatever_raise(content: bytes, suffix: str) -> None:
    assert thumbnail(file(f"a{suffix}"), content) is None


@given(place=st.integers(0, 5000), junk=st.binary(min_size=1, max_size=20), suffix=st.sampled_from(list(FORMATS)))
def test_no_damage_whatever_raises(place: int, junk: bytes, suffix: str) -> None:
    whole = encoded(noise("RGB"), suffix)
    at = place % len(whole)
    small = thumbnail(file(f"a{suffix}"), whole[:at] + junk + whole[at + len(junk) :])
    assert small is None or len(small.content) <= LARGEST


def test_the_same_picture_has_the_same_thumbnail() -> None:
    content = random.Random(3).randbytes(300 * 300 * 3)
    png = encoded(Image.frombytes("RGB", (300, 300), content), ".png")
    assert thumbnail(file("a.png"), png) == thumbnail(file("a.png"), png)
