"""Where files lie, by name: a folder, or whatever fsspec reaches; a file is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from pytest_comfyload.errors import StoreError, UsageError
from pytest_comfyload.history.secrets import public_text

__all__ = ["Folder", "Place", "Remote", "place_at"]

# Of a file that is being written; one that stays behind is of a writer that was killed.
PART = ".part"


class Place(Protocol):
    """Names may have one folder before them: `runs/….run`. Errors of the medium are StoreError."""

    def names(self, folder: str) -> list[str]:
        """Of the files in it, without the folder; none where there is no such folder."""

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, content: bytes) -> None: ...

    def remove(self, name: str) -> None:
        """One that is gone already is no error."""


def place_at(where: str | os.PathLike[str]) -> Place:
    """A path, or a URL such as `s3://bucket/folder`. Raises: UsageError where fsspec is missing, or a part of it."""
    text = os.fspath(where)
    if "://" not in text:
        return Folder(Path(text).expanduser())
    return Remote(text)


class Folder:
    """On this machine, or mounted into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def names(self, folder: str) -> list[str]:
        try:
            with os.scandir(self.path / folder) as found:
                return [entry.name for entry in found]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _failed(self, error) from None

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise _failed(self, error) from None

    def write(self, name: str, content: bytes) -> None:
        path = self.path / name
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise _failed(self, error) from None

    def remove(self, name: str) -> None:
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise _failed(self, error) from None


class Remote:
    """Through fsspec. Its exceptions are of every kind: each becomes a StoreError."""

    def __init__(self, url: str) -> None:
        self._shown = public_text(url)
        try:
            core: Any = import_module("fsspec.core")
            self._files, self._root = core.url_to_fs(url)
        except ImportError as error:
            raise UsageError(
                f"the store {self._shown} needs fsspec and what it takes for this kind of URL ({error}): "
                "pip install 'pytest-comfyload[remote]'"
            ) from None
        except ValueError as error:
            raise UsageError(f"the store {self._shown}: {public_text(str(error))}") from None

    def __str__(self) -> str:
        return self._shown

    def names(self, folder: str) -> list[str]:
        try:
            self._files.invalidate_cache()
            found = self._files.ls(self._at(folder), detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise _failed(self, error) from None
        return [str(path).rpartition("/")[2] for path in found]

    def read(self, name: str) -> bytes:
        try:
            content = self._files.cat_file(self._at(name))
        except Exception as error:
            raise _failed(self, error) from None
        return bytes(content)

    def write(self, name: str, content: bytes) -> None:
        part = f"{self._at(name)}.{secrets.token_hex(4)}{PART}"
        try:
            self._files.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(part, content)
            self._files.mv(part, self._at(name))
        except Exception as error:
            raise _failed(self, error) from None

    def remove(self, name: str) -> None:
        try:
            self._files.rm_file(self._at(name))
        except FileNotFoundError:
            pass
        except Exception as error:
            raise _failed(self, error) from None

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


def _failed(place: Place, error: Exception) -> StoreError:
    return StoreError(f"the store {place}: {public_text(str(error)) or type(error).__name__}")
