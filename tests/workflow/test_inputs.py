from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import UsageError, WorkflowError
from pytest_comfyload.workflow.inputs import Override, parse_override
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.workflow import Workflow
from tests.workflow.graphs import CONTROLNET, FLUX, INFO, OBJECT_INFO

TXT2IMG = Workflow.load("txt2img")


def refusal(workflow: Workflow, values: dict[str, Any], object_info: dict[str, Any] | None = None) -> str:
    with pytest.raises(WorkflowError) as caught:
        workflow.on(ObjectInfo(object_info)).with_inputs(values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "override"),
    [
        ("KSampler.steps=20", Override("KSampler", "steps", "20")),
        ("3.cfg=7.5", Override("3", "cfg", "7.5")),
        ("My v1.5 prompt.text=a=b.c", Override("My v1.5 prompt", "text", "a=b.c")),
        ("6.text=", Override("6", "text", "")),
        (" KSampler[*].seed=1 ", Override("KSampler[*]", "seed", "1 ")),
    ],
)
def test_an_override_is_read(text: str, override: Override) -> None:
    assert parse_override(text) == override


@pytest.mark.parametrize("text", ["", "steps=20", "KSampler.steps", ".steps=1", "KSampler.=1", "=", "a.b"])
def test_what_sets_no_input_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"write NODE\.INPUT=VALUE"):
        parse_override(text)


names = st.text(st.characters(exclude_characters="=", exclude_categories=["Z", "C"]), min_size=1)


@given(names, names.filter(lambda name: "." not in name), st.text())
def test_an_override_survives_the_round_trip(node: str, name: str, text: str) -> None:
    override = Override(node, name, text)
    assert parse_override(str(override)) == override


def test_id_comes_before_title_before_class() -> None:
    graph = {
        "Title": {"class_type": "A", "inputs": {"x": 0}},
        "2": {"class_type": "B", "inputs": {"x": 0}, "_meta": {"title": "Title"}},
        "3": {"class_type": "C", "inputs": {"x": 0}, "_meta": {"title": "B"}},
        "4": {"class_type": "C", "inputs": {"x": 0}, "_meta": {"title": "C"}},
    }
    workflow = Workflow.load(graph)
    assert workflow.matches("Title.x") == ["Title"]
    assert workflow.matches("B.x") == ["3"]
    assert workflow.matches("A.x") == ["Title"]
    assert workflow.matches("C.x") == ["3", "4"]  # the title "C" only repeats the class
    assert workflow.matches("D.x") == workflow.matches("x") == workflow.matches("") == []


def test_dots_may_stand_in_titles_and_inputs() -> None:
    graph = {"1": {"class_type": "Join", "inputs": {"images.image0": 1}, "_meta": {"title": "v1.5 join"}}}
    workflow = Workflow.load(graph)
    for address in ("1.images.image0", "v1.5 join.images.image0", "Join.images.image0"):
        assert workflow.with_inputs({address: 2}).graph["1"]["inputs"] == {"images.image0": 2}


def test_several_nodes_want_a_star() -> None:
    workflow = Workflow.load(CONTROLNET)
    message = refusal(workflow, {"KSampler.seed": 5})
    assert message == (
        "'KSampler' names 2 nodes of workflow: 6 'KSampler', 7 'KSampler'; "
        "choose one by id or title, or all with KSampler[*].seed"
    )
    graph = workflow.with_inputs({"KSampler[*].seed": 5}).graph
    assert [graph[node]["inputs"]["seed"] for node in "67"] == [5, 5]
    assert workflow.matches("KSampler.seed") == workflow.matches("KSampler[*].seed") == ["6", "7"]


def test_unknown_names_get_the_nearest_legal_ones() -> None:
    assert "txt2img has no node 'KSamplr'; it has KSampler, " in refusal(TXT2IMG, {"KSamplr.steps": 1})
    assert "node 3 'KSampler' has no input 'stepz'; it has steps, " in refusal(TXT2IMG, {"3.stepz": 1})
    assert "write NODE.INPUT" in refusal(TXT2IMG, {"steps": 1})


def test_an_input_that_only_the_server_knows_can_be_set() -> None:
    workflow = Workflow.load({"1": {"class_type": "SaveImage", "inputs": {}}})
    assert workflow.on(INFO).with_inputs({"1.filename_prefix": "x"}).graph["1"]["inputs"] == {"filename_prefix": "x"}
    assert "has no input 'filename_prefix'; it has none" in refusal(workflow, {"1.filename_prefix": "x"})


def test_text_is_typed_by_the_server() -> None:
    graph = TXT2IMG.on(INFO).with_inputs({"3.cfg": "7", "3.steps": "5", "6.text": "12", "3.sampler_name": "ddim"}).graph
    assert graph["3"]["inputs"]["cfg"] == 7.0
    assert type(graph["3"]["inputs"]["cfg"]) is float
    assert graph["3"]["inputs"]["steps"] == 5
    assert graph["6"]["inputs"]["text"] == "12"
    assert graph["3"]["inputs"]["sampler_name"] == "ddim"


def test_text_is_typed_by_the_present_value_without_a_server() -> None:
    workflow = Workflow.load({"1": {"class_type": "A", "inputs": {"cfg": 8, "on": True, "name": "a", "seed": ["2", 0]}},
                              "2": {"class_type": "B", "inputs": {}}})  # fmt: skip
    new = workflow.with_inputs({"1.cfg": "8.5", "1.on": "false", "1.name": "5", "1.seed": "9"}).graph["1"]["inputs"]
    assert new == {"cfg": 8.5, "on": False, "name": "5", "seed": 9}
    assert "1.cfg = 'many': wants NUMBER" in refusal(workflow, {"1.cfg": "many"})


@pytest.mark.parametrize(
    ("address", "value", "says"),
    [
        ("3.steps", "many", "3.steps = 'many': wants INT from 1 to 10000"),
        ("3.cfg", "high", "wants FLOAT from 0.0 to 100.0"),
        ("3.model", ["99", 0], "no node '99' to link to"),
        ("3.model", float("nan"), "wants MODEL"),
    ],
)
def test_an_illegal_value_gets_the_legal_ones(address: str, value: Any, says: str) -> None:
    assert says in refusal(TXT2IMG, {address: value}, OBJECT_INFO)


@pytest.mark.parametrize(("address", "value"), [("3.steps", 0), ("3.sampler_name", "eulr"), ("4.ckpt_name", "no.ckpt")])
def test_a_value_that_the_server_may_refuse_is_the_servers_to_judge(address: str, value: Any) -> None:
    node, name = address.split(".")
    assert TXT2IMG.on(INFO).with_inputs({address: value}).graph[node]["inputs"][name] == value


def test_a_model_name_takes_the_servers_slash() -> None:
    info = {"CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [["xl\\base.safetensors"], {}]}}}}
    graph = TXT2IMG.on(ObjectInfo(info)).with_inputs({"CheckpointLoaderSimple.ckpt_name": "xl/base.safetensors"}).graph
    assert graph["4"]["inputs"]["ckpt_name"] == "xl\\base.safetensors"


def test_links_can_be_replaced_and_set() -> None:
    workflow = Workflow.load(FLUX)
    assert workflow.on(INFO).with_inputs({"5.noise_seed": "3"}).graph["5"]["inputs"]["noise_seed"] == 3
    assert workflow.with_inputs({"4.conditioning": ["2", 0]}).graph["4"]["inputs"]["conditioning"] == ["2", 0]
