"""What a test file's asserts claim: the comparisons that hold when the assert does, or, behind a `not`, do not."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType

__all__ = ["DENIED", "Assertion", "Claim", "assertion_at", "assertion_of", "claimed_at", "parsed"]

DENIED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "==", "≈": "≉", "≉": "≈"}

_COMPARING = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


@dataclass(frozen=True, slots=True)
class Claim:
    """A comparison, or a chain of them, that an assert stands or falls with; `denied`: with its opposite."""

    comparison: ast.Compare
    denied: bool


@dataclass(frozen=True, slots=True)
class Assertion:
    """An assert statement."""

    statement: ast.Assert
    claims: tuple[Claim, ...]


@functools.cache
def parsed(filename: str) -> ast.Module | None:
    """None for what is no Python file."""
    try:
        return ast.parse(Path(filename).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def assertion_of(statement: ast.Assert) -> Assertion:
    return Assertion(statement, tuple(_claims(statement.test, denied=False)))


def assertion_at(filename: str, line: int) -> Assertion | None:
    for assertion in _assertions(filename):
        if assertion.statement.lineno <= line <= (assertion.statement.end_lineno or 0):
            return assertion
    return None


def claimed_at(frame: FrameType) -> tuple[Assertion, Claim] | None:
    """What is being compared in a frame, if an assert claims it."""
    assertion = assertion_at(frame.f_code.co_filename, frame.f_lineno)
    if assertion is None:
        return None
    place = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None))
    return next(((assertion, claim) for claim in assertion.claims if _stands_at(claim.comparison, place)), None)


def _stands_at(node: ast.Compare, place: tuple[int | None, int | None, int | None, int | None]) -> bool:
    line, end_line, column, end_column = place
    if column is None:  # a Python that was told to keep no columns
        return line is None or node.lineno <= line <= (node.end_lineno or 0)
    return (line, end_line, column, end_column) == (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)


@functools.cache
def _assertions(filename: str) -> tuple[Assertion, ...]:
    tree = parsed(filename)
    nodes = () if tree is None else ast.walk(tree)
    return tuple(assertion_of(node) for node in nodes if isinstance(node, ast.Assert))


def _claims(test: ast.expr, *, denied: bool) -> Iterator[Claim]:
    """Not what only helps to find a value: a condition, an argument of `len` or `max`."""
    match test:
        case ast.Compare(ops=ops) if all(isinstance(op, _COMPARING) for op in ops):
            yield Claim(test, denied)
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
