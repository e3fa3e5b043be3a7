"""Arrival traces: the round trip through a file, windows, and faulty files, each refused in one line."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.arrival_trace import (
    ArrivalTrace,
    arrival_line,
    gap_line,
    header_line,
    read_trace,
    until_line,
)

START = datetime(2026, 11, 3, 8, 0, tzinfo=UTC)
HOUR = 3600.0
HEADER = header_line(START, 10 * HOUR).encode()


def recorded(*lines: str, duration: float | None = 10 * HOUR) -> ArrivalTrace:
    return ArrivalTrace.parse("".join([header_line(START, duration), *lines]).encode(), "week.jsonl")


@given(st.lists(st.tuples(st.integers(0, 35_999_999), st.sampled_from("abc"))))
def test_what_was_written_is_read_in_order_of_arrival(arrivals: list[tuple[int, str]]) -> None:
    trace = recorded(*(arrival_line(ms / 1000, workflow) for ms, workflow in arrivals))
    assert trace.times == tuple(ms / 1000 for ms, _ in sorted(arrivals))
    assert sorted(trace.workflows) == sorted(workflow for _, workflow in arrivals)
    again = ArrivalTrace.parse("".join(trace.lines()).encode(), "week.jsonl")
    assert (again.times, again.workflows, again.start, again.duration) == (
        trace.times,
        trace.workflows,
        START,
        10 * HOUR,
    )


def test_a_recording_that_was_killed_lasts_until_its_last_sign_of_life() -> None:
    # Arrivals after that may be incomplete.
    lines = [
        arrival_line(5.0, "a"),
        until_line(60.0),
        arrival_line(7.0, "a"),
        arrival_line(61.0, "a"),
        '{"t": 61.2, "w',
    ]
    trace = recorded(*lines, duration=None)
    assert (trace.times, trace.duration) == ((5.0, 7.0), 60.0)


@given(
    st.lists(st.integers(0, 9_999), min_size=1),
    st.integers(1, 10_000),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 500)), max_size=3),
)
def test_the_busiest_window_has_the_most_arrivals_and_no_gap(
    times: list[int], length: int, gaps: list[tuple[int, int]]
) -> None:
    holes = [(begin, min(10_000, begin + size)) for begin, size in gaps]
    lines = [arrival_line(time, "a") for time in times] + [gap_line(*hole) for hole in holes]
    trace = ArrivalTrace.parse("".join([header_line(START, 10_000), *lines]).encode(), "w")

    def clear(begin: float) -> bool:
        return begin + length <= 10_000 and not any(a < begin + length and b > begin for a, b in holes)

    # Trying every whole second is enough, because all arrivals are at whole seconds.
    counts = [
        sum(begin <= time < begin + length for time in times) for begin in range(10_001) if clear(begin)
    ] if len(times) < 20 else []  # fmt: skip
    if counts:
        assert len(trace.select(f"busiest {length}s").times) == max(counts)


@pytest.mark.parametrize(
    ("window", "times", "begin"),
    [
        ("all", [0.0, HOUR, 9 * HOUR], 0.0),
        ("1h..9h", [0.0], HOUR),
        ("30m..1h30m", [0.5 * HOUR], 0.5 * HOUR),
        ("2026-11-03T09:00..2026-11-03T11:00", [0.0], HOUR),
        ("2026-11-03T10:00+01:00..2026-11-03T17:30+00:00", [0.0, 8 * HOUR], HOUR),
    ],
)
def test_windows(window: str, times: list[float], begin: float) -> None:
    part = recorded(*(arrival_line(hour * HOUR, "a") for hour in (0, 1, 9))).select(window)
    assert list(part.times) == times
    assert part.start == START + timedelta(seconds=begin)


@pytest.mark.parametrize(
    ("window", "said"),
    [
        ("busy", "window='busy' cannot be read; write 'all', 'busiest 1h', '9h..11h' (from its start) or '2026-11-03T"),
        (3, "window=3 cannot be read"),
        ("a..b", "window='a..b' cannot be read"),
        ("busiest 1 week", "window='1 week' is not a duration"),
        (
            "busiest 11h",
            "window='busiest 11h' is not within week.jsonl, which is 10 h long and begins at 2026-11-03T08",
        ),
        ("9h..11h", "is not within week.jsonl"),
        ("3h..2h", "is not within week.jsonl"),
        ("2026-11-02T09:00..2026-11-03T09:00", "is not within week.jsonl"),
        ("all", "week.jsonl has a gap from 4 h to 5 h after its start, in which arrivals may be missing; choose a"),
        ("4h30m..6h", "has a gap"),
        ("busiest 6h", "week.jsonl has no 6 h without a gap"),
    ],
)
def test_windows_that_are_refused(window: str, said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        recorded(arrival_line(1.0, "a"), gap_line(4 * HOUR, 5 * HOUR)).select(window)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_window_beside_a_gap_is_taken() -> None:
    trace = recorded(arrival_line(1.0, "a"), gap_line(4 * HOUR, 5 * HOUR))
    assert trace.select("0s..4h").times == (1.0,)
    assert trace.select("5h..10h").times == ()


BAD = {
    b"": "line 1 is not the header of a trace",
    b"\x1f\x8b\x08\x00": "line 1 is not the header of a trace",
    b'{"schema": "comfyload.trace/2"}': "has the schema 'comfyload.trace/2'; this version reads comfyload.trace/1",
    b'{"schema": "comfyload.trace/1", "start": "2026-11-03T08:00"}': "is not an ISO time with its UTC offset",
    b'{"schema": "comfyload.trace/1", "start": 5}': "start=5 is not an ISO time",
    b'{"schema": "comfyload.trace/1", "start": "2026-11-03T08:00Z", "duration": -1}': "duration=-1 is not a positive",
    b'{"schema": "comfyload.trace/1", "start": "2026-11-03T08:00Z", "duration": 1e99}': "duration=1e+99 is not",
    b'{"schema": "comfyload.trace/1", "start": "2026-11-03T08:00Z"}': "nothing was recorded",
    HEADER + b'{"t": 1, "workflow": "a"}\n\xff\xfe\n': "line 3 is not a JSON object",
    HEADER + b'{"t": 1, "work': "line 2 is not a JSON object",
    HEADER + b"[" * 100_000: "line 2 is not a JSON object",
    HEADER + b"7": "line 2 is not a JSON object: '7'",
    HEADER + b'{"a": 1}': "line 2 has neither t, gap nor until",
    HEADER + b'{"t": NaN, "workflow": "a"}': "line 2: t=nan is not a number of seconds from 0 to",
    HEADER + b'{"t": Infinity, "workflow": "a"}': "line 2: t=inf is not",
    HEADER + b'{"t": 1' + b"0" * 400 + b', "workflow": "a"}': "line 2: t=1000",
    HEADER + b'{"t": -1, "workflow": "a"}': "line 2: t=-1 is not",
    HEADER + b'{"t": true, "workflow": "a"}': "line 2: t=True is not",
    HEADER + b'{"t": 36000, "workflow": "a"}': "line 2: t=36000 is not before the trace's end, 36000 s",
    HEADER + b'{"t": 1}': "line 2: workflow is not a text of 1 to 64 characters",
    HEADER + b'{"t": 1, "workflow": "' + b"a" * 65 + b'"}': "line 2: workflow is not a text",
    HEADER + b'{"gap": [1]}': "line 2: gap is not a list of its begin and end",
    HEADER + b'{"gap": [2, 1]}': "line 2: the gap ends at 1 s, before its begin at 2 s",
    HEADER + b'{"gap": [null, 1]}': "line 2: gap=None is not a number of seconds",
}


@pytest.mark.parametrize(("content", "said"), BAD.items(), ids=[str(number) for number in range(len(BAD))])
def test_a_file_with_a_fault_is_refused_in_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "week.jsonl").write_bytes(content)
    with pytest.raises(UsageError) as refusal:
        read_trace(tmp_path / "week.jsonl", "week.jsonl")
    assert said in str(refusal.value)
    assert str(refusal.value).startswith("trace week.jsonl")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


@given(st.binary(max_size=200))
def test_any_bytes_are_a_trace_or_a_line(content: bytes) -> None:
    for whole in (content, HEADER + content):
        with contextlib.suppress(UsageError):
            ArrivalTrace.parse(whole, "w").select("all")


@pytest.mark.parametrize("name", ["absent.jsonl", ".", "\0"])
def test_what_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trace x"):
        read_trace(tmp_path / name, "x")


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "week.jsonl"
    path.write_text(header_line(START, 60) + arrival_line(1, "a"))
    first = read_trace(path, "week.jsonl")
    assert read_trace(path, "week.jsonl") is first
    path.write_text(header_line(START, 60) + arrival_line(1, "a") + arrival_line(2, "a"))
    changed = read_trace(path, "week.jsonl")
    assert changed.times == (1.0, 2.0)
    assert changed.digest != first.digest


def test_no_line_holds_more_than_it_should() -> None:
    line = json.loads(arrival_line(1.23456, "3f2a", server=1, stand_in="execution_start"))
    assert line == {"t": 1.235, "workflow": "3f2a", "server": 1, "stand_in": "execution_start"}
