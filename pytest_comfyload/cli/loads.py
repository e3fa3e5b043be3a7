"""Storage of the runs that a command executes: first in spools, and at its end in the store."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pytest_comfyload.cli.output import echo
from pytest_comfyload.history.location import home_of, project_of, shown_from, store_at
from pytest_comfyload.metrics.units import counted

if TYPE_CHECKING:
    from pytest_comfyload.history.provenance import Provenance

__all__ = ["RunKeeper", "interruptible"]


@dataclass(frozen=True, slots=True)
class RunKeeper:
    """Storage of a command's runs. Spools are below `root`. `provenance` None: nothing is kept."""

    root: Path
    session: str
    provenance: Provenance | None

    @classmethod
    @contextmanager
    def begin(cls, where: str | None) -> Iterator[RunKeeper]:
        """Keep the runs of a block in the store `where`, and move them there at its end.

        `where` is a path, a URL or `none`; None: the store of this repository. Raises: StoreError, UsageError.
        """
        here = Path.cwd()
        if (where := where or store_at(here)) == "none":
            from pytest_comfyload.history.files import SessionFolder

            folder = SessionFolder("run")
            try:
                yield cls(folder.path, "", None)
            finally:
                folder.remove()
            return
        from pytest_comfyload.history.adoption import SessionLock
        from pytest_comfyload.history.provenance import provenance_of
        from pytest_comfyload.history.spool import spool_folder

        root = home_of(project_of(here, here))
        keeping = cls(root, f"comfyload-{secrets.token_hex(8)}", provenance_of(here))
        lock = SessionLock(keeping.session, spool_folder(root))
        lock.acquire()
        try:
            yield keeping
        finally:
            keeping._adopt(where)
            lock.release()

    def header(self) -> dict[str, Any]:
        """Return the header of each run's spool."""
        from pytest_comfyload.history.adoption import header_of

        return header_of(self.session, self.provenance, self.root)

    def _adopt(self, where: str) -> None:
        from pytest_comfyload.history.adoption import adopt_all

        for adopted in adopt_all(self.root, self.session, lambda project: where, _say):
            if adopted.kept:
                runs = counted(len(adopted.kept), "run")
                _say(f"{runs} stored in {shown_from(str(adopted.store), Path.cwd())}")


def _say(line: str) -> None:
    echo(f"comfyload: {line}", err=True)


@contextmanager
def interruptible(outcome: str) -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C; on either, print one line with the `outcome` and exit with status 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        _say(f"interrupted; its prompts were deleted from the queues, and {outcome}")
        raise typer.Exit(130) from None
