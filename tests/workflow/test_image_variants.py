"""Variants of an image look like it, differ from each other, and are different in another run."""

from __future__ import annotations

import io
import random

import pytest
from PIL import Image, ImageChops

from pytest_comfyload.errors import UsageError
from pytest_comfyload.protocol.outputs import OutputFile
from pytest_comfyload.scenario.executors import Burst, ConstantUsers, PerUserIterations, SharedIterations
from pytest_comfyload.workflow import image_variants as module
from pytest_comfyload.workflow.image_variants import file_named, perturbed, pool_size, variants
from pytest_comfyload.workflow.input_files import draw

MASKED = draw("photo_masked.png")


def encoded(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def decoded(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def test_a_variant_differs_in_last_bits_only_and_keeps_its_transparency() -> None:
    before, after = decoded(MASKED), decoded(perturbed(MASKED, random.Random(1)))
    assert (after.mode, after.size) == ("RGBA", before.size)
    assert after.getchannel("A").tobytes() == before.getchannel("A").tobytes()
    difference = ImageChops.difference(before.convert("RGB"), after.convert("RGB")).tobytes()
    assert 0 < sum(difference) <= module.DOTS
    assert max(difference) == 1


def test_all_are_different_and_the_same_seed_makes_the_same() -> None:
    content = encoded(Image.new("L", (64, 64), 9))

    def contents(seed: str) -> list[bytes]:
        return [file.content() for file in variants("a.png", content, 20, "None", seed)]

    assert len({*contents("1"), *contents("2")}) == 40
    assert contents("1") == contents("1")


def test_names_are_the_same_in_each_run_and_others_for_what_runs_at_once() -> None:
    def names(value: str, series: str, seed: str) -> list[str]:
        return [file.name for file in variants(value, MASKED, 3, series, seed)]

    assert names("a/mine.jpg [input]", "x", "1") == names("a/mine.jpg [input]", "x", "2")
    assert len({*names("mine.jpg", "x", "1"), *names("mine.jpg", "y", "1"), *names("a/mine.jpg", "x", "1")}) == 9
    assert all(name.startswith("mine-") and name.endswith(".png") for name in names("a/mine.jpg [input]", "x", "1"))
    assert not any(file.lasting for file in variants("mine.jpg", MASKED, 3, "x", "1"))


def test_there_are_as_many_as_prompts_if_that_is_known_and_not_too_many() -> None:
    assert pool_size(PerUserIterations(2, 3), warmup=1) == 7
    assert pool_size(SharedIterations(2, 3), warmup=0) == 6
    assert pool_size(Burst(15), warmup=2) == 17
    assert pool_size(Burst(1500), warmup=2) == pool_size(ConstantUsers(1, 60), warmup=1) == module.MOST


def test_large_pictures_have_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 5 * len(perturbed(MASKED, random.Random(1))) + 999)
    assert len(variants("a.png", MASKED, 50, "x", "1")) == 5
    monkeypatch.setattr(module, "MOST_BYTES", 1)
    assert len(variants("a.png", MASKED, 50, "x", "1")) == 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK"])
def test_pictures_of_every_kind(mode: str) -> None:
    picture = Image.new("RGB", (8, 8), "red").convert(mode)
    content = encoded(picture, "TIFF")
    assert decoded(perturbed(content, random.Random(1))).mode in ("RGB", "RGBA")


def test_a_photo_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    assert decoded(perturbed(content, random.Random(1))).size == (4, 8)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no picture", "it cannot be read"),
        (MASKED[:2000], "it cannot be read"),
        (encoded(Image.new("I;16", (8, 8))), "it has pixels of more than 8 bits"),
        (
            encoded(Image.new("RGB", (8, 8)), "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]),
            "it has several frames",
        ),
    ],
    ids=["text", "cut off", "deep", "moving"],
)
def test_what_cannot_be_varied(content: bytes, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        perturbed(content, random.Random(1))


@pytest.mark.parametrize(
    ("value", "name", "subfolder", "folder"),
    [
        ("a.png", "a.png", "", "input"),
        ("sub/b/a.png [output]", "a.png", "sub/b", "output"),
        ("sub\\a (1).png [temp]", "a (1).png", "sub", "temp"),
        ("a [x].png", "a [x].png", "", "input"),
    ],
)
def test_a_file_by_the_word_of_its_node(value: str, name: str, subfolder: str, folder: str) -> None:
    assert file_named(value) == OutputFile("", "images", name, subfolder, folder)
