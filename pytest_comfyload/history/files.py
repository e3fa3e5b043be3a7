"""Untrusted files on this machine: read within limits, written with owner-only permissions, set aside if damaged."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pytest_comfyload.errors import BadFile, StoreError
from pytest_comfyload.redaction import redacted
from pytest_comfyload.user_paths import private_folder

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = [
    "QUARANTINE",
    "SessionFolder",
    "create",
    "make_folder",
    "move_aside",
    "open_untrusted",
    "read_untrusted",
    "shown",
    "write_all",
]

# Folder next to the runs and the spools. Nothing reads its files.
QUARANTINE = "quarantine"

_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}
# Errors caused by the path itself rather than by the medium.
_OF_THE_PATH = {errno.ELOOP: "is a link to itself", errno.ENOENT: "is a link to nothing", errno.ENXIO: "is a socket"}


def shown(text: str, most: int = 200) -> str:
    """Return an untrusted name or message as one line of printable characters, without known secrets."""
    text = redacted(text)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= most else f"{text[: most - 1]}…"


@contextlib.contextmanager
def open_untrusted(path: Path, most: int) -> Iterator[BinaryIO]:
    """Open a regular file of at most `most` bytes for reading, without waiting for other processes.

    Raises:
        BadFile: It is not a regular file, is too large or may not be read.
        FileNotFoundError: It does not exist.
        StoreError: The medium failed.
    """
    name = shown(path.name)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise _refused(path, name, error) from None
    try:
        _expect_regular(os.fstat(handle), name, most)
    except BadFile:
        os.close(handle)
        raise
    with os.fdopen(handle, "rb") as file:
        yield file


def _expect_regular(about: os.stat_result, name: str, most: int) -> None:
    """Raises: BadFile."""
    if not stat.S_ISREG(about.st_mode):
        kind = next((kind for test, kind in _KINDS.items() if test(about.st_mode)), "not a regular file")
        raise BadFile(name, f"is {kind}")
    if about.st_size > most:
        raise BadFile(name, f"is larger than {most >> 20} MiB")


def read_untrusted(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes. Raises: as `open_untrusted`."""
    with open_untrusted(path, most) as file:
        try:
            # One byte more than allowed, in case another process has made the file larger.
            content = file.read(most + 1)
        except OSError as error:
            raise _refused(path, shown(path.name), error) from None
    if len(content) > most:
        raise BadFile(shown(path.name), f"is larger than {most >> 20} MiB")
    return content


def _refused(path: Path, name: str, error: OSError) -> Exception:
    """Return the exception to raise for an error of opening or reading, by its cause."""
    try:
        about = path.lstat()
    except OSError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if isinstance(error, PermissionError):
        # Another user's file in a shared store is not damaged.
        own = not hasattr(os, "geteuid") or about.st_uid == os.geteuid()
        return BadFile(name, f"cannot be read ({error.strerror})", movable=own or stat.S_ISDIR(about.st_mode))
    if stat.S_ISDIR(about.st_mode):
        return BadFile(name, "is a folder")
    if error.errno in _OF_THE_PATH:
        return BadFile(name, _OF_THE_PATH[error.errno])
    return StoreError(f"{name} cannot be read: {error.strerror or error}")


def move_aside(path: Path, quarantine: Path) -> str:
    """Move an unusable file of any kind into the quarantine folder, and return a message that says where it is now."""
    try:
        make_folder(quarantine, quarantine.parent)
        target = quarantine / path.name
        number = 0
        while os.path.lexists(target):
            number += 1
            target = quarantine / f"{path.name[:200]}.{number}"
        path.rename(target)
    except OSError as error:
        return f"it cannot be moved away ({error.strerror or error}); delete it"
    return f"moved to {shown(str(target), 1000)}"


def make_folder(path: Path, store: Path) -> None:
    """Create the folder of a store, or a folder in it, if it does not exist.

    Only its owner may access it; a folder in a shared store gets the store's permissions. Raises: OSError.
    """
    if not store.is_dir():
        store.parent.mkdir(parents=True, exist_ok=True)
        store.mkdir(mode=0o700, exist_ok=True)
    if not path.is_dir():
        path.mkdir(mode=0o700, exist_ok=True)
        if sharing := _sharing(store):
            path.chmod(0o700 | sharing)


class SessionFolder:
    """A temporary folder of one process, which keeps it locked.

    `remove` also removes folders that dead processes left behind.

    Args:
        kind: Part of the folder's name, by which folders of dead processes are found.

    Raises:
        OSError: The folder cannot be created.
    """

    def __init__(self, kind: str) -> None:
        self.path = Path(tempfile.gettempdir()) / f"comfyload-{kind}-{secrets.token_hex(4)}"
        self._prefix = f"comfyload-{kind}-"
        self._lock = _session_lock(self.path.name)
        # Locked before the folder exists, so that no other process takes it for an abandoned one.
        self._lock.acquire(blocking=False)
        self.path.mkdir(mode=0o700)

    def remove(self) -> None:
        _remove_session(self.path, self._lock)
        with contextlib.suppress(OSError):
            for other in self.path.parent.glob(f"{self._prefix}*"):
                if not hasattr(os, "getuid") or other.lstat().st_uid == os.getuid():
                    _remove_dead(other)


def _remove_dead(folder: Path) -> None:
    """Remove the folder of a process that has ended. Raises: OSError."""
    from filelock import Timeout

    lock = _session_lock(folder.name)
    with contextlib.suppress(Timeout):
        lock.acquire(blocking=False)
        _remove_session(folder, lock)


def _remove_session(folder: Path, lock: BaseFileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _session_lock(name: str) -> BaseFileLock:
    """Raises: OSError."""
    from filelock import FileLock

    return FileLock(private_folder("locks", make=True) / f"{name}.lock", mode=0o600)


def create(path: Path, store: Path | None = None, *, append: bool = False) -> BinaryIO:
    """Create a file for unbuffered writing. Raises: OSError.

    Only its owner may access it; a file in a shared store gets the store's permissions.
    """
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_EXCL) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags, 0o600)
    sharing = 0 if store is None else _sharing(store) & 0o066
    if sharing and hasattr(os, "fchmod"):
        os.fchmod(handle, 0o600 | sharing)
    return os.fdopen(handle, "wb", buffering=0)


def write_all(file: BinaryIO, content: bytes) -> None:
    """Write all bytes to an unbuffered file, each of whose writes may be partial. Raises: OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _sharing(store: Path) -> int:
    """Return the group and other permission bits of a store with its setgid bit; 0 if that bit is not set.

    `mkdir` never sets the setgid bit, so a set bit means that the folder is shared on purpose.
    """
    mode = stat.S_IMODE(store.stat().st_mode)
    return mode & 0o2077 if mode & stat.S_ISGID else 0
