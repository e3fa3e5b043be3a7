"""What a test file's asserts claim: the comparisons that hold when the assert does, or, behind a `not`, do not."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType

__all__ = [
    "DENIED",
    "AssertedComparison",
    "Assertion",
    "Position",
    "assertion_at",
    "assertion_of",
    "claimed_at",
    "covers",
    "parsed",
    "position_in",
]  # fmt: skip

# Of an instruction: line, end line, column, end column; columns are None under `python -X no_debug_ranges`.
Position = tuple[int | None, int | None, int | None, int | None]

DENIED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "==", "≈": "≉", "≉": "≈"}

_COMPARING = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


@dataclass(frozen=True, slots=True)
class AssertedComparison:
    """A comparison, or a chain of them, that an assert stands or falls with; `denied`: with its opposite."""

    comparison: ast.Compare
    denied: bool


@dataclass(frozen=True, slots=True)
class Assertion:
    """An assert statement."""

    statement: ast.Assert
    claims: tuple[AssertedComparison, ...]


@functools.cache
def parsed(filename: str) -> ast.Module | None:
    """None for what is no Python file."""
    try:
        return ast.parse(Path(filename).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def assertion_of(statement: ast.Assert) -> Assertion:
    return Assertion(statement, tuple(_claims(statement.test, denied=False)))


def position_in(code: CodeType, instruction: int) -> Position:
    """Of the instruction at that offset (`f_lasti`, `tb_lasti`)."""
    return next(islice(code.co_positions(), instruction // 2, None))


def covers(node: ast.stmt | ast.expr, position: Position) -> bool:
    """Whether an instruction belongs to a node: by columns, since several statements may share a line."""
    line, end_line, column, end_column = position
    if line is None or node.end_lineno is None or node.end_col_offset is None:
        return False
    if end_line is None or column is None or end_column is None:
        return node.lineno <= line <= node.end_lineno
    starts_within = (node.lineno, node.col_offset) <= (line, column)
    return starts_within and (end_line, end_column) <= (node.end_lineno, node.end_col_offset)


def assertion_at(filename: str, position: Position) -> Assertion | None:
    return next((each for each in _assertions(filename) if covers(each.statement, position)), None)


def claimed_at(frame: FrameType) -> tuple[Assertion, AssertedComparison] | None:
    """What is being compared in a frame, if an assert claims it."""
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
    """Not what only helps to find a value: a condition, an argument of `len` or `max`."""
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
