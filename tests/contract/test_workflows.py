"""All bundled SD 1.5 workflows, and all exports that both servers support, run on both, with uploaded images."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.workflow.input_files import draw
from tests.contract.loads import run
from tests.real_comfyui.target import Target
from tests.workflow.test_exports import EXPORTS

TINY = {"CheckpointLoaderSimple.ckpt_name": "tiny_sd15.safetensors", "KSampler[*].steps": 2}
FROM_NOTHING = {**TINY, "EmptyLatentImage.width": 64, "EmptyLatentImage.height": 64}
FROM_PICTURE = {**TINY, "ImageScale.width": 64, "ImageScale.height": 64}
# The inputs that make a workflow small, and the resulting side length of its image.
SMALL: dict[str, tuple[dict[str, Any], int]] = {
    "txt2img": (FROM_NOTHING, 64),
    "img2img": (FROM_PICTURE, 64),
    "inpainting": (FROM_PICTURE, 64),
    "upscale": (FROM_NOTHING, 128),
    "controlnet": ({**FROM_NOTHING, "ControlNetLoader.control_net_name": "tiny_controlnet.safetensors"}, 64),
    "lora": ({**FROM_NOTHING, "LoraLoader.lora_name": "tiny_lora.safetensors"}, 64),
}


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all files uploaded from now on."""
    names: list[str] = []
    upload = ComfyClient.upload_input

    async def spy(client: ComfyClient, name: str, content: bytes, subfolder: str) -> None:
        names.append(name)
        await upload(client, name, content, subfolder)

    monkeypatch.setattr(ComfyClient, "upload_input", spy)
    return names


def sides(load: LoadResult) -> list[tuple[int | None, int | None]]:
    return [(file.width, file.height) for outcome in load.outcomes for file in outcome.outputs]


@pytest.mark.parametrize("name", SMALL)
def test_a_shipped_workflow_runs(name: str, target: Target, tmp_path: Path) -> None:
    inputs, side = SMALL[name]
    load = run(target, tmp_path, name, iterations=2, inputs=inputs, prompts=["a hill"], warmup=0)
    assert load.success_rate == 100, load.outcomes[0].error
    assert sides(load) == [(side, side)] * 2
    samplers = 2 if name == "upscale" else 1
    for outcome in load.outcomes:
        assert [node.class_type for node in outcome.nodes].count("KSampler") == samplers
        assert len(outcome.seeds) == samplers
    assert len({tuple(outcome.seeds.values()) for outcome in load.outcomes}) == 2


def test_a_packaged_picture_reaches_a_server_once(target: Target, tmp_path: Path, uploads: list[str]) -> None:
    for _ in range(2):
        assert run(target, tmp_path, "img2img", inputs=FROM_PICTURE, warmup=0).success_rate == 100
    assert uploads in ([], ["photo.png"])  # another test may have uploaded it already
    query = "filename=photo.png&subfolder=comfyload&type=input"
    with urllib.request.urlopen(f"{target.url}/view?{query}", timeout=30) as answer:
        assert answer.read() == draw("photo.png")


def test_a_picture_of_ones_own_is_uploaded_once(target: Target, tmp_path: Path, uploads: list[str]) -> None:
    Image.effect_noise((96, 64), 50).convert("RGB").save(tmp_path / "my picture.png")
    own = {**TINY, "LoadImage.image": Path("my picture.png"), "ImageScale.width": 96, "ImageScale.height": 0}
    for _ in range(2):
        load = run(target, tmp_path, "img2img", inputs=own, warmup=0)
        assert load.success_rate == 100, load.outcomes[0].error
        assert sides(load) == [(96, 64)]
    [name] = uploads
    assert name.startswith("my picture-")
    assert name.endswith(".png")


def test_an_export_with_subgraphs_runs(target: Target, tmp_path: Path) -> None:
    load = run(target, tmp_path, EXPORTS / "subgraph.json", iterations=2, inputs=FROM_NOTHING, warmup=0)
    assert load.success_rate == 100, load.outcomes[0].error
    assert {node.node_id for outcome in load.outcomes for node in outcome.nodes} >= {"57:3", "57:8"}
    assert len({outcome.seeds["57:3.seed"] for outcome in load.outcomes}) == 2


def test_an_upscale_model(target: Target, tmp_path: Path) -> None:
    scaled = {"image": ["1", 0], "upscale_method": "bilinear", "width": 64, "height": 64, "crop": "disabled"}
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "comfyload/photo.png"}},
        "2": {"class_type": "ImageScale", "inputs": scaled},
        "3": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "tiny_x4.safetensors"}},
        "4": {"class_type": "ImageUpscaleWithModel", "inputs": {"upscale_model": ["3", 0], "image": ["2", 0]}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "upscaled"}},
    }
    # This workflow has no seed: each prompt uses another width, or the second would be cached.
    load = run(target, tmp_path, graph, iterations=3, inputs={"ImageScale.width": list(range(64, 320, 8))}, seed=3)
    assert load.success_rate == 100
    for outcome in load.outcomes:
        (picture,) = outcome.outputs
        assert picture.width == 4 * outcome.inputs["ImageScale.width"]
        assert "ImageUpscaleWithModel" in {node.class_type for node in outcome.nodes}
