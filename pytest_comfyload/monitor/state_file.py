"""State file of a monitor: counters and seen prompts, so that a restarted monitor continues to count."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytest_comfyload.errors import UsageError
from pytest_comfyload.monitor.server_record import ServerRecord
from pytest_comfyload.monitor.watch import ServerWatch

__all__ = ["read_state", "seen_in", "write_state"]

VERSION = 1
# Largest file to read, in bytes: a thousand servers with 12,000 ids of 36 characters each take 500 MB.
LARGEST = 2**30


def read_state(path: Path) -> Mapping[str, Any]:
    """Return the state of each server by its label; empty if there is no file yet. Raises: UsageError."""
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"--state {path}: larger than {LARGEST >> 20} MiB; delete it, or name another file")
        content = json.loads(path.read_bytes())
        if content["version"] != VERSION or not isinstance(content["servers"], dict):
            raise ValueError("of another version")
        servers: dict[str, Any] = content["servers"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(path, error) from None
    return servers


def seen_in(path: Path, state: Mapping[str, Any], record: ServerRecord) -> tuple[str, ...] | None:
    """Restore the record from the state; return the ids already seen, None for a new server. Raises: UsageError."""
    kept = state.get(record.server)
    if kept is None:
        return None
    try:
        record.take_state(kept["record"])
        seen = kept["seen"]
        if not all(isinstance(each, str) for each in seen):
            raise ValueError("seen")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from None
    return tuple(seen)


def _unreadable(path: Path, error: Exception) -> UsageError:
    reason = getattr(error, "strerror", None) or str(error)[:100] or type(error).__name__
    return UsageError(f"--state {path} cannot be read ({reason}); delete it, or name another file")


def write_state(path: Path, watches: Iterable[ServerWatch]) -> None:
    """Replace the file atomically. Servers that have not been reached yet are left out.

    Raises: OSError.
    """
    servers = {
        watch.record.server: {"record": watch.record.to_state(), "seen": watch.tail.seen}
        for watch in watches
        if watch.tail.seen is not None
    }
    content = json.dumps({"version": VERSION, "servers": servers}).encode()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
