"""Any JSON that a server returns about itself and its nodes is either used or rejected with a single error of ours."""

from __future__ import annotations

import contextlib
import math
import random
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.gpu.http_sources import devices_of
from pytest_comfyload.gpu.nvml_select import gpus_of_server
from pytest_comfyload.protocol.bodies import parse_object_info
from pytest_comfyload.protocol.system_stats import parse_system_stats, used_memory
from pytest_comfyload.result.run_facts import ServerFacts
from pytest_comfyload.run.prepare import FittedPart
from pytest_comfyload.run.subject import subject_of_parts
from pytest_comfyload.scenario.distributions import normal, uniform
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.workflow.graph import NodeGraph
from pytest_comfyload.workflow.input_files import input_files
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.preflight import objections, paid_nodes, respelled
from pytest_comfyload.workflow.prompts import LoadedPart
from pytest_comfyload.workflow.workflow import Workflow
from tests.protocol.strategies import ANY_JSON, STATS

GRAPH: dict[str, Any] = {
    "1": {"class_type": "Loader", "inputs": {"ckpt_name": "a.safetensors", "image": "a.png"}},
    "2": {"class_type": "Text", "inputs": {"value": "a cat", "delimiter": ", "}},
    "3": {"class_type": "Encode", "inputs": {"text": ["2", 0], "clip": ["1", 1]}},
    "4": {"class_type": "Sample", "inputs": {"seed": "7", "steps": 4, "cfg": 2.5, "positive": ["3", 0]}},
    "5": {"class_type": "Save", "inputs": {"images": ["4", 0], "filename_prefix": "x"}},
}
KINDS = {
    **dict.fromkeys(("seed", "steps"), "INT"),
    **dict.fromkeys(("value", "delimiter", "text", "filename_prefix"), "STRING"),
    **{"ckpt_name": "COMBO", "image": "COMBO", "cfg": "FLOAT", "clip": "CLIP", "positive": "*", "images": "IMAGE"},
}
ODD: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([math.inf, -math.inf, math.nan, 10**400, 1e308, -1, 0, 0.5, "0", None, [], True]), ANY_JSON
)
SETTINGS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("min", "max", "step", "default", "options", "image_upload"), ODD)
)


def declared(name: str) -> st.SearchStrategy[Any]:
    """Inputs of the right type with odd settings, inputs of an odd type, and JSON that declares no input."""
    return st.one_of(
        st.tuples(st.just(KINDS[name]), SETTINGS).map(list),
        st.tuples(st.one_of(st.sampled_from(sorted(set(KINDS.values()))), ANY_JSON), SETTINGS).map(list),
        ANY_JSON,
    )


def section(names: list[str]) -> st.SearchStrategy[Any]:
    return st.one_of(st.fixed_dictionaries({}, optional={name: declared(name) for name in names}), ANY_JSON)


def node_class(node: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Descriptions of the class of a node in the graph, with some of its inputs, right or odd."""
    names = list(node["inputs"])
    sections = st.fixed_dictionaries({"required": section(names), "optional": section(names)})
    others = {name: st.one_of(st.booleans(), ANY_JSON) for name in ("output_node", "api_node", "python_module")}
    return st.one_of(st.fixed_dictionaries({"input": sections}, optional=others), ANY_JSON)


OBJECT_INFO = st.one_of(
    st.fixed_dictionaries({node["class_type"]: node_class(node) for node in GRAPH.values()}), ANY_JSON
)
# The right structure, except for settings that nodes declare, such as bounds.
ODD_SETTINGS = st.fixed_dictionaries(
    {
        node["class_type"]: st.fixed_dictionaries(
            {
                "input": st.fixed_dictionaries(
                    {
                        "required": st.fixed_dictionaries(
                            {name: st.tuples(st.just(KINDS[name]), SETTINGS).map(list) for name in node["inputs"]}
                        )
                    }
                )
            }
        )
        for node in GRAPH.values()
    }
)
DRAWN: tuple[dict[str, Any], ...] = (
    {},
    {"Sample.steps": [3, "5", 10**30], "Loader.ckpt_name": "b.safetensors"},
    {"Sample.steps": uniform(1, 9), "Sample.cfg": normal(5, 2)},
    {"Sample.steps": normal(20, 5)},
)


def test_options_that_are_lists_are_none() -> None:
    body = {"Loader": {"input": {"required": {"ckpt_name": ["COMBO", {"options": [[], "b.safetensors", {}]}]}}}}
    graph = {"1": {"class_type": "Loader", "inputs": {"ckpt_name": "b.safetensors"}}}
    workflow = Workflow.load(graph).on(ObjectInfo(parse_object_info(body)))
    assert workflow.with_inputs({"1.ckpt_name": "b.safetensors"}).graph["1"]["inputs"] == {"ckpt_name": "b.safetensors"}


@given(st.one_of(OBJECT_INFO, ODD_SETTINGS), st.sampled_from(DRAWN))
def test_any_declarations_of_nodes(body: Any, inputs: dict[str, Any]) -> None:
    object_info = parse_object_info(body)
    with contextlib.suppress(ComfyloadError):
        workflow = Workflow.load(GRAPH).on(ObjectInfo(object_info)).with_inputs(inputs)
        workflow = respelled(workflow)
        paid_nodes(workflow.nodes)
        with contextlib.suppress(ComfyloadError):
            workflow = workflow.taking_texts(inputs)
        with contextlib.suppress(ComfyloadError):
            workflow = workflow.always_running(["Save"])
        workflow.pictures_to_vary()
        for seed in range(3):
            drawn = workflow.vary(random.Random(seed), text="x", filename_prefix="y")
            objections(NodeGraph(drawn.graph, workflow.object_info))
        input_files(workflow, [])
        part = LoadedPart.load(None, Scenario.build(GRAPH), Path())
        subject_of_parts([FittedPart(part, [([workflow], 1.0)], [], (0,), [])])


@given(STATS)
def test_any_stats_of_a_server(body: Any) -> None:
    with contextlib.suppress(ComfyloadError):
        stats = parse_system_stats(body)
        ServerFacts.told_by("http://gpu1:8188", stats, {})
        devices_of(stats)
        gpus_of_server(stats, [])
        with contextlib.suppress(ComfyloadError):
            ram, vram = used_memory(stats)
            assert abs(ram) < float("inf")
            assert abs(vram) < float("inf")
