"""Adoption of spools: each becomes a record of the store and is deleted.

A run that was cut off is kept as incomplete, with the prompts that finished.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_comfyload.errors import BadFile, StoreError, UsageError
from pytest_comfyload.history.files import QUARANTINE, move_aside, shown
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import INCOMPLETE, Record, TestChecks, record_of
from pytest_comfyload.history.spool import (
    Header,
    read_end,
    read_header,
    read_pictures,
    read_spool,
    spool_folders,
)
from pytest_comfyload.history.store import Store
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import RunFacts

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["Adopted", "SessionLock", "adopt", "adopt_all", "adoptable", "header_of", "runs_of"]

# Seconds without a write after which a spool of another machine counts as abandoned.
_OLD = 24 * 3600.0


def header_of(session: str, provenance: Provenance | None, project: Path) -> dict[str, Any]:
    """Return the header fields by which a run's spool can be adopted. A spool without provenance is never adopted."""
    return {"session": session, "host": platform.node(), "provenance": provenance, "project": str(project)}


class SessionLock:
    """A lock that a process of a session holds while it may still write to the session's spools, or adopt them.

    It is released when the process is killed. The lock file lies next to the spools, because temporary folders are
    cleaned up while sessions are running.
    """

    def __init__(self, session: str, spools: Path, process: str = "main") -> None:
        self._path = spools / f"{session}.{process}.lock"
        self._lock = _file_lock(self._path)

    def acquire(self) -> bool:
        """Return whether the lock was acquired: False if another process holds it, or its file cannot be written."""
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=0)
        except (Timeout, OSError):
            return False
        return True

    def release(self) -> None:
        with contextlib.suppress(OSError):
            self._lock.release()
            self._path.unlink(missing_ok=True)


def _file_lock(path: Path) -> BaseFileLock:
    from filelock import FileLock

    return FileLock(path, mode=0o600)


def _lives(session: str, spools: Path) -> bool:
    """Return whether a process of the session is alive.

    The session also counts as alive if one of its locks cannot be opened, or if the folder is not writable.
    """
    from filelock import Timeout

    for path in spools.glob(f"{session}.*.lock"):
        try:
            # Acquiring a lock truncates the file, and a symbolic link may point anywhere.
            if not path.is_symlink():
                with _file_lock(path).acquire(timeout=0):
                    path.unlink(missing_ok=True)
        except (Timeout, OSError):
            return True
    return not os.access(spools, os.W_OK)


@dataclass(frozen=True, slots=True)
class Adopted:
    """The ids of a project's runs that were adopted into its store."""

    project: Path
    store: Store
    kept: frozenset[str]


def adopt_all(
    root: Path,
    session: str,
    store_of: Callable[[Path], str],
    say: Callable[[str], None],
    checks: Callable[[str], Iterable[TestChecks]] = lambda run_id: (),
) -> list[Adopted]:
    """Adopt the spools below `root` of this session and of dead sessions into the stores of their projects.

    Damaged spools are set aside.

    Args:
        root: The folder whose spools are adopted.
        session: This session.
        store_of: Returns the path or URL of a project's store.
        say: Called with a line for each spool that could not be adopted.
        checks: Returns the SLO checks of a run by its id.
    """
    by_project: dict[Path, list[Path]] = {}
    for folder in spool_folders(root):
        for spool in adoptable(folder, session, say):
            by_project.setdefault(_project_of(read_header(spool), root, session), []).append(spool)
    adopted = []
    for project, spools in by_project.items():
        try:
            store = Store.open(store_of(project))
            kept = frozenset(spool.stem for spool in spools if _adopted(spool, store, session, checks(spool.stem), say))
        except StoreError as error:
            say(f"not kept: {error}; what was measured stays in {spools[0].parent}; the next session tries again")
        except UsageError as error:
            say(f"not kept: {error}")
        else:
            adopted.append(Adopted(project, store, kept))
    return adopted


def _project_of(header: Header, root: Path, session: str) -> Path:
    """Return the project that a spool names, or `root` if it cannot be trusted.

    A spool of another session must not decide where files are written: its project must be inside `root`.
    """
    project = Path(header.project) if header.project else root
    own = header.session == session and project.is_absolute() and project.is_dir()
    return project if own or (project.is_relative_to(root) and ".." not in project.parts) else root


def _adopted(spool: Path, store: Store, session: str, checks: Iterable[TestChecks], say: Callable[[str], None]) -> bool:
    """Return whether the spool was adopted. Raises: StoreError if the store cannot be written."""
    try:
        header = read_header(spool)
        record = adopt(spool, store, checks)
    except FileNotFoundError:  # another session has adopted it
        return False
    except BadFile as error:
        say(_set_aside(spool, error))
        return False
    if record.state == INCOMPLETE and header.session != session:
        say(_killed(header, record))
    return True


def _killed(header: Header, record: Record) -> str:
    ended = sum(1 for each in record.outcomes if not each.warmup)
    of = f"{ended} of {counted(header.planned, 'prompt')}" if header.planned is not None else counted(ended, "prompt")
    servers = ", ".join(header.servers) or "its servers"
    return (
        f"{shown(header.title)}: an earlier session was killed after {of}; run {header.run_id} is kept "
        f"as incomplete. Its other prompts may still be in the queue of {shown(servers)}: the next load there lists "
        "them, and deletes them with --comfyload-delete-leftovers"
    )


def adoptable(folder: Path, session: str, say: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Return the spools of this session and of dead sessions, oldest first.

    Damaged spools are set aside, and reported to `say` in one line each.
    """
    found = []
    lives = functools.cache(lambda other: _lives(other, folder))
    for path in sorted(folder.glob("*.jsonl")):
        try:
            if _is_adoptable(path, read_header(path), session, lives):
                found.append(path)
        except OSError:  # another session has adopted it
            continue
        except BadFile as error:
            # A spool that this user may not read is left to its owner.
            if error.movable:
                say(_set_aside(path, error))
        except StoreError as error:
            say(f"not kept: {error}")
    return found


def _set_aside(spool: Path, error: BadFile) -> str:
    name = "" if str(error).startswith(shown(spool.name)) else f"{shown(spool.name)}: "
    return f"not kept: {name}{error}; {move_aside(spool, spool.parent.parent / QUARANTINE)}"


def _is_adoptable(path: Path, header: Header, session: str, lives: Callable[[str], bool]) -> bool:
    """Raises: OSError."""
    if header.provenance is None or header.session is None:
        return False
    if header.session == session:
        return True
    if header.host != platform.node():
        return time.time() - path.stat().st_mtime > _OLD
    return not lives(header.session)


def runs_of(root: Path, session: str) -> Iterator[LoadResult]:
    """Yield the runs of a session that are still in spools below `root`, including those that will not be kept.

    Unreadable spools are left out: adoption reports them.
    """
    for folder in spool_folders(root):
        for path in sorted(folder.glob("*.jsonl")):
            with contextlib.suppress(BadFile, StoreError, OSError):
                header = read_header(path)
                if header.session == session and header.facts is not None:
                    yield read_end(path) or _cut_off(list(read_spool(path)), header.facts)


def adopt(spool: Path, store: Store, checks: Iterable[TestChecks] = ()) -> Record:
    """Add a spool's run to the store and delete the spool, which stays if an exception is raised.

    Raises:
        BadFile: The spool was not written by any version of this plugin.
        StoreError: The spool cannot be read, or the store cannot be written.
        FileNotFoundError: There is no such spool.
    """
    record = _record_of(spool, tuple(checks))
    store.add(record)
    spool.unlink(missing_ok=True)
    return record


def _record_of(spool: Path, checks: tuple[TestChecks, ...]) -> Record:
    """Raises: BadFile; StoreError, FileNotFoundError."""
    header = read_header(spool)
    if header.provenance is None or header.facts is None:
        raise BadFile(shown(spool.name), "does not name its run")
    try:
        ended = read_end(spool)
        load = ended or _cut_off(list(read_spool(spool)), header.facts)
        return record_of(load, header.provenance, checks, incomplete=ended is None, pictures=read_pictures(spool))
    except (StoreError, OSError):
        raise
    except Exception as error:
        # Values of the right types can still contradict each other in any number of ways.
        raise BadFile(shown(spool.name), f"contradicts itself: {shown(str(error))}") from None


def _cut_off(outcomes: Sequence[Outcome], begun: RunFacts) -> LoadResult:
    """Return the result of a run that was cut off: the prompts it sent, over the time in which it sent them."""
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
