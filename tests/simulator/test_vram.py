from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.simulator.vram import SD15, SimulatedVram, Weights


def part(file: str, size: int) -> Weights:
    return Weights(file, "unet", SD15, size)


def test_held_weights_need_not_be_moved_again() -> None:
    vram = SimulatedVram(100)
    assert vram.hold(part("a", 40)) == 40
    assert vram.hold(part("a", 40)) == 0
    assert vram.weights == 40


def test_the_longest_unused_goes_first() -> None:
    vram = SimulatedVram(100)
    for name in ("a", "b"):
        vram.hold(part(name, 40))
    vram.hold(part("a", 40))
    vram.hold(part("c", 40))
    assert vram.hold(part("a", 40)) == 0
    assert vram.hold(part("b", 40)) == 40


def test_a_file_that_is_read_anew_must_be_moved_anew() -> None:
    vram = SimulatedVram(100)
    vram.hold(part("a", 40))
    vram.drop("a")
    assert vram.hold(part("a", 40)) == 40


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 150), st.integers(0, 120))))
def test_the_card_never_overflows_and_only_a_working_set_that_is_too_large_is_refused(
    held: list[tuple[str, int, int]],
) -> None:
    vram = SimulatedVram(100)
    for name, size, working in held:
        try:
            vram.hold(part(f"{name}{size}", size), working)
            assert vram.used + working <= 100
        except MemoryError:
            assert working > 100


def test_weights_that_are_too_large_are_held_in_part() -> None:
    vram = SimulatedVram(100)
    large = part("a", 120)
    assert vram.hold(large, 30) == 70
    assert (vram.weights, vram.offloaded(large)) == (70, 50)
    assert vram.hold(large, 10) == 20, "with more room, the rest of what fits comes"
    assert vram.offloaded(large) == 30


def test_torch_keeps_what_a_node_no_longer_needs() -> None:
    vram = SimulatedVram(100)
    vram.begin(0.0)
    vram.hold(part("a", 40), 30)
    vram.work(30)
    vram.work(0)
    assert (vram.used, vram.reserved(1.0)) == (40, 70)


def test_the_cache_is_emptied_between_prompts_at_most_every_ten_seconds() -> None:
    vram = SimulatedVram(100)
    for start, kept in ((100.0, 0), (105.0, 30), (112.0, 30), (140.0, 0)):
        vram.begin(start)
        vram.work(30)
        vram.rest(start + 1)
        assert vram.reserved(start + 1) == kept
    vram.begin(143.0)
    vram.work(30)
    vram.work(0)
    assert vram.reserved(200.0) == 30, "not while a prompt runs"
    vram.rest(201.0)
    assert vram.reserved(201.0) == 0


def test_an_allocation_that_fails_has_filled_the_card() -> None:
    vram = SimulatedVram(100)
    vram.begin(0.0)
    with pytest.raises(MemoryError):
        vram.hold(part("a", 40), 101)
    assert vram.reserved(1.0) == 100
    vram.clear()
    assert vram.reserved(1.0) == 0


def test_weights_that_must_go_are_given_back_with_the_cache() -> None:
    vram = SimulatedVram(100)
    vram.begin(0.0)
    for name, working in (("a", 50), ("b", 0)):
        vram.hold(part(name, 50), working)
        vram.work(working)
    assert vram.reserved(1.0) == 100
    vram.hold(part("c", 60))
    vram.work(0)
    assert (vram.used, vram.reserved(1.0)) == (60, 60)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 60), st.integers(0, 60), st.floats(0, 30))))
def test_what_is_in_use_is_reserved_and_what_is_reserved_fits(held: list[tuple[str, int, int, float]]) -> None:
    vram, now = SimulatedVram(100), 0.0
    for name, size, working, seconds in held:
        vram.begin(now)
        if size + working <= 100:
            vram.hold(part(f"{name}{size}", size), working)
            vram.work(working)
        assert vram.used <= vram.reserved(now) <= 100
        now += seconds
        vram.rest(now)
        assert vram.used <= vram.reserved(now) <= 100
