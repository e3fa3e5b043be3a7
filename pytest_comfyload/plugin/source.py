"""Source of tests: files as syntax trees, functions and instructions in them, and fast walks over the trees."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import CodeType

import pytest

__all__ = [
    "Position", "children", "code_of", "covers", "definition_of", "forget_sources", "nodes_in", "parsed", "position_in",
]  # fmt: skip

# Line, end line, column and end column of an instruction; columns are None under `python -X no_debug_ranges`.
Position = tuple[int | None, int | None, int | None, int | None]

_Definition = ast.FunctionDef | ast.AsyncFunctionDef
_WITH_STATEMENTS = (ast.stmt, ast.ExceptHandler, ast.match_case)


@functools.cache
def parsed(filename: str) -> ast.Module | None:
    """Return the syntax tree of a file; None if it is not a Python file."""
    try:
        return ast.parse(Path(filename).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def forget_sources() -> None:
    """Free the cached trees; they are parsed again when needed."""
    parsed.cache_clear()
    _definitions.cache_clear()


# --- functions ---


def code_of(item: pytest.Item) -> CodeType | None:
    function = inspect.unwrap(getattr(item, "function", None) or (lambda: None))
    return getattr(function, "__code__", None)


def definition_of(code: CodeType) -> _Definition | None:
    return _definitions(code.co_filename).get((code.co_name, code.co_firstlineno))


@functools.cache
def _definitions(filename: str) -> Mapping[tuple[str, int], _Definition]:
    """Return the functions of a file by name and first line, which is that of the first decorator."""
    tree = parsed(filename)
    functions = [node for node in _statements(tree.body) if isinstance(node, _Definition)] if tree is not None else []
    return {(each.name, min(part.lineno for part in (each, *each.decorator_list))): each for each in functions}


def _statements(block: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield the statements of a block and of the blocks in it, but no expressions, which define no functions."""
    for node in block:
        yield node
        for name in node._fields:
            inner = getattr(node, name, None)
            if isinstance(inner, list) and inner and isinstance(inner[0], _WITH_STATEMENTS):
                yield from _statements(inner)


def nodes_in(block: Iterable[ast.AST]) -> list[ast.AST]:
    """Return all nodes of a block, in half the time of `ast.walk`: a suite may have thousands of tests."""
    found = list(block)
    for node in found:
        found += children(node)
    return found


def children(node: ast.AST) -> list[ast.AST]:
    """Return the direct children of a node, without the context of a name, which has no children itself."""
    found: list[ast.AST] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            found += [each for each in value if isinstance(each, ast.AST)]
        elif isinstance(value, ast.AST) and name != "ctx":
            found.append(value)
    return found


# --- instructions ---


def position_in(code: CodeType, instruction: int) -> Position:
    """Return the position of the instruction at that offset (`f_lasti`, `tb_lasti`)."""
    return next(islice(code.co_positions(), instruction // 2, None))


def covers(node: ast.stmt | ast.expr, position: Position) -> bool:
    """Return whether an instruction belongs to a node: by columns, since several statements may share a line."""
    line, end_line, column, end_column = position
    if line is None or node.end_lineno is None or node.end_col_offset is None:
        return False
    if end_line is None or column is None or end_column is None:
        return node.lineno <= line <= node.end_lineno
    starts_within = (node.lineno, node.col_offset) <= (line, column)
    return starts_within and (end_line, end_column) <= (node.end_lineno, node.end_col_offset)
