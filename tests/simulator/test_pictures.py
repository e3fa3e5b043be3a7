from __future__ import annotations

import io
import random

import pytest
from PIL import Image

from pytest_comfyload.simulator.pictures import Drawing, FilePlace, Pictures, preview_jpeg
from pytest_comfyload.simulator.work import NodeFailure, Picture, Save


def pictures(keep: int = 100) -> Pictures:
    return Pictures(keep, random.Random(1))


def saved(store: Pictures, prefix: str | None = "a", batch: int = 1, key: str = "k") -> list[dict[str, str]]:
    folder = "temp" if prefix is None else "output"
    told = store.save(Save(Picture(64, 40, batch, key), folder, prefix), {"1": {}}, {"workflow": {"id": 7}})
    files: list[dict[str, str]] = told["images"]
    return files


def test_a_drawing_is_a_real_png_of_its_size_with_the_prompt_in_it() -> None:
    store = pictures()
    (shown,) = saved(store)
    found = store.find(FilePlace(shown["type"], shown["subfolder"], shown["filename"]))
    assert isinstance(found, Drawing)
    with Image.open(io.BytesIO(found.content())) as image:
        assert (image.format, image.size) == ("PNG", (64, 40))
        assert image.info == {"prompt": '{"1": {}}', "workflow": '{"id": 7}'}
        channels = [channel.getextrema() for channel in image.split()]
    assert len(channels) == 3
    assert all(low != high for low, high in channels), "no channel is constant"


def test_the_key_decides_the_content() -> None:
    first, again, other = (Drawing(64, 64, key).content() for key in ("1", "1", "2"))
    assert first == again != other


def test_files_are_numbered_per_prefix_and_batches_go_on() -> None:
    store = pictures()
    assert [shown["filename"] for shown in saved(store, batch=2)] == ["a_00001_.png", "a_00002_.png"]
    assert saved(store)[0]["filename"] == "a_00003_.png"
    assert saved(store, prefix="b")[0]["filename"] == "b_00001_.png"


def test_a_prefix_may_name_a_subfolder_and_the_size() -> None:
    (shown,) = saved(pictures(), prefix="sub/%width%x%height%_%batch_num%")
    assert (shown["subfolder"], shown["filename"]) == ("sub", "64x40_0_00001_.png")


def test_a_prefix_that_leads_out_fails() -> None:
    with pytest.raises(NodeFailure, match="outside the output folder"):
        saved(pictures(), prefix="../x")


def test_previews_are_temporary() -> None:
    (shown,) = saved(pictures(), prefix=None)
    assert shown["type"] == "temp"
    assert shown["filename"].startswith("ComfyUI_temp_")


def test_only_the_newest_are_kept() -> None:
    store = pictures(keep=2)
    saved(store, batch=3)
    found = [store.find(FilePlace("output", "", f"a_{number:05}_.png")) for number in (1, 2, 3)]
    assert [item is None for item in found] == [True, False, False]


def test_another_content_under_a_name_in_use_gets_a_number() -> None:
    store, place = pictures(), FilePlace("input", "", "x.png")
    names = [store.upload(content, place, overwrite=False).name for content in (b"1", b"1", b"2", b"3")]
    assert names == ["x.png", "x.png", "x (1).png", "x (2).png"]
    assert store.upload(b"4", place, overwrite=True).name == "x.png"
    assert store.find(place) == b"4"


def test_a_loader_lists_pictures_and_finds_annotated_ones() -> None:
    store = pictures()
    store.upload(b"1", FilePlace("input", "", "b.png"), overwrite=False)
    store.upload(b"1", FilePlace("input", "sub", "a.png"), overwrite=False)
    store.upload(b"1", FilePlace("input", "", "notes.txt"), overwrite=False)
    saved(store)
    assert store.input_names() == ["b.png"]
    assert [store.has_input(name) for name in ("b.png", "sub/a.png", "a_00001_.png [output]", "a.png")] == [
        True,
        True,
        True,
        False,
    ]


def test_a_broken_upload_fails_when_it_is_loaded() -> None:
    store = pictures()
    store.upload(b"no picture", FilePlace("input", "", "x.png"), overwrite=False)
    with pytest.raises(NodeFailure, match="cannot identify image file"):
        store.input_size("x.png")


def test_a_preview_is_a_jpeg_of_512_pixels() -> None:
    with Image.open(io.BytesIO(preview_jpeg(1024, 512, 0))) as image:
        assert (image.format, image.size) == ("JPEG", (512, 256))


def test_a_folder_lists_its_own_files_the_newest_first() -> None:
    store = pictures()
    for prefix in ("a", "b", "below/c", None):
        saved(store, prefix)
    assert store.generated_names("output") == ["b_00001_.png", "a_00001_.png"]
    assert len(store.generated_names("temp")) == 1
