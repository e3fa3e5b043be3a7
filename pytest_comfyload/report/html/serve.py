"""A server of the report on the loopback interface: rebuilt when runs are stored, with the progress of current ones."""

from __future__ import annotations

import calendar
import contextlib
import html
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

from pytest_comfyload.engine.progress import LoadProgress, Tally
from pytest_comfyload.errors import ComfyloadError, StoreError, UsageError
from pytest_comfyload.history.files import open_untrusted
from pytest_comfyload.history.limits import MOST_SPOOL
from pytest_comfyload.history.spool import Header, read_header, spool_folders
from pytest_comfyload.metrics.units import format_duration
from pytest_comfyload.report.live import spool_line
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.text import harmless_line

__all__ = ["ReportServer", "RunningLoads"]

_LOOPBACK = "127.0.0.1"
# Seconds between two polls of the store, and until an idle connection of a browser is closed.
LOOK_PERIOD, _PATIENCE = 1.0, 10.0
_MOST_CONNECTIONS = 16
_STATE, _SCRIPT = "/_live", "/_live.js"
_STATIC = Path(__file__).parent / "static"
# The pages' own policy forbids all requests. Its quotes are escaped, as it is in an HTML attribute.
_POLICY, _POLICY_HERE = "default-src &#39;none&#39;;", "default-src 'none'; connect-src 'self';"
_INJECTED = f"""<style>
.live {{ position: fixed; inset: auto 0 0 0; margin: 0; padding: .4rem 1rem; white-space: pre-line;
  background: #1d2733; color: #fff; font: 14px/1.4 system-ui, sans-serif; z-index: 9; }}
</style>
<p class="live" id="live" role="status" aria-live="off" aria-label="Runs under way" hidden></p>
<script src="{_SCRIPT}"></script>
"""
_EMPTY = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Waiting for runs · comfyload</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'"></head>
<body><main><h1>No report yet</h1><p>%s</p></main>
{_INJECTED}</body></html>
"""


class ReportServer(ThreadingHTTPServer):
    """Server of a folder of pages to browsers on this machine; `run` keeps the pages up to date until interrupted.

    Args:
        folder: The folder that `write` writes to.
        write: Rebuilds the report; if it raises ComfyloadError or OSError, that is shown and the old report stays.
        stored: Returns the contents of the store; a changed result means that there are new runs.
        running: Returns a line for each run in progress.
        port: 0 for any free port.

    Raises:
        UsageError: The port is taken.
    """

    daemon_threads = True

    def __init__(
        self,
        folder: Path,
        write: Callable[[], object],
        stored: Callable[[], object],
        running: Callable[[], Sequence[str]],
        port: int = 0,
    ) -> None:
        self.folder = folder
        self.version = 0
        self.lines: tuple[str, ...] = ()
        self.trouble = ""
        self._write, self._stored, self._running = write, stored, running
        self._seen: object = None
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        try:
            super().__init__((_LOOPBACK, port), partial(_Handler, directory=str(folder)))
        except OSError as error:
            raise UsageError(f"--port {port}: {error.strerror}; --port 0 takes a free one") from None

    @property
    def url(self) -> str:
        return f"http://{_LOOPBACK}:{self.server_port}/"

    def run(self, say: Callable[[str], None]) -> None:
        """Serve until KeyboardInterrupt, which the caller must catch."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
        thread.start()
        try:
            while True:
                self.look(say)
                time.sleep(LOOK_PERIOD)
        finally:
            self.shutdown()
            self.server_close()
            thread.join()

    def look(self, say: Callable[[str], None]) -> None:
        """Rebuild the report if the store has changed."""
        try:
            self.lines = tuple(map(harmless_line, self._running()))
            if (stored := self._stored()) == self._seen:
                return
            self._write()
            self._seen, self.trouble = stored, ""
        except (ComfyloadError, OSError) as error:
            if str(error) != self.trouble:
                self.trouble = str(error)
                say(f"not up to date: {error}")
                self.version += 1
        else:
            self.version += 1

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors, such as a browser that disconnects."""


class _Handler(SimpleHTTPRequestHandler):
    server: ReportServer
    timeout = _PATIENCE

    def do_GET(self) -> None:
        # Against DNS rebinding: another site could make its name resolve to this address.
        if self.headers.get("Host") not in {f"{name}:{self.server.server_port}" for name in (_LOOPBACK, "localhost")}:
            self.send_error(403, "not the name of this server")
            return
        path = self.path.partition("?")[0]
        if path == _STATE:
            state = {"version": self.server.version, "running": self.server.lines}
            self._send("application/json", json.dumps(state).encode())
        elif path == _SCRIPT:
            self._send("text/javascript", (_STATIC / "live.js").read_bytes())
        elif path.endswith(("/", ".html")):
            self._send_page(path)
        else:
            super().do_GET()

    def _send_page(self, path: str) -> None:
        file = Path(self.translate_path(f"{path}index.html" if path.endswith("/") else path))
        try:
            page = file.read_text(encoding="utf-8")
        except OSError:
            if path != "/":
                self.send_error(404, "no such page")
                return
            page = _EMPTY % html.escape(harmless_line(self.server.trouble) or "The report is being written.")
        else:
            page = page.replace(_POLICY, _POLICY_HERE, 1).replace("</body>", f"{_INJECTED}</body>", 1)
        self._send("text/html; charset=utf-8", page.encode())

    def _send(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.send_error(405)

    def list_directory(self, path: Any) -> None:
        self.send_error(404, "no such page")

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Do not log requests."""


# Seconds without news after which the line says so, and after which the session is assumed to have been killed.
_QUIET, _SILENT = 60.0, 3600.0
_MOST_AT_ONCE = 8 << 20


class RunningLoads:
    """The loads of a project that are in progress in any process, as read from their spools."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self._followed: dict[Path, _Followed] = {}

    def __call__(self) -> list[str]:
        """Return a line for each load in progress, the oldest first."""
        paths = [path for folder in spool_folders(self._project) for path in sorted(folder.glob("*.jsonl"))]
        self._followed = {path: self._followed.get(path) or _Followed(path) for path in paths}
        return list(self._lines())

    def _lines(self) -> Iterator[str]:
        for followed in self._followed.values():
            with contextlib.suppress(StoreError, OSError, ValueError):
                if (line := followed.line()) is not None:
                    yield line


class _Followed:
    """A spool that is followed as it grows; each line is read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header: Header | None = None
        self._read = 0
        self._ended = False
        self._tally = Tally()

    def line(self) -> str | None:
        """Return the progress; None if the load has finished or been silent for long. Raises: StoreError, OSError."""
        if self._header is None:
            self._header = read_header(self._path)
        self._read_on()
        silent = time.time() - self._path.stat().st_mtime
        if self._ended or silent > _SILENT:
            return None
        heard = f" · nothing new for {format_duration(round(silent))}" if silent > _QUIET else ""
        return f"{spool_line(self._header.title, self._progress(self._header))}{heard}"

    def _read_on(self) -> None:
        with open_untrusted(self._path, MOST_SPOOL) as file:
            file.seek(self._read)
            content = file.read(_MOST_AT_ONCE)
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.splitlines() if self._read else whole.splitlines()[1:]:
            if line.startswith(b'{"facts":'):
                self._ended = True
            with contextlib.suppress(ValueError, RecursionError):
                self._tally.add(msgspec.json.decode(line, type=Outcome))
        self._read += len(whole)

    def _progress(self, header: Header) -> LoadProgress:
        began = calendar.timegm(time.strptime(header.run_id[:15], "%Y%m%dT%H%M%S"))
        scale = (header.facts.time_scale if header.facts else None) or 1.0
        return LoadProgress(
            scale=scale,
            warming_up=not self._tally.done,
            elapsed=max(0.0, time.time() - began) * scale,
            expected=None,
            total=header.planned,
            done=self._tally.done,
            in_flight=0,
            dropped=0,
            queue_remaining=0,
            p95=self._tally.p95,
            steps_per_second=None,
            errors=self._tally.errors,
        )
