"""Type inference for the expressions of a test, by the annotations of this package, starting at the test's fixtures.

`load` is a LoadResult, its `total_time` a Distribution, its `p95` a Metric. Nothing is evaluated.
"""

from __future__ import annotations

import ast
import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pytest_comfyload.result.load_result import LoadResult

__all__ = ["attribute_type", "fixture_types", "type_of"]


def fixture_types(names: Iterable[str]) -> dict[str, Any]:
    """Return the types of this package's fixtures that are among `names`."""
    return {name: _FIXTURES[name]() for name in names if name in _FIXTURES}


def _ab() -> Any:
    from pytest_comfyload.result.ab_result import ABResult

    return Callable[..., ABResult]


def _capacity() -> Any:
    from pytest_comfyload.capacity.answer import Capacity

    return Callable[..., Capacity]


# Called only when a test requests the fixture: most tests need only the first, and the others import many modules.
_FIXTURES: Mapping[str, Callable[[], Any]] = {
    "load": lambda: LoadResult,
    "run_load": lambda: Callable[..., LoadResult],
    "run_ab": _ab,
    "find_capacity": _capacity,
}


def type_of(node: ast.expr, types: Mapping[str, Any]) -> Any:
    """Return the class or generic alias of an expression by the annotations; None if they do not tell."""
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


@functools.cache
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
    """Return the value type of a mapping, or the return type of a callable."""
    bases = getattr(kind, "__orig_bases__", ()) if isinstance(kind, type) else ()
    arguments = next(filter(None, map(typing.get_args, (kind, *bases))), ())
    return arguments[-1] if arguments else None


@functools.cache
def _hints(annotated: Any) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(annotated)
    except (NameError, TypeError):  # a name that is imported only for type checkers
        return {}
