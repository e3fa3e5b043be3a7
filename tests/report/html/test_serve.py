"""`comfyload report --serve`: pages follow the store, running loads are shown, and only this machine is served."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_comfyload.errors import StoreError, UsageError
from pytest_comfyload.history.spool import Spool, spool_folder
from pytest_comfyload.history.store import Store
from pytest_comfyload.report.html import serve
from pytest_comfyload.report.html.serve import ReportServer, RunningLoads
from pytest_comfyload.result.outcome import OutcomeStatus
from tests.benchmarks.histories import record
from tests.report.html.conftest import Reports
from tests.result.outcomes import failure, load_of, outcome

if TYPE_CHECKING:
    from playwright.sync_api import Browser


class Site:
    """A report of one page, and a store of any number of runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = 0
        self.fault: Exception | None = None
        self.running: list[str] = []

    def write(self) -> None:
        if self.fault is not None:
            raise self.fault
        page = f'<meta content="default-src &#39;none&#39;; script-src &#39;self&#39;"><body>{self.runs} runs</body>'
        (self.folder / "index.html").write_text(page, encoding="utf-8")

    @contextmanager
    def served(self) -> Iterator[ReportServer]:
        server = ReportServer(self.folder, self.write, lambda: self.runs, lambda: self.running)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def _get(
    server: ReportServer, path: str, host: str | None = None, method: str = "GET"
) -> tuple[int, str, HTTPResponse]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        connection.request(method, path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer
    finally:
        connection.close()


def _state(server: ReportServer) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(_get(server, "/_live")[1])
    return state


def test_pages_are_written_anew_when_the_store_changes(site: Site) -> None:
    said: list[str] = []
    with site.served() as server:
        assert "No report yet" in _get(server, "/")[1]
        server.look(said.append)
        first = _state(server)["version"]
        server.look(said.append)
        assert _state(server)["version"] == first
        site.runs, site.running = 2, ["test_it: 5 of 15 prompts in 12 s"]
        server.look(said.append)
        assert _state(server) == {"version": first + 1, "running": site.running}
        status, page, answer = _get(server, "/index.html")
    assert (status, said) == (200, [])
    assert "2 runs" in page
    assert "default-src 'none'; connect-src 'self';" in page
    assert '<script src="/_live.js"></script>\n</body>' in page
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("fault", [StoreError("it is gone"), OSError(28, "No space left on device")])
def test_a_report_that_cannot_be_written_is_told_once_and_the_last_one_stays(site: Site, fault: Exception) -> None:
    said: list[str] = []
    with site.served() as server:
        server.look(said.append)
        site.runs, site.fault = 1, fault
        server.look(said.append)
        server.look(said.append)
        assert "0 runs" in _get(server, "/")[1]
        assert said == [f"not up to date: {fault}"]
        site.fault = None
        server.look(said.append)
        assert "1 runs" in _get(server, "/")[1]


@pytest.mark.parametrize(
    "path", ["/../secret.html", "/%2e%2e/secret.html", "/commits/", "/nothing.html", "/nothing.js"]
)
def test_nothing_but_the_report_is_served(site: Site, path: str, tmp_path: Path) -> None:
    (tmp_path.parent / "secret.html").write_text("secret", encoding="utf-8")
    (site.folder / "commits").mkdir()
    with site.served() as server:
        status, text, _ = _get(server, path)
    assert (status, "secret" in text) == (404, False)


def test_other_names_and_methods_are_refused(site: Site) -> None:
    with site.served() as server:
        server.look(lambda line: None)
        assert _get(server, "/", host="evil.example")[0] == 403
        assert _get(server, "/", host=f"localhost:{server.server_port}")[0] == 200
        assert _get(server, "/", method="POST")[0] == 501
        assert _get(server, "/", method="HEAD")[0] == 405
        assert server.server_address[0] == "127.0.0.1"


def test_idle_connections_leave_others_room_and_are_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve._Handler, "timeout", 120)
    with site.served() as server:
        server.look(lambda line: None)
        idle = [socket.create_connection(("127.0.0.1", server.server_port), timeout=30) for _ in range(15)]
        try:
            assert _get(server, "/")[0] == 200
            idle.append(socket.create_connection(("127.0.0.1", server.server_port), timeout=30))
            late = [socket.create_connection(("127.0.0.1", server.server_port), timeout=30) for _ in range(2)]
            idle += late
            assert late[-1].recv(1) == b""
        finally:
            for each in idle:
                each.close()


def test_a_port_that_is_taken_is_said(site: Site) -> None:
    with site.served() as server, pytest.raises(UsageError, match=r"--port \d+: .*; --port 0 takes a free one"):
        ReportServer(site.folder, site.write, lambda: 0, list, server.server_port)


def test_a_page_in_the_browser_tells_of_loads_and_loads_itself_anew(reports: Reports, chromium: Browser) -> None:
    state: dict[str, Any] = {"runs": 0, "running": ["test_it: 5 of 15 prompts in 12 s"]}
    server = ReportServer(reports.folder, lambda: None, lambda: state["runs"], lambda: state["running"])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    page, told = chromium.new_page(), list[str]()
    page.on("console", lambda message: told.append(message.text))
    try:
        server.look(told.append)
        page.goto(f"{server.url}#branch=*")
        page.get_by_text("test_it: 5 of 15 prompts in 12 s").wait_for(timeout=60_000)
        state.update(runs=1, running=[])
        with page.expect_event("load", timeout=60_000):
            server.look(told.append)
        assert page.url == f"{server.url}#branch=*"
        assert told == []
    finally:
        page.close()
        server.shutdown()
        server.server_close()
        thread.join()


# --- loads under way ---


def _spool(folder: Path, number: int = 0, planned: int | None = 15) -> Spool:
    load = load_of(outcome(0.0), run_id=f"20260131T00000{number}-0123abcd", title="test_it.py::test_it")
    header = {"title": "test_it.py::test_it", "planned": planned, "facts": load.facts}
    return Spool(spool_folder(folder), load.facts.run_id, header)


def test_a_load_under_way_is_told_as_in_a_terminal(tmp_path: Path) -> None:
    running = RunningLoads(tmp_path)
    assert running() == []
    with _spool(tmp_path) as spool:
        assert re.fullmatch(r"test_it.py::test_it: warming up for .*", running()[0])
        spool.append(outcome(-5.0, warmup=True))
        spool.append(outcome(0.0, generation=2.0))
        spool.append(outcome(1.0, generation=2.0))
        (line,) = running()
        assert re.fullmatch(r"test_it.py::test_it: 2 of 15 prompts in .* left · total p95 [\d.]+ s", line)
        spool.append(failure(OutcomeStatus.OOM))
        assert re.search(r": 3 of 15 prompts in .* · total p95 ∞ · 1 oom$", running()[0])
        spool.end(load_of(outcome(0.0)))
        assert running() == []


def test_a_load_of_which_nothing_is_heard_says_so_and_then_goes(tmp_path: Path) -> None:
    running = RunningLoads(tmp_path)
    with _spool(tmp_path) as spool:
        os.utime(spool.path, (0, time.time() - 240))
        assert running()[0].endswith(" · nothing new for 4 min")
        os.utime(spool.path, (0, time.time() - 7200))
        assert running() == []


def test_what_is_no_spool_is_left_out(tmp_path: Path) -> None:
    folder = spool_folder(tmp_path)
    (folder / "a.jsonl").write_bytes(b"\xff\n")
    (folder / "b.jsonl").write_bytes(b"")
    with _spool(tmp_path, planned=None):
        assert len(RunningLoads(tmp_path)()) == 1


# --- the command ---


def test_the_command_serves_follows_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    store = Store.open(tmp_path / ".comfyload")
    store.add(record(1, come={"branch": "main"}))
    command = shutil.which("comfyload", path=str(Path(sys.executable).parent))
    assert command is not None
    with subprocess.Popen(
        [command, "report", "--serve", "--port", "0"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        try:
            assert child.stdout is not None
            said = child.stdout.readline()
            found = re.fullmatch(r"serving http://127\.0\.0\.1:(\d+)/ until Ctrl-C\n", said)
            assert found is not None, said
            port = int(found[1])
            first = _until(port, lambda state: state["version"] > 0)
            store.add(record(2, come={"branch": "main"}))
            _until(port, lambda state: state["version"] > first["version"])
            child.send_signal(signal.SIGINT)
            out, error = child.communicate(timeout=30)
        finally:
            child.kill()
    assert (child.returncode, out, error) == (0, "ended\n", "")
    assert "2 runs of 2 commits" in (tmp_path / ".comfyload" / "report" / "index.html").read_text(encoding="utf-8")


def _until(port: int, comes: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/_live")
        state: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        if comes(state):
            return state
        time.sleep(0.1)
    raise AssertionError("it never came")
