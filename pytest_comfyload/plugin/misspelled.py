"""Misspelled attributes of a load, found in the source of a test before the load runs.

Only certain errors are reported. The type of a name is known if it is an argument that our fixture provides, or if it
is bound exactly once, to an expression of known type. Guarded code (`hasattr`, `try`, `pytest.raises`), nested
functions and classes with a `__getattr__` are skipped. The legal names are those of the classes themselves.
"""

from __future__ import annotations

import ast
import dis
import functools
import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

import pytest

from pytest_comfyload.errors import close_to, nearest
from pytest_comfyload.plugin.inference import fixture_types, type_of
from pytest_comfyload.plugin.source import children, code_of, definition_of, nodes_in
from pytest_comfyload.result.load_result import FACTS, LoadResult

__all__ = ["misspelled"]

_MOST_NAMES = 4
_GUARDS = {"hasattr", "raises", "suppress"}
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.Try, ast.TryStar)
_CONDITIONS = (ast.With, ast.AsyncWith, ast.If, ast.IfExp, ast.While, ast.BoolOp)


def misspelled(item: pytest.Item) -> list[str]:
    """Return a sentence for each name that does not exist, in source order."""
    code = code_of(item)
    test = None if code is None or hasattr(getattr(item, "function", None), "__wrapped__") else definition_of(code)
    if test is None:
        return []
    nodes = nodes_in(test.body)
    types = _certain_types(test, nodes, _given(item))
    assigned = {node.attr for node in nodes if isinstance(node, ast.Attribute) and _is_bound(node)}
    found = [
        (node.lineno, node.col_offset, f"line {node.lineno}: {sentence}")
        for statement in test.body
        for node in _surely_meant(statement)
        for sentence in _sentences(node, types, assigned)
    ]
    return [sentence for _, _, sentence in sorted(found)]


# --- what is certain ---


def _given(item: pytest.Item) -> dict[str, Any]:
    """Return the types of the item's arguments that come from this package's fixtures, unless they are overridden."""
    definitions = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    names = [name for name, found in definitions.items() if name not in parameters and _is_ours(found[-1].func)]
    return fixture_types(names)


def _is_ours(function: object) -> bool:
    return str(getattr(function, "__module__", "")).startswith("pytest_comfyload.")


def _certain_types(
    test: ast.FunctionDef | ast.AsyncFunctionDef, nodes: Sequence[ast.AST], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the types, by name, of arguments from fixtures, and of names that are bound once, by an assignment.

    `nodes` are all nodes of the test's body.
    """
    defaults = len(test.args.defaults)
    positional = test.args.args[: len(test.args.args) - defaults]
    bound = Counter(name for node in nodes for name in _bound(node))
    types = {each.arg: given[each.arg] for each in positional if each.arg in given and not bound[each.arg]}
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if bound[name] == 1:
                types.setdefault(name, type_of(value, types))
    return types


def _bound(node: ast.AST) -> Sequence[str]:
    """Return the names that a node itself binds; a name that another scope may bind is included twice."""
    match node:
        case ast.Name(id=name):
            return [name] if _is_bound(node) else []
        case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
            return [name]
        case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.alias(name=name, asname=other):
            return [(other or name).partition(".")[0]]
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            return [*names, *names]
    return []


def _is_bound(node: ast.Name | ast.Attribute) -> bool:
    return not isinstance(node.ctx, ast.Load)


def _surely_meant(statement: ast.stmt) -> list[ast.expr]:
    """Return the expressions in a statement, except those that a guard or another scope may keep from failing."""
    pending: list[ast.AST] = [statement]
    for node in pending:
        if isinstance(node, _SCOPES) or (isinstance(node, _CONDITIONS) and _is_guarded(node)):
            continue
        pending += children(node)
    return [node for node in pending if isinstance(node, ast.expr)]


def _is_guarded(node: ast.With | ast.AsyncWith | ast.If | ast.IfExp | ast.While | ast.BoolOp) -> bool:
    match node:
        case ast.With(items=items) | ast.AsyncWith(items=items):
            guards: list[ast.expr] = [each.context_expr for each in items]
        case ast.BoolOp(values=values):
            guards = values
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            guards = [test]
    names = {getattr(node, "id", None) or getattr(node, "attr", None) for each in guards for node in ast.walk(each)}
    return not _GUARDS.isdisjoint(names)


# --- what exists ---


def _sentences(node: ast.expr, types: Mapping[str, Any], assigned: set[str]) -> Iterator[str]:
    match node:
        case ast.Attribute(value=value, attr=name) if name not in assigned and not name.startswith("_"):
            names = _names_of(type_of(value, types))
            if names and name not in names:
                yield _sentence(node, name, sorted(names))
        case ast.Subscript(value=value, slice=ast.Constant(value=str(key))):
            keys = getattr(type_of(value, types), "KEYS", ())
            if keys and key not in keys:
                yield _sentence(node, key, keys)
        case ast.Call(func=ast.Attribute(value=value, attr="by"), args=[ast.Constant(value=str(key))]):
            # Any other key is an input, whose address has a dot.
            if type_of(value, types) is LoadResult and key not in FACTS and "." not in key:
                yield f"{_sentence(node, key, FACTS)}, or an input as NODE.INPUT"


def _sentence(node: ast.expr, name: str, legal: Sequence[str]) -> str:
    close = close_to(name, legal, _MOST_NAMES)
    return f"{ast.unparse(node)} does not exist; " + (
        f"the nearest: {', '.join(close)}" if close else f"legal: {nearest(name, legal)}"
    )


def _names_of(kind: Any) -> frozenset[str]:
    """Return the public attributes of an instance of one of our classes; empty if they cannot be known."""
    if not isinstance(kind, type) or not _is_ours(kind) or hasattr(kind, "__getattr__"):
        return frozenset()
    if getattr(kind, "_is_protocol", False):
        return frozenset()
    # Not cached: what extensions add to a class is removed at the end of their session.
    return frozenset(name for name in {*dir(kind), *_set_by_instances(kind)} if not name.startswith("_"))


@functools.cache
def _set_by_instances(kind: type) -> frozenset[str]:
    """Return the attributes that a class annotates, or that its methods set."""
    set_by_methods = {name for cls in kind.__mro__ for function in _functions(cls) for name in _stored(function)}
    annotated = {name for cls in kind.__mro__ for name in inspect.get_annotations(cls)}
    return frozenset({*annotated, *set_by_methods})


def _functions(cls: type) -> Iterator[FunctionType]:
    members = (inspect.unwrap(getattr(each, "__func__", each)) for each in vars(cls).values())
    return (each for each in members if isinstance(each, FunctionType))


def _stored(function: FunctionType) -> Iterator[str]:
    """Yield the attributes that a method sets on any object."""
    return (each.argval for each in dis.get_instructions(function) if each.opname == "STORE_ATTR")
