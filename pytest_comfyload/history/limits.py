"""Limits for stored fields and file sizes: generous for any real run, small enough to stop an attack.

No file on disk is trusted: it may be truncated, written by another program, or malicious.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import GenericAlias, UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from pytest_comfyload.result.checks import Check

__all__ = [
    "FIRST_DATE",
    "LAST_DATE",
    "MOST_IMPORTED",
    "MOST_LINE",
    "MOST_RUN_FILE",
    "MOST_RUN_TIME",
    "MOST_SPOOL",
    "CommitDate",
    "Count",
    "Date",
    "Fingerprint",
    "Name",
    "Revision",
    "RunId",
    "expect_plain",
    "most_unpacked",
    "strict",
]

_MIB = 1 << 20

# Bytes. A run of 10,000 prompts takes 5 MB in the store and 25 MB as a spool.
MOST_RUN_FILE = 256 * _MIB
MOST_SPOOL = 1024 * _MIB
MOST_LINE = 128 * _MIB
MOST_IMPORTED = 1024 * _MIB

# Nesting levels of fields without a fixed structure: figures, environment, subject, inputs.
MOST_DEPTH = 64

# Seconds since 1970: the years 1 and 9999.
FIRST_DATE, LAST_DATE = -62_135_596_800, 253_402_300_799

# Parts of file names. `\Z` instead of `$`, which also matches before a trailing line break.
RunId: TypeAlias = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_][\w.-]{0,99}\Z")]
Fingerprint: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9a-f]{8}\Z")]
Revision: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9A-Za-z]{1,64}\Z")]
Name: TypeAlias = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_][\w.-]{0,99}\Z")]
Date: TypeAlias = Annotated[float, Meta(ge=0, le=LAST_DATE)]
# Commits may have any date of the calendar, even before 1970.
CommitDate: TypeAlias = Annotated[float, Meta(ge=FIRST_DATE, le=LAST_DATE)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]

# No real value exceeds these limits. Run times are seconds of the run's clock or, for its start, since 1970 (1e10 is in
# the year 2286). Measured values are bytes, watts, joules and the like.
MOST_RUN_TIME = 1e10
_RunTime: TypeAlias = Annotated[float, Meta(ge=-MOST_RUN_TIME, le=MOST_RUN_TIME)]
_Measured: TypeAlias = Annotated[float, Meta(ge=-1e18, le=1e18)]
_RUN_TIMES = frozenset({
    "epoch", "window", "loop_lag", "max_send_lag", "time_scale", "time", "span", "intended", "send_lag", "sent",
    "accepted", "started", "ended", "delivered", "fetched", "start", "end", "steps",
})  # fmt: skip


def most_unpacked(size: int) -> int:
    """Return how many bytes a run file of `size` bytes may unpack to; real files unpack to 3 to 10 times their size."""
    return min(1024 * _MIB, 16 * _MIB + 20 * size)


def expect_plain(value: Any, levels: int = MOST_DEPTH) -> None:
    """Check a value for nesting depth and JSON types. Raises: ValueError if it is nested too deeply or is not JSON."""
    if isinstance(value, dict | list):
        if levels == 0:
            raise ValueError(f"is nested more than {MOST_DEPTH} levels deep")
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise ValueError("has a key that is not a string")
            value = value.values()
        for each in value:
            expect_plain(each, levels - 1)
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise ValueError("has an integer of more than 64 bits")
    elif value is not None and not isinstance(value, str | float):
        raise ValueError(f"has a value of type {type(value).__name__}")


def strict(kind: Any) -> Any:
    """Return a type that decodes like the dataclass or struct `kind`, but rejects implausible numbers.

    NaN and infinity are among these. It decodes five times as fast as dataclasses.
    """
    return _strict(kind)


@functools.cache
def _strict(kind: Any) -> Any:
    hints = get_type_hints(kind, include_extras=True)
    fields = [(name, _limited(hints[name], name), default) for name, default in _defaults(kind)]
    return msgspec.defstruct(kind.__name__, fields, kw_only=True, gc=False)


def _limited(hint: Any, name: str) -> Any:
    """Return the type of the field `name` with limits for its numbers."""
    if hint is float:
        return _RunTime if name in _RUN_TIMES else _Measured
    if is_dataclass(hint) or (isinstance(hint, type) and issubclass(hint, msgspec.Struct)):
        # The values and bounds of SLOs may be any number.
        return hint if hint is Check else strict(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return functools.reduce(operator.or_, (_limited(each, name) for each in args))
    if origin in (tuple, Mapping):
        return GenericAlias(origin, tuple(each if each is Ellipsis else _limited(each, name) for each in args))
    return hint


def _defaults(kind: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and the default of each field."""
    described: Any = fields(kind) if is_dataclass(kind) else msgspec.structs.fields(kind)
    for each in described:
        default, factory = (
            msgspec.NODEFAULT if value is MISSING else value for value in (each.default, each.default_factory)
        )
        yield each.name, msgspec.field(default=default, default_factory=factory)  # type: ignore[call-overload]
