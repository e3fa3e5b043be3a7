"""Recorded arrivals of prompts: a JSON-lines file of times and workflow hashes, without prompt texts or user ids.

The first line is the header, `{"schema": "comfyload.trace/1", "start": <ISO time with UTC offset>, "duration": <s>}`;
a recorder leaves `duration` out, because it does not know how long it will record. The other lines, in any order, are

- arrivals: `{"t": <seconds since start>, "workflow": <hash>}`; with several servers, `"server"` is the server's number,
  and `"stand_in": "execution_start"` marks a time that is not that of the arrival itself;
- gaps: `{"gap": [<from>, <to>], "server": 0}`, during which arrivals may be missing;
- signs of life: `{"until": <seconds>}`, up to which all arrivals are known; without `duration`, the greatest is the
  end.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.units import as_float, format_duration, parse_duration

__all__ = [
    "SCHEMA",
    "ArrivalTrace",
    "arrival_line",
    "gap_line",
    "header_line",
    "read_trace",
    "until_line",
]

SCHEMA = "comfyload.trace/1"
# Limits of a trace: a year, and a size that fits into memory many times.
LONGEST, MOST_BYTES, MOST_LINES, LONGEST_HASH = 366 * 86400.0, 256 * 2**20, 2_000_000, 64
YEARS = range(1970, 3000)
_WINDOWS = "write 'all', 'busiest 1h', '9h..11h' (from its start) or '2026-11-03T09:00..2026-11-03T11:00'"


@dataclass(frozen=True, slots=True)
class ArrivalTrace:
    """When prompts arrived and what they were, in order of arrival; times are in seconds since `start`.

    `gaps` are (from, to) pairs in which arrivals may be missing. `digest` is a hash of the file's content.
    """

    name: str
    digest: str
    start: datetime
    duration: float
    times: tuple[float, ...] = field(repr=False)
    workflows: tuple[str, ...] = field(repr=False)
    gaps: tuple[tuple[float, float], ...] = ()

    @classmethod
    def parse(cls, content: bytes, name: str) -> ArrivalTrace:
        """Parse the content of a file. Raises: UsageError, naming the line."""
        lines = content.split(b"\n")
        begin, declared = _header(lines[0], name)
        read = _Lines(name, declared)
        for number, line in enumerate(lines[1:], 2):
            if line.strip():
                # A recorder that was killed leaves its last line incomplete; a finished trace has no such line.
                read.take(line, number, optional=declared is None and number == len(lines))
        duration = read.end if declared is None else declared
        arrivals = sorted(arrival for arrival in read.arrivals if arrival[0] < duration)
        if not duration:
            raise UsageError(f"{name} has a header and nothing else: nothing was recorded")
        return cls(
            name,
            hashlib.sha256(content).hexdigest()[:8],
            begin,
            duration,
            tuple([time for time, _ in arrivals]),
            tuple([workflow for _, workflow in arrivals]),
            tuple(sorted(read.gaps)),
        )

    def select(self, window: str) -> ArrivalTrace:
        """Return the part of the trace that `window` names, as a trace of its own.

        Args:
            window: `all`, `busiest 1h`, or a begin and an end: `9h..11h` from the start, or
                `2026-11-03T09:00..2026-11-03T11:00` in the time zone of the start.

        Raises:
            UsageError: The window cannot be parsed, lies outside the trace, or contains a gap.
        """
        begin, end = self._bounds(window)
        if not 0 <= begin < end <= self.duration:
            raise UsageError(f"window={window!r} is not within {self.name}, which is {self._extent}")
        for first, last in self.gaps:
            if first < end and last > begin:
                hole = f"from {format_duration(first)} to {format_duration(last)} after its start"
                raise UsageError(
                    f"window={window!r}: {self.name} has a gap {hole}, in which arrivals may be missing; "
                    "choose a window without it"
                )
        first, last = self._places(begin, end)
        return replace(
            self,
            start=self.start + timedelta(seconds=begin),
            duration=end - begin,
            times=tuple([time - begin for time in self.times[first:last]]),
            workflows=self.workflows[first:last],
            gaps=(),
        )

    def lines(self) -> Iterator[str]:
        """Yield the trace as the lines of a file."""
        yield header_line(self.start, self.duration)
        yield from (arrival_line(time, workflow) for time, workflow in zip(self.times, self.workflows, strict=True))
        yield from (gap_line(*gap) for gap in self.gaps)

    @property
    def _extent(self) -> str:
        return f"{format_duration(self.duration)} long and begins at {self.start.isoformat(timespec='seconds')}"

    def _bounds(self, window: object) -> tuple[float, float]:
        """Return the begin and end of a window, in seconds since the start. Raises: UsageError."""
        if window == "all":
            return 0.0, self.duration
        if isinstance(window, str) and window.startswith("busiest "):
            return self._busiest(parse_duration(window.removeprefix("busiest ").strip(), "window"), window)
        begin, separator, end = window.partition("..") if isinstance(window, str) else ("", "", "")
        if not separator:
            raise UsageError(f"window={window!r} cannot be read; {_WINDOWS}")
        return self._moment(begin.strip(), window), self._moment(end.strip(), window)

    def _moment(self, text: str, window: object) -> float:
        """Return a time in seconds since the start. Raises: UsageError."""
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            try:
                return parse_duration(text, "window")
            except UsageError:
                raise UsageError(f"window={window!r} cannot be read; {_WINDOWS}") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=self.start.tzinfo)).timestamp() - self._epoch

    @property
    def _epoch(self) -> float:
        return self.start.timestamp()

    def _busiest(self, length: float, window: object) -> tuple[float, float]:
        """Return the first window of this length, without a gap, in which most prompts arrive. Raises: UsageError."""
        if not 0 < length <= self.duration:
            raise UsageError(f"window={window!r} is not within {self.name}, which is {self._extent}")
        # A window can be moved until it begins with an arrival or ends with the trace, without losing an arrival.
        begins = [
            min(time, last - length)
            for first, last in self._without_gaps()
            if last - first >= length
            for time in (first, *self.times[bisect_left(self.times, first) : bisect_left(self.times, last)])
        ]
        if not begins:
            raise UsageError(f"window={window!r}: {self.name} has no {format_duration(length)} without a gap")
        begin = max(begins, key=lambda begin: len(range(*self._places(begin, begin + length))))
        return begin, begin + length

    def _places(self, begin: float, end: float) -> tuple[int, int]:
        """Return the index range of the arrivals between two times."""
        return bisect_left(self.times, begin), bisect_left(self.times, end)

    def _without_gaps(self) -> Iterator[tuple[float, float]]:
        begin = 0.0
        for first, last in self.gaps:
            if first > begin:
                yield begin, first
            begin = max(begin, last)
        if begin < self.duration:
            yield begin, self.duration


def read_trace(path: Path, name: str) -> ArrivalTrace:
    """Read a trace, or return it if this file was read before; `name` is for messages. Raises: UsageError."""
    try:
        if not path.is_file():
            raise UsageError(f"trace {name}: there is no such file")
        stat = path.stat()
        if stat.st_size > MOST_BYTES:
            raise UsageError(f"trace {name} is larger than {MOST_BYTES // 2**20} MiB")
        return _read(path, name, stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError) as error:
        raise UsageError(f"trace {name} cannot be read ({error})") from None


@functools.lru_cache(maxsize=4)
def _read(path: Path, name: str, changed: int, size: int) -> ArrivalTrace:
    return ArrivalTrace.parse(path.read_bytes(), f"trace {name}")


def header_line(start: datetime, duration: float | None = None) -> str:
    end = {} if duration is None else {"duration": duration}
    return _line({"schema": SCHEMA, "start": start.isoformat(timespec="milliseconds"), **end})


def arrival_line(time: float, workflow: str, server: int | None = None, stand_in: str = "") -> str:
    where = {} if server is None else {"server": server}
    return _line({"t": round(time, 3), "workflow": workflow, **where, **({"stand_in": stand_in} if stand_in else {})})


def gap_line(begin: float, end: float, server: int | None = None) -> str:
    return _line({"gap": [round(begin, 3), round(end, 3)], **({} if server is None else {"server": server})})


def until_line(time: float) -> str:
    return _line({"until": round(time, 3)})


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


@dataclass(slots=True)
class _Lines:
    """Collects the lines after the header."""

    name: str
    declared: float | None
    end: float = 0.0
    arrivals: list[tuple[float, str]] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)

    def take(self, line: bytes, number: int, *, optional: bool) -> None:
        """Add a line; one that is `optional` is skipped if it is not a JSON object. Raises: UsageError."""
        where = f"{self.name}, line {number}"
        if number > MOST_LINES:
            raise UsageError(f"{where}: a trace has at most {MOST_LINES:,} lines")
        record = _object(line)
        if record is None and optional:
            return
        if record is None:
            raise UsageError(f"{where} is not a JSON object: {_shown(line)}")
        if "t" in record:
            self._arrival(record, where)
        elif "gap" in record:
            self._gap(record["gap"], where)
        elif "until" in record:
            self.end = max(self.end, self._time(record["until"], "until", where))
        else:
            raise UsageError(f"{where} has neither t, gap nor until: {_shown(line)}")

    def _arrival(self, record: Mapping[str, Any], where: str) -> None:
        time, workflow = self._time(record["t"], "t", where), record.get("workflow")
        if not isinstance(workflow, str) or not 0 < len(workflow) <= LONGEST_HASH:
            raise UsageError(f"{where}: workflow is not a text of 1 to {LONGEST_HASH} characters")
        if self.declared is not None and time >= self.declared:
            raise UsageError(f"{where}: t={time:g} is not before the trace's end, {self.declared:g} s")
        self.arrivals.append((time, self.hashes.setdefault(workflow, workflow)))

    def _gap(self, gap: object, where: str) -> None:
        if not isinstance(gap, list) or len(gap) != 2:
            raise UsageError(f"{where}: gap is not a list of its begin and end in seconds")
        begin, end = (self._time(each, "gap", where) for each in gap)
        if begin > end:
            raise UsageError(f"{where}: the gap ends at {end:g} s, before its begin at {begin:g} s")
        self.gaps.append((begin, end))

    def _time(self, value: object, name: str, where: str) -> float:
        seconds = _number(value)
        if seconds is None or not 0 <= seconds <= LONGEST:
            raise UsageError(f"{where}: {name}={_shown(value)} is not a number of seconds from 0 to {LONGEST:.0f}")
        return seconds


def _header(line: bytes, name: str) -> tuple[datetime, float | None]:
    """Return the start, and the duration if it is given. Raises: UsageError."""
    header = _object(line)
    if header is None or "schema" not in header:
        raise UsageError(f'{name}, line 1 is not the header of a trace, {{"schema": "{SCHEMA}", …}}: {_shown(line)}')
    if header["schema"] != SCHEMA:
        raise UsageError(f"{name} has the schema {_shown(header['schema'])}; this version reads {SCHEMA}")
    try:
        start = datetime.fromisoformat(header.get("start"))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        start = None
    if start is None or start.tzinfo is None or start.year not in YEARS:
        raise UsageError(f"{name}: start={_shown(header.get('start'))} is not an ISO time with its UTC offset")
    if "duration" not in header:
        return start, None
    duration = _number(header["duration"])
    if duration is None or not 0 < duration <= LONGEST:
        raise UsageError(f"{name}: duration={_shown(header['duration'])} is not a positive number of seconds, at most "
                         f"{LONGEST:.0f}")  # fmt: skip
    return start, duration


def _object(line: bytes) -> Mapping[str, Any] | None:
    """Return a JSON object; None for anything else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = as_float(value)
    return number if math.isfinite(number) else None


def _shown(value: object) -> str:
    text = repr(value if not isinstance(value, bytes) else value.decode("utf-8", "replace").strip())
    return text if len(text) <= 60 else f"{text[:60]}…"
