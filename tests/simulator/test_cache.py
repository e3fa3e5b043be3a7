from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.simulator.cache import Cached, NodeCache, node_keys
from tests.simulator.graphs import txt2img


def keys(prompt: dict[str, Any]) -> dict[str, str]:
    return node_keys(prompt, lambda class_type, inputs: "")


def test_a_new_seed_changes_the_sampler_and_all_below_it() -> None:
    before, after = keys(txt2img(seed=1)), keys(txt2img(seed=2))
    assert {node for node in before if before[node] != after[node]} == {"3", "8", "9"}


def test_nodes_that_do_the_same_share_a_result_whatever_their_ids() -> None:
    prompt = txt2img()
    prompt["7"]["inputs"]["text"] = prompt["6"]["inputs"]["text"]
    found = keys(prompt)
    assert found["6"] == found["7"]
    renamed = {
        "4x": prompt["4"],
        "6x": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4x", 1]}},
    }
    assert keys(renamed)["6x"] == found["6"]


def test_the_order_in_which_inputs_are_written_does_not_matter() -> None:
    prompt = txt2img()
    turned = {node: entry | {"inputs": dict(reversed(entry["inputs"].items()))} for node, entry in prompt.items()}
    assert keys(turned) == keys(prompt)


def test_another_slot_of_the_same_node_is_another_input() -> None:
    first, second = ({"1": {"class_type": "A", "inputs": {}}, "2": _reader(slot)} for slot in (0, 1))
    assert keys(first)["2"] != keys(second)["2"]


def _reader(slot: int) -> dict[str, Any]:
    return {"class_type": "B", "inputs": {"x": ["1", slot]}}


def test_a_changed_file_changes_the_key() -> None:
    prompt = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}
    assert node_keys(prompt, lambda class_type, inputs: "old") != node_keys(prompt, lambda class_type, inputs: "new")


@given(st.integers(), st.integers())
def test_equal_literals_make_equal_keys_and_others_do_not(one: int, other: int) -> None:
    first, second = ({"1": {"class_type": "A", "inputs": {"x": value}}} for value in (one, other))
    assert (keys(first) == keys(second)) == (one == other)


def test_only_what_the_last_prompt_asks_for_is_kept() -> None:
    cache = NodeCache()
    for key in ("a", "b"):
        cache.put(key, Cached((), None))
    cache.keep({"1": "b", "2": "c"})
    assert "a" not in cache
    assert "b" in cache
    cache.clear()
    assert cache.get("b") is None
