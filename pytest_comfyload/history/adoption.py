"""A spool becomes a record of the store and is gone; of a run that was cut off, what ended is kept as incomplete."""

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

# Seconds after which a spool that came from another machine counts as left behind.
_OLD = 24 * 3600.0


def header_of(session: str, provenance: Provenance | None, project: Path) -> dict[str, Any]:
    """Return what a run's spool says so that it can be adopted; without provenance it is not to be."""
    return {"session": session, "host": platform.node(), "provenance": provenance, "project": str(project)}


class SessionLock:
    """Held by a process of a session as long as it may still add to the session's spools, or adopt them.

    It can be killed while it holds it. The file lies beside the spools: temporary folders are cleaned while sessions
    live.
    """

    def __init__(self, session: str, spools: Path, process: str = "main") -> None:
        self._path = spools / f"{session}.{process}.lock"
        self._lock = _file_lock(self._path)

    def acquire(self) -> bool:
        """Return whether it is held now: False where another process holds it, or nothing can be written there."""
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
    """Return whether a process holds a lock of the session, or one that this user may not look at."""
    from filelock import Timeout

    for path in spools.glob(f"{session}.*.lock"):
        try:
            # Taking a lock empties the file; a link might lead anywhere.
            if not path.is_symlink():
                with _file_lock(path).acquire(timeout=0):
                    path.unlink(missing_ok=True)
        except (Timeout, OSError):
            return True
    return not os.access(spools, os.W_OK)


@dataclass(frozen=True, slots=True)
class Adopted:
    """Runs of one project that are in its store now, by their ids."""

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
    """Take the spools of this session below `root` into the stores of their projects, and those of dead sessions.

    `say` gets a line for each that could not be taken; damaged ones are set aside. `checks` are those of a run, by id.
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
    """Return the project of a session that died, if it is in `root`.

    A spool must not choose where files are written.
    """
    project = Path(header.project) if header.project else root
    own = header.session == session and project.is_absolute() and project.is_dir()
    return project if own or (project.is_relative_to(root) and ".." not in project.parts) else root


def _adopted(spool: Path, store: Store, session: str, checks: Iterable[TestChecks], say: Callable[[str], None]) -> bool:
    """Raises: StoreError where the store cannot be written."""
    try:
        header = read_header(spool)
        record = adopt(spool, store, checks)
    except FileNotFoundError:  # another session was quicker
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
    """The spools of this session, and those whose session is dead; oldest first. Damaged ones are set aside, with a
    line to `say`.
    """
    found = []
    lives = functools.cache(lambda other: _lives(other, folder))
    for path in sorted(folder.glob("*.jsonl")):
        try:
            if _is_adoptable(path, read_header(path), session, lives):
                found.append(path)
        except OSError:  # another session was quicker
            continue
        except BadFile as error:
            # One that this user may not read is for another user to adopt.
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
    """Yield the runs of a session that are still in their spools below `root`, also those that are not to be kept.

    What cannot be read is left out: adoption says so.
    """
    for folder in spool_folders(root):
        for path in sorted(folder.glob("*.jsonl")):
            with contextlib.suppress(BadFile, StoreError, OSError):
                header = read_header(path)
                if header.session == session and header.facts is not None:
                    yield read_end(path) or _cut_off(list(read_spool(path)), header.facts)


def adopt(spool: Path, store: Store, checks: Iterable[TestChecks] = ()) -> Record:
    """Raises: BadFile for a spool that no version of this plugin wrote; StoreError, FileNotFoundError; it stays."""
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
        # Values of the right types that contradict each other, in whatever way.
        raise BadFile(shown(spool.name), f"contradicts itself: {shown(str(error))}") from None


def _cut_off(outcomes: Sequence[Outcome], begun: RunFacts) -> LoadResult:
    """Return what can be said of a run without its end: it counts what was sent, over the time in which it was."""
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
