"""Folder of the servers that a process launches, and their state as published for other processes.

If a process is killed, its folder is removed when servers are next launched.
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

# File in a workspace with the process ids of its servers, one per line.
_PIDS = "pids"


class Workspace:
    """Folder for the base directories of servers; use it as a context manager.

    A lock file next to `folder` shows that its process is running.
    """

    def __init__(self) -> None:
        """Create the folder. Raises: UsageError if temporary files cannot be written."""
        try:
            root = private_folder("launched", make=True)
            sweep(root)
            self.folder = root / secrets.token_hex(6)
            # Locked before the folder exists: the sweep of another process removes folders without a lock.
            self._lock = _locked(self.folder)
            self.folder.mkdir(mode=0o700)
        except OSError as error:
            raise UsageError(
                f"no folder for launched servers: {error.strerror or error}; set TMPDIR to one that can be written"
            ) from None

    def note_server(self, pid: int) -> None:
        """Record the process id of a server, which the next `sweep` kills if this process is killed."""
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
    """Kill the servers and remove the folders of processes that were killed."""
    from filelock import Timeout

    for folder in [path for path in root.iterdir() if path.suffix != ".lock"]:
        with contextlib.suppress(Timeout, OSError):
            lock = _locked(folder)
            _end_servers(folder)
            shutil.rmtree(folder, ignore_errors=True)
            _release(folder, lock)


def _locked(folder: Path) -> BaseFileLock:
    """Return the acquired lock of a folder. Raises: Timeout if another process has it; OSError."""
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
    """Return the command line of a process. A server's contains its base directory; the id may have been reused."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    asked = subprocess.run(["ps", "-o", "command=", "-ww", "-p", str(pid)], capture_output=True, text=True, check=False)
    return asked.stdout


@dataclass(frozen=True, slots=True)
class ServerState:
    """State of a launched server, which other processes can read.

    `starts`: the duration of each start in seconds, from spawning the process to an executed prompt. `deaths`: how the
    server died, each time. `gpu`: the UUID of its GPU; empty: none was assigned.
    """

    url: str
    gpu: str
    log: str
    starts: tuple[float, ...] = ()
    deaths: tuple[str, ...] = ()


def read_states(file: Path) -> tuple[ServerState, ...]:
    """Read the states that another process wrote; empty once that process has exited."""
    try:
        listed = json.loads(file.read_bytes())
    except FileNotFoundError:
        return ()
    return tuple(ServerState(**{**each, "starts": (*each["starts"],), "deaths": (*each["deaths"],)}) for each in listed)


def write_states(file: Path, states: Iterable[ServerState]) -> None:
    """Write states for `read_states`, which sees the previous ones until these are complete. Raises: OSError."""
    unfinished = file.with_suffix(".new")
    unfinished.write_text(json.dumps([asdict(state) for state in states]), encoding="utf-8")
    unfinished.replace(file)
