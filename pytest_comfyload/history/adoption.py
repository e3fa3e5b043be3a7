"""A spool becomes a record of the store and is gone; of a run that was cut off, what ended is kept as incomplete."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import Record, TestChecks, record_of
from pytest_comfyload.history.spool import read_end, read_header, read_pictures, read_spool
from pytest_comfyload.history.store import Store
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.run_facts import RunFacts

__all__ = ["SessionLock", "adopt", "adoptable", "header_of"]

# Seconds after which a spool that came from another machine counts as left behind.
_OLD = 24 * 3600.0


def header_of(session: str, provenance: Provenance | None, project: Path) -> dict[str, Any]:
    """Return what a run's spool says so that it can be adopted; without provenance it is not to be."""
    return {"session": session, "host": platform.node(), "provenance": provenance, "project": str(project)}


class SessionLock:
    """Held as long as a session may still adopt its own spools; what holds it can be killed."""

    def __init__(self, session: str) -> None:
        from filelock import FileLock

        owner = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
        self._path = Path(tempfile.gettempdir()) / f"comfyload-{owner}-{Path(session).name}.lock"
        self._lock = FileLock(self._path)

    def acquire(self) -> bool:
        """False where a living process holds it."""
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        self._lock.release()
        self._path.unlink(missing_ok=True)


def adoptable(folder: Path, session: str) -> list[Path]:
    """The spools of this session, and those whose session is dead; oldest first."""
    return [path for path in sorted(folder.glob("*.jsonl")) if _is_adoptable(path, read_header(path), session)]


def _is_adoptable(path: Path, header: Mapping[str, Any], session: str) -> bool:
    theirs = header.get("session")
    if header.get("provenance") is None or not isinstance(theirs, str):
        return False
    if theirs == session:
        return True
    if header.get("host") != platform.node():
        return time.time() - path.stat().st_mtime > _OLD
    lock = SessionLock(theirs)
    if not lock.acquire():
        return False
    lock.release()
    return True


def adopt(spool: Path, store: Store, checks: Iterable[TestChecks] = ()) -> Record:
    """Raises: StoreError, and the spool stays; ValueError for a spool that no version of this plugin wrote."""
    header = read_header(spool)
    provenance = msgspec.convert(header.get("provenance"), Provenance)
    ended = read_end(spool)
    load = ended or _cut_off(spool, msgspec.convert(header.get("facts"), RunFacts))
    pictures = read_pictures(spool)
    record = record_of(load, provenance, tuple(checks), incomplete=ended is None, pictures=pictures)
    store.add(record)
    spool.unlink(missing_ok=True)
    return record


def _cut_off(spool: Path, begun: RunFacts) -> LoadResult:
    """What can be said of a run without its end: it counts what was sent, over the time in which it was."""
    outcomes = list(read_spool(spool))
    measured = [outcome for outcome in outcomes if not outcome.warmup]
    starts = [outcome.intended for outcome in measured]
    ends = [outcome.end for outcome in measured if outcome.end is not None]
    facts = replace(
        begun,
        window=(min(starts, default=0.0), max(ends, default=max(starts, default=0.0))),
        intended=len(measured),
        submitted=len(measured),
        invalid="the run was cut off",
    )
    return LoadResult(facts, outcomes)
