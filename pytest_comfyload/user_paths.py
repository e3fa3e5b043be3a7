"""Paths as users write them, and folders that are private to one user."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from pytest_comfyload.errors import UsageError

__all__ = ["private_folder", "user_path"]


def user_path(text: str) -> Path:
    """Expand a path that may begin with `~`. Raises: UsageError if the home is unknown, as in some containers."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        home = text.partition("/")[0]
        raise UsageError(f"{text}: no home directory of {home} is known; set HOME or write the whole path") from None


def private_folder(name: str, *, make: bool) -> Path:
    """Return a temporary folder that is private to this user. Raises: OSError, also if another user may write to it."""
    owner = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / f"comfyload-{owner}-{name}"
    if make:
        folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o022 or folder.is_symlink()):
        raise PermissionError(errno.EACCES, "belongs to another user", str(folder))
    return folder
