from __future__ import annotations

from pytest_comfyload.errors import close_to, nearest


def test_the_nearest_comes_first_and_the_rest_keeps_its_order() -> None:
    assert nearest("stepz", ["cfg", "seed", "steps"]) == "steps, cfg, seed"


def test_a_long_list_is_cut_and_counted() -> None:
    assert nearest("17", range(100), limit=2).endswith(", … (100 in all)")
    assert nearest("17", range(100), limit=2).startswith("17, ")


def test_nothing_is_close_to_a_word_of_its_own() -> None:
    assert close_to("KSamplr", ["KSampler", "SaveImage"]) == ["KSampler"]
    assert close_to("xyzzy", ["KSampler", "SaveImage"]) == []


def test_names_of_a_server_are_compared_within_limits() -> None:
    names = [f"class {number} {'x' * 100}" for number in range(1_000_000)]
    assert close_to("KSamplr", ["KSampler", *names]) == ["KSampler"]
    assert close_to("x" * 1000, ["x" * 1000]) == []
    assert nearest("a", ["b" * 1000]) == f"{'b' * 199}…"
