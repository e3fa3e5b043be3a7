"""The folder of a process's launched servers, and what it tells other processes of them.

It is removed at the end of the process, or at the next start after it was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pytest_comfyload.errors import UsageError
from pytest_comfyload.user_paths import private_folder

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["ServerState", "Workspace", "read_states", "sweep", "write_states"]

# In a workspace: the process ids of its servers, one a line.
_PIDS = "pids"


class Workspace:
    """`folder` holds the base directories of servers; use it as a context manager.

    A lock beside it says that its process lives.
    """

    def __init__(self) -> None:
        """Raises: UsageError where temporary files cannot be written."""
        try:
            root = private_folder("launched", make=True)
            sweep(root)
            self.folder = root / secrets.token_hex(6)
            # Before the folder is there: another process's sweep takes away what has no lock.
            self._lock = _locked(self.folder)
            self.folder.mkdir(mode=0o700)
        except OSError as error:
            raise UsageError(
                f"no folder for launched servers: {error.strerror or error}; set TMPDIR to one that can be written"
            ) from None

    def note_server(self, pid: int) -> None:
        """Have the next start end this server, should this process be killed."""
        with (self.folder / _PIDS).open("a", encoding="ascii") as file:
            file.write(f"{pid}\n")

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        _release(self.folder, self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def sweep(root: Path) -> None:
    """End the servers and remove the folders of processes that were killed."""
    from filelock import Timeout

    for folder in [path for path in root.iterdir() if path.suffix != ".lock"]:
        with contextlib.suppress(Timeout, OSError):
            lock = _locked(folder)
            _end_servers(folder)
            shutil.rmtree(folder, ignore_errors=True)
            _release(folder, lock)


def _locked(folder: Path) -> BaseFileLock:
    """Raises: Timeout where a process holds it; OSError."""
    from filelock import FileLock

    lock = FileLock(folder.with_suffix(".lock"), mode=0o600, thread_local=False)
    lock.acquire(timeout=0)
    return lock


def _release(folder: Path, lock: BaseFileLock) -> None:
    folder.with_suffix(".lock").unlink(missing_ok=True)
    lock.release()


def _end_servers(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / _PIDS).read_text(encoding="ascii", errors="replace").split():
            if line.isdecimal() and str(folder) in _command_of(int(line)):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(int(line), signal.SIGKILL)


def _command_of(pid: int) -> str:
    """Return a process's command line, which names its base directory: its id may be another process's by now."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    asked = subprocess.run(["ps", "-o", "command=", "-ww", "-p", str(pid)], capture_output=True, text=True, check=False)
    return asked.stdout


@dataclass(frozen=True, slots=True)
class ServerState:
    """What is known of a launched server, also in another process.

    `starts`: how long each start took, seconds from the process to an executed prompt. `deaths`: how it died, each
    time. `gpu`: the UUID of its GPU; empty: it was given none.
    """

    url: str
    gpu: str
    log: str
    starts: tuple[float, ...] = ()
    deaths: tuple[str, ...] = ()


def read_states(file: Path) -> tuple[ServerState, ...]:
    """Read what another process wrote of its servers; nothing where that process has ended."""
    try:
        listed = json.loads(file.read_bytes())
    except FileNotFoundError:
        return ()
    return tuple(ServerState(**{**each, "starts": (*each["starts"],), "deaths": (*each["deaths"],)}) for each in listed)


def write_states(file: Path, states: Iterable[ServerState]) -> None:
    """Write them for `read_states`, which finds the earlier ones until these are complete. Raises: OSError."""
    unfinished = file.with_suffix(".new")
    unfinished.write_text(json.dumps([asdict(state) for state in states]), encoding="utf-8")
    unfinished.replace(file)
