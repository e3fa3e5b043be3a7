"""The storage of runs whose loads a command runs: spools first, and at its end the store."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_comfyload.cli.output import echo
from pytest_comfyload.metrics.units import counted

if TYPE_CHECKING:
    from pytest_comfyload.history.provenance import Provenance

__all__ = ["RunKeeper"]


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
        """Return the header of each run's spool."""
        from pytest_comfyload.history.adoption import header_of

        return header_of(self.session, self.provenance, self.root)

    def _adopt(self, where: str) -> None:
        from pytest_comfyload.history.adoption import adopt_all

        for adopted in adopt_all(self.root, self.session, lambda project: where, _say):
            if adopted.kept:
                _say(f"{counted(len(adopted.kept), 'run', 'is', 'are')} kept in {adopted.store}")


def _say(line: str) -> None:
    echo(f"comfyload: {line}", err=True)


def _root() -> Path:
    """The folder nearest above that has a store, or else this one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".comfyload").is_dir()), here)
