from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.simulator.node_cache import ExecutionOrder
from tests.simulator.graphs import txt2img


def run(prompt: dict[str, Any], outputs: list[str], cached: tuple[str, ...] = ()) -> list[str]:
    shown = {node for node, entry in prompt.items() if entry["class_type"] in ("SaveImage", "PreviewImage")}
    order = ExecutionOrder(prompt, outputs, set(cached).__contains__, shown.__contains__)
    ran = []
    while (node := order.next()) is not None:
        ran.append(node)
        order.done(node)
    return ran


def test_a_cold_prompt_runs_in_the_order_of_a_real_server() -> None:
    assert run(txt2img(), ["9"]) == ["4", "5", "7", "6", "3", "8", "9"]


def test_what_is_cached_is_not_walked_through_except_outputs() -> None:
    assert run(txt2img(), ["9"], cached=("4", "7")) == ["5", "6", "3", "8", "9"]
    assert run(txt2img(), ["9"], cached=("3", "4", "5", "6", "7", "8", "9")) == ["9"]


def test_a_short_way_to_an_output_goes_before_a_long_one() -> None:
    prompt = txt2img() | {
        "20": {"class_type": "PreviewImage", "inputs": {"images": ["21", 0]}},
        "21": {"class_type": "EmptyImage", "inputs": {}},
    }
    assert run(prompt, ["9", "20"])[:3] == ["21", "20", "4"]


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    """Acyclic prompts: every node links to earlier nodes only."""
    count = draw(st.integers(1, 12))
    kinds = draw(st.lists(st.sampled_from(["EmptyImage", "SaveImage"]), min_size=count, max_size=count))
    prompt: dict[str, Any] = {}
    for number, kind in enumerate(kinds):
        sources = draw(st.lists(st.integers(0, number - 1), max_size=3)) if number else []
        inputs = {f"in{slot}": [str(source), 0] for slot, source in enumerate(sources)}
        prompt[str(number)] = {"class_type": kind, "inputs": inputs}
    return prompt


@given(graphs(), st.data())
def test_every_needed_node_runs_once_and_after_all_that_it_needs(prompt: dict[str, Any], data: st.DataObject) -> None:
    outputs = data.draw(st.lists(st.sampled_from(sorted(prompt)), unique=True))
    ran = run(prompt, outputs)
    assert len(ran) == len(set(ran))
    assert set(ran) == needed(prompt, outputs)
    for node in ran:
        assert all(ran.index(source) < ran.index(node) for source, _ in prompt[node]["inputs"].values())


def needed(prompt: dict[str, Any], outputs: list[str]) -> set[str]:
    found = set(outputs)
    for node in sorted(prompt, key=int, reverse=True):
        if node in found:
            found |= {source for source, _ in prompt[node]["inputs"].values()}
    return found
