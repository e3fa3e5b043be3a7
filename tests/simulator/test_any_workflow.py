"""Workflows run even if the simulator has no description of their node classes."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pytest_comfyload.simulator.settings import SimulatorSettings
from tests.simulator.graphs import txt2img
from tests.simulator.talking import Talk, talking, until

WORKFLOWS = Path(__file__).parent / "workflows"
FAST = SimulatorSettings(time_scale=500.0)


def workflow(name: str) -> dict[str, Any]:
    graph: dict[str, Any] = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    return graph


async def delivered(server: Talk, entry: dict[str, Any]) -> dict[str, tuple[str, bytes]]:
    """Return, by file name, the output list that contains the file and its content."""
    files = {}
    for output in entry["outputs"].values():
        for kind, items in output.items():
            for item in items if kind != "animated" else ():
                where = {key: item[key] for key in ("filename", "subfolder", "type")}
                async with server.session.get(f"{server.url}/view", params=where) as response:
                    assert response.status == 200
                    files[item["filename"]] = (kind, await response.read())
    return files


def run(
    name: str, settings: SimulatorSettings = FAST
) -> tuple[dict[str, Any], dict[str, tuple[str, bytes]], list[str]]:
    """Return the history entry of a workflow, its files, and the node classes whose times were guessed."""

    async def talk() -> Any:
        async with talking(settings) as server:
            entry = await server.ended(await server.submit(workflow(name)))
            stats = await server.get("/system_stats")
            return entry, await delivered(server, entry), stats["system"]["simulator"]["guessed_times"]

    entry, files, guessed = asyncio.run(talk())
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    return entry, files, guessed


def seconds(entry: dict[str, Any]) -> float:
    times = {event: data["timestamp"] for event, data in entry["status"]["messages"]}
    return float(times["execution_success"] - times["execution_start"]) / 1000


def test_flux_makes_its_pictures_and_its_times_are_said_to_be_guessed() -> None:
    entry, files, guessed = run("flux")
    assert list(files) == ["flux_00001_.png", "flux_00002_.png"], "the batch of the unknown latent node"
    for _, content in files.values():
        with Image.open(io.BytesIO(content)) as picture:
            assert (picture.format, picture.size) == ("PNG", (896, 1152))
    assert guessed[0] == "EmptySD3LatentImage", "those that make pictures come first"
    assert set(guessed) == {
        "BasicGuider", "BasicScheduler", "DualCLIPLoader", "EmptySD3LatentImage", "FluxGuidance", "KSamplerSelect",
        "ModelSamplingFlux", "RandomNoise", "SamplerCustomAdvanced", "UNETLoader",
    }  # fmt: skip
    assert 10 < seconds(entry) < 60


def test_the_steps_of_a_scheduler_are_those_of_the_sampler_at_its_end() -> None:
    async def talk() -> list[dict[str, Any]]:
        async with talking(FAST) as server, server.listening() as socket:
            await server.submit(workflow("flux"))
            events = await until(socket, "execution_success")
            return [event["data"] for event in events if event["type"] == "progress"]

    steps = asyncio.run(talk())
    assert {(step["node"], step["max"]) for step in steps} == {("12", 4)}


def test_wan_makes_videos_that_are_valid_files() -> None:
    entry, files, guessed = run("wan_video")
    assert {name: kind for name, (kind, _) in files.items()} == {
        "wan_00001_.mp4": "images",
        "wan_00001_.webm": "images",
        "wan_00002_.webp": "images",
        "vhs_00001_.gif": "gifs",
    }
    assert entry["outputs"]["12"]["animated"] == [True]
    assert entry["outputs"]["14"]["gifs"][0]["format"] == "image/gif"
    assert files["wan_00001_.mp4"][1][4:12] == b"ftypisom"
    assert files["wan_00001_.webm"][1].startswith(b"\x1a\x45\xdf\xa3")
    for name in ("wan_00002_.webp", "vhs_00001_.gif"):
        with Image.open(io.BytesIO(files[name][1])) as picture:
            assert picture.size == (320, 192)
            assert picture.n_frames > 1  # type: ignore[attr-defined]
    assert "KSampler" not in guessed


def test_a_refiner_runs_with_files_and_choices_that_nobody_named() -> None:
    entry, files, guessed = run("sdxl_refiner")
    assert list(files) == ["refined_00001_.png"]
    assert guessed == ["CLIPTextEncodeSDXLRefiner"]
    assert 8 < seconds(entry) < 40


def test_stated_times_are_taken_as_they_are() -> None:
    times = {"SamplerCustomAdvanced": 100.0, "VAEDecode": 50.0, **dict.fromkeys(("UNETLoader", "DualCLIPLoader"), 0.0)}
    entry, _, guessed = run("flux", SimulatorSettings(time_scale=2000.0, node_times=times))
    # Also loads weights onto the card, encodes texts and saves images, with 2.5 % of noise.
    assert 140 < seconds(entry) < 165
    assert not set(times) & set(guessed)


def test_a_workflow_that_is_announced_is_in_the_object_info() -> None:
    async def talk() -> tuple[Any, ...]:
        async with talking(FAST) as server:
            before = await server.get("/object_info/SamplerCustomAdvanced")
            told = await server.post("/simulator/workflow", {"prompt": workflow("flux")})
            loaders = await server.get("/object_info/VAELoader")
            return before, told, await server.get("/object_info"), loaders, await server.get("/models/vae")

    before, told, info, loaders, models = asyncio.run(talk())
    assert before == {}
    assert "SamplerCustomAdvanced" in told["guessed_times"]
    assert info["SamplerCustomAdvanced"]["output"] == ["LATENT"]
    assert info["SamplerCustomAdvanced"]["output_node"] is False
    assert info["UNETLoader"]["output"] == ["MODEL"]
    assert info["BasicScheduler"]["output"] == ["SIGMAS"]
    assert info["RandomNoise"]["input"]["optional"]["noise_seed"] == ["INT", {"default": 0, "min": 0, "max": 2**64 - 1}]
    assert "ae.safetensors" in loaders["VAELoader"]["input"]["required"]["vae_name"][0]
    assert "ae.safetensors" in models


def test_two_workflows_that_use_a_class_differently_both_run() -> None:
    first = txt2img(steps=1) | {"10": {"class_type": "Mystery", "inputs": {"a": 1, "image": ["8", 0]}}}
    first["9"]["inputs"]["images"] = ["10", 0]
    second = txt2img(steps=1) | {"10": {"class_type": "Mystery", "inputs": {"b": "two words", "image": ["8", 0]}}}
    second["9"]["inputs"]["images"] = ["10", 1]

    async def talk() -> list[str]:
        async with talking(FAST) as server:
            entries = [await server.ended(await server.submit(graph)) for graph in (first, second, first)]
            assert (await server.get("/object_info/Mystery"))["Mystery"]["input"]["optional"].keys() == {
                "a",
                "b",
                "image",
            }
            return [entry["status"]["status_str"] for entry in entries]

    assert asyncio.run(talk()) == ["success"] * 3


@pytest.mark.parametrize("strict", [False, True])
def test_a_link_to_nowhere_and_a_cycle_are_refused(strict: bool) -> None:
    loose = {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["77", 0]}}}
    cycle = {
        "1": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["1", 0]}},
    }
    unknown = {**cycle, "1": {"class_type": "Mystery", "inputs": {"image": ["2", 0]}}}

    async def talk() -> list[Any]:
        async with talking(SimulatorSettings(strict=strict)) as server:
            return [await server.post("/prompt", {"prompt": graph}) for graph in (loose, cycle, unknown)]

    nowhere, circle, mystery = asyncio.run(talk())
    # The wording of the real 0.3.75.
    assert nowhere["error"]["details"] == "Exception when validating node: '77'"
    assert nowhere["node_errors"]["1"]["errors"][0]["extra_info"]["exception_type"] == "KeyError"
    failed = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation", "details": ""}
    assert circle == {"error": failed | {"extra_info": {}}, "node_errors": {}}
    assert mystery["error"]["type"] == ("missing_node_type" if strict else "prompt_outputs_failed_validation")


def test_a_strict_simulator_infers_nothing() -> None:
    async def talk() -> tuple[Any, ...]:
        async with talking(SimulatorSettings(strict=True)) as server:
            told = await server.post("/simulator/workflow", {"prompt": workflow("flux")})
            return told, await server.post("/prompt", {"prompt": txt2img(checkpoint="mine.safetensors")})

    told, refused = asyncio.run(talk())
    assert told == {"guessed_times": []}
    assert refused["node_errors"]["4"]["errors"][0]["type"] == "value_not_in_list"


def test_classes_come_from_a_saved_object_info(tmp_path: Path) -> None:
    info = {
        "Mystery": {
            "input": {
                "required": {"image": ["IMAGE,MASK", {}], "mode": [["soft", "hard"], {}]},
                "hidden": {"id": "ID"},
            },
            "output": ["*"],
            "output_node": False,
            "name": "Mystery",
        }
    }
    (tmp_path / "nodes.json").write_text(json.dumps(info))
    graph = txt2img(steps=1) | {"10": {"class_type": "Mystery", "inputs": {"mode": "soft", "image": ["8", 0]}}}
    graph["9"]["inputs"]["images"] = ["10", 0]
    bad = {**graph, "10": {"class_type": "Mystery", "inputs": {"mode": "odd", "image": ["8", 0]}}}

    async def talk() -> tuple[Any, ...]:
        async with talking(
            SimulatorSettings(time_scale=500, strict=True, object_info=str(tmp_path / "nodes.json"))
        ) as server:
            told = await server.get("/object_info/Mystery")
            entry = await server.ended(await server.submit(graph))
            return told, entry, await server.post("/prompt", {"prompt": bad})

    told, entry, refused = asyncio.run(talk())
    assert told == info
    assert entry["status"]["status_str"] == "success"
    assert entry["outputs"]["9"]["images"]
    assert refused["node_errors"]["10"]["errors"][0]["details"] == "mode: 'odd' not in ['soft', 'hard']"


@pytest.mark.parametrize("prompt", [None, [], "text", {"1": None}, {"1": {"class_type": 7, "inputs": {}}}, {"1": {}}])
def test_what_is_no_workflow_teaches_nothing(prompt: Any) -> None:
    async def talk() -> Any:
        async with talking(FAST) as server:
            return await server.post("/simulator/workflow", {"prompt": prompt})

    assert asyncio.run(talk()) == {"guessed_times": []}
