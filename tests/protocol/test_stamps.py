"""Whatever stamps a server sends, no duration is negative, and the total time is the client's own."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_comfyload.protocol.bodies import parse_history_entry
from pytest_comfyload.protocol.messages import parse_event
from pytest_comfyload.protocol.prompt_state import PromptState, Stage
from pytest_comfyload.protocol.server_clock import ServerClock
from pytest_comfyload.protocol.timeline import Timeline
from pytest_comfyload.result.outcome import PHASES

# Milliseconds as servers send them, and anything else that a stamp could be.
MS = 1_790_000_000_000
STAMPS: st.SearchStrategy[Any] = st.one_of(
    st.integers(MS, MS + 60_000),
    st.integers(MS // 1000, MS // 1000 + 60),
    st.floats(),
    st.integers(-(10**400), 10**400),
    st.sampled_from([None, "soon", True, [], 0, -1, math.nan, math.inf, 2**53, 2**53 + 2]),
)
STEPS = st.lists(st.tuples(st.sampled_from("39"), st.floats(), st.floats(0, 1)), max_size=6)
EVENTS = ("execution_start", "execution_cached", "progress", "executing", "end", "history")


def told(kind: str, stamp: object, more: dict[str, Any] | None = None) -> Any:
    return parse_event(kind, {"prompt_id": "p", "timestamp": stamp, **(more or {})})


@st.composite
def prompts(draw: st.DrawFn) -> tuple[PromptState, float]:
    """A finished prompt with arbitrary stamps and progress, in any order, and the time it was sent."""
    state, now = PromptState("p", {"3": "KSampler", "9": "SaveImage"}), draw(st.floats(0, 1e5))
    sent = now
    state.send(sent)
    if draw(st.booleans()):
        now += draw(st.floats(0, 1))
        state.answer(now)
    for event in draw(st.permutations(EVENTS)):
        now = _tell(draw, state, event, now + draw(st.floats(0, 5)))
    return state, sent


def _tell(draw: st.DrawFn, state: PromptState, event: str, now: float) -> float:
    match event:
        case "progress":
            for node, value, wait in draw(STEPS):
                now += wait
                state.apply(told("progress", 0, {"node": node, "value": value, "max": 9}), now)
        case "executing":
            state.apply(told("executing", 0, {"node": draw(st.sampled_from("39"))}), now)
        case "history":
            messages = [["execution_start", {"prompt_id": "p", "timestamp": draw(STAMPS)}]]
            messages += [["execution_success", {"prompt_id": "p", "timestamp": draw(STAMPS)}]]
            item = [0, "p", {}, {"create_time": draw(STAMPS)}, []]
            body = {"p": {"prompt": item, "outputs": {}, "status": {"messages": messages}}}
            entry = parse_history_entry(body, "p")
            assert entry is not None
            state.apply_history(entry, now)
        case "end":
            state.apply(told("execution_success", draw(STAMPS)), now)
        case _:
            state.apply(told(event, draw(STAMPS), {"nodes": []}), now)
    return now


@settings(max_examples=300)
@given(prompts(), st.one_of(st.none(), st.floats(-1e13, 1e13)), st.floats(0, 10), st.floats(0, 10))
def test_no_stamp_makes_a_negative_duration_or_a_wrong_total(
    made: tuple[PromptState, float], offset: float | None, lag: float, fetch: float
) -> None:
    state, sent = made
    timeline = state.timeline(sent - lag, offset)
    assert state.stage is Stage.SUCCEEDED
    assert timeline.delivered is not None
    fetched = timeline.delivered + fetch
    whole = replace(timeline, fetched=fetched)
    times = [getattr(whole, phase) for phase in PHASES]
    assert all(time is None or (math.isfinite(time) and time >= 0) for time in times)
    assert whole.total_time == pytest.approx(lag + fetched - sent, abs=1e-6)
    known = [getattr(whole, each) for each in ("sent", "accepted", "started", "ended", "delivered", "fetched")]
    points = [point for point in known if point is not None]
    assert points == sorted(points)
    assert timeline.void == (timeline.ended is None)
    if not timeline.void:
        assert sum(times) == pytest.approx(whole.total_time, abs=1e-6)
    assert all(node.duration >= 0 for node in whole.nodes)
    assert all(node.steps_per_second is None or node.steps_per_second > 0 for node in whole.nodes)


@given(st.lists(prompts(), min_size=1, max_size=8))
def test_a_clock_takes_in_whatever_a_server_stamps(made: list[tuple[PromptState, float]]) -> None:
    clock = ServerClock()
    for state, sent in made:
        if (bounds := state.offset_bounds()) is not None:
            clock.observe(*bounds)
        assert clock.offset is None or math.isfinite(clock.offset)
        timeline = state.timeline(sent, clock.offset)
        assert all((getattr(timeline, phase) or 0.0) >= 0 for phase in PHASES)


# --- one prompt, sent at 10 s, with one wrong stamp; the client's clock is 100 s behind the server's ---


def state(create: float | None, start: float | None, end: float | None) -> PromptState:
    made = PromptState("p", {})
    made.send(10.0)
    made.answer(10.1)
    made.apply(told("execution_start", start), 11.0)
    made.apply(told("execution_success", end), 13.0)
    item = [0, "p", {}, {} if create is None else {"create_time": create}, []]
    entry = parse_history_entry({"p": {"prompt": item, "outputs": {}, "status": {}}}, "p")
    assert entry is not None
    made.apply_history(entry, 13.2)
    return made


GOOD: dict[str, Any] = {"create": 110_050, "start": 110_990, "end": 112_990}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"create": None},
        {"end": 113_001},  # whole milliseconds are rounded
    ],
)
def test_stamps_that_hold(wrong: dict[str, Any]) -> None:
    timeline = state(**{**GOOD, **wrong}).timeline(10.0, -100.0)
    assert not timeline.void
    assert timeline.generation_time == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": None},
        {"end": None},
        {"end": math.nan},
        {"end": 110_980},  # ended before it started
        {"start": 110_040},  # started before it was accepted
        {"end": 115_000},  # ended after the client saw the end
        {"start": 112_000},  # started after the client saw the start
        {"create": 107_000},  # the clock was set forward while the prompt was queued
        {"create": 110},  # seconds instead of milliseconds
        {"end": -112_990},
        {"end": 1e300},
    ],
)
def test_stamps_that_cannot_be_right_are_void_and_the_total_stays(wrong: dict[str, Any]) -> None:
    made = state(**{**GOOD, **wrong})
    timeline = made.timeline(10.0, -100.0)
    assert timeline == Timeline(send_lag=0.0, sent=10.0, delivered=13.0, void=True)
    assert made.offset_bounds() is None
    assert [getattr(timeline, phase) for phase in PHASES[1:5]] == [None] * 4


def test_stamps_that_hold_bound_the_offset_from_both_sides() -> None:
    bounds = state(**GOOD).offset_bounds()
    assert bounds is not None
    low, highs = bounds
    assert (round(low.offset, 6), low.at) == (-100.05, 10.0)
    seen = [(round(high.offset, 6), high.at) for high in sorted(highs)]
    assert seen == [(-99.99, 11.0), (-99.99, 13.0), (-99.95, 10.1)]


def test_a_stamp_that_came_too_late_over_the_socket_is_taken_from_the_history() -> None:
    made = PromptState("p", {})
    made.send(10.0)
    made.answer(10.1)
    made.apply(told("execution_start", None), 11.0)
    made.apply(told("execution_success", None), 13.0)
    messages = [[kind, {"prompt_id": "p", "timestamp": GOOD[name]}] for kind, name in
                (("execution_start", "start"), ("execution_success", "end"))]  # fmt: skip
    entry = parse_history_entry({"p": {"prompt": [], "outputs": {}, "status": {"messages": messages}}}, "p")
    assert entry is not None
    made.apply_history(entry, 13.5)
    timeline = made.timeline(10.0, -100.0)
    assert timeline.generation_time == pytest.approx(2.0)
    assert timeline.delivered == 13.0
