"""What the processes of one xdist run tell each other, by files in a folder that the controller makes and removes.

Results, so that tests on several workers look at one load; which loads are under way, so that the controller can tell
of those that never ended; and that the run is being stopped, which xdist tells a busy worker only after five seconds.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_comfyload.errors import ComfyloadError, LoadStopped

if TYPE_CHECKING:
    from pytest_comfyload.result.load_result import LoadResult

__all__ = ["PROJECT", "SHARED_FOLDER", "Sharing"]

# Where xdist's worker input has the folder, and the project of the session.
SHARED_FOLDER = "comfyload_shared_folder"
PROJECT = "comfyload_project"


class Sharing:
    """One process's view of the folder; `process` names it among the others."""

    def __init__(self, folder: Path, process: str) -> None:
        self.folder = folder
        self.process = process

    @classmethod
    def begin(cls) -> Sharing:
        """The controller's, with a new folder."""
        return cls(Path(tempfile.mkdtemp(prefix="comfyload-")), "controller")

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- results ---

    def once(self, name: str, run: Callable[[], LoadResult]) -> LoadResult:
        """What came of `run` in the process that came here first. Raises: ComfyloadError, with the same message."""
        from filelock import FileLock

        path = self.folder / hashlib.sha256(name.encode()).hexdigest()[:32]
        with FileLock(path.with_suffix(".lock")):
            if path.exists():
                return _read(path)
            if self.stopped():
                # Whoever held the lock was stopped, and so are we.
                raise LoadStopped("the load was not begun: the test run is ending")
            try:
                result = run()
            except ComfyloadError as error:
                _write(path, {"error": str(error)})
                raise
            _write(path, {"facts": result.facts, "outcomes": result.all_outcomes})
            return result

    # --- loads under way ---

    def begins(self, spool: Path) -> None:
        self._mark(spool).write_text(str(spool), encoding="utf-8")

    def ends(self, spool: Path) -> None:
        self._mark(spool).unlink(missing_ok=True)

    def unfinished(self, process: str = "*") -> list[Path]:
        """The spools of loads that began and have not ended, of one process or of all."""
        return [Path(mark.read_text(encoding="utf-8")) for mark in sorted(self.folder.glob(f"{process}.*.running"))]

    def _mark(self, spool: Path) -> Path:
        return self.folder / f"{self.process}.{spool.stem}.running"

    def in_use(self) -> bool:
        """Whether a load has begun anywhere."""
        return any(self.folder.iterdir())

    # --- the end ---

    def stop(self) -> None:
        """Loads that are under way are to end now."""
        (self.folder / "stop").touch()

    def stopped(self) -> bool:
        return (self.folder / "stop").exists()


def _write(path: Path, content: dict[str, Any]) -> None:
    import msgspec

    # Whole or not at all: its writer can be killed.
    unfinished = path.with_suffix(".new")
    unfinished.write_bytes(msgspec.msgpack.encode(content))
    unfinished.replace(path)


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
