from __future__ import annotations

from pytest_comfyload.workflow.graph import InputRef, NodeGraph, link_of, replaced, title_of
from pytest_comfyload.workflow.object_info import is_whole


def test_links_are_told_from_literals_as_the_server_does() -> None:
    assert link_of(["4", 0]) == "4"
    assert link_of(["57:3", 1]) == "57:3"
    for literal in ("4", 4, None, [], ["4"], [4, 0], ["4", "0"], ["a", 1, 2], {"4": 0}):
        assert link_of(literal) is None


def test_replacing_leaves_the_old_graph_and_shares_what_did_not_change() -> None:
    graph = {"1": {"class_type": "A", "inputs": {"x": 1}}, "2": {"class_type": "B", "inputs": {}}}
    new = replaced(graph, {InputRef("1", "x"): 2, InputRef("1", "y"): ["2", 0]})
    assert new["1"]["inputs"] == {"x": 2, "y": ["2", 0]}
    assert graph["1"]["inputs"] == {"x": 1}
    assert new["2"] is graph["2"]


def test_a_title_that_repeats_the_class_is_none() -> None:
    assert title_of({"class_type": "KSampler", "_meta": {"title": "KSampler"}}) == ""
    assert title_of({"class_type": "KSampler", "_meta": {"title": "Refiner"}}) == "Refiner"
    assert title_of({"class_type": "KSampler", "_meta": {"title": 5}}) == ""
    assert title_of({"class_type": "KSampler"}) == ""


def carries(name: str) -> bool:
    return name == "value"


def test_a_literal_is_found_through_a_chain_of_links() -> None:
    graph = {
        "1": {"class_type": "Sampler", "inputs": {"seed": ["2", 0]}},
        "2": {"class_type": "Reroute", "inputs": {"anything": ["3", 0]}},
        "3": {"class_type": "Int", "inputs": {"value": 5, "other": 6, "label": "x"}},
    }
    nodes = NodeGraph(graph)
    assert nodes.literal_spot(InputRef("1", "seed"), is_whole, carries) == InputRef("3", "value")


def test_no_literal_is_found_where_it_would_be_a_guess() -> None:
    graph = {
        "1": {"class_type": "Sampler", "inputs": {"seed": ["2", 0], "flag": True}},
        "2": {"class_type": "Add", "inputs": {"a": 1, "b": 2}},
        "3": {"class_type": "Loop", "inputs": {"x": ["4", 0]}},
        "4": {"class_type": "Loop", "inputs": {"x": ["3", 0]}},
    }
    nodes = NodeGraph(graph)
    assert nodes.literal_spot(InputRef("1", "seed"), is_whole, carries) is None
    assert nodes.literal_spot(InputRef("1", "flag"), is_whole, carries) is None
    assert nodes.literal_spot(InputRef("1", "absent"), is_whole, carries) is None
    assert nodes.literal_spot(InputRef("3", "x"), is_whole, carries) is None
