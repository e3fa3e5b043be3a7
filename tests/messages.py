"""A listing of all texts that the package can print: `python -m tests.messages [ROOM …]`.

It is meant for reading the messages in sequence when their wording is revised, and is used by the style test.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pytest_comfyload import errors

__all__ = ["Message", "messages"]

PACKAGE = Path(__file__).parents[1] / "pytest_comfyload"

# Shorter texts are names, keys and headings.
_FEWEST_WORDS = 3


class Message(NamedTuple):
    """A text of the package: a message, or the help of an option or a command; `{…}` stands for what is filled in."""

    file: str
    line: int
    text: str
    raised: str = ""  # the error class that has it as its message

    @property
    def plain(self) -> str:
        """The text with `…` for each part that is filled in."""
        text, inner = self.text, re.compile(r"\{[^{}]*\}")
        while inner.search(text):
            text = inner.sub("…", text)
        return text


def messages(*rooms: str) -> list[Message]:
    """Collect the texts of the package's modules in order, limited to `rooms` if any are given."""
    files = sorted(PACKAGE.rglob("*.py"))
    return [message for file in files if _is_in(file, rooms) for message in _of_file(file)]


def _is_in(file: Path, rooms: tuple[str, ...]) -> bool:
    return not rooms or file.relative_to(PACKAGE).parts[0].removesuffix(".py") in rooms


def _of_file(file: Path) -> Iterator[Message]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    raised = _raised(tree)
    for node, text in _texts(tree, shown=_commands(tree)):
        if len(text.split()) >= _FEWEST_WORDS:
            yield Message(str(file.relative_to(PACKAGE)), node.lineno, text, raised.get(node, ""))


def _raised(tree: ast.Module) -> dict[ast.expr, str]:
    """Map the first argument of each error that is raised or returned to the name of its class."""
    return {
        call.args[0]: call.func.id
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in errors.__all__
        if call.args
    }


def _commands(tree: ast.Module) -> set[ast.AST]:
    """Return the functions whose docstrings are shown to users: commands and fixtures."""
    return {
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(word in ast.unparse(each) for each in node.decorator_list for word in ("command", "fixture"))
    }


def _texts(node: ast.AST, shown: set[ast.AST]) -> Iterator[tuple[ast.expr, str]]:
    text = _text(node)
    if text is not None:
        assert isinstance(node, ast.expr)
        yield node, text
        return
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)) or (
            node in shown and child is node.body[0]  # type: ignore[attr-defined]
        ):
            yield from _texts(child, shown)


def _text(node: ast.AST) -> str | None:
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=values):
            return "".join(_part(value) for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right) if (_text(left) or _text(right)) is not None:
            return "".join(_text(side) if _text(side) is not None else "{…}" for side in (left, right))  # type: ignore[misc]
    return None


def _part(value: ast.expr) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    assert isinstance(value, ast.FormattedValue)
    return f"{{{ast.unparse(value.value)}}}"


if __name__ == "__main__":
    for file, line, text, raised in messages(*sys.argv[1:]):
        print(f"{file}:{line}: {raised}{': ' * bool(raised)}{text}")
