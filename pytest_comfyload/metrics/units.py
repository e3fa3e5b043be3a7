"""Durations, sizes and measured values: parsing what users write, and formatting for display."""

from __future__ import annotations

import math
import re
from typing import Any

from pytest_comfyload.errors import UsageError

__all__ = ["as_float", "counted", "format_duration", "format_interval", "format_value", "parse_duration", "parse_size"]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)"
_WHOLE = re.compile(rf"(?:{_PART}\s*)+")
_BYTES = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d+)?)\s*([kmg]i?b)", re.IGNORECASE)


def parse_duration(value: object, name: str) -> float:
    """Return a duration in seconds; `name` is the argument, for the message. Raises: UsageError."""
    seconds = _seconds(value)
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        raise UsageError(
            f"{name}={value!r} is not a duration; write seconds (30) or a text such as '500ms', '30s', '10m'"
        )
    return seconds


def as_float(value: Any) -> float:
    """Return a number as a float, infinite for an integer that is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _seconds(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return as_float(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PART, value))
    return None


def parse_size(text: str, name: str) -> int:
    """Return the bytes of `"64MiB"` or `"2GB"`; `name` is the option, for the message. Raises: UsageError."""
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _BYTES[match[2].lower()]) if match else 0
    if size < 1:
        raise UsageError(f"{name}={text!r} is not a size; write a number and a unit: '512MiB', '2GB'")
    return size


def counted(count: int, noun: str, one: str = "", many: str = "") -> str:
    """Return `1 run` or `2 runs`; with the verbs `is` and `are`, `1 run is` or `2 runs are`."""
    return f"{count} {noun} {one}".rstrip() if count == 1 else f"{count} {noun}s {many}".rstrip()


def format_duration(seconds: float) -> str:
    """Return a short text for people: `850 ms`, `12.3 s`, `4 min 10 s`, `1 h 5 min`."""
    if not math.isfinite(seconds):
        return format_value(seconds, "s")
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def format_value(value: float, unit: str) -> str:
    """Return a value with its unit: at most three significant digits below a thousand, bytes as MiB or GiB."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if unit == "B" or unit.startswith("B/"):
        power, name = (3, "GiB") if abs(value) >= 1024**3 else (2, "MiB")
        return format_value(value / 1024**power, unit.replace("B", name, 1))
    value = round(value, 4) + 0.0  # to a tenth of a millisecond, without −0
    whole = value == int(value) or abs(value) >= 1000
    digits = f"{value:.0f}" if whole and abs(value) < 1e6 else f"{value:.3g}"
    return f"{digits} {unit}".rstrip() if unit != "%" else f"{digits} %"


def format_interval(lower: float, upper: float, unit: str) -> str:
    """Return `9.1–12.3 s`, with the unit at both ends if it differs."""
    low, high = (format_value(end, unit).partition(" ") for end in (lower, upper))
    if "" in (low[2], high[2]) or low[2] == high[2]:
        return f"{low[0]}–{high[0]} {high[2] or low[2]}".rstrip()
    return f"{''.join(low)}–{''.join(high)}"
