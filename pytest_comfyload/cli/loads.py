"""Commands that run loads: their progress lines, and the storage of their runs."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_comfyload.cli.output import echo
from pytest_comfyload.report.live import headline, plain_line

if TYPE_CHECKING:
    from pytest_comfyload.engine.progress import LoadProgress
    from pytest_comfyload.history.provenance import Provenance

__all__ = ["ProgressPrinter", "RunKeeper"]


@dataclass(frozen=True, slots=True)
class RunKeeper:
    """Spools go below `root`. `provenance` None: nothing is kept."""

    root: Path
    session: str
    provenance: Provenance | None

    @classmethod
    @contextmanager
    def begin(cls, where: str | None) -> Iterator[RunKeeper]:
        """`where` is a path, a URL or `none`; None: the nearest `.comfyload`, or a new one here. Raises: StoreError."""
        if where == "none":
            with tempfile.TemporaryDirectory(prefix="comfyload-") as folder:
                yield cls(Path(folder), "", None)
            return
        from pytest_comfyload.history.adoption import SessionLock
        from pytest_comfyload.history.provenance import provenance_of
        from pytest_comfyload.history.spool import spool_folder

        root = _root()
        keeping = cls(root, f"comfyload-{secrets.token_hex(8)}", provenance_of(Path.cwd()))
        lock = SessionLock(keeping.session, spool_folder(root))
        lock.acquire()
        try:
            yield keeping
        finally:
            keeping._adopt(where or str(root / ".comfyload"))
            lock.release()

    def header(self) -> dict[str, Any]:
        """What the spool of each run is to say."""
        from pytest_comfyload.history.adoption import header_of

        return header_of(self.session, self.provenance, self.root)

    def _adopt(self, where: str) -> None:
        from pytest_comfyload.history.adoption import adopt_all

        for adopted in adopt_all(self.root, self.session, lambda project: where, _say):
            if adopted.kept:
                _say(f"{len(adopted.kept)} runs are kept in {adopted.store}")


def _say(line: str) -> None:
    echo(f"comfyload: {line}", err=True)


def _root() -> Path:
    """The folder nearest above that has a store, or else this one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".comfyload").is_dir()), here)


# Real seconds between two lines.
LINE_PERIOD = 10.0


class ProgressPrinter:
    """`say` and `tell` may be called in any thread, `tick` in the one that writes.

    `place` is which run it is of so many that are alike, of which one of each kind is announced.
    """

    def __init__(self, title: str, scenario: str, place: tuple[int, int], write: Callable[[str], None]) -> None:
        number, runs = place
        self._title = f"{title}, run {number} of {runs}"
        self._scenario = scenario
        self._announced = number > 2
        self._all = runs if number == 1 else 1
        self._write = write
        self._lines: deque[str] = deque()
        self._progress: LoadProgress | None = None
        self._next_line = time.monotonic() + LINE_PERIOD

    def say(self, line: str) -> None:
        self._lines.append(line)

    def tell(self, progress: LoadProgress) -> None:
        if not self._announced and (progress.expected is not None or not progress.warming_up):
            self._announced = True
            self.say(headline(self._title, self._scenario, progress, self._all))
        self._progress = progress

    def tick(self) -> None:
        if self._progress is not None and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_PERIOD
            self.say(plain_line(self._title, self._progress))
        while self._lines:
            self._write(self._lines.popleft())
