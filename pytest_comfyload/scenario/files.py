"""Files that a scenario names: looked for beside the tests first, then in the working directory."""

from __future__ import annotations

import io
import os
from pathlib import Path

from pytest_comfyload.errors import UsageError

__all__ = ["read_bytes", "read_text"]


def read_text(source: str | os.PathLike[str], root: Path | None, blame: type[UsageError] = UsageError) -> str:
    """The text of the file `source`, relative to `root`, then to the working directory.

    Raises `blame` if there is no such file, or it is not UTF-8 text.
    """
    path, content = _found(source, root, blame)
    try:
        # With universal newlines, as a file opened for reading text has them.
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise blame(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_bytes(source: str | os.PathLike[str], root: Path | None, blame: type[UsageError] = UsageError) -> bytes:
    """The content of the file `source`, looked for as `read_text` does. Raises `blame` if there is no such file."""
    return _found(source, root, blame)[1]


def _found(source: str | os.PathLike[str], root: Path | None, blame: type[UsageError]) -> tuple[Path, bytes]:
    folders = [Path.cwd()] if root is None else [root, Path.cwd()]
    for path in (folder / source for folder in folders):
        try:
            return path, path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise blame(f"cannot read {str(source)!r}: {getattr(error, 'strerror', None) or error}") from None
    looked_in = ", ".join(str(folder) for folder in dict.fromkeys(folders))
    raise blame(f"no file {str(source)!r} in {looked_in}")
