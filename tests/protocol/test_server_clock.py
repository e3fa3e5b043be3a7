from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.protocol.server_clock import NEWEST, STEP, WINDOW, ServerClock

EVENTS = st.lists(
    st.tuples(st.floats(0, 30), st.floats(0, 0.5)),  # seconds since the event before, delay on the way
    min_size=1,
    max_size=40,
)


def test_nothing_is_known_before_the_first_event() -> None:
    assert ServerClock().offset is None


@given(EVENTS, st.floats(-1e6, 1e6))
def test_the_offset_is_the_true_one_plus_the_least_delay_of_the_window(
    events: list[tuple[float, float]], true_offset: float
) -> None:
    clock, stamp = ServerClock(), 1e6
    seen: list[tuple[float, float]] = []
    for gap, delay in events:
        stamp += gap
        arrival = max([stamp + true_offset + delay, *(earlier for earlier, _ in seen)])  # a socket keeps its order
        seen.append((arrival, arrival - stamp))
        clock.observe(stamp, arrival)
        assert clock.offset is not None
        assert clock.offset >= true_offset - 1e-6
        assert clock.offset == min(delta for at, delta in seen if at >= arrival - WINDOW)


def test_the_window_forgets() -> None:
    clock = ServerClock()
    clock.observe(stamp=100.0, arrival=10.0)
    clock.observe(stamp=130.0, arrival=45.0)
    assert clock.offset == -90.0
    clock.observe(stamp=156.0, arrival=10.0 + WINDOW + 0.001)
    assert clock.offset == -85.999


@given(EVENTS, st.randoms(use_true_random=False))
def test_what_is_told_late_counts_as_if_it_had_been_told_in_time(
    events: list[tuple[float, float]], rng: random.Random
) -> None:
    in_time, late = ServerClock(), ServerClock()
    told = [(100.0 - delay, 100.0 + arrival / 30 + delay) for arrival, delay in events]
    for stamp, arrival in sorted(told, key=lambda event: event[1]):
        in_time.observe(stamp, arrival)
    rng.shuffle(told)
    for stamp, arrival in told:
        late.observe(stamp, arrival)
    assert late.offset == in_time.offset


def seen(*differences: float, scale: float = 1.0) -> ServerClock:
    clock = ServerClock(scale)
    for second, difference in enumerate(differences):
        clock.observe(stamp=second - difference, arrival=float(second))
    return clock


def test_a_clock_that_is_set_is_noticed() -> None:
    assert seen(*[0.0] * NEWEST, *[2 * STEP] * NEWEST).stepped
    assert seen(*[0.0] * NEWEST, *[-2 * STEP] * NEWEST).stepped


def test_late_events_are_no_step() -> None:
    assert not seen(*[0.0] * NEWEST, *[2 * STEP] * (NEWEST - 1)).stepped
    assert not seen(*[0.0] * NEWEST, *[2 * STEP] * (NEWEST - 1), 0.0).stepped
    assert not seen(*[0.0] * (NEWEST - 1), *[2 * STEP] * NEWEST).stepped


def test_virtual_time_widens_window_and_step() -> None:
    assert not seen(*[0.0] * NEWEST, *[2 * STEP] * NEWEST, scale=20.0).stepped
    clock = ServerClock(20.0)
    clock.observe(stamp=0.0, arrival=0.0)
    clock.observe(stamp=1.0, arrival=WINDOW * 20.0)
    assert clock.offset == 0.0
