"""Storage of files by name, in a folder or through fsspec. Files are written atomically."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, Protocol, TypeVar

from pytest_comfyload.errors import BadFile, StoreError, UsageError
from pytest_comfyload.history.files import (
    QUARANTINE,
    create,
    make_folder,
    move_aside,
    read_untrusted,
    shown,
    write_all,
)
from pytest_comfyload.history.limits import MOST_RUN_FILE
from pytest_comfyload.history.redaction import public_text
from pytest_comfyload.redaction import hide_url
from pytest_comfyload.user_paths import user_path

__all__ = ["Folder", "Remote", "Storage", "place_at"]

# Suffix of a file that is being written. One left behind belongs to a writer that was killed.
PART = ".part"
# Seconds to wait for one answer of a remote store. After a timeout, the store is not accessed again.
PATIENCE = 60.0

T = TypeVar("T")


class Storage(Protocol):
    """A place for files. Names may start with one folder, as in `runs/….run`. Errors of the medium raise StoreError."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the sizes in bytes of the files in a folder, by their names without the folder.

        The size is -1 for anything that is not a regular file. Empty if there is no such folder.
        """

    def holds(self, name: str) -> bool:
        """Return whether a file of that name exists."""

    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises: BadFile if it exists but cannot be read, or is too large."""

    def set_aside(self, name: str) -> str:
        """Move a file into quarantine if the storage supports that, and return a message that says where it is now."""

    def write(self, name: str, content: bytes) -> None: ...

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""


def place_at(where: str | os.PathLike[str]) -> Storage:
    """Return the storage at a path, or at a URL such as `s3://bucket/folder` (needs fsspec). Raises: UsageError."""
    text = os.fspath(where)
    if "://" not in text:
        return Folder(user_path(text))
    return Remote(text)


class Folder:
    """A folder on this machine, possibly on a mounted file system."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def sizes(self, folder: str) -> dict[str, int]:
        try:
            with os.scandir(self.path / folder) as found:
                return {entry.name: _size(entry) for entry in found}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise _failed(self, error) from None

    def holds(self, name: str) -> bool:
        return os.path.lexists(self._at(name))

    def read(self, name: str) -> bytes:
        try:
            return read_untrusted(self._at(name), MOST_RUN_FILE)
        except FileNotFoundError as error:
            raise _failed(self, error) from None

    def write(self, name: str, content: bytes) -> None:
        path = self._at(name)
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART}")
        try:
            make_folder(path.parent, self.path)
            with create(part, self.path) as file:
                write_all(file, content)
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise _failed(self, error) from None

    def set_aside(self, name: str) -> str:
        return move_aside(self._at(name), self.path / QUARANTINE)

    def remove(self, name: str) -> None:
        try:
            self._at(name).unlink(missing_ok=True)
        except OSError as error:
            raise _failed(self, error) from None

    def _at(self, name: str) -> Path:
        return self.path / _inside(name)


class Remote:
    """A folder accessed through fsspec.

    fsspec raises exceptions of any type. All become a StoreError, as does an answer that takes longer than `PATIENCE`.
    """

    def __init__(self, url: str) -> None:
        hide_url(url)
        self._shown = public_text(url)
        self._silent = False
        self._too_large: set[str] = set()
        try:
            core: Any = import_module("fsspec.core")
            self._files, self._root = _in_time(lambda: core.url_to_fs(url))
        except ImportError as error:
            raise UsageError(
                f"the store {self._shown} needs fsspec and the driver for this kind of URL ({error}): "
                "pip install 'pytest-comfyload[remote]'"
            ) from None
        except ValueError as error:
            raise UsageError(f"the store {self._shown}: {public_text(str(error))}") from None
        except Exception as error:
            raise _failed(self, error) from None

    def __str__(self) -> str:
        return self._shown

    def sizes(self, folder: str) -> dict[str, int]:
        def ask() -> list[dict[str, Any]]:
            self._files.invalidate_cache()
            return list(self._files.ls(self._at(folder), detail=True))

        try:
            found = self._ask(ask)
        except FileNotFoundError:
            return {}
        sizes = {str(each["name"]).rpartition("/")[2]: _remote_size(each) for each in found}
        self._too_large |= {f"{folder}/{name}" for name, size in sizes.items() if size > MOST_RUN_FILE}
        return sizes

    def holds(self, name: str) -> bool:
        def ask() -> bool:
            self._files.invalidate_cache()
            return bool(self._files.exists(self._at(name)))

        return self._ask(ask)

    def read(self, name: str) -> bytes:
        if name in self._too_large:
            raise BadFile(shown(name), f"is larger than {MOST_RUN_FILE >> 20} MiB")
        return self._ask_for_file(lambda: bytes(self._files.cat_file(self._at(name))))

    def write(self, name: str, content: bytes) -> None:
        part = f"{self._at(name)}.{secrets.token_hex(4)}{PART}"

        def ask() -> None:
            self._files.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(part, content)
            self._files.mv(part, self._at(name))

        self._ask_for_file(ask)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._ask(lambda: self._files.rm_file(self._at(name)))

    def set_aside(self, name: str) -> str:
        return f"it stays in {self}: delete it there"

    def _ask_for_file(self, work: Callable[[], T]) -> T:
        try:
            return self._ask(work)
        except FileNotFoundError as error:
            raise _failed(self, error) from None

    def _ask(self, work: Callable[[], T]) -> T:
        """Return the result of `work`. Raises: StoreError, FileNotFoundError."""
        if self._silent:
            raise StoreError(f"the store {self} did not answer within {PATIENCE:g} s")
        try:
            return _in_time(work)
        except (FileNotFoundError, StoreError):
            raise
        except TimeoutError as error:
            self._silent = True
            raise _failed(self, error) from None
        except Exception as error:
            raise _failed(self, error) from None

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{_inside(name)}"


def _in_time(work: Callable[[], T]) -> T:
    """Return the result of `work`, which is run in a thread. Raises: TimeoutError; what `work` raises.

    After a timeout, the daemon thread is left behind until the process exits.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=run, name="comfyload-store", daemon=True).start()
    wait([done], timeout=PATIENCE)
    if not done.done():
        raise TimeoutError(f"no answer within {PATIENCE:g} s")
    return done.result()


def _inside(name: str) -> str:
    """Return the name if it is that of a file in the store or in a folder of the store. Raises: StoreError if not."""
    parts = name.split("/")
    if len(parts) > 2 or any(part in ("", ".", "..") or set(part) & {"\\", "\0"} for part in parts):
        raise StoreError(f"{shown(name)} is not the name of a file in a store")
    return name


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size if entry.is_file() else -1
    except OSError:
        return -1


def _remote_size(found: Mapping[str, Any]) -> int:
    size = found.get("size")
    return size if found.get("type") == "file" and isinstance(size, int) else -1


def _failed(place: Storage, error: Exception) -> StoreError:
    return StoreError(f"the store {place}: {shown(public_text(str(error)), 500) or type(error).__name__}")
