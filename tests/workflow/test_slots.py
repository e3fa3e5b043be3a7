"""Where seeds and texts are found, in graphs of many forms."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pytest_comfyload.errors import WorkflowError
from pytest_comfyload.workflow.graph import InputRef, spots
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.workflow import Workflow
from tests.workflow.graphs import CONTROLNET, FLUX, INFO, OBJECT_INFO, TXT2IMG, vary


def with_seed(spec: list[Any]) -> dict[str, Any]:
    return {"Sampler": {"input": {"required": {"seed": spec}}}}


def test_a_linked_seed_is_varied_at_its_source() -> None:
    variation = vary(Workflow.load(FLUX))
    assert variation.graph["57:3"]["inputs"]["value"] == variation.seeds["57:3.value"]
    assert variation.graph["5"]["inputs"]["noise_seed"] == ["57:3", 0]
    assert variation.fresh >= {"57:3", "2", "5"}


@pytest.mark.parametrize("address", ["57:3.value", "5.noise_seed"])
def test_a_linked_seed_that_the_user_set_stays_on_either_end(address: str) -> None:
    assert vary(Workflow.load(FLUX).with_inputs({address: 5})).seeds == {}


def test_one_source_of_two_seeds_stays_within_both_ranges() -> None:
    graph = {
        "1": {"class_type": "Sampler", "inputs": {"seed": ["3", 0]}},
        "2": {"class_type": "Sampler2", "inputs": {"noise_seed": ["3", 0]}},
        "3": {"class_type": "PrimitiveInt", "inputs": {"value": 5}},
    }
    info = {
        **with_seed(["INT", {"min": 10, "max": 20}]),
        "Sampler2": {"input": {"required": {"noise_seed": ["INT", {"min": 15, "max": 2**64}]}}},
        "PrimitiveInt": OBJECT_INFO["PrimitiveInt"],
    }
    seeds = {vary(Workflow.load(graph), seed, info=info).seeds["3.value"] for seed in range(200)}
    assert seeds == set(range(15, 21))


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [
        (["INT", {"min": 0, "max": 3}], 0, 3),
        (["INT", {"min": -2, "max": 1}], 0, 1),
        (["INT", {"min": -5, "max": -3}], -5, -3),
        (["INT", {"min": 0, "max": 2**64 - 1}], 0, 2**53),
        (["INT", {}], 0, 2**32 - 1),
    ],
)
def test_a_seed_keeps_to_what_the_server_takes(spec: list[Any], low: int, high: int) -> None:
    workflow = Workflow.load({"1": {"class_type": "Sampler", "inputs": {"seed": 1}}})
    drawn = [vary(workflow, seed, info=with_seed(spec)).seeds["1.seed"] for seed in range(100)]
    assert low <= min(drawn)
    assert max(drawn) <= high
    assert max(drawn) > high - (high - low) / 3 - 1


def test_only_whole_numbers_called_seed_are_seeds() -> None:
    inputs = {
        "seed": 1,
        "noise_seed": 2,
        "wave_seed": 3,
        "use_seed": True,
        "seeds": 4,
        "seed_mode": "fixed",
        "x_seed": "n",
    }
    workflow = Workflow.load({"1": {"class_type": "Odd", "inputs": inputs}})
    assert set(vary(workflow, info=None).seeds) == {"1.seed", "1.noise_seed", "1.wave_seed"}
    floats = {"Odd": {"input": {"required": {"seed": ["FLOAT", {}]}}}}
    assert "1.seed" not in vary(workflow, info=floats).seeds


@pytest.mark.parametrize("info", [None, with_seed(["INT", {"max": 5}])])
def test_a_seed_written_as_text_is_a_number(info: Any) -> None:
    seeds = vary(Workflow.load({"1": {"class_type": "Sampler", "inputs": {"seed": "42"}}}), info=info).seeds
    assert type(seeds["1.seed"]) is int


def test_a_seed_that_the_server_takes_as_text_stays() -> None:
    workflow = Workflow.load({"1": {"class_type": "Sampler", "inputs": {"seed": "42"}}})
    assert vary(workflow, info=with_seed(["STRING", {}])).seeds == {}


@pytest.mark.parametrize("high", [float("inf"), float("nan"), 1e400, None, "9"])
def test_a_seed_without_a_bound_is_drawn_all_the_same(high: Any) -> None:
    workflow = Workflow.load({"1": {"class_type": "Sampler", "inputs": {"seed": 1}}})
    assert 0 <= vary(workflow, info=with_seed(["INT", {"min": 0, "max": high}])).seeds["1.seed"] < 2**32


JOINED: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 1, "positive": ["6", 0], "negative": ["7", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["30", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad"}},
    "30": {"class_type": "Join", "inputs": {"string_a": "masterpiece", "string_b": "a cat", "delimiter": ", "}},
}
STRINGS = {"required": {name: ["STRING", {}] for name in ("string_a", "string_b", "delimiter")}}
STYLES = {"required": {"style": [["noir", "pop"], {}], "picture": ["IMAGE"], **STRINGS["required"]}}


def joined(nodes: dict[str, Any], **inputs: Any) -> Workflow:
    return Workflow.load({**JOINED, "30": {"class_type": "Join", "inputs": inputs}, **nodes})


@pytest.mark.parametrize("info", [None, {**OBJECT_INFO, "Join": {"input": STYLES}}])
@pytest.mark.parametrize(
    "inputs",
    [
        {"string_b": "a cat", "delimiter": ", "},
        {"string_a": "", "string_b": "a cat", "separator": " and "},
        {"string_a": ["40", 0], "string_b": " -- "},
        {"string_a": "", "string_b": 5},
    ],
)
def test_a_text_goes_to_the_one_text_that_a_prompt_is_joined_of(inputs: dict[str, Any], info: Any) -> None:
    source = {"40": {"class_type": "PrimitiveString", "inputs": {"value": "a cat"}}}
    workflow = joined(source, **inputs).on(ObjectInfo(info)).taking_texts([])
    variation = vary(workflow, info=info)
    changed = {spot for spot, value in spots(variation.graph) if str(value).rstrip() == "TEXT"}
    assert changed == set(workflow.text_spots or ())
    assert len(changed) == 1
    assert variation.text == "TEXT"


def test_a_joined_text_takes_no_choice_and_no_path_for_a_prompt() -> None:
    inputs = {"style": "noir", "picture": ["41", 0], "string_a": "a cat"}
    loaded = {"41": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}}
    workflow = joined(loaded, **inputs)
    info = {**OBJECT_INFO, "Join": {"input": STYLES}}
    assert workflow.on(ObjectInfo(info)).taking_texts([]).text_spots == (InputRef("30", "string_a"),)


def test_several_texts_are_named_with_the_way_to_choose() -> None:
    with pytest.raises(WorkflowError) as caught:
        Workflow.load(JOINED).on(INFO).taking_texts([])
    assert str(caught.value) == (
        "prompts: workflow has 2 texts that may be the prompt: 30.string_a Join = 'masterpiece'; 30.string_b Join = "
        "'a cat'; set the others with inputs=, such as {'30.string_a': ...}, or draw one of them: "
        "inputs={'30.string_b': [..., ...]}"
    )
    chosen = Workflow.load(JOINED).on(INFO).taking_texts(["Join.string_a"])
    assert chosen.text_spots == (InputRef("30", "string_b"),)


def test_prompts_without_a_place_are_refused() -> None:
    with pytest.raises(WorkflowError, match=r"no text input .* beside 6.text, which inputs= sets"):
        TXT2IMG.on(INFO).taking_texts(["6.text"])
    silent = Workflow.load({"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}})
    with pytest.raises(WorkflowError, match="no text input on the way to a text encoder; leave prompts out"):
        silent.on(INFO).taking_texts([])
    assert silent.on(INFO).taking_texts([], optional=True).text_spots == ()


def test_without_an_encoder_prompts_go_to_the_only_text_input() -> None:
    speech = {"1": {"class_type": "Speak", "inputs": {"text": "hello", "voice": "low"}}}
    said = vary(Workflow.load(speech).on(ObjectInfo()).taking_texts([])).graph["1"]["inputs"]
    assert (said["text"].rstrip(), said["voice"]) == ("TEXT", "low")
    with pytest.raises(WorkflowError, match="2 texts that may be the prompt"):
        Workflow.load({**speech, "2": speech["1"]}).on(ObjectInfo()).taking_texts([])


def test_a_loop_of_texts_ends() -> None:
    graph = {**JOINED, "30": {"class_type": "Join", "inputs": {"string_a": ["31", 0], "string_b": ["31", 0]}}}
    graph["31"] = {"class_type": "Join", "inputs": {"string_a": ["30", 0], "string_b": ["30", 0]}}
    assert vary(Workflow.load(graph)).text is None


def test_the_text_finds_the_positive_prompt_through_a_control_net() -> None:
    variation = vary(Workflow.load(CONTROLNET))
    assert variation.graph["2"]["inputs"]["value"].rstrip() == "TEXT"
    assert variation.graph["4"]["inputs"]["text"] == "ugly"
    assert variation.graph["8"]["inputs"]["image"] == "edges.png"
    assert variation.fresh >= {"2", "6", "7"}
    assert "4" not in variation.fresh


def test_the_text_finds_the_positive_prompt_of_a_guider() -> None:
    assert vary(Workflow.load(FLUX)).graph["2"]["inputs"]["text"].rstrip() == "TEXT"


def test_a_negative_made_of_the_positive_does_not_hide_it() -> None:
    graph = {
        "1": {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_g": "a", "text_l": "b", "width": 64}},
        "2": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["1", 0]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "c"}},
        "4": {
            "class_type": "ConditioningCombine",
            "inputs": {"conditioning_1": ["1", 0], "conditioning_2": ["3", 0]},
        },
        "5": {"class_type": "Reroute", "inputs": {"": ["4", 0]}},
        "6": {"class_type": "KSampler", "inputs": {"positive": ["5", 0], "negative": ["2", 0]}},
    }
    new = Workflow.load(graph).on(INFO).vary(random.Random(1), text="TEXT", filename_prefix="", vary_text=False).graph
    assert (new["1"]["inputs"], new["3"]["inputs"]) == (
        {"text_g": "TEXT", "text_l": "TEXT", "width": 64},
        {"text": "TEXT"},
    )


def test_a_source_takes_only_what_the_server_says_it_takes() -> None:
    graph = {
        "1": {"class_type": "Styles", "inputs": {"style": "noir", "value": 3}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": ["1", 0]}},
        "3": {"class_type": "KSampler", "inputs": {"seed": ["1", 1], "positive": ["2", 0]}},
    }
    styles = {"required": {"style": [["noir", "pop"], {}], "value": ["FLOAT", {}]}}
    variation = vary(Workflow.load(graph), info={**OBJECT_INFO, "Styles": {"input": styles}})
    assert (variation.graph, variation.fresh) == (graph, frozenset())


def test_literals_do_not_bar_the_way_to_the_positive_prompt() -> None:
    graph = {
        "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a"}},
        "2": {"class_type": "Custom", "inputs": {"second_pass": 1.0, "in": ["1", 0]}},
        "3": {"class_type": "KSampler", "inputs": {"positive": ["2", 0]}},
    }
    assert vary(Workflow.load(graph)).graph["1"]["inputs"]["text"].rstrip() == "TEXT"


def test_without_a_positive_prompt_the_text_stays() -> None:
    graph = {"1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a"}}}
    variation = vary(Workflow.load(graph))
    assert (variation.text, variation.fresh, variation.graph) == (None, frozenset(), graph)
    assert vary(TXT2IMG, text=None).text is None
