"""xdist's controller: workers stop their loads when pytest ends, and one that is killed leaves no prompts behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.plugin.options import PluginSettings
from pytest_comfyload.plugin.sharing import SharedRuns
from pytest_comfyload.plugin.termination import contained

__all__ = ["Controller"]


class Controller:
    """Registered as a plugin of its own where xdist starts workers."""

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
        # xdist lets every worker end its test, however long that takes; a load is ended.
        if self._session.shouldfail or self._session.shouldstop:
            self._sharing.stop()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        with contained("loads are not stopped", self._say):
            # The workers hold the session's spools until they end; from then on this process does.
            if self._sharing.in_use():
                self._hold()
            # Before xdist ends its workers: one in the middle of a test hears nothing of it for five seconds.
            self._sharing.stop()

    def pytest_testnodedown(self, node: Any, error: object) -> None:
        if error:
            for spool in self._sharing.unfinished(node.gateway.id):
                with contained("the prompts of a killed worker may be left on the servers", self._say):
                    self._bury(spool)

    def _bury(self, spool: Path) -> None:
        """Take the prompts of a killed worker's load out of the servers. Raises: StoreError, OSError."""
        from pytest_comfyload.history.spool import read_header
        from pytest_comfyload.run.leftovers import remove_run

        header, settings = read_header(spool), self._settings
        servers = [server for server in settings.servers if server.url in header.servers]
        if servers:
            remove_run((*servers, *settings.workers), header.run_id)
