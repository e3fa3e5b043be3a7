"""What commands print."""

from __future__ import annotations

import json
from typing import Any

import typer

from pytest_comfyload.redaction import redacted_values
from pytest_comfyload.text import harmless, harmless_json

__all__ = ["echo", "echo_json"]


def echo(text: str, *, err: bool = False) -> None:
    """Print lines that may quote servers, files and commits."""
    typer.echo("\n".join(map(harmless, text.split("\n"))), err=err)


def echo_json(value: Any, *, indent: int | None = 1) -> None:
    """Print it for a program; a log of CI may have it, too. Without `indent`, it is one line."""
    typer.echo(harmless_json(json.dumps(redacted_values(value), indent=indent)))
