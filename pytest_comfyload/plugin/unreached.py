"""SLOs that a test did not reach, or whose asserts Python does not execute, read from its source.

Code under a condition is left out, since it is not known whether it would have run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType
from typing import Any

import pytest

from pytest_comfyload.metrics.metric import MetricValue
from pytest_comfyload.plugin.asserts import (
    DENIED,
    AssertedComparison,
    CheckRecorder,
    assertion_of,
)
from pytest_comfyload.plugin.inference import fixture_types, type_of
from pytest_comfyload.plugin.source import Position, code_of, covers, definition_of, position_in

__all__ = ["unreached_slos"]

_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_SYMBOLS: Mapping[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="
}  # fmt: skip


def unreached_slos(
    item: pytest.Item, error: BaseException | None, when: str, recorder: CheckRecorder
) -> tuple[str, ...]:
    """Return the unreached SLOs as written, such as `total_time.p95 < 60`.

    `error` ended the test; None: it ran to its end.
    """
    code = code_of(item)
    test = None if code is None else definition_of(code)
    if code is None or test is None:
        return ()
    whole = error is None or when == "setup"
    statements = test.body if whole else _from(test.body, _last_position(error, code))
    kept_from_running = {statement for statement in _surely_run(statements) if isinstance(statement, ast.Assert)}
    return tuple(_slos(test, _types_of_fixtures(item), kept_from_running, recorder))


# --- which asserts ---


def _last_position(error: BaseException | None, code: CodeType) -> Position | None:
    """Return the position that the test had reached; None if it was not in its body."""
    traceback, position = error.__traceback__ if error is not None else None, None
    while traceback is not None:
        if traceback.tb_frame.f_code is code:
            position = position_in(code, traceback.tb_lasti)
        traceback = traceback.tb_next
    return position


def _from(block: Iterable[ast.stmt], position: Position | None) -> Iterator[ast.stmt]:
    """Yield the statement at a position, and those that would have followed it."""
    here = False
    for statement in block:
        if here:
            yield statement
        elif position is not None and covers(statement, position):
            here = True
            yield from _from_within(statement, position)


def _from_within(statement: ast.stmt, position: Position) -> Iterator[ast.stmt]:
    """Yield the unreached part of a statement that contains the position: all of it, if the position is in its head."""
    blocks = [block for _, block in ast.iter_fields(statement) if isinstance(block, list)]
    cases = [part for block in blocks for part in block if isinstance(part, ast.ExceptHandler | ast.match_case)]
    inner = [block for block in (*blocks, *(case.body for case in cases)) if block and isinstance(block[0], ast.stmt)]
    yield from [later for block in inner for later in _from(block, position)] or [statement]


def _surely_run(block: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that surely run, including those in loops, `with` and `try`, up to a `return` or `raise`.

    Those under a condition are left out.
    """
    for statement in block:
        yield statement
        if isinstance(statement, ast.Return | ast.Raise):
            return
        if isinstance(statement, ast.With | ast.AsyncWith | ast.For | ast.AsyncFor | ast.While | ast.Try):
            yield from _surely_run(statement.body)


# --- which comparisons ---


def _slos(test: ast.AST, types: dict[str, Any], wanted: set[ast.Assert], recorder: CheckRecorder) -> Iterator[str]:
    """Yield SLOs in source order, by the types that names have at each place."""
    statements = (node for node in ast.walk(test) if isinstance(node, ast.stmt))
    for statement in sorted(statements, key=lambda node: node.lineno):
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                types[name] = type_of(value, types)
            case ast.Assert() if statement in wanted:
                seen = recorder.seen_of(statement)
                yield from list(_comparisons(statement, types))[seen:]


def _comparisons(statement: ast.Assert, types: Mapping[str, Any]) -> Iterator[str]:
    """Yield comparisons of metrics, in the order in which Python evaluates them."""
    for claim in assertion_of(statement).claims:
        yield from _links(claim, types)


def _links(claim: AssertedComparison, types: Mapping[str, Any]) -> Iterator[str]:
    comparison = claim.comparison
    operands = [comparison.left, *comparison.comparators]
    for left, op, right in zip(operands, comparison.ops, operands[1:], strict=False):
        symbol = DENIED[_SYMBOLS[type(op)]] if claim.denied else _SYMBOLS[type(op)]
        if _is_metric(left, types):
            yield f"{_written(left)} {symbol} {ast.unparse(right)}"
        elif _is_metric(right, types):
            yield f"{_written(right)} {_MIRRORED.get(symbol, symbol)} {ast.unparse(left)}"


def _written(metric: ast.expr) -> str:
    return ast.unparse(metric).removeprefix("load.")


# --- types ---


def _types_of_fixtures(item: pytest.Item) -> dict[str, Any]:
    names = getattr(item, "fixturenames", ())
    # The value of a fixture is more specific than its name.
    given = {name: type(value) for name, value in getattr(item, "funcargs", {}).items() if not callable(value)}
    return {**fixture_types(names), **given}


def _is_metric(node: ast.expr, types: Mapping[str, Any]) -> bool:
    kind = type_of(node, types)
    return isinstance(kind, type) and issubclass(kind, MetricValue)
