"""Cases that the recordings do not cover; the expected answers are those of a real ComfyUI 0.3.75."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_comfyload.simulator.machine import SimulatedMachine
from pytest_comfyload.simulator.settings import SimulatorSettings
from pytest_comfyload.simulator.validation import ValidationResult, validate
from pytest_comfyload.simulator.virtual_clock import VirtualClock
from tests.simulator.graphs import txt2img

CHECKPOINT = "tiny_sd15.safetensors"
LIBRARY = SimulatedMachine(
    SimulatorSettings(stock_models=False, models={"checkpoints": [CHECKPOINT]}), VirtualClock(1.0)
).library


def judged(prompt: dict[str, Any], **how: Any) -> ValidationResult:
    return validate(prompt, LIBRARY, **how)


def with_input(node: str, name: str, value: Any) -> dict[str, Any]:
    prompt = txt2img(checkpoint=CHECKPOINT)
    prompt[node]["inputs"][name] = value
    return prompt


def only_error(prompt: dict[str, Any], node: str) -> dict[str, Any]:
    (error,) = judged(prompt).node_errors[node]["errors"]
    return dict(error)


def test_a_long_list_of_choices_is_only_counted() -> None:
    error = only_error(with_input("3", "sampler_name", "nope"), "3")
    assert error["details"] == "sampler_name: 'nope' not in (list of length 42)"
    assert error["extra_info"]["input_config"] is None


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [("steps", "4", 4), ("steps", 1.7, 1), ("cfg", 3, 3.0), ("steps", True, 1), ("cfg", {"__value__": 2}, 2.0)],
)
def test_literals_are_converted_in_place(name: str, value: Any, kept: Any) -> None:
    prompt = with_input("3", name, value)
    assert judged(prompt).error is None
    assert prompt["3"]["inputs"][name] == kept
    assert type(prompt["3"]["inputs"][name]) is type(kept)


def test_what_cannot_be_converted_is_named() -> None:
    error = only_error(with_input("3", "steps", None), "3")
    assert error["type"] == "invalid_input_type"
    assert error["details"].startswith("steps, None, int() argument must be a string")


def test_an_output_linked_to_nowhere() -> None:
    verdict = judged(with_input("9", "images", ["99", 0]))
    assert verdict.error is not None
    assert verdict.error["details"] == "Exception when validating node: '99'"
    (error,) = verdict.node_errors["9"]["errors"]
    assert (error["type"], error["extra_info"]["exception_type"]) == ("exception_during_validation", "KeyError")


def test_a_slot_that_a_node_has_not() -> None:
    verdict = judged(with_input("9", "images", ["8", 3]))
    assert verdict.error is not None
    assert verdict.error["details"] == "Exception when validating node: tuple index out of range"


def test_an_output_of_the_wrong_type_is_told_in_the_details() -> None:
    verdict = judged(with_input("9", "images", ["3", 0]))
    assert verdict.error is not None
    said = "Return type mismatch between linked nodes: images, received_type(LATENT) mismatch input_type(IMAGE)"
    assert verdict.error["details"] == said


def test_a_cycle_is_refused_without_a_word() -> None:
    prompt = txt2img(checkpoint=CHECKPOINT)
    prompt["5"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["8", 0], "vae": ["4", 2]}}
    verdict = judged(prompt)
    assert verdict.error is not None
    assert (verdict.error["details"], verdict.node_errors) == ("", {})


def test_a_missing_picture() -> None:
    prompt = {
        "10": {"class_type": "LoadImage", "inputs": {"image": "nope.png"}},
        "11": {"class_type": "PreviewImage", "inputs": {"images": ["10", 0]}},
    }
    assert only_error(prompt, "10") == {
        "type": "custom_validation_failed",
        "message": "Custom validation failed for node",
        "details": "image - Invalid image file: nope.png",
        "extra_info": {"input_name": "image"},
    }


def test_outputs_that_pass_are_kept_and_the_others_told() -> None:
    prompt = txt2img(checkpoint=CHECKPOINT)
    prompt |= {
        "20": {"class_type": "EmptyImage", "inputs": {"width": 0, "height": 8, "batch_size": 1, "color": 0}},
        "21": {"class_type": "PreviewImage", "inputs": {"images": ["20", 0]}},
    }
    verdict = judged(prompt)
    assert (verdict.error, verdict.outputs) == (None, ["9"])
    assert verdict.node_errors["20"]["dependent_outputs"] == ["21"]


def test_errors_are_laid_at_the_door_of_every_later_output_too() -> None:
    prompt = with_input("3", "steps", 0)
    prompt |= {
        "96": {"class_type": "EmptyImage", "inputs": {"width": 0, "height": 8, "batch_size": 1, "color": 0}},
        "97": {"class_type": "PreviewImage", "inputs": {"images": ["96", 0]}},
    }
    errors = judged(prompt).node_errors
    assert {node: entry["dependent_outputs"] for node, entry in errors.items()} == {"3": ["9", "97"], "96": ["97"]}


def test_only_the_targets_of_a_partial_execution_count() -> None:
    prompt = txt2img(checkpoint=CHECKPOINT) | {"22": {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}}
    assert judged(prompt, targets=["22"]).outputs == ["22"]
    refused = judged(prompt, targets=["nope"])
    assert refused.error is not None
    assert refused.error["type"] == "prompt_no_outputs"


def test_a_literal_in_the_place_of_a_link_is_found_out_only_later() -> None:
    assert judged(with_input("3", "model", "x")).error is None


@pytest.mark.parametrize("prompt", [{"9": {"class_type": "SaveImage"}}, {"9": 5}, "text"])
def test_a_prompt_of_the_wrong_shape_is_no_prompt(prompt: Any) -> None:
    try:
        verdict = validate(prompt, LIBRARY)
    except (TypeError, AttributeError):
        return
    assert verdict.error is not None
    assert verdict.error["details"] == "Exception when validating node: 'inputs'"
