"""SLO checks: comparisons of metrics that an `assert` in test code requires, with the verdict of that assert.

Comparisons elsewhere (`if`, `max`, `sorted`) are not recorded.
"""

from __future__ import annotations

import ast
import functools
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, TracebackType

import pytest

from pytest_comfyload.metrics.assessment import Assessment, no_baseline
from pytest_comfyload.metrics.metric import MetricValue, watch_comparisons
from pytest_comfyload.metrics.units import as_float
from pytest_comfyload.plugin.source import Position, covers, parsed, position_in
from pytest_comfyload.result.baseline import MissingBaseline
from pytest_comfyload.result.checks import Check

__all__ = [
    "DENIED",
    "AssertedComparison",
    "Assertion",
    "CheckRecorder",
    "assertion_at",
    "assertion_of",
    "claimed_at",
]

_APPROX: type = type(pytest.approx(0.0))
_APPROXIMATELY = {"==": "≈", "!=": "≉"}


@dataclass(frozen=True)
class _Seen:
    """A recorded comparison, `metric op bound`; `good`: its result is the one that the assert requires."""

    assertion: Assertion
    metric: MetricValue
    op: str
    bound: float
    good: bool
    absent: MissingBaseline | None = None

    @functools.cached_property
    def check(self) -> Check:
        if self.absent is not None:
            return Check.of(self.metric, self.op, self.bound, True, no_baseline(self.absent.why))
        approximate = self.op in _APPROXIMATELY.values()
        judgement = Assessment("pass" if self.good else "fail", "") if approximate else None
        return Check.of(self.metric, self.op, self.bound, self.good, judgement)


class CheckRecorder:
    """Recorder for the comparisons of one test; `checks()` returns those that it asserted, in order."""

    def __init__(self) -> None:
        self._seen: dict[tuple[AssertedComparison, str, str, float], _Seen] = {}
        self._failed: list[Assertion] = []
        self.is_watching = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record comparisons during the `with` block, in which the test's body runs."""
        self.is_watching = True
        try:
            with watch_comparisons(self):
                yield
        finally:
            self.is_watching = False

    def __call__(self, metric: MetricValue, op: str, bound: object, result: bool) -> None:
        frame = _foreign(sys._getframe(1))
        if frame is not None and _is_approx(frame.f_locals.get("self")):
            # `approx(3) == metric` compares for equality before it checks the difference.
            bound = frame.f_locals["self"]
            op, result = "==", bool(bound == metric.plain)
            frame = _beyond_approx(frame)
        number = _number(bound)
        claimed = None if frame is None or number is None else claimed_at(frame)
        if claimed is None or number is None:
            return
        assertion, claim = claimed
        op = _APPROXIMATELY[op] if _is_approx(bound) else op
        asked = DENIED[op] if claim.denied else op
        # An assert in a loop is one check: its last comparison, or the one that failed.
        key = claim, metric.name, asked, number
        absent = bound if isinstance(bound, MissingBaseline) else None
        self._seen[key] = _Seen(assertion, metric, asked, number, absent is not None or result != claim.denied, absent)

    def fails(self, error: BaseException | None) -> None:
        """Mark the asserts that `error` came from as failed; it ended the test or a part of it."""
        if isinstance(error, AssertionError):
            self._failed += _assertions_in(error.__traceback__)

    def checks(self) -> tuple[Check, ...]:
        """Return the checks, in order.

        If an assert has not failed, its false comparisons are left out: it did not need them, as in `a < 1 or b < 1`.
        """
        return tuple(seen.check for seen in self._seen.values() if seen.good or seen.assertion in self._failed)

    def seen_of(self, statement: ast.Assert) -> int:
        """Return the number of recorded comparisons of an assert."""
        return sum(seen.assertion.statement is statement for seen in self._seen.values())


def _number(bound: object) -> float | None:
    """Return the bound as a number; None if it is not a number, nan if it is a missing baseline."""
    if isinstance(bound, MissingBaseline):
        return math.nan
    value = bound.expected if _is_approx(bound) else bound  # type: ignore[attr-defined]
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    return as_float(value)


def _is_approx(value: object) -> bool:
    return isinstance(value, _APPROX)


def _foreign(frame: FrameType | None) -> FrameType | None:
    """Return the nearest frame outside this package."""
    while frame is not None and _is_ours(frame.f_code):
        frame = frame.f_back
    return frame


def _beyond_approx(frame: FrameType | None) -> FrameType | None:
    """Return the nearest frame outside `approx`; None within its `!=`, which negates `==`."""
    while frame is not None and _is_approx(frame.f_locals.get("self")):
        if frame.f_code.co_name == "__ne__":
            return None
        frame = frame.f_back
    return frame


def _assertions_in(traceback: TracebackType | None) -> Iterator[Assertion]:
    while traceback is not None:
        code = traceback.tb_frame.f_code
        assertion = assertion_at(code.co_filename, position_in(code, traceback.tb_lasti))
        if assertion is not None:
            yield assertion
        traceback = traceback.tb_next


_OWN_FOLDER = str(Path(__file__).parents[1])


def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(_OWN_FOLDER)


DENIED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "==", "≈": "≉", "≉": "≈"}

_COMPARING = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


@dataclass(frozen=True, slots=True)
class AssertedComparison:
    """Comparison, or chain of comparisons, that an assert requires; `denied`: it requires the opposite."""

    comparison: ast.Compare
    denied: bool


@dataclass(frozen=True, slots=True)
class Assertion:
    """An assert statement."""

    statement: ast.Assert
    claims: tuple[AssertedComparison, ...]


def assertion_of(statement: ast.Assert) -> Assertion:
    return Assertion(statement, tuple(_claims(statement.test, denied=False)))


def assertion_at(filename: str, position: Position) -> Assertion | None:
    return next((each for each in _assertions(filename) if covers(each.statement, position)), None)


def claimed_at(frame: FrameType) -> tuple[Assertion, AssertedComparison] | None:
    """Return the comparison that a frame is executing, with its assert; None if no assert requires it."""
    position = position_in(frame.f_code, frame.f_lasti)
    assertion = assertion_at(frame.f_code.co_filename, position)
    if assertion is None:
        return None
    return next(((assertion, claim) for claim in assertion.claims if _stands_at(claim.comparison, position)), None)


def _stands_at(node: ast.Compare, position: Position) -> bool:
    if None in position:
        return covers(node, position)
    line, end_line, column, end_column = position
    return (line, end_line, column, end_column) == (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)


@functools.cache
def _assertions(filename: str) -> tuple[Assertion, ...]:
    tree = parsed(filename)
    nodes = () if tree is None else ast.walk(tree)
    return tuple(assertion_of(node) for node in nodes if isinstance(node, ast.Assert))


def _claims(test: ast.expr, *, denied: bool) -> Iterator[AssertedComparison]:
    """Yield the comparisons that an expression requires if it is asserted.

    Those that only help to compute a value are left out: in a condition, or in an argument of `len` or `max`.
    """
    match test:
        case ast.Compare(ops=ops) if all(isinstance(op, _COMPARING) for op in ops):
            yield AssertedComparison(test, denied)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield from _claims(operand, denied=not denied)
        case ast.NamedExpr(value=value):
            yield from _claims(value, denied=denied)
        case (
            ast.BoolOp(values=parts)
            | ast.Call(func=ast.Name(id="all" | "any"), args=[ast.List(elts=parts) | ast.Tuple(elts=parts)])
        ):
            for part in parts:
                yield from _claims(part, denied=denied)
        case ast.Call(func=ast.Name(id="all" | "any"), args=[ast.GeneratorExp(elt=part) | ast.ListComp(elt=part)]):
            yield from _claims(part, denied=denied)
        case ast.IfExp(body=first, orelse=second):
            yield from _claims(first, denied=denied)
            yield from _claims(second, denied=denied)
