from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import UsageError, WorkflowError
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.workflow.input_files import PICTURES, InputFile, draw, input_files, with_local_files
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.workflow import Workflow

INFO = ObjectInfo(
    {
        "LoadImage": {"input": {"required": {"image": [[], {"image_upload": True}]}}},
        "LoadAudio": {"input": {"required": {"audio": ["COMBO", {"audio_upload": True, "options": []}]}}},
        "SaveImage": {"input": {"required": {"filename_prefix": ["STRING", {}]}}},
    }
)


def loading(image: Any) -> Workflow:
    return Workflow.load({"1": {"class_type": "LoadImage", "inputs": {"image": image}}})


def names(workflow: Workflow, local: list[InputFile] | None = None) -> list[str]:
    return [file.name for file in input_files(workflow.on(INFO), local or [])]


@pytest.mark.parametrize("value", ["comfyload/photo.png", "comfyload/photo.png [input]"])
def test_a_packaged_picture_is_found(value: str) -> None:
    [file] = input_files(loading(value).on(INFO), [])
    assert file.value == "comfyload/photo.png"
    assert file.content().startswith(b"\x89PNG")


def test_one_that_two_nodes_load_is_one() -> None:
    node = {"class_type": "LoadImage", "inputs": {"image": "comfyload/edges.png"}}
    assert names(Workflow.load({"1": node, "2": node})) == ["edges.png"]


@pytest.mark.parametrize("value", ["mine.png", "sub/mine.png", "comfyload/run_00001_.png [output]", ["2", 0], None])
def test_what_is_not_ours_is_left_to_the_server(value: Any) -> None:
    other = {"class_type": "SaveImage", "inputs": {"filename_prefix": "comfyload/x"}}
    assert names(Workflow.load({**loading(None).graph, "2": other}).with_inputs({"1.image": value})) == []


def test_an_unknown_picture_gets_the_packaged_ones_nearest_first() -> None:
    with pytest.raises(WorkflowError) as caught:
        input_files(loading("comfyload/foto.png").on(INFO), [])
    assert str(caught.value) == (
        "node 1 LoadImage.image = 'comfyload/foto.png': packaged pictures are comfyload/photo.png, "
        "comfyload/photo_masked.png, comfyload/edges.png; one of your own is pathlib.Path(…)"
    )


def test_a_local_file_is_named_after_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    inputs, [first] = with_local_files({"LoadImage.image": Path("a.png"), "KSampler.steps": 4}, tmp_path)
    assert inputs == {"LoadImage.image": first.value, "KSampler.steps": 4}
    assert first.value.startswith("comfyload/a-")
    assert first.content() == b"one"
    (tmp_path / "a.png").write_bytes(b"two")
    _, [second] = with_local_files({"LoadImage.image": tmp_path / "a.png"}, tmp_path)
    assert second.name != first.name
    assert names(loading(first.value), [first, second]) == [first.name]


def test_files_of_other_kinds_are_uploaded_too(tmp_path: Path) -> None:
    (tmp_path / "voice.flac").write_bytes(b"fLaC")
    inputs, local = with_local_files({"1.audio": Path("voice.flac")}, tmp_path)
    workflow = Workflow.load({"1": {"class_type": "LoadAudio", "inputs": {"audio": inputs["1.audio"]}}})
    assert names(workflow, local) == [local[0].name]


def test_a_missing_file_is_said_before_any_server_is_asked(tmp_path: Path) -> None:
    scenario = Scenario.build("img2img", inputs={"LoadImage.image": Path("none.png")})
    server = ServerAddress.parse("http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"^inputs: LoadImage\.image: no file 'none\.png' in "):
        run_load(LoadRun(scenario, (server,), "t", files=tmp_path, store=tmp_path))


# --- the packaged images ---


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
