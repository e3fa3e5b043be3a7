"""A comparison of a metric inside an `assert` of test code is an SLO check; its verdict is the assert's.

A comparison elsewhere (`if`, `max`, `sorted`) is the test's own business and leaves no trace.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, FrameType, TracebackType

from pytest_comfyload.result.checks import Check
from pytest_comfyload.result.metric import Measure

__all__ = ["CheckRecorder"]

_DENIED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


@dataclass(frozen=True, slots=True)
class _Place:
    """An assert: where it begins, and whether it has a `not` in it."""

    filename: str
    line: int
    denies: bool


@dataclass(frozen=True, slots=True)
class _Seen:
    assert_at: _Place
    check: Check


class CheckRecorder:
    """Watches one test; `checks()` gives what it asserted, in order."""

    def __init__(self) -> None:
        self._seen: dict[tuple[_Place, str, str, float], _Seen] = {}

    def __call__(self, metric: Measure, op: str, bound: object, result: bool) -> None:
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not isinstance(metric, int | float):
            return
        place = _enclosing_assert(sys._getframe(1))
        if place is None:
            return
        value = float(metric)
        check = Check(metric.name, value, metric.unit, metric.n, op, float(bound), result)
        # An assert in a loop is one check: its last comparison, or the one that failed.
        self._seen[place, metric.name, op, float(bound)] = _Seen(place, check)

    def checks(self, error: BaseException | None = None) -> tuple[Check, ...]:
        """`error` is what ended the test: the assert that it came from has failed, all others have passed."""
        failed = set(_assert_places(error.__traceback__)) if isinstance(error, AssertionError) else set()
        return tuple(_judged(seen, passed=not self._to_blame(seen, failed)) for seen in self._seen.values())

    def _to_blame(self, seen: _Seen, failed: Container[_Place]) -> bool:
        """In a failed assert those comparisons that did not hold are; if all held (`assert not …`), all are."""
        if seen.assert_at not in failed:
            return False
        all_held = all(other.check.passed for other in self._seen.values() if other.assert_at == seen.assert_at)
        return all_held or not seen.check.passed


def _judged(seen: _Seen, *, passed: bool) -> Check:
    """`assert not p95 > 12` asks for p95 <= 12: nobody must read that 14 > 12 has failed, or 5 > 12 passed."""
    denied = seen.assert_at.denies and passed != seen.check.passed
    return replace(seen.check, passed=passed, op=_DENIED[seen.check.op] if denied else seen.check.op)


def _enclosing_assert(frame: FrameType | None) -> _Place | None:
    """The assert that the nearest frame outside this package stands in."""
    while frame is not None and _is_ours(frame.f_code):
        frame = frame.f_back
    return None if frame is None else _assert_at(frame.f_code.co_filename, frame.f_lineno)


def _assert_places(traceback: TracebackType | None) -> Iterator[_Place]:
    while traceback is not None:
        place = _assert_at(traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)
        if place is not None:
            yield place
        traceback = traceback.tb_next


def _assert_at(filename: str, line: int) -> _Place | None:
    for first, last, denies in _asserts_of(filename):
        if first <= line <= last:
            return _Place(filename, first, denies)
    return None


@functools.cache
def _asserts_of(filename: str) -> tuple[tuple[int, int, bool], ...]:
    """First and last line of every assert in a file, and whether it has a `not` in it."""
    try:
        tree = ast.parse(Path(filename).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ()
    return tuple(
        (node.lineno, node.end_lineno or node.lineno, any(isinstance(part, ast.Not) for part in ast.walk(node.test)))
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    )


_OWN_FOLDER = str(Path(__file__).parents[1])


def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(_OWN_FOLDER)
