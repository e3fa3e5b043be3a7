"""What commands print for people."""

from __future__ import annotations

import typer

from pytest_comfyload.text import harmless

__all__ = ["echo"]


def echo(text: str, *, err: bool = False) -> None:
    """Print lines that may quote servers, files and commits."""
    typer.echo("\n".join(map(harmless, text.split("\n"))), err=err)
