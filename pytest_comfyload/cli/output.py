"""What commands print."""

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

# Of what is no terminal, and of a terminal that does not say.
_WIDTH = 80


def echo(text: str, *, err: bool = False) -> None:
    """Print lines that may quote servers, files and commits."""
    typer.echo("\n".join(map(harmless, text.split("\n"))), err=err)


def echo_json(value: Any, *, indent: int | None = 1) -> None:
    """Print it for a program; a log of CI may have it, too. Without `indent`, it is one line."""
    typer.echo(harmless_json(json.dumps(redacted_values(value), indent=indent)))


def screen_width() -> int:
    """Return the columns of the terminal, 80 at least."""
    return max(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)


def echo_lines(lines: Iterable[Text | str]) -> None:
    """Print lines that break between words where the terminal ends; in colour where it is one."""
    from pytest_comfyload.report.table import rendered

    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in rendered(lines, color=color, width=screen_width()):
        print(line)  # typer's echo takes no notice of how a terminal without Unicode is to be written to
