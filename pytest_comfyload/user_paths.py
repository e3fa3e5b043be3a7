"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path

from pytest_comfyload.errors import UsageError

__all__ = ["user_path"]


def user_path(text: str) -> Path:
    """A path that may begin with `~`. Raises: UsageError where no home is known, as in some containers."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        home = text.partition("/")[0]
        raise UsageError(f"{text}: no home directory of {home} is known; set HOME or write the whole path") from None
