"""Processes that start, fail to start and exit, with small programs in place of ComfyUI's main.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pytest_comfyload.errors import ServerError, ServerTimeout, UsageError
from pytest_comfyload.launch import ComfyInstall, ComfyProcess

EXITS = """
import sys
for number in range(30):
    print("line", number)
sys.exit("no module named torch")
"""

NEVER_LISTENS = """
import time
print("loading", flush=True)
time.sleep(60)
"""

# Ready at once, with a child. Both keep a connection to the test open, which ends once both have exited.
READY = """
import json, os, signal, socket, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

connection = socket.create_connection(("127.0.0.1", int(os.environ["WATCHER"])))
if os.environ.get("STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    time.sleep(60)
    sys.exit()
print("arguments", sys.argv[1:])
print("folder", os.getcwd())

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        prompt_id = self.path.rpartition("/")[2]
        self.wfile.write(json.dumps({prompt_id: {"status": {"status_str": "success"}}}).encode())

    do_POST = do_GET

HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


class Watcher:
    """Detects when every process started by a `READY` program has exited."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(10)

    @property
    def env(self) -> dict[str, str]:
        return {"WATCHER": str(self._listener.getsockname()[1])}

    def wait_for_the_end(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(10)
            assert connection.recv(1) == b""

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    watcher = Watcher()
    yield watcher
    watcher.close()


def process(folder: Path, program: str, env: Mapping[str, str] | None = None, *, timeout: float = 20) -> ComfyProcess:
    main = folder / "main.py"
    main.write_text(program)
    install = ComfyInstall(Path(sys.executable), main, args=("--cpu",), env=env or {})
    return ComfyProcess(install, folder / "base", log=folder / "comfyui.log", timeout=timeout)


def test_a_program_that_exits_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(ServerError) as caught:
        process(tmp_path, EXITS).start()
    first, place, *tail = str(caught.value).splitlines()
    assert first == "ComfyUI exited with status 1 before it was ready"
    assert place == f"the end of {tmp_path / 'comfyui.log'}:"
    assert len(tail) == 20
    assert tail[-2:] == ["line 29", "no module named torch"]


def test_a_program_that_never_listens_is_too_slow(tmp_path: Path) -> None:
    server = process(tmp_path, NEVER_LISTENS, timeout=1)
    with pytest.raises(ServerTimeout, match=r"did not answer within 1 s\n.*\nloading"):
        server.start()
    with pytest.raises(UsageError, match=r"call start\(\) first"):
        _ = server.pid  # it was stopped, not left running


def test_what_is_not_there_cannot_be_started(tmp_path: Path) -> None:
    install = ComfyInstall(Path(sys.executable), tmp_path / "main.py")
    with pytest.raises(UsageError, match=r"main\.py does not exist"):
        ComfyProcess(install, tmp_path, log=tmp_path / "log").start()


def test_the_command_line(tmp_path: Path, watcher: Watcher) -> None:
    with process(tmp_path, READY, watcher.env) as server:
        port = server.url.rpartition(":")[2]
    base = tmp_path / "base"
    where = ["--listen", "127.0.0.1", "--port", port, "--base-directory", str(base)]
    own = ["--database-url", f"sqlite:///{base}/user/comfyui.db"]
    assert (tmp_path / "comfyui.log").read_text().splitlines()[:2] == [
        f"arguments {[*where, *own, '--cpu']}",
        f"folder {base}",
    ]


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_children_end_with_it(tmp_path: Path, watcher: Watcher, ending: str) -> None:
    server = process(tmp_path, READY, watcher.env).start()
    getattr(server, ending)()
    watcher.wait_for_the_end()


def test_stop_kills_what_ignores_sigterm(tmp_path: Path, watcher: Watcher) -> None:
    server = process(tmp_path, READY, {**watcher.env, "STUBBORN": "1"}).start()
    server.stop(grace=0.2)
    watcher.wait_for_the_end()


def test_it_starts_again_at_the_same_url(tmp_path: Path, watcher: Watcher) -> None:
    server = process(tmp_path, READY, watcher.env).start()
    url, pid = server.url, server.pid
    with pytest.raises(UsageError, match="started already"):
        server.start()
    server.kill()
    server.start()
    try:
        assert server.url == url
        assert server.pid != pid
    finally:
        server.stop()
    server.stop()  # stopping again does nothing


@pytest.mark.parametrize("ending", ["pass", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["exit", "SIGKILL"])
@pytest.mark.parametrize("stubborn", ["", "1"], ids=["", "ignores-SIGTERM"])
def test_it_ends_with_the_interpreter_that_started_it(
    tmp_path: Path, watcher: Watcher, ending: str, stubborn: str
) -> None:
    (tmp_path / "main.py").write_text(READY)
    starter = f"""
        import os, signal, sys
        from pathlib import Path
        from pytest_comfyload.launch import ComfyInstall, ComfyProcess
        here = Path({str(tmp_path)!r})
        install = ComfyInstall(Path(sys.executable), here / "main.py", env={watcher.env | {"STUBBORN": stubborn}!r})
        ComfyProcess(install, here, log=here / "log").start()
        {ending}
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(starter)], check=False, timeout=30)
    watcher.wait_for_the_end()


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_the_guard_ends_with_the_server(tmp_path: Path, watcher: Watcher, ending: str) -> None:
    server = process(tmp_path, READY, watcher.env).start()
    assert server._guard is not None
    guard = server._guard.pid
    os.kill(guard, 0)
    getattr(server, ending)()
    with pytest.raises(ProcessLookupError):
        os.kill(guard, 0)
