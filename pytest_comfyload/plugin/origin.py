"""Whose runs these are, which the spool of each says: the session, which adopts them at its end, and the commit."""

from __future__ import annotations

import functools
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_comfyload.history.adoption import SessionLock
    from pytest_comfyload.history.provenance import Provenance

__all__ = ["Origin"]


class Origin:
    """`name` is the session's own; under xdist its workers have the controller's."""

    def __init__(self, root: Path, label: str, name: str | None = None) -> None:
        self.name = name or f"comfyload-{secrets.token_hex(8)}"
        self._root = root
        self._label = label
        self._lock: SessionLock | None = None

    def header(self, *, kept: bool) -> dict[str, Any]:
        """What each spool is to say; of a run that is not to be kept, only whose it is."""
        from pytest_comfyload.history.adoption import header_of

        return header_of(self.name, self.provenance if kept else None)

    @functools.cached_property
    def provenance(self) -> Provenance:
        """Looked up once: what is committed in the middle of a session is not what runs."""
        from pytest_comfyload.history.provenance import provenance_of

        return provenance_of(self._root, self._label)

    def hold(self) -> None:
        """From now on other sessions see that this one lives, and leave its spools to it."""
        from pytest_comfyload.history.adoption import SessionLock

        if self._lock is None:
            self._lock = SessionLock(self.name)
            self._lock.acquire()

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None
