"""The searches for the least and the greatest number that meets a condition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.capacity.sizing import MOST_GPUS, PRECISION, STEP, _least
from pytest_comfyload.capacity.solve import greatest


@given(st.integers(1, 2 * MOST_GPUS), st.integers(1, MOST_GPUS))
def test_the_least_number_is_found_from_any_guess(needed: int, guess: int) -> None:
    found = _least(lambda number: number >= needed, guess)
    assert found == (needed if needed <= MOST_GPUS else None)


@given(st.integers(0, 500), st.integers(0, 5000), st.integers(2, 100), st.integers(1, 9000))
def test_the_greatest_number_holds_and_is_near_the_next_that_does_not(
    start: int, more: int, times: int, guess: int
) -> None:
    limit, most = start + more, start * times
    found = greatest(lambda number: number <= limit, start, most, guess=guess, precision=PRECISION, step=STEP)
    if limit >= most:
        assert found == most
    else:
        assert start <= found <= limit
        assert limit - found <= max(1, PRECISION * found)
