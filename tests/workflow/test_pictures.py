from __future__ import annotations

import io

import pytest
from PIL import Image

from pytest_comfyload.workflow.pictures import PICTURES, draw


def decoded(name: str) -> Image.Image:
    image = Image.open(io.BytesIO(draw(name)))
    image.load()
    return image


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_the_same_each_time(name: str) -> None:
    assert draw(name) == draw(name)
    assert decoded(name).size == (512, 512)


def test_the_photo_has_the_detail_of_one() -> None:
    assert decoded("photo.png").mode == "RGB"
    assert len(draw("photo.png")) > 200_000


def test_the_masked_photo_is_the_photo_with_a_hole() -> None:
    masked = decoded("photo_masked.png")
    alpha = masked.getchannel("A")
    transparent = alpha.histogram()[0] / (512 * 512)
    assert 0.05 < transparent < 0.3
    assert alpha.getpixel((0, 0)) == 255
    assert masked.convert("RGB").tobytes() == decoded("photo.png").tobytes()


def test_the_edges_are_white_lines_on_black() -> None:
    histogram = decoded("edges.png").convert("L").histogram()
    assert histogram[0] + histogram[255] == 512 * 512
    assert 0.005 < histogram[255] / (512 * 512) < 0.1
    assert decoded("edges.png").getpixel((0, 0)) == (0, 0, 0)
