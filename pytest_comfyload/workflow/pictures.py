"""The packaged input pictures, drawn when first needed; a picture never changes under its name."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PICTURES", "draw"]

SIDE = 512
SKY, GROUND = ("#28508c", "#f0d2aa"), ("#1d3b2a", "#31563a", "#567d46")
GRAIN = 0.06  # a flat picture would be a tenth of a photograph's size as a PNG
HOLE = (176, 208, 336, 400)
EDGE = 24


def draw(name: str) -> bytes:
    """The PNG of one of PICTURES, 512 × 512; 150 ms, so use a thread."""
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
    """Transparent where it is to be painted anew."""
    from PIL import Image, ImageDraw

    alpha = Image.new("L", (SIDE, SIDE), 255)
    ImageDraw.Draw(alpha).ellipse(HOLE, fill=0)
    picture = _photo()
    picture.putalpha(alpha)
    return picture


def _edges() -> Image:
    """White lines on black, as an edge detector draws them."""
    from PIL import ImageDraw, ImageFilter

    found = _landscape().convert("L").filter(ImageFilter.FIND_EDGES)
    # The filter leaves the outermost pixels as they were.
    ImageDraw.Draw(found).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=0)
    return found.point(lambda level: 255 if level > EDGE else 0).convert("RGB")


PICTURES: Mapping[str, Callable[[], Image]] = {
    "photo.png": _photo,
    "photo_masked.png": _masked_photo,
    "edges.png": _edges,
}
