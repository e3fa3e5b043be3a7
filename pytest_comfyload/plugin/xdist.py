"""Communication between the processes of one xdist run, by files in a folder that the controller creates and removes.

They share results, so that tests on several workers use the same load; which loads are running, so that the controller
can report those that never finished; and that the run is stopping, which xdist tells a busy worker only after five
seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_comfyload.errors import ComfyloadError, LoadStopped
from pytest_comfyload.plugin.settings import PluginSettings
from pytest_comfyload.plugin.termination import contained

if TYPE_CHECKING:
    from pytest_comfyload.result.load_result import LoadResult

__all__ = ["PROJECT", "SHARED_FOLDER", "STATES_FILE", "Controller", "LocalRuns", "SharedRuns"]

# Keys of xdist's worker input: the folder, the project of the session, and the states of the controller's servers.
SHARED_FOLDER = "comfyload_shared_folder"
PROJECT = "comfyload_project"
STATES_FILE = "comfyload_states_file"


class LocalRuns:
    """The part of SharedRuns that a session with a single process needs."""

    process = "main"
    number = 0

    def __init__(self) -> None:
        self._unfinished: list[Path] = []

    def once(self, name: str, run: Callable[[], LoadResult]) -> LoadResult:
        return run()

    def begins(self, spool: Path) -> None:
        self._unfinished.append(spool)

    def ends(self, spool: Path) -> None:
        self._unfinished.remove(spool)

    def unfinished(self) -> list[Path]:
        """Return the spools of loads that began and were cut off."""
        return self._unfinished

    def stopped(self) -> bool:
        return False


class SharedRuns:
    """One process's view of the folder; `process` identifies it among the others."""

    def __init__(self, folder: Path, process: str) -> None:
        self.folder = folder
        self.process = process
        self.remove: Callable[[], None] = lambda: None

    @classmethod
    def begin(cls) -> SharedRuns:
        """Return the controller's view of a new folder."""
        from pytest_comfyload.history.files import SessionFolder

        try:
            folder = SessionFolder("xdist")
        except OSError:
            # Nothing can be written there, so each load reports that its result is not shared.
            return cls(Path(os.devnull, f"comfyload-xdist-{secrets.token_hex(4)}"), "controller")
        sharing = cls(folder.path, "controller")
        sharing.remove = folder.remove
        return sharing

    @property
    def number(self) -> int:
        """Number of this worker, starting at 0."""
        return int("".join(filter(str.isdecimal, self.process)) or 0)

    # --- results ---

    def once(self, name: str, run: Callable[[], LoadResult]) -> LoadResult:
        """Return the result of `run` in the process that came first; a note says if it cannot be shared.

        Raises: ComfyloadError, with the same message in each process; LoadStopped.
        """
        from filelock import FileLock

        path = self.folder / hashlib.sha256(name.encode()).hexdigest()[:32]
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(FileLock(path.with_suffix(".lock")))
            except OSError as error:
                return _unshared(run(), error)
            with contextlib.suppress(FileNotFoundError):
                return _read(path)
            if self.stopped():
                # The process that had the lock was stopped, and so is this one.
                raise LoadStopped("the load did not start: the test run is ending")
            return _run_and_write(run, path)

    # --- loads under way ---

    def begins(self, spool: Path) -> None:
        with contextlib.suppress(OSError):
            self._mark(spool).write_text(str(spool), encoding="utf-8")

    def ends(self, spool: Path) -> None:
        with contextlib.suppress(OSError):
            self._mark(spool).unlink()

    def unfinished(self, process: str = "*") -> list[Path]:
        """Return the spools of loads that began and have not ended, of one process or of all."""
        found = []
        for mark in sorted(self.folder.glob(f"{process}.*.running")):
            with contextlib.suppress(OSError):
                # On a full disk the mark is empty.
                found += [Path(line) for line in mark.read_text(encoding="utf-8").splitlines()]
        return found

    def _mark(self, spool: Path) -> Path:
        return self.folder / f"{self.process}.{spool.stem}.running"

    def in_use(self) -> bool:
        """Return whether a load has begun anywhere."""
        with contextlib.suppress(OSError):
            return any(self.folder.iterdir())
        return False

    # --- the end ---

    def stop(self) -> None:
        """Tell all processes to stop their running loads."""
        with contextlib.suppress(OSError):
            (self.folder / "stop").touch()

    def stopped(self) -> bool:
        return (self.folder / "stop").exists()


def _run_and_write(run: Callable[[], LoadResult], path: Path) -> LoadResult:
    """Run a load, and write its result or error for the other processes. Raises: ComfyloadError."""
    try:
        result = run()
    except ComfyloadError as error:
        with contextlib.suppress(OSError):
            _write(path, {"error": str(error)})
        raise
    try:
        _write(path, {"facts": result.facts, "outcomes": result.all_outcomes})
    except OSError as error:
        return _unshared(result, error)
    return result


def _unshared(result: LoadResult, error: OSError) -> LoadResult:
    note = (
        f"the load could not be shared with other workers ({error.strerror or error}): each runs it by itself; "
        "set TMPDIR to a folder with room"
    )
    result.facts = replace(result.facts, notes=(*result.facts.notes, note))
    return result


def _write(path: Path, content: dict[str, Any]) -> None:
    import msgspec

    # Written atomically: this process may be killed meanwhile.
    unfinished = path.with_suffix(".new")
    try:
        unfinished.write_bytes(msgspec.msgpack.encode(content))
        unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def _read(path: Path) -> LoadResult:
    import msgspec

    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.result.outcome import Outcome
    from pytest_comfyload.result.run_facts import RunFacts

    content = msgspec.msgpack.decode(path.read_bytes())
    if "error" in content:
        raise ComfyloadError(content["error"])
    facts = msgspec.convert(content["facts"], RunFacts)
    return LoadResult(facts, msgspec.convert(content["outcomes"], tuple[Outcome, ...]))


class Controller:
    """Plugin of xdist's controller, registered when workers are started."""

    def __init__(
        self,
        session: pytest.Session,
        settings: PluginSettings,
        hold: Callable[[], None],
        sharing: SharedRuns,
        say: Callable[[str], None],
    ) -> None:
        self._session = session
        self._settings = settings
        self._hold = hold
        self._sharing = sharing
        self._say = say

    def pytest_runtest_logreport(self) -> None:
        # xdist lets every worker finish its test, however long that takes, so running loads are stopped.
        if self._session.shouldfail or self._session.shouldstop:
            self._sharing.stop()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        with contained("loads are not stopped", self._say):
            # The workers lock the session's spools until they exit; after that, this process does.
            if self._sharing.in_use():
                self._hold()
            # Before xdist stops its workers: one in the middle of a test does not notice that for five seconds.
            self._sharing.stop()

    def pytest_testnodedown(self, node: Any, error: object) -> None:
        if error:
            for spool in self._sharing.unfinished(node.gateway.id):
                with contained("the prompts of a killed worker may be left on the servers", self._say):
                    self._bury(spool)

    def _bury(self, spool: Path) -> None:
        """Remove the prompts of a killed worker's load from the servers. Raises: StoreError, OSError."""
        from pytest_comfyload.history.spool import read_header
        from pytest_comfyload.run.leftovers import remove_run

        header, settings = read_header(spool), self._settings
        servers = [server for server in settings.servers if server.url in header.servers]
        if servers:
            remove_run((*servers, *settings.workers), header.run_id)
