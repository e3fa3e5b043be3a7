"""A class that must run gets an input that no other prompt had, or the scenario is refused."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from pytest_comfyload.errors import WorkflowError
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.template import DrawnPrompt
from pytest_comfyload.workflow.texts import PromptText
from pytest_comfyload.workflow.workflow import Workflow
from tests.workflow.graphs import INFO, OBJECT_INFO

TXT2IMG = Workflow.load("txt2img")
NOTHING_TO_VARY: dict[str, Any] = {
    "1": {"class_type": "LoadVideo", "inputs": {"file": "a.mp4"}},
    "2": {"class_type": "MyNode", "inputs": {"image": ["1", 0], "strength": 0.5}},
    "3": {"class_type": "Noise", "inputs": {"seed": 1}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}


LOADING: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "sub/a.png"}},
    "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], "width": 64}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x.png"}},
}


def graphs(workflow: Workflow, n: int = 20) -> list[Mapping[str, Any]]:
    return [workflow.on(INFO).vary(random.Random(seed), text="TEXT", filename_prefix="x").graph for seed in range(n)]


def texts(workflow: Workflow, node: str) -> set[str]:
    return {graph[node]["inputs"]["text"] for graph in graphs(workflow)}


def test_an_own_or_upstream_seed_is_enough() -> None:
    fresh = TXT2IMG.always_running(["KSampler", "VAEDecode", "SaveImage"])
    assert graphs(fresh) == graphs(TXT2IMG)


def test_a_text_is_followed_by_white_space_that_no_other_prompt_has() -> None:
    fresh = TXT2IMG.always_running(["CLIPTextEncode"])
    negative = TXT2IMG.graph["7"]["inputs"]["text"]
    for node, text in (("6", "TEXT"), ("7", negative)):
        marked = texts(fresh, node)
        assert len(marked) == 20
        assert {each.strip() for each in marked} == {text}
        assert all(each.startswith(text) and set(each[len(text) :]) <= {" ", "\n"} for each in marked)
    variation = fresh.on(INFO).vary(random.Random(1), text="TEXT", filename_prefix="x")
    assert variation.text == "TEXT"


def test_a_text_makes_up_for_a_seed_that_the_user_set() -> None:
    fresh = TXT2IMG.with_inputs({"KSampler.seed": 7}).always_running(["KSampler"])
    assert {graph["3"]["inputs"]["seed"] for graph in graphs(fresh)} == {7}
    assert len(texts(fresh, "6") | texts(fresh, "7")) > 19


def test_values_to_draw_will_do_where_there_is_no_other_way() -> None:
    workflow = Workflow.load(NOTHING_TO_VARY).with_inputs({"MyNode.strength": [0.5, 0.6]})
    drawn = graphs(workflow.always_running(["MyNode"]))
    assert {graph["2"]["inputs"]["strength"] for graph in drawn} == {0.5, 0.6}


def test_texts_of_the_user_that_name_the_prompt_are_fresh() -> None:
    workflow = TXT2IMG.with_inputs({"6.text": "a {index}", "7.text": "b {seed}", "KSampler.seed": 7})
    fresh = workflow.always_running(["CLIPTextEncode"])
    assert {graph["6"]["inputs"]["text"] for graph in graphs(fresh)} == {"a {index}"}  # no `place` is given
    assert all(text.startswith("b ") and text == text.strip() for text in texts(fresh, "7"))


@pytest.mark.parametrize("inputs", [{}, {"MyNode.strength": 0.7}, {"Noise.seed": [1, 2]}])
def test_a_node_beyond_help_is_refused_with_the_way_out(inputs: dict[str, Any]) -> None:
    workflow = Workflow.load(NOTHING_TO_VARY).with_inputs(inputs)
    with pytest.raises(WorkflowError, match=r"must_run: nothing that feeds node 2 MyNode can be varied") as refusal:
        workflow.always_running(["MyNode"])
    assert "inputs={'MyNode.strength': [..., ...]}" in str(refusal.value)
    assert workflow.always_running(["MyNode"], draws=True).must_run == ("MyNode",)


def variation(workflow: Workflow, index: int) -> DrawnPrompt:
    place = {"index": index}
    return workflow.on(INFO).vary(random.Random(1), text=None, filename_prefix="x", place=place)


@pytest.mark.parametrize("class_type", ["LoadImage", "ImageScale", "SaveImage"])
@pytest.mark.parametrize("info", [None, OBJECT_INFO])
def test_a_picture_is_the_last_resort(class_type: str, info: dict[str, Any] | None) -> None:
    fresh = Workflow.load(LOADING).on(ObjectInfo(info)).always_running([class_type])
    assert fresh.on(INFO).pictures_to_vary() == {"1.image": "sub/a.png"}
    drawn = (
        Workflow.load(LOADING).with_inputs({"2.width": [64, 65]}).on(ObjectInfo(info)).always_running(["ImageScale"])
    )
    assert drawn.on(INFO).pictures_to_vary() == {}


def test_variants_are_taken_in_turn_and_belong_to_what_was_varied() -> None:
    fresh = replace(Workflow.load(LOADING).always_running(["ImageScale"]), variants={"sub/a.png": ["p", "q", "r"]})
    taken = [variation(fresh, index).graph["1"]["inputs"]["image"] for index in (-1, 0, 1, 2, 3)]
    assert taken == ["r", "p", "q", "r", "p"]
    assert variation(fresh, 0).fresh == {"1", "2", "4"}


def test_a_picture_that_the_user_set_may_be_varied_and_a_drawn_one_need_not() -> None:
    workflow = Workflow.load(LOADING)
    own = workflow.with_inputs({"LoadImage.image": "b.JPG [output]"}).always_running(["ImageScale"])
    assert own.on(INFO).pictures_to_vary() == {"1.image": "b.JPG [output]"}
    drawn = workflow.with_inputs({"LoadImage.image": ["b.png", "c.png"]}).always_running(["ImageScale"])
    assert drawn.on(INFO).pictures_to_vary() == {}


def test_what_the_server_takes_for_no_file_is_no_picture() -> None:
    graph = {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a.png"}}}
    workflow = Workflow.load(graph).with_inputs({"SaveImage.filename_prefix": "a.png"})
    workflow.always_running(["SaveImage"])
    with pytest.raises(WorkflowError, match="no seed, text or picture"):
        workflow.on(INFO).always_running(["SaveImage"])


def test_an_unknown_class_is_refused_with_the_nearest() -> None:
    with pytest.raises(WorkflowError, match=r"must_run: txt2img has no node of class 'KSampel'; it has KSampler, "):
        TXT2IMG.always_running(["KSampel"])


def test_prompts_of_many_workflows_share_their_sets() -> None:
    texts = [PromptText("a cat", {"KSampler.steps": steps}) for steps in (4, 8)]
    one, other = (TXT2IMG.with_text(text).vary(random.Random(1), text="a", filename_prefix="x") for text in texts)
    assert one.fresh is other.fresh
    assert one.needed is other.needed
