"""Files that a run's workflow loads: packaged pictures by name, the user's own files by `pathlib.Path`.

The content under a name never changes: packaged pictures are fixed, and the name of a user's own file contains the
hash of its content.
"""

from __future__ import annotations

import functools
import hashlib
import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from pytest_comfyload.errors import UsageError, WorkflowError, nearest
from pytest_comfyload.workflow.graph import spots
from pytest_comfyload.workflow.texts import read_bytes
from pytest_comfyload.workflow.workflow import Workflow

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FOLDER", "PICTURES", "InputFile", "draw", "input_files", "with_local_files"]

FOLDER = "comfyload"


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file in the subfolder `comfyload` of a server's input folder; `content()` may be slow.

    `lasting`: the content under this name never changes, so one upload is enough.
    """

    name: str
    content: Callable[[], bytes]
    lasting: bool = True

    @property
    def value(self) -> str:
        """The value of an input that names this file."""
        return f"{FOLDER}/{self.name}"


def with_local_files(inputs: Mapping[str, Any], root: Path) -> tuple[dict[str, Any], list[InputFile]]:
    """Return the inputs with each pathlib path replaced by the name of its upload, and the files to upload.

    Raises UsageError if a file cannot be read.
    """
    files = {
        address: _local_file(address, value, root) for address, value in inputs.items() if isinstance(value, PurePath)
    }
    return {**inputs, **{address: file.value for address, file in files.items()}}, list(files.values())


def _local_file(address: str, path: PurePath, root: Path) -> InputFile:
    try:
        content = read_bytes(path, root)
    except UsageError as error:
        raise UsageError(f"inputs: {address}: {error}") from None
    digest = hashlib.sha256(content).hexdigest()[:12]
    return InputFile(f"{path.stem}-{digest}{path.suffix}", lambda: content)


def input_files(workflow: Workflow, local: Sequence[InputFile]) -> list[InputFile]:
    """Return the files to upload that the workflow names: files of `local` and packaged pictures.

    Raises WorkflowError for a `comfyload/…` that is neither.
    """
    known = {file.value: file for file in local}
    files: dict[str, InputFile] = {}
    for spot, value in spots(workflow.graph):
        if _is_ours(value) and (spec := workflow.nodes.spec(spot)) and spec.upload:
            value = value.removesuffix(" [input]")
            where = f"node {spot.node} {workflow.nodes.class_of(spot.node)}.{spot.input}"
            files[value] = known.get(value) or _packaged(value, where)
    return list(files.values())


def _is_ours(value: object) -> bool:
    return isinstance(value, str) and value.startswith(f"{FOLDER}/") and not value.endswith(("[output]", "[temp]"))


def _packaged(value: str, where: str) -> InputFile:
    name = value.removeprefix(f"{FOLDER}/")
    if name not in PICTURES:
        legal = nearest(value, (f"{FOLDER}/{each}" for each in PICTURES))
        raise WorkflowError(f"{where} = {value!r}: packaged pictures are {legal}; one of your own is pathlib.Path(…)")
    return InputFile(name, functools.partial(draw, name))


# --- the packaged pictures, drawn when needed; the picture with a given name never changes ---

SIDE = 512
SKY, GROUND = ("#28508c", "#f0d2aa"), ("#1d3b2a", "#31563a", "#567d46")
GRAIN = 0.06  # without grain, the PNG would be a tenth of the size of a photograph's
HOLE = (176, 208, 336, 400)
EDGE = 24


def draw(name: str) -> bytes:
    """Return the PNG of one of PICTURES, 512 × 512. Takes 150 ms, so use a thread."""
    out = io.BytesIO()
    PICTURES[name]().save(out, "PNG")
    return out.getvalue()


def _landscape() -> Image:
    from PIL import Image, ImageDraw, ImageOps

    sky = Image.linear_gradient("L").resize((SIDE, SIDE))
    picture = ImageOps.colorize(sky, *SKY)
    pen = ImageDraw.Draw(picture)
    pen.ellipse((350, 90, 430, 170), fill="#fff4d6")
    for number, colour in enumerate(GROUND):
        pen.polygon([(0, SIDE), *_ridge(number), (SIDE, SIDE)], fill=colour)
    return picture


def _ridge(number: int) -> list[tuple[int, int]]:
    rng = random.Random(number)
    top = 260 + 70 * number
    return [(x, top + rng.randrange(-30, 30)) for x in range(0, SIDE + 1, 32)]


def _photo() -> Image:
    from PIL import Image

    grain = Image.frombytes("RGB", (SIDE, SIDE), random.Random(0).randbytes(3 * SIDE * SIDE))
    return Image.blend(_landscape(), grain, GRAIN)


def _masked_photo() -> Image:
    """Draw a photo that is transparent where it is to be inpainted."""
    from PIL import Image, ImageDraw

    alpha = Image.new("L", (SIDE, SIDE), 255)
    ImageDraw.Draw(alpha).ellipse(HOLE, fill=0)
    picture = _photo()
    picture.putalpha(alpha)
    return picture


def _edges() -> Image:
    """Draw white lines on black, as an edge detector does."""
    from PIL import ImageDraw, ImageFilter

    found = _landscape().convert("L").filter(ImageFilter.FIND_EDGES)
    # The filter leaves the outermost pixels unchanged.
    ImageDraw.Draw(found).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=0)
    return found.point(lambda level: 255 if level > EDGE else 0).convert("RGB")


PICTURES: Mapping[str, Callable[[], Image]] = {
    "photo.png": _photo,
    "photo_masked.png": _masked_photo,
    "edges.png": _edges,
}
