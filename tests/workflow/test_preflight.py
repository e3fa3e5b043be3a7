from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_comfyload.errors import WorkflowNotServable
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.preflight import not_servable, objections, refuse_paid, respelled
from pytest_comfyload.workflow.workflow import Workflow
from tests.workflow.graphs import INFO, OBJECT_INFO

CHECKPOINT = "tiny_sd15.safetensors"
TXT2IMG = Workflow.load("txt2img").with_inputs({"CheckpointLoaderSimple.ckpt_name": CHECKPOINT})


URL = "http://gpu1:8188"


def checked(workflow: Workflow, info: dict[str, Any] = OBJECT_INFO) -> Workflow:
    """Return the workflow as it is sent to a server, with no objection left."""
    assert objections(workflow.on(ObjectInfo(info)).nodes) == [] or respelled(workflow.on(ObjectInfo(info))) != workflow
    sent = respelled(workflow.on(ObjectInfo(info)))
    assert objections(sent.on(ObjectInfo(info)).nodes) == []
    return sent


def lines_of(error: WorkflowNotServable) -> list[str]:
    """Return the lines after the header."""
    header, *lines = str(error).split("\n")
    assert header.startswith(f"{URL} cannot run ")
    return [line.strip() for line in lines]


def refusal(workflow: Workflow, info: dict[str, Any] = OBJECT_INFO) -> list[str]:
    """Return the lines of the error if the server refuses each input that contradicts /object_info."""
    found = objections(workflow.on(ObjectInfo(info)).nodes)
    assert found
    faults = [(each.spot.node, each.spot.input, "refused") for each in found if each.spot]
    return lines_of(not_servable(workflow.name, URL, found, faults, "refused"))


def plus(**nodes: dict[str, Any]) -> Workflow:
    """Return txt2img with more nodes."""
    return Workflow.load({**TXT2IMG.graph, **nodes})


def test_what_the_server_can_run_passes_unchanged() -> None:
    assert checked(TXT2IMG) == TXT2IMG


def test_all_missing_classes_stand_in_one_line() -> None:
    graph = plus(a={"class_type": "KSamplr"}, b={"class_type": "Xyzzy"}, c={"class_type": "Xyzzy"})
    [line] = refusal(graph)
    assert line.startswith("the server lacks the node classes KSamplr (did you mean KSampler?")
    assert ", Xyzzy; install the custom nodes" in line


def test_a_model_that_is_not_there_gets_the_servers_list_and_the_way_out() -> None:
    assert refusal(Workflow.load("txt2img")) == [
        "node 4 CheckpointLoaderSimple.ckpt_name = 'v1-5-pruned-emaonly.safetensors': "
        "the server has tiny_sd15.safetensors; "
        'choose with --comfyui-input "CheckpointLoaderSimple.ckpt_name=tiny_sd15.safetensors"'
    ]


def test_a_long_list_of_models_is_cut_and_the_nearest_is_proposed() -> None:
    names = [f"model_{number}.safetensors" for number in range(40)] + ["v1-5-pruned.safetensors"]
    info = {**OBJECT_INFO, "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [names, {}]}}}}
    [line] = refusal(Workflow.load("txt2img"), info)
    assert "the server has v1-5-pruned.safetensors, model_" in line
    assert "(41 in all)" in line
    assert line.endswith('ckpt_name=v1-5-pruned.safetensors"')


def test_the_way_out_names_the_node_where_its_class_is_not_alone() -> None:
    graph = plus(x={"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "nope"}})
    nodes = {**graph.graph, "3": {**graph.graph["3"], "inputs": {**graph.graph["3"]["inputs"], "model": ["x", 0]}}}
    [line] = refusal(Workflow.load(nodes))
    assert '--comfyui-input "x.ckpt_name=tiny_sd15.safetensors"' in line


def test_a_server_without_any_such_file_says_so() -> None:
    graph = plus(x={"class_type": "LoadImage", "inputs": {"image": "a.png"}},
                 y={"class_type": "PreviewImage", "inputs": {"images": ["x", 0]}})  # fmt: skip
    assert refusal(graph) == ["node x LoadImage.image = 'a.png': the server has none"]


@pytest.mark.parametrize("options", [[["xl\\base.safetensors"], {}], ["COMBO", {"options": ["xl\\base.safetensors"]}]])
def test_slashes_become_the_servers(options: list[Any]) -> None:
    info = {**OBJECT_INFO, "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": options}}}}
    workflow = Workflow.load("txt2img").with_inputs({"4.ckpt_name": "xl/base.safetensors"})
    adjusted = checked(workflow, info)
    assert adjusted.graph["4"]["inputs"]["ckpt_name"] == "xl\\base.safetensors"
    assert (adjusted.name, adjusted.kept) == (workflow.name, workflow.kept)
    assert workflow.graph["4"]["inputs"]["ckpt_name"] == "xl/base.safetensors"


@pytest.mark.parametrize(
    ("address", "value", "says"),
    [
        ("3.steps", 0, "node 3 KSampler.steps = 0: wants INT from 1 to 10000"),
        ("3.steps", "many", "node 3 KSampler.steps = 'many': wants INT from 1 to 10000"),
        ("3.cfg", 101.0, "node 3 KSampler.cfg = 101.0: wants FLOAT from 0.0 to 100.0"),
        ("3.steps", None, "node 3 KSampler.steps = None: wants INT from 1 to 10000"),
        ("4.ckpt_name", None, "node 4 CheckpointLoaderSimple.ckpt_name = None: the server has tiny_sd15.safetensors"),
        ("3.sampler_name", "eulr", "node 3 KSampler.sampler_name = 'eulr': the server has euler, "),
    ],
)
def test_values_that_the_server_would_refuse_are_named(address: str, value: Any, says: str) -> None:
    node, name = address.split(".")
    graph = json.loads(json.dumps(TXT2IMG.graph))
    graph[node]["inputs"][name] = value
    [line] = refusal(Workflow.load(graph))
    assert line.startswith(says)


@pytest.mark.parametrize(("address", "value"), [("3.steps", "20"), ("3.steps", 20.5), ("6.text", 5), ("9.extra", 1)])
def test_what_the_server_lets_pass_is_let_pass(address: str, value: Any) -> None:
    node, name = address.split(".")
    graph = json.loads(json.dumps(TXT2IMG.graph))
    graph[node]["inputs"][name] = value
    assert checked(Workflow.load(graph)).graph == graph


def test_missing_required_inputs_are_named() -> None:
    graph = json.loads(json.dumps(TXT2IMG.graph))
    del graph["3"]["inputs"]["model"], graph["3"]["inputs"]["steps"]
    assert refusal(Workflow.load(graph)) == [
        "node 3 KSampler.model is missing: wants MODEL",
        "node 3 KSampler.steps is missing: wants INT from 1 to 10000",
    ]


def test_an_input_that_grows_is_given_by_its_parts() -> None:
    info = {**OBJECT_INFO, "Join": {"output_node": True, "input": {"required": {"images": ["COMFY_AUTOGROW_V3", {}]}}}}
    assert checked(plus(x={"class_type": "Join", "inputs": {"images.image0": ["8", 0]}}), info)


def test_a_graph_without_output_is_refused() -> None:
    graph = {node_id: node for node_id, node in TXT2IMG.graph.items() if node_id != "9"}
    assert refusal(Workflow.load(graph)) == ["none of its nodes is an output, such as SaveImage or PreviewImage"]


def test_inputs_of_nodes_that_lead_nowhere_do_not_count() -> None:
    checked(plus(x={"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "nope"}}))


def test_paid_nodes_want_permission() -> None:
    info = {**OBJECT_INFO, "FluxPro": {"api_node": True, "output_node": True, "input": {}}}
    graph = plus(x={"class_type": "FluxPro"})
    with pytest.raises(WorkflowNotServable) as caught:
        refuse_paid(graph.on(ObjectInfo(info)), URL)
    assert lines_of(caught.value) == ["node x FluxPro costs money at every prompt: allow_api_nodes=True permits it"]
    refuse_paid(TXT2IMG.on(ObjectInfo(info)), URL)


def test_the_servers_own_words_stand_where_nothing_is_known_of_the_legal_values() -> None:
    found = objections(Workflow.load("txt2img").on(INFO).nodes)
    faults = [("4", "ckpt_name", "Value not in list"), ("8", "", "Exception when validating node (4)")]
    ours, theirs = lines_of(not_servable("txt2img", URL, found, faults, "rejected"))
    assert ours.startswith(
        "node 4 CheckpointLoaderSimple.ckpt_name = 'v1-5-pruned-emaonly.safetensors': the server has"
    )
    assert theirs == "Exception when validating node (4)"
    assert lines_of(not_servable("txt2img", URL, found, [], "rejected")) == ["rejected"]


def test_many_problems_are_cut_to_a_screenful() -> None:
    nodes = {f"n{number}": {"class_type": "PreviewImage", "inputs": {}} for number in range(20)}
    lines = refusal(plus(**nodes))
    assert len(lines) == 8
    assert lines[-1] == "and 13 more"
