from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.simulator.vram import Vram
from pytest_comfyload.simulator.weights import SD15, Weights


def part(file: str, size: int) -> Weights:
    return Weights(file, "unet", SD15, size)


def test_held_weights_need_not_be_moved_again() -> None:
    vram = Vram(100)
    assert vram.hold(part("a", 40)) == 40
    assert vram.hold(part("a", 40)) == 0
    assert vram.weights == 40


def test_the_longest_unused_goes_first() -> None:
    vram = Vram(100)
    for name in ("a", "b"):
        vram.hold(part(name, 40))
    vram.hold(part("a", 40))
    vram.hold(part("c", 40))
    assert vram.hold(part("a", 40)) == 0
    assert vram.hold(part("b", 40)) == 40


def test_a_file_that_is_read_anew_must_be_moved_anew() -> None:
    vram = Vram(100)
    vram.hold(part("a", 40))
    vram.drop("a")
    assert vram.hold(part("a", 40)) == 40


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 100), st.integers(0, 50))))
def test_the_card_never_overflows_and_only_what_alone_is_too_large_is_refused(held: list[tuple[str, int, int]]) -> None:
    vram = Vram(100)
    for name, size, working in held:
        try:
            vram.hold(part(f"{name}{size}", size), working)
            assert vram.used + working <= 100
        except MemoryError:
            assert size + working > 100
