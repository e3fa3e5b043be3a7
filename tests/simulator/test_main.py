from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from pytest_comfyload.simulator.__main__ import main

GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /prompt HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
    b"POST /prompt HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
]
BODIES = [b"{bad", b"[]", b"7", b'{"prompt": 5}', b'{"prompt": {"1": null}, "number": "x"}', b"\xff\xfe"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the single line of error output for a rejected command line."""
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    return told.err


def test_a_port_in_use_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(capsys, "--port", str(port))
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use" in said


@pytest.mark.parametrize("port", ["65536", "-1"])
def test_an_illegal_port_is_one_clear_line(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"from 0 (a free one) to 65535, not {port}" in refused(capsys, f"--port={port}")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "a..b"])
def test_a_host_that_is_not_ours_is_one_clear_line(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert host in refused(capsys, "--port", "0", "--host", host)


def test_no_request_however_malformed_prints_anything() -> None:
    command = [sys.executable, "-m", "pytest_comfyload.simulator", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert server.stderr
        url = server.stdout.readline().split()[-1]
        for garbage in GARBAGE:
            _send(url, garbage)
        for body in BODIES:
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(f"{url}/prompt", body, timeout=10)
        server.send_signal(signal.SIGTERM)
        assert server.stderr.read() == ""
        assert server.stdout.read() == ""


def _send(url: str, garbage: bytes) -> None:
    """Send `garbage` and disconnect after the response, or if there is none."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            connection.recv(100)
