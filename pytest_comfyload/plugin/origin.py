"""Whose runs these are, which the spool of each says: the session, which adopts them at its end, and the commit."""

from __future__ import annotations

import functools
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_comfyload.history.adoption import SessionLock
    from pytest_comfyload.history.provenance import Provenance

__all__ = ["SessionIdentity"]


class SessionIdentity:
    """`name` is the session's own; under xdist its workers have the controller's."""

    def __init__(self, label: str, name: str | None = None) -> None:
        self.name = name or f"comfyload-{secrets.token_hex(8)}"
        self._label = label
        self._lock: SessionLock | None = None
        # Asked once for each project: what is committed in the middle of a session is not what runs.
        self.provenance_of = functools.cache(self._provenance_of)

    def header(self, project: Path, *, kept: bool) -> dict[str, Any]:
        """Return what the spool of a run in `project` says; of a run that is not to be kept, only whose it is."""
        from pytest_comfyload.history.adoption import header_of

        return header_of(self.name, self.provenance_of(project) if kept else None, project)

    def _provenance_of(self, project: Path) -> Provenance:
        from pytest_comfyload.history.provenance import provenance_of

        return provenance_of(project, self._label, session=self.name)

    def hold(self, root: Path, process: str) -> None:
        """From now on other sessions see that this one lives, and leave its spools below `root` to it."""
        from pytest_comfyload.history.adoption import SessionLock
        from pytest_comfyload.history.spool import spool_folder

        if self._lock is None:
            self._lock = SessionLock(self.name, spool_folder(root), process)
            self._lock.acquire()

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None
