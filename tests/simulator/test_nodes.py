from __future__ import annotations

from typing import Any

import pytest

from pytest_comfyload.simulator.library import Library
from pytest_comfyload.simulator.machine import SimulatedMachine
from pytest_comfyload.simulator.nodes import CLASSES
from pytest_comfyload.simulator.settings import SimulatorSettings
from pytest_comfyload.simulator.virtual_clock import VirtualClock
from pytest_comfyload.simulator.vram import SDXL, part_of
from pytest_comfyload.simulator.work import Conditioning, NodeFailure, NodeWork, Picture

MACHINE = SimulatedMachine(
    SimulatorSettings(probe_nodes=True, models={"checkpoints": ["sdxl.safetensors"]}), VirtualClock(1.0)
)
LIBRARY: Library = MACHINE.library

VALUES: dict[str, Any] = {
    "MODEL": part_of("sdxl.safetensors", "unet"),
    "CLIP": part_of("sdxl.safetensors", "clip"),
    "VAE": part_of("sdxl.safetensors", "vae"),
    "CONTROL_NET": part_of("canny.pth", "controlnet"),
    "UPSCALE_MODEL": part_of("x4.pth", "upscaler"),
    "CONDITIONING": Conditioning(),
    "IMAGE": Picture(100, 60, 2, "image"),
    "MASK": Picture(100, 60, 1, "mask"),
    "LATENT": Picture(128, 64, 2, "latent"),
}


def defaults(class_type: str) -> dict[str, Any]:
    """Return a value for every input: a placeholder for links, the default or first choice for literals."""
    inputs: dict[str, Any] = {}
    for declared in LIBRARY.inputs(class_type):
        if declared.choices is not None:
            inputs[declared.name] = (declared.choices or ["none.png"])[0]
        else:
            inputs[declared.name] = VALUES.get(declared.type, declared.options.get("default", "text"))
    return inputs


def work(class_type: str, **inputs: Any) -> NodeWork:
    return MACHINE.work(class_type, defaults(class_type) | inputs, "key")


def size(made: NodeWork) -> tuple[int, int, int]:
    picture: Picture = made.outputs[0]
    return picture.width, picture.height, picture.batch


def test_every_class_that_is_offered_can_be_worked() -> None:
    assert set(CLASSES) == set(LIBRARY)


@pytest.mark.parametrize("class_type", sorted(set(CLASSES) - {"LoadImage", "LoadImageMask", "ProbeFail", "ProbeOOM"}))
def test_a_node_makes_as_many_outputs_as_it_declares(class_type: str) -> None:
    made = work(class_type)
    assert len(made.outputs) == len(LIBRARY.outputs(class_type))
    assert made.seconds >= 0


def test_object_info_has_the_models_of_the_settings() -> None:
    choices, *_ = LIBRARY.info("CheckpointLoaderSimple")["input"]["required"]["ckpt_name"]
    assert "sdxl.safetensors" in choices
    assert LIBRARY.info("UpscaleModelLoader")["input"]["required"]["model_name"][1]["options"]


@pytest.mark.parametrize(
    ("class_type", "inputs", "made"),
    [
        ("EmptyLatentImage", {"width": 130, "height": 64, "batch_size": 3}, (128, 64, 3)),
        ("EmptyImage", {"width": 130, "height": 64, "batch_size": 1}, (130, 64, 1)),
        ("VAEEncode", {}, (96, 56, 2)),
        ("VAEDecode", {}, (128, 64, 2)),
        ("LatentUpscale", {"width": 300, "height": 0}, (296, 144, 2)),
        ("LatentUpscaleBy", {"scale_by": 1.5}, (192, 96, 2)),
        ("RepeatLatentBatch", {"amount": 3}, (128, 64, 6)),
        ("ImageScale", {"width": 50, "height": 70}, (50, 70, 2)),
        ("ImageScale", {"width": 0, "height": 30}, (50, 30, 2)),
        ("ImageScaleBy", {"scale_by": 2.0}, (200, 120, 2)),
        ("ImageUpscaleWithModel", {}, (400, 240, 2)),
    ],
)
def test_sizes_are_those_of_comfyui(class_type: str, inputs: dict[str, Any], made: tuple[int, int, int]) -> None:
    assert size(work(class_type, **inputs)) == made


def test_the_sampler_counts_the_steps_that_it_takes() -> None:
    assert work("KSampler", steps=7).steps == 7
    assert work("KSamplerAdvanced", steps=20, start_at_step=5, end_at_step=10_000).steps == 15
    assert work("KSamplerAdvanced", steps=20, start_at_step=30).steps == 0


def test_a_controlnet_makes_sampling_slower_and_must_be_loaded() -> None:
    plain = work("KSampler")
    guided = work("KSampler", positive=work("ControlNetApplyAdvanced").outputs[0])
    assert guided.seconds > plain.seconds
    assert len(guided.needs) == len(plain.needs) + 1


def test_a_lora_makes_other_weights_of_the_same_model() -> None:
    model, clip = work("LoraLoader").outputs
    assert model.patches == clip.patches == ("key",)
    assert model.family is SDXL


def test_a_literal_where_a_link_belongs_fails_as_python_would() -> None:
    with pytest.raises(NodeFailure, match="'str' object has no attribute"):
        work("KSampler", model="x")
