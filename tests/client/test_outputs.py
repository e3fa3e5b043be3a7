from __future__ import annotations

import io
import random
from itertools import pairwise
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pytest_comfyload.client.outputs import PIXELS_PER_SECOND, DecodingSample, inspect
from pytest_comfyload.image_files import TINY_FILE, is_tiny
from pytest_comfyload.protocol.outputs import OutputFile, is_picture
from tests.hostile.bad_pictures import HAS_AVIF

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
}


def file(name: str) -> OutputFile:
    return OutputFile("9", "images", name, "", "output")


def noise(mode: str, size: tuple[int, int] = (24, 16)) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, size, random.Random(1).randbytes(size[0] * size[1] * bands))


def encoded(picture: Image.Image, suffix: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, FORMATS[suffix])
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", FORMATS)
def test_good_pictures(suffix: str) -> None:
    seen = inspect(file(f"a{suffix}"), encoded(noise("RGB"), suffix))
    assert (seen.fault, seen.width, seen.height) == (None, 24, 16)


def test_the_same_picture_has_the_same_pixels_whatever_its_file_says() -> None:
    def pixels(picture: Image.Image, **told: str) -> str | None:
        buffer, chunks = io.BytesIO(), PngInfo()
        for key, value in told.items():
            chunks.add_text(key, value)
        picture.save(buffer, "PNG", pnginfo=chunks)
        return inspect(file("a.png"), buffer.getvalue()).pixels

    picture = noise("RGB")
    assert pixels(picture, prompt="one") == pixels(picture, prompt="another")
    turned = Image.frombytes("RGB", (16, 24), picture.tobytes())
    assert len({pixels(picture), pixels(turned), pixels(picture.convert("L"))}) == 3
    assert inspect(file("a.mp3"), b"ID3...").pixels is None


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA"])
def test_good_pngs_of_every_mode(mode: str) -> None:
    assert inspect(file("a.PNG"), encoded(noise(mode), ".png")).fault is None


@pytest.mark.skipif(not HAS_AVIF, reason="this Pillow cannot write AVIF")
def test_avif() -> None:
    buffer = io.BytesIO()
    noise("RGB").save(buffer, "AVIF")
    assert inspect(file("a.avif"), buffer.getvalue()).width == 24


@pytest.mark.parametrize(
    ("mode", "colour"),
    [
        *[("1", 1), ("L", 0), ("L", 128), ("LA", (9, 255)), ("P", 3), ("I;16", 7)],
        *[("RGB", (0, 0, 0)), ("RGB", (1, 2, 3)), ("RGBA", (0, 0, 0, 0)), ("RGBA", (9, 9, 9, 255))],
    ],
)
def test_blank_pictures(mode: str, colour: int | tuple[int, ...]) -> None:
    seen = inspect(file("a.png"), encoded(Image.new(mode, (8, 8), colour), ".png"))
    assert seen.blank
    assert (seen.fault, seen.width, seen.height) == (None, 8, 8)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_is_blank_only_where_every_frame_is(suffix: str) -> None:
    def animation(*frames: Image.Image) -> bytes:
        buffer = io.BytesIO()
        frames[0].save(buffer, FORMATS[suffix], save_all=True, append_images=frames[1:], lossless=True)
        return buffer.getvalue()

    black, white = (Image.new("RGB", (24, 16), colour) for colour in ("black", "white"))
    fading, flashing = (inspect(file(f"a{suffix}"), animation(black, last)) for last in (noise("RGB"), white))
    assert (fading.fault, fading.blank) == (None, False)
    assert (flashing.fault, flashing.blank) == (None, True)
    assert fading.pixels != flashing.pixels


@pytest.mark.parametrize("band", [0, 1, 2, 3])
def test_one_channel_that_varies_is_a_picture(band: int) -> None:
    picture = Image.new("RGBA", (8, 8), (5, 5, 5, 255))
    picture.putpixel((3, 3), tuple(200 if index == band else value for index, value in enumerate((5, 5, 5, 255))))
    assert not inspect(file("a.png"), encoded(picture, ".png")).blank


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_single_pixel_is_not_blank(mode: str) -> None:
    assert not inspect(file("a.png"), encoded(Image.new(mode, (1, 1)), ".png")).blank


def test_nothing_at_all() -> None:
    for name in ("a.png", "a.mp4", "a.unknown"):
        assert inspect(file(name), b"").fault == f"{name} is empty"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif"])
def test_a_truncated_picture(suffix: str) -> None:
    whole = encoded(noise("RGB", (64, 64)), suffix)
    assert "a" + suffix in (inspect(file("a" + suffix), whole[: len(whole) // 2]).fault or "")


@pytest.mark.parametrize("content", [b"hello, this is text", b"<html>login</html>", b"\0" * 64])
def test_a_file_that_is_no_picture(content: bytes) -> None:
    fault = inspect(file("a.png"), content).fault
    assert fault == f"a.png is not a png file: it begins with {content[:8].hex(' ')}"


def test_a_picture_of_another_kind_than_its_name_says() -> None:
    fault = inspect(file("a.png"), encoded(noise("RGB"), ".jpg")).fault
    assert fault is not None
    assert fault.startswith("a.png is not a png file: it begins with ff d8 ff")


MEDIA = {
    ".mp4": b"\0\0\0\x20ftypisom",
    ".mov": b"\0\0\0\x14ftypqt  ",
    ".m4a": b"\0\0\0\x20ftypM4A ",
    ".webm": b"\x1a\x45\xdf\xa3\x01",
    ".mkv": b"\x1a\x45\xdf\xa3\x01",
    ".wav": b"RIFF\x24\0\0\0WAVEfmt ",
    ".avi": b"RIFF\x24\0\0\0AVI LIST",
    ".flac": b"fLaC\0\0\0\x22",
    ".ogg": b"OggS\0\2",
    ".opus": b"OggS\0\2",
    ".mp3": b"ID3\4\0\0",
    ".glb": b"glTF\2\0\0\0",
}


@pytest.mark.parametrize("suffix", MEDIA)
def test_other_kinds_are_known_by_how_they_begin(suffix: str) -> None:
    seen = inspect(file("a" + suffix), MEDIA[suffix])
    assert (seen.fault, seen.width, seen.height) == (None, None, None)
    assert not is_picture("a" + suffix)


@pytest.mark.parametrize("frame", [b"\xff\xfb\x90", b"\xff\xf3\x40", b"\xff\xf2\x40", b"\xff\xfa\x90"])
def test_an_mp3_without_a_tag(frame: bytes) -> None:
    assert inspect(file("a.mp3"), frame).fault is None


@pytest.mark.parametrize(
    ("suffix", "other"), [(".mp4", ".webm"), (".webm", ".mp4"), (".flac", ".mp3"), (".wav", ".avi"), (".avi", ".wav")]
)
def test_the_wrong_container(suffix: str, other: str) -> None:
    fault = inspect(file("a" + suffix), MEDIA[other]).fault
    assert fault == f"a{suffix} is not a {suffix[1:]} file: it begins with {MEDIA[other][:8].hex(' ')}"


@pytest.mark.parametrize("name", ["latent.latent", "mesh.obj", "noname", "a.png.part", ".png"])
def test_kinds_that_nobody_taught_us_are_judged_by_their_size(name: str) -> None:
    assert inspect(file(name), b"x").fault is None


WHOLE = {suffix: encoded(noise("RGB"), suffix) for suffix in FORMATS}


@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_no_bytes_whatever_raise(suffix: str, data: st.DataObject) -> None:
    content = bytearray(WHOLE[suffix])
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(content)))
    inspect(file("a" + suffix), bytes(content[:cut]))


@given(st.binary(), st.sampled_from([*FORMATS, *MEDIA]))
def test_no_rubbish_raises(content: bytes, suffix: str) -> None:
    seen = inspect(file("a" + suffix), content)
    assert seen.fault is not None or suffix in MEDIA


@pytest.mark.parametrize("limit", [100, 300])
def test_a_picture_that_pillow_finds_too_large_is_no_fault(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert inspect(file("a.png"), encoded(noise("RGB"), ".png")).fault is None


def test_a_kind_of_picture_that_pillow_does_not_know_is_judged_by_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert inspect(file("a.webp"), b"x").fault is not None
    monkeypatch.delitem(Image.EXTENSION, ".webp")
    assert inspect(file("a.webp"), b"x").fault is None


# --- which images are decoded ----------------------------------------------------------------------------------------

MEGAPIXEL = 2**20


def sampled(rate: float, seconds: float, pixels: int, seed: int = 1) -> list[bool]:
    """Return, for each image arriving at `rate` per second, whether it was sampled."""
    times = [number / rate for number in range(round(rate * seconds))]
    clock = iter(times)
    sample = DecodingSample(seed, lambda: next(clock))
    return [sample.draws(f"{number} 0 0", pixels) for number in range(len(times))]


@pytest.mark.parametrize(("rate", "pixels"), [(4.9, MEGAPIXEL), (1, 4 * MEGAPIXEL), (300, 64 * 64)])
def test_every_picture_is_decoded_up_to_the_rate(rate: float, pixels: int) -> None:
    assert all(sampled(rate, 60, pixels))


def test_a_burst_is_decoded_whole() -> None:
    assert all(sampled(1000, 0.05, MEGAPIXEL))


@pytest.mark.parametrize(("rate", "pixels"), [(50, MEGAPIXEL), (20, MEGAPIXEL), (500, 512 * 512)])
def test_beyond_the_rate_a_random_sample_has_the_pixels_of_the_rate(rate: float, pixels: int) -> None:
    drawn = sampled(rate, 200, pixels)[round(rate * 20) :]
    share = PIXELS_PER_SECOND / (rate * pixels)
    spread = (share * (1 - share) / len(drawn)) ** 0.5
    assert sum(drawn) / len(drawn) == pytest.approx(share, abs=5 * spread)
    # The sample is random, not every n-th image.
    gaps = {later - earlier for earlier, later in pairwise(number for number, each in enumerate(drawn) if each)}
    assert len(gaps) > 5


def test_the_sample_is_the_same_for_the_same_seed_and_pictures() -> None:
    assert sampled(50, 60, MEGAPIXEL) == sampled(50, 60, MEGAPIXEL)
    assert sampled(50, 60, MEGAPIXEL) != sampled(50, 60, MEGAPIXEL, seed=2)


def test_a_picture_that_is_not_decoded_has_a_size_and_no_pixels() -> None:
    seen = inspect(file("a.png"), encoded(noise("RGB"), ".png"), lambda pixels: pixels != 24 * 16)
    assert (seen.fault, seen.width, seen.height, seen.pixels, seen.blank) == (None, 24, 16, None, False)


@given(st.sampled_from([".png", ".jpg", ".webp"]), st.floats(0, 1))
def test_the_container_alone_shows_what_decoding_would(suffix: str, part: float) -> None:
    """The same truncated files are found to be faulty."""
    whole = encoded(noise("RGB", (60, 40)), suffix)
    cut = whole[: round(part * len(whole))]
    decoded, unread = inspect(file(f"a{suffix}"), cut), inspect(file(f"a{suffix}"), cut, lambda pixels: False)
    assert (unread.fault is None) == (decoded.fault is None)
    assert (unread.width, unread.height) == (decoded.width, decoded.height)


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_container_of_a_good_picture_is_complete(suffix: str) -> None:
    assert inspect(file(f"a{suffix}"), encoded(noise("RGB"), suffix), lambda pixels: False).fault is None


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("a.PNG", True),
        ("sub.d/a.b.jpeg", True),
        (".png", False),
        ("sub/.png", False),
        ("a.png.txt", False),
        ("png", False),
    ],
)
def test_a_picture_is_known_by_the_end_of_its_name(name: str, known: bool) -> None:
    assert is_picture(name) == known == (PurePosixPath(name).suffix.lower() in (".png", ".jpeg"))


def animation() -> bytes:
    buffer = io.BytesIO()
    noise("RGB").save(buffer, "PNG", save_all=True, append_images=[noise("RGB").rotate(180)])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "tiny"),
    [
        pytest.param(encoded(noise("RGB", (128, 128)), ".png"), True, id="128x128"),
        pytest.param(encoded(noise("RGB", (129, 128)), ".png"), False, id="129x128"),
        pytest.param(encoded(Image.new("RGB", (8000, 8000)), ".png"), False, id="few-bytes-many-pixels"),
        pytest.param(encoded(noise("RGB"), ".png") + bytes(TINY_FILE), False, id="many-bytes-few-pixels"),
        pytest.param(encoded(noise("RGB"), ".jpg"), False, id="another-format"),
        pytest.param(encoded(noise("RGB"), ".png")[:20], False, id="cut"),
        pytest.param(animation(), False, id="animation"),
        pytest.param(b"", False, id="empty"),
    ],
)
def test_what_is_decoded_without_a_thread(content: bytes, *, tiny: bool) -> None:
    assert is_tiny(content) is tiny
