"""xdist's controller: workers stop their loads when pytest ends, and one that is killed leaves no prompts behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.plugin.options import Settings
from pytest_comfyload.plugin.sharing import Sharing

__all__ = ["Controller"]


class Controller:
    """Registered as a plugin of its own where xdist starts workers."""

    def __init__(self, session: pytest.Session, sharing: Sharing, settings: Settings) -> None:
        self._session = session
        self._sharing = sharing
        self._settings = settings

    def pytest_runtest_logreport(self) -> None:
        # xdist lets every worker end its test, however long that takes; a load is ended.
        if self._session.shouldfail or self._session.shouldstop:
            self._sharing.stop()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        # Before xdist ends its workers: one in the middle of a test hears nothing of it for five seconds.
        self._sharing.stop()

    def pytest_testnodedown(self, node: Any, error: object) -> None:
        if error:
            for spool in self._sharing.unfinished(node.gateway.id):
                self._bury(spool)

    def _bury(self, spool: Path) -> None:
        """Take the prompts of a killed worker's load out of the servers."""
        from pytest_comfyload.history.spool import read_header
        from pytest_comfyload.run.leftovers import remove_run

        header = read_header(spool)
        servers = [server for server in self._settings.servers if server.url in header.get("servers", ())]
        if servers:
            remove_run((*servers, *self._settings.workers), header["run_id"])
