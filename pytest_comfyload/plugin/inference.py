"""What the expressions of a test are, by the annotations of this package, followed from the test's fixtures on.

`load` is a LoadResult, its `total_time` a Distribution, its `p95` a Metric. Nothing is evaluated.
"""

from __future__ import annotations

import ast
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

import pytest

from pytest_comfyload.capacity.search import Capacity
from pytest_comfyload.plugin.asserts import parsed
from pytest_comfyload.result.ab_result import ABResult
from pytest_comfyload.result.load_result import LoadResult

__all__ = ["FIXTURES", "attribute_type", "code_of", "definition_of", "type_of"]

_Definition = ast.FunctionDef | ast.AsyncFunctionDef

FIXTURES = {
    "load": LoadResult,
    "run_load": Callable[..., LoadResult],
    "run_ab": Callable[..., ABResult],
    "find_capacity": Callable[..., Capacity],
}


def code_of(item: pytest.Item) -> CodeType | None:
    function = inspect.unwrap(getattr(item, "function", None) or (lambda: None))
    return getattr(function, "__code__", None)


def definition_of(code: CodeType) -> _Definition | None:
    return _definitions(code.co_filename).get((code.co_name, code.co_firstlineno))


@functools.cache
def _definitions(filename: str) -> Mapping[tuple[str, int], _Definition]:
    """The functions of a file by name and first line, which is that of the first decorator."""
    tree = parsed(filename)
    functions = [node for node in ast.walk(tree) if isinstance(node, _Definition)] if tree is not None else []
    return {(each.name, min(part.lineno for part in (each, *each.decorator_list))): each for each in functions}


def type_of(node: ast.expr, types: Mapping[str, Any]) -> Any:
    """The class or generic alias that the annotations promise; None where they promise nothing."""
    match node:
        case ast.Name(id=name):
            return types.get(name)
        case ast.Attribute(value=value, attr=name):
            return attribute_type(type_of(value, types), name)
        case ast.Subscript(value=value):
            return _last_argument(type_of(value, types))
        case ast.Call(func=function):
            called = type_of(function, types)
            return _hints(called).get("return") if inspect.isfunction(called) else _last_argument(called)
    return None


def attribute_type(kind: Any, name: str) -> Any:
    cls = typing.get_origin(kind) or kind
    if not isinstance(cls, type) or not cls.__module__.startswith("pytest_comfyload."):
        return None
    member = inspect.getattr_static(cls, name, None)
    getter = member.fget if isinstance(member, property) else getattr(member, "func", None)
    if getter is not None:
        return _hints(getter).get("return")
    return member if inspect.isfunction(member) else _hints(cls).get(name)


def _last_argument(kind: Any) -> Any:
    """Of a mapping what it holds, of a function what it returns."""
    bases = getattr(kind, "__orig_bases__", ()) if isinstance(kind, type) else ()
    arguments = next(filter(None, map(typing.get_args, (kind, *bases))), ())
    return arguments[-1] if arguments else None


@functools.cache
def _hints(annotated: Any) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(annotated)
    except (NameError, TypeError):  # a name that only type checkers import
        return {}
