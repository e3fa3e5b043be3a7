"""Output of the commands."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer

from pytest_comfyload.redaction import redacted_values
from pytest_comfyload.text import harmless, harmless_json

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["echo", "echo_json", "echo_lines", "screen_width"]

# Width if the output is not a terminal, or a terminal that does not report its size.
_WIDTH = 80


def echo(text: str, *, err: bool = False) -> None:
    """Print lines that may contain text of servers, files and commits, made safe for a terminal."""
    typer.echo("\n".join(map(harmless, text.split("\n"))), err=err)


def echo_json(value: Any, *, indent: int | None = 1) -> None:
    """Print JSON for a program, with secrets redacted because CI may log it; one line if `indent` is None."""
    typer.echo(harmless_json(json.dumps(redacted_values(value), indent=indent)))


def screen_width() -> int:
    """Return the number of columns of the terminal, at least 80."""
    return max(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)


def echo_lines(lines: Iterable[Text | str]) -> None:
    """Print lines wrapped to the width of the terminal; in colour if the output is one."""
    from pytest_comfyload.report.table import rendered

    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in rendered(lines, color=color, width=screen_width()):
        print(line)  # typer.echo ignores the error handler that `main` sets for terminals without Unicode
