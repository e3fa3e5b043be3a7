"""Variants of a picture that look alike, for pictures that must be new to the server in each prompt.

Prompts use the uploaded variants in turn. Their names are the same in every run but their contents differ, so that a
server's input folder does not fill up and yet its cache has nothing from an earlier run.
"""

from __future__ import annotations

import functools
import hashlib
import io
import random
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pytest_comfyload.errors import UsageError
from pytest_comfyload.image_containers import PictureError
from pytest_comfyload.image_files import decoding, is_animated
from pytest_comfyload.protocol.outputs import OutputFile
from pytest_comfyload.scenario.executors import Burst, Executor, PerUserIterations, SharedIterations
from pytest_comfyload.workflow.input_files import InputFile

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["file_named", "perturbed", "pool_size", "variants"]

MOST = 64
MOST_BYTES = 256 * 1024 * 1024
DOTS = 64
_ANNOTATED = re.compile(r"(?P<path>.*?)(?: \[(?P<folder>input|output|temp)\])?")


def pool_size(executor: Executor, warmup: int) -> int:
    """Return the number of variants that gives each prompt its own, at most MOST."""
    match executor:
        case Burst():
            return min(MOST, executor.users + warmup)
        case PerUserIterations() | SharedIterations():
            return min(MOST, executor.users * executor.iterations + warmup)
    return MOST


def variants(value: str, content: bytes, count: int, series: str, seed: str) -> list[InputFile]:
    """Return up to `count` variants of the picture that a node's input names as `value`, but at least two.

    `series` keeps the names of concurrent runs apart, `seed` is the run's. Takes 50 ms, so use a thread.
    Raises UsageError.
    """
    size = len(perturbed(content, random.Random(seed)))
    count = max(2, min(count, MOST_BYTES // size))
    stem = PurePosixPath(file_named(value).filename).stem
    digest = hashlib.sha256(f"{series}/{value}".encode()).hexdigest()[:8]
    return [
        InputFile(f"{stem}-{digest}-{number}.png", functools.partial(_variant, content, f"{seed}/{number}"), False)
        for number in range(count)
    ]


def file_named(value: str) -> OutputFile:
    """Return the file that an input names, `folder/name.png [output]`; without a suffix, it is in the input folder."""
    match = _ANNOTATED.fullmatch(value.replace("\\", "/"))
    path = PurePosixPath(match["path"] if match else value)
    folder = (match and match["folder"]) or "input"
    return OutputFile("", "images", path.name, "" if path.parent == PurePosixPath(".") else str(path.parent), folder)


def perturbed(content: bytes, rng: random.Random) -> bytes:
    """Return the picture as a PNG with a few lowest bits flipped. Raises UsageError if it is not a still picture."""
    from PIL import Image

    picture = _opened(content)
    pixels, channels = bytearray(picture.tobytes()), len(picture.getbands())
    for _ in range(DOTS):
        pixels[channels * rng.randrange(picture.width * picture.height)] ^= rng.getrandbits(1)
    out = io.BytesIO()
    # Speed matters more than size: dozens of these are sent to a server.
    Image.frombytes(picture.mode, picture.size, bytes(pixels)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _variant(content: bytes, seed: str) -> bytes:
    return perturbed(content, random.Random(seed))


def _opened(content: bytes) -> Image:
    """Open the picture as nodes load it: upright, with its transparency."""
    from PIL import ImageOps

    try:
        with decoding(content, orientation=True) as picture:
            if is_animated(picture):
                raise UsageError("it has several frames")
            if picture.mode.startswith(("I", "F")):
                raise UsageError(f"it has pixels of more than 8 bits ({picture.mode})")
            return ImageOps.exif_transpose(picture).convert("RGBA" if picture.has_transparency_data else "RGB")
    except PictureError as error:
        raise UsageError(f"it cannot be read: {error}") from None
