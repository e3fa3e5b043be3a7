"""`--comfyload-otlp`: export of the session's runs to an OpenTelemetry collector after all tests have finished.

The process that stores the runs exports them, from their spools: each prompt once, regardless of the xdist worker that
sent it, and without disturbing a measurement. A failure is reported in one line; it never fails a session.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from pytest_comfyload.plugin.termination import contained
from pytest_comfyload.text import harmless

if TYPE_CHECKING:
    from pytest_comfyload.monitor.otlp import OtlpExporter
    from pytest_comfyload.plugin.archive import RunArchiver
    from pytest_comfyload.plugin.session import LoadSession

__all__ = ["OtlpExport"]

# Limits in seconds: without progress, and in total.
SILENCE, MOST = 15.0, 120.0


class OtlpExport:
    """Plugin that exports runs; registered if a URL is given, in every process except xdist workers."""

    def __init__(self, url: str, session: LoadSession, archiver: RunArchiver) -> None:
        self._url = url
        self._session = session
        self._archiver = archiver

    # Called before the archiver, since it is registered before it: the spools still exist.
    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.config.option.collectonly or not self._archiver.has_spools():
            return
        with contained("--comfyload-otlp: not exported", self._archiver.lines.append):
            if line := self._export():
                self._archiver.lines.append(harmless(f"--comfyload-otlp: {line}"))

    def _export(self) -> str:
        """Export the runs, and return the line for the summary; empty if there are none."""
        from pytest_comfyload.history.adoption import runs_of
        from pytest_comfyload.metrics.units import counted
        from pytest_comfyload.monitor.otlp import ExportFailed, OtlpExporter

        if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return "nothing is exported, since OTEL_SDK_DISABLED is set"
        host, exporter = urlsplit(self._url).netloc, OtlpExporter(self._url, self._about())

        def export() -> None:
            for load in runs_of(self._session.home, self._session.origin.name):
                exporter.export(load)

        try:
            _within_limits(export, exporter)
        except ExportFailed as error:
            return f"{host} {error}; {counted(exporter.prompts, 'prompt')} exported, the others not"
        exported = f"{counted(exporter.prompts, 'prompt')} of {counted(exporter.runs, 'run')} exported to {host}"
        return exported if exporter.runs else ""

    def _about(self) -> dict[str, str]:
        origin = self._session.origin
        provenance = origin.provenance_of(self._session.project)
        about = {
            "comfyload.session": origin.name,
            "comfyload.label": provenance.label,
            "vcs.ref.head.revision": provenance.commit,
            "vcs.ref.head.name": provenance.branch,
        }
        return {name: value for name, value in about.items() if value}


def _within_limits(export: Callable[[], None], exporter: OtlpExporter) -> None:
    """Run `export`. Raises: ExportFailed, also if it takes too long; anything that `export` raises."""
    from pytest_comfyload.monitor.otlp import ExportFailed

    failures: list[Exception] = []
    done = threading.Event()

    def run() -> None:
        try:
            export()
        except Exception as error:
            failures.append(error)
        done.set()

    # A collector that sends one byte per minute outlasts every timeout of the HTTP library.
    begun = exporter.progress = time.monotonic()
    threading.Thread(target=run, name="comfyload-otlp", daemon=True).start()
    while not done.wait(0.1):
        now = time.monotonic()
        if now - exporter.progress > SILENCE or now - begun > MOST:
            raise ExportFailed(f"did not take everything within {now - begun:.0f} s")
    if failures:
        raise failures[0]
