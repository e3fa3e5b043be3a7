from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.simulator import node_cache as cache_module
from pytest_comfyload.simulator.node_cache import Cached, node_cache, node_keys
from pytest_comfyload.simulator.settings import CacheMode
from pytest_comfyload.simulator.vram import part_of
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


def kept(mode: str, *prompts: str, size: int = 1) -> str:
    """Return the one-letter keys that are left after prompts with these keys; each result takes `size` bytes."""
    cache = node_cache(CacheMode.parse(mode))
    for prompt in prompts:
        cache.begin(dict(enumerate_keys(prompt)))
        for key in prompt:
            cache.put(key, Cached((), None, size))
    left = "".join(sorted(key for key in string.ascii_lowercase if key in cache))
    assert cache.size == size * len(left)
    cache.clear()
    assert cache.size == 0
    assert not any(key in cache for key in string.ascii_lowercase)
    return left


def enumerate_keys(keys: str) -> list[tuple[str, str]]:
    return [(str(node), key) for node, key in enumerate(keys)]


@pytest.mark.parametrize(
    ("mode", "left"),
    [
        ("classic", "g"),
        ("none", ""),
        ("ram", "abcdefg"),
        ("lru=99", "abcdefg"),
        ("lru=5", "acdefg"),  # whole prompts are evicted, the oldest first, when the next one starts
        ("lru=4", "aefg"),
    ],
)
def test_each_mode_keeps_what_comfyui_keeps(mode: str, left: str) -> None:
    assert kept(mode, "ab", "acd", "aef", "g") == left


def test_results_of_earlier_prompts_give_way_where_ram_is_short() -> None:
    cache = node_cache(CacheMode.parse("ram"))
    model = Cached((part_of("sdxl.safetensors", "unet"),), None, 1)
    for keys, results in (
        ("m", [model]),
        ("ab", [Cached((), None, 5), Cached((), None, 50)]),
        ("c", [Cached((), None, 99)]),
    ):
        cache.begin(dict(enumerate_keys(keys)))
        for key, result in zip(keys, results, strict=True):
            cache.put(key, result)
    assert cache.size == 155
    cache.relieve(-1)
    assert cache.size == 155
    cache.relieve(1)
    assert "m" not in cache, "old models first, however small"
    cache.relieve(20)
    assert ("a" in cache, "b" in cache) == (True, False), "then what is large"
    cache.relieve(10_000)
    assert ("a" in cache, "c" in cache) == (False, True), "but nothing of the running prompt"


@pytest.mark.parametrize("mode", ["ram", "lru=100"])
def test_a_cache_is_bounded_however_many_prompts_there_are(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_MOST_PROMPTS", 50)
    cache = node_cache(CacheMode.parse(mode))
    for number in range(500):
        cache.begin({"1": "loader", "2": f"sampler {number}", "3": f"never made {number}"})
        cache.put("loader", Cached((), None, 1))
        cache.put(f"sampler {number}", Cached((), None, 1))
        assert cache.size <= 102
    assert "loader" in cache
    assert ("sampler 449" in cache, "sampler 450" in cache) == (mode != "ram", True)
    kept = [len(value) for value in vars(cache).values() if isinstance(value, dict)]
    assert max(kept) <= 103, "nor does what is known of results that are gone grow"


def test_ram_gets_short_after_thousands_of_prompts() -> None:
    cache = node_cache(CacheMode.parse("ram"))
    for number in range(5000):
        cache.begin({"1": f"{number}"})
        cache.put(f"{number}", Cached((), None, number % 2))
    cache.relieve(1)
    assert ("0" in cache, "1" in cache, "3" in cache) == (True, False, True), "the oldest that holds anything"
