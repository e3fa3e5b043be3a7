"""Malicious images: each has one outcome, in bounded time and memory, without warnings."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import aiohttp
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pytest_comfyload import image_files
from pytest_comfyload.client.outputs import inspect, thumbnail
from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.pictures import KeptPicture
from pytest_comfyload.image_containers import MAX_FRAMES, MAX_PIXELS, PictureError, PictureTooLarge
from pytest_comfyload.image_files import decoding, frames
from pytest_comfyload.simulator.faulty_network import _blank
from pytest_comfyload.simulator.pictures import FilePlace, Pictures
from pytest_comfyload.simulator.settings import SimulatorSettings
from pytest_comfyload.simulator.work import NodeFailure
from pytest_comfyload.workflow.image_variants import perturbed
from tests.client.test_outputs import FORMATS, encoded, file, noise
from tests.hostile.bad_pictures import BOMBS, HAS_AVIF, gif, png, png_chunk, tiff
from tests.simulator.serving import serving

# Wall seconds for one bad image on a busy machine; on an idle one, none takes more than 2.
SOON = 15.0

# Applies each function that reads images to each bad image, with 1 GiB in addition to what the interpreter uses, and
# with warnings as errors.
_READ_ALL = """
import resource, sys, time, warnings
from pathlib import Path
from PIL import Image
from pytest_comfyload.client.outputs import inspect
from pytest_comfyload.client.outputs import thumbnail
from pytest_comfyload.errors import UsageError
from pytest_comfyload.protocol.outputs import OutputFile
from pytest_comfyload.workflow.image_variants import perturbed
import random
warnings.simplefilter("error")
Image.init()
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), -1))
for path in sorted(Path(sys.argv[1]).iterdir()):
    content = path.read_bytes()
    file = OutputFile("9", "images", path.name, "", "output")
    began = time.monotonic()
    seen = inspect(file, content)
    looked = time.monotonic()
    thumbnail(file, content)
    try:
        perturbed(content, random.Random(1))
    except UsageError as error:
        assert str(error)
    print(path.name, f"{looked - began:.2f}", seen.width, seen.fault, sep="|")
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, str, str]]:
    """Seconds, width and fault of each bad image."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, make in BOMBS.items():
        (folder / name).write_bytes(make())
    command = [sys.executable, "-c", _READ_ALL, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "MALLOC_ARENA_MAX": "2"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = (line.split("|", 3) for line in done.stdout.splitlines())
    return {name: (float(seconds), width, fault) for name, seconds, width, fault in rows}


# Images whose pixels are as harmless as declared, regardless of what else the file contains.
DECODED = {
    "second header.png", "zTXt.png", "iTXt.png", "iCCP.png", "chunks.png", "empty data.png", "eXIf.png", "frames.png",
    "exif.jpg", "comments.jpg", "100000 frames.gif", "1000000 frames.gif", "comments.gif", "loop.tif", "chain.tif",
    "frames.webp",
}  # fmt: skip
FAULTY = {
    "frames told.png": "frames",
    "scans.jpg": "it has 3006 scans, more than 100",
    "large frames.gif": "truncated",
    "tags.tif": "its directory points to more data than there is",
    "runs.bmp": "run-length encoding is not supported",
    **{name: "" for name in BOMBS if name.startswith("truncated")},
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bad_picture_has_one_outcome_in_bounded_time_and_memory(
    name: str, outcomes: dict[str, tuple[float, str, str]]
) -> None:
    seconds, width, fault = outcomes[name]
    assert seconds < SOON
    if name in FAULTY:
        assert fault.startswith(f"{name} cannot be decoded (")
        assert FAULTY[name] in fault
    else:
        assert fault == "None"
        assert (width != "None") == (name in DECODED)


def test_metadata_is_removed_and_pixels_stay() -> None:
    chunks = [png_chunk(b"tEXt", b"k\0" + b"x" * 100), png_chunk(b"zTXt", b"k\0\0" + b"junk")]
    assert inspect(file("a.png"), png(9, 7, *chunks)) == inspect(file("a.png"), png(9, 7))
    for form, suffix in (("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp")):
        exif = Image.Exif()
        exif[0x010E] = "x" * 100
        out = io.BytesIO()
        noise("RGB").save(out, form, exif=exif, icc_profile=b"x" * 100)
        assert inspect(file("a" + suffix), out.getvalue()).pixels == inspect(
            file("a" + suffix), encoded(noise("RGB"), suffix)
        ).pixels  # fmt: skip


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_has_the_same_pixels_as_pillow_decodes(mode: str, progressive: bool) -> None:
    out = io.BytesIO()
    noise(mode, (50, 30)).save(out, "JPEG", progressive=progressive, comment=b"hello", dpi=(300, 300))
    with Image.open(io.BytesIO(out.getvalue())) as whole, decoding(out.getvalue(), "JPEG") as ours:
        assert (ours.mode, ours.size, ours.tobytes()) == (whole.mode, whole.size, whole.tobytes())


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_an_animation_has_the_same_frames_as_pillow_decodes(suffix: str) -> None:
    out = io.BytesIO()
    pictures = [noise("RGB").rotate(angle) for angle in (0, 40, 90, 135)]
    pictures[0].save(out, FORMATS[suffix], save_all=True, append_images=pictures[1:])
    with Image.open(io.BytesIO(out.getvalue())) as whole, decoding(out.getvalue()) as ours:
        assert getattr(whole, "n_frames", 0) == 4
        for number, frame in enumerate(frames(ours)):
            whole.seek(number)
            assert frame.tobytes() == whole.tobytes()
        assert number == 3


def test_orientation_is_kept_where_it_is_asked_for() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for form in ("JPEG", "PNG", "WEBP"):
        out = io.BytesIO()
        noise("RGB", (24, 16)).save(out, form, exif=exif)
        with Image.open(io.BytesIO(perturbed(out.getvalue(), random.Random(1)))) as turned:
            assert turned.size == (16, 24)


def test_the_limits_are_exact() -> None:
    side = 8192
    assert side * side == MAX_PIXELS
    with (
        pytest.raises(PictureTooLarge, match="8193 × 8192 pixels, more than 67 million"),
        decoding(png(side + 1, side, pixels=b"")),
    ):
        pass
    with pytest.raises(PictureError, match="cannot load"), decoding(png(side, side, pixels=b"")) as picture:
        picture.load()
    with decoding(gif((2, 2), MAX_FRAMES + 5)) as picture:
        assert sum(1 for _ in frames(picture)) == MAX_FRAMES


def test_a_picture_of_too_many_pixels_is_no_input_to_vary() -> None:
    with pytest.raises(UsageError, match="60000 × 60000 pixels, more than 67 million"):
        perturbed(BOMBS["header 60000.png"](), random.Random(1))
    with pytest.raises(UsageError, match="it begins with"):
        perturbed(b"8BPS and so on", random.Random(1))


def test_a_tiff_whose_directories_are_cut_off() -> None:
    whole = tiff([(256, 4, 1, 16)])
    for length in range(4, len(whole)):
        with pytest.raises(PictureError), decoding(whole[:length]) as picture:
            picture.load()


WHOLE = {
    **{suffix: encoded(noise("RGB"), suffix) for suffix in FORMATS},
    ".anim.gif": gif((8, 8), 5, (3, 3)),
    ".anim.png": b"",
}
_out = io.BytesIO()
noise("RGB").save(_out, "PNG", save_all=True, append_images=[noise("RGB").rotate(30)], optimize=True)
WHOLE[".anim.png"] = _out.getvalue()
if HAS_AVIF:
    _out = io.BytesIO()
    noise("RGB").save(_out, "AVIF")
    WHOLE[".avif"] = _out.getvalue()


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A small valid file with bytes changed, removed, duplicated, or replaced by extreme numbers."""
    suffix = draw(st.sampled_from(sorted(WHOLE)))
    content = bytearray(WHOLE[suffix])
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, min(len(content), 400)) | st.integers(0, len(content)))
        match draw(st.sampled_from(["byte", "number", "cut", "double", "end"])):
            case "byte":
                content[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "number":
                number = draw(st.sampled_from([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
                code = draw(st.sampled_from(["<H", ">H", "<I", ">I"]))
                size = struct.calcsize(code)
                content[at : at + size] = struct.pack(code, number & (1 << 8 * size) - 1)
            case "cut":
                del content[at : at + draw(st.integers(1, 40))]
            case "double":
                content[at:at] = content[at : at + draw(st.integers(1, 200))]
            case "end":
                del content[at:]
    return suffix, bytes(content)


@given(mutated())
@settings(max_examples=int(os.environ.get("COMFYLOAD_FUZZ", "300")))
def test_no_damage_raises_warns_or_takes_long(damaged: tuple[str, bytes]) -> None:
    suffix, content = damaged
    began = time.thread_time()
    with warnings.catch_warnings():
        # Pillow warns about TIFF tags that it skips.
        warnings.simplefilter("ignore" if suffix == ".tif" else "error")
        seen = inspect(file("a" + suffix), content)
        small = thumbnail(file("a" + suffix), content)
        with contextlib.suppress(UsageError):
            perturbed(content, random.Random(1))
    assert time.thread_time() - began < SOON
    assert seen.fault is None or " object at 0x" not in seen.fault
    assert small is None or max(small.width, small.height) <= 256


def test_a_simulator_survives_uploads_that_cannot_be_decoded() -> None:
    async def view(name: str) -> tuple[int, str]:
        async with serving(SimulatorSettings()) as url, aiohttp.ClientSession() as session:
            form = aiohttp.FormData()
            form.add_field("image", BOMBS[name](), filename="a.png")
            async with session.post(f"{url}/upload/image", data=form) as answer:
                assert answer.status == 200
            question = {"filename": "a.png", "type": "input", "preview": "webp"}
            async with session.get(f"{url}/view", params=question) as answer:
                return answer.status, await answer.text()

    for name, reason in (("header 60000.png", "60000 × 60000 pixels"), ("scans.jpg", "it has 3006 scans")):
        status, text = asyncio.run(view(name))
        assert status == 500
        assert text.startswith("500 Internal Server Error: the picture cannot be decoded: ")
        assert reason in text


def test_a_blank_picture_of_a_file_that_is_none_is_the_file() -> None:
    assert _blank(b"no picture") == b"no picture"


def test_a_loader_of_the_simulator_reads_no_bomb() -> None:
    store = Pictures(10, random.Random(1))
    store.upload(BOMBS["header 60000.png"](), FilePlace("input", "", "x.png"), overwrite=False)
    with pytest.raises(NodeFailure, match="cannot identify image file"):
        store.input_size("x.png")


@pytest.mark.parametrize("change", [{"content": bytes(70_000)}, {"width": 2**40}, {"height": -1}])
def test_a_stored_thumbnail_is_small(change: dict[str, object]) -> None:
    stored = {"prompt_id": "p", "why": "bad", "media_type": "image/webp", "content": b"RIFF", "width": 256, "height": 9}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(stored), type=KeptPicture).width == 256
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode({**stored, **change}), type=KeptPicture)


def test_only_one_module_opens_pictures() -> None:
    root = Path(inspect.__code__.co_filename).parents[1]
    opening = [path.name for path in root.rglob("*.py") if "Image.open(" in path.read_text(encoding="utf-8")]
    assert opening == ["image_files.py"]


def test_decoding_ends_with_its_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_DECODING_TIME", 0.0)
    assert (
        inspect(file("a.png"), encoded(noise("RGB"), ".png")).fault
        == "a.png cannot be decoded (decoding takes more than 0 s)"
    )


def test_the_time_of_other_threads_does_not_end_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_DECODING_TIME", 0.2)
    with decoding(encoded(noise("RGB"), ".png")) as picture:
        time.sleep(0.3)
        picture.load()


def test_a_png_without_a_header_is_not_walked_through() -> None:
    begun = time.thread_time()
    assert "its header is damaged" in str(inspect(file("a.png"), b"\x89PNG\r\n\x1a\n" + bytes(64 << 20)).fault)
    assert time.thread_time() - begun < 1
