"""The offset between two clocks, in virtual time: every prompt is made with a known offset, delays and steps."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.protocol.server_clock import BUCKET, STEP, WINDOW, Bound, ClockStep, ServerClock

# For each prompt: the seconds since the previous one, until it is accepted, of work, and until its end is seen.
PROMPTS = st.lists(
    st.tuples(st.floats(0, 30), st.floats(0, 3), st.floats(0, 20), st.floats(0, 3)), min_size=1, max_size=40
)
Prompt = tuple[float, float, float, float]


def bounds(sent: float, accepted: float, ended: float, seen: float, offset: float) -> tuple[Bound, list[Bound]]:
    """Return the bounds from a prompt whose stamps come from a clock that is always `offset` behind the client's."""
    create, end = accepted - offset, ended - offset
    return Bound(sent - create, sent), [Bound(accepted - create, accepted), Bound(seen - end, seen)]


def walked(prompts: Sequence[Prompt], offset: float) -> list[tuple[Bound, list[Bound]]]:
    told, sent = [], 0.0
    for gap, submit, work, delivery in prompts:
        sent += gap
        accepted, ended = sent + submit, sent + submit + work
        create = accepted - offset
        high = [Bound(accepted + delivery - create, accepted + delivery), Bound(offset + delivery, ended + delivery)]
        told.append((Bound(sent - create, sent), high))
    return told


def test_nothing_is_known_before_the_first_prompt() -> None:
    assert ServerClock().offset is None


@given(PROMPTS, st.floats(-1e6, 1e6), st.randoms(use_true_random=False))
def test_delays_are_never_steps_and_the_offset_is_the_true_one_plus_the_least_delay(
    prompts: list[Prompt], offset: float, rng: random.Random
) -> None:
    clock, told = ServerClock(), walked(prompts, offset)
    rng.shuffle(told)
    for prompt in told:
        clock.observe(*prompt)
    assert clock.steps == []
    assert clock.offset is not None
    assert clock.offset >= offset - 1e-6
    newest = max(high.at for _, highs in told for high in highs)
    young = [high.offset for _, highs in told for high in highs if high.at >= newest - WINDOW + BUCKET]
    assert clock.offset <= min(young)


def test_the_window_forgets() -> None:
    clock = ServerClock()
    clock.observe(Bound(-100.001, 0.0), [Bound(-100.0, 0.1)])
    clock.observe(Bound(-100.001, 45.0), [Bound(-99.98, 45.0)])
    assert clock.offset == -100.0
    clock.observe(Bound(-100.001, 90.0), [Bound(-99.97, 2 * BUCKET + WINDOW)])
    assert clock.offset == -99.98


@pytest.mark.parametrize("shift", [5.0, -5.0, 2 * STEP, -2 * STEP])
def test_a_clock_that_is_set_is_found_by_the_prompts_around_it(shift: float) -> None:
    clock, offset = ServerClock(), 100.0
    for number in range(20):
        at = 2.0 * number
        if number == 10:
            offset -= shift
        clock.observe(*bounds(at, at + 0.001, at + 1.0, at + 1.001, offset))
    [step] = clock.steps
    assert abs(step.shift - shift) <= 0.003
    # The clock was set between the ninth prompt, which ended at 19.0, and the tenth, sent at 20.0.
    assert step.begin <= 19.001
    assert 20.0 <= step.end <= 20.001
    assert clock.offset == pytest.approx(offset, abs=0.002)
    assert clock.stepped_within(18.0, 19.5)
    assert not clock.stepped_within(step.end, 40.0)
    assert not clock.stepped_within(0.0, step.begin)


def test_a_step_is_no_larger_than_delays_can_hide() -> None:
    clock = ServerClock()
    clock.observe(*bounds(0.0, 0.5, 1.0, 1.5, 100.0))
    clock.observe(*bounds(2.0, 2.5, 3.0, 3.5, 100.0 - 0.5))
    assert clock.steps == []


def test_a_late_told_prompt_from_before_the_step_proves_no_second_one() -> None:
    clock = ServerClock()
    clock.observe(*bounds(0.0, 0.001, 1.0, 1.001, 100.0))
    early = bounds(2.0, 2.001, 3.0, 3.001, 100.0)
    clock.observe(*bounds(5.0, 5.001, 6.0, 6.001, 90.0))
    clock.observe(*early)
    clock.observe(*bounds(7.0, 7.001, 8.0, 8.001, 90.0))
    assert len(clock.steps) == 1


def test_of_two_servers_the_delayed_one_has_no_other_clock() -> None:
    rng, prompt, delayed = random.Random(1), ServerClock(), ServerClock()
    for number in range(200):
        at = 0.5 * number
        late = rng.uniform(0.2, 2.0) if number > 50 else 0.0
        prompt.observe(*bounds(at, at + 0.001, at + 0.3, at + 0.302, -7.0))
        delayed.observe(*bounds(at, at + 0.001 + late, at + 0.3 + late, at + 0.302 + 2 * late, 3.0))
    assert prompt.steps == delayed.steps == []
    assert prompt.offset == pytest.approx(-7.0, abs=0.003)
    assert delayed.offset is not None
    assert 3.0 <= delayed.offset <= 3.5


def test_stamps_in_seconds_instead_of_milliseconds_fit_no_clock() -> None:
    clock = ServerClock()
    for number in range(10):
        at = 5.0 * number
        low, high = Bound(at - at / 1000, at), Bound(at + 4 - (at + 4) / 1000, at + 4)
        clock.observe(low, [high])
        assert number == 0 or clock.stepped_within(at - 5.0, at + 4)
    assert len(clock.steps) >= 9


def test_virtual_time_widens_window_and_step() -> None:
    def of(scale: float) -> ServerClock:
        clock = ServerClock(scale)
        for at, offset in ((0.0, 0.0), (2.0, 2 * STEP), (4.0, 2 * STEP)):
            clock.observe(Bound(offset - 0.001, at), [Bound(offset + 0.001, at + 1)])
        return clock

    assert len(of(1.0).steps) == 1
    assert of(20.0).steps == []
    clock = ServerClock(20.0)
    clock.observe(Bound(-1.0, 0.0), [Bound(0.0, 0.0)])
    clock.observe(Bound(-1.0, WINDOW * 20), [Bound(0.5, WINDOW * 20.0)])
    assert clock.offset == 0.0


def test_a_step_concerns_what_overlaps_it() -> None:
    step = ClockStep(10.0, 12.0, 5.0)
    assert step.within(0.0, 10.5)
    assert step.within(11.0, 11.5)
    assert step.within(11.5, 20.0)
    assert not step.within(0.0, 10.0)
    assert not step.within(12.0, 20.0)


class PlainClock:
    """The same clock by its definition: it keeps every bound and scans all of them for each query."""

    def __init__(self) -> None:
        self.bounds: list[tuple[bool, Bound]] = []
        self.steps: list[ClockStep] = []
        self.newest = self.since = -math.inf

    def observe(self, low: Bound, highs: Sequence[Bound]) -> None:
        for upper, bound in [*((True, high) for high in highs), (False, low)]:
            if bound.at >= max(self.since, self.newest - WINDOW):
                self.take(upper, bound)

    def take(self, upper: bool, bound: Bound) -> None:
        # Only the extremes of each bucket count, so that they determine the time of a step.
        extremes = [self.extreme(bucket, not upper) for bucket in {bucket_of(each) for _, each in self.bounds}]
        opposite = [each for each in extremes if each is not None]
        gaps = [(each.offset - bound.offset) * (1 if upper else -1) for each in opposite]
        conflicts = [each for each, gap in zip(opposite, gaps, strict=True) if gap > STEP]
        if conflicts:
            other = min(conflicts, key=lambda each: abs(each.at - bound.at))
            old, new = sorted((other, bound), key=lambda each: each.at)
            self.steps.append(ClockStep(old.at, new.at, old.offset - new.offset))
            self.since = new.at
            self.bounds = [(side, each) for side, each in self.bounds if bucket_of(each) * BUCKET >= new.at]
        if bound.at >= self.since:
            if bound.at >= self.newest + BUCKET:
                self.newest = bound.at
                oldest = math.floor((bound.at - WINDOW) / BUCKET)
                self.bounds = [(side, each) for side, each in self.bounds if bucket_of(each) >= oldest]
            self.bounds.append((upper, bound))

    def extreme(self, bucket: int, upper: bool) -> Bound | None:
        bounds = [each for side, each in self.bounds if side is upper and bucket_of(each) == bucket]
        return (min if upper else max)(bounds, default=None)

    @property
    def offset(self) -> float | None:
        return min((each.offset for upper, each in self.bounds if upper), default=None)


def bucket_of(bound: Bound) -> int:
    return math.floor(bound.at / BUCKET)


# Multiples of 0.2 s: whether bounds that conflict by exactly the tolerance count is a matter of rounding.
FIFTHS = st.integers(0, 600).map(lambda number: number / 5)
OFFSETS = st.integers(-4, 4).map(lambda number: number / 5)


@given(st.lists(st.tuples(FIFTHS, OFFSETS, st.lists(st.tuples(FIFTHS, OFFSETS), max_size=3)), max_size=60))
def test_the_extremes_that_are_kept_answer_as_a_scan_of_all_bounds(
    told: list[tuple[float, float, list[tuple[float, float]]]],
) -> None:
    """With bounds in any order and any conflicts, steps and offset are the same after each prompt."""
    clock, plain = ServerClock(), PlainClock()
    for at, low, highs in told:
        bounds = Bound(low, at), [Bound(high, seen) for seen, high in highs]
        clock.observe(*bounds)
        plain.observe(*bounds)
        assert clock.offset == plain.offset
        assert clock.steps == plain.steps
