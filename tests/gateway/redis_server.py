"""A Redis for a single test: a real redis-server on a Unix socket in a temporary folder."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["RedisServer", "redis_server"]

_PATIENCE = 20.0


class RedisServer:
    """A running redis-server; `kill` and `start` are a crash and a restart, with the file that it has stored."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._socket = folder / "redis.sock"
        self._command = [
            *("redis-server", "--port", "0", "--unixsocket", str(self._socket), "--dir", str(folder)),
            *("--save", "", "--appendonly", "yes" if durable else "no", "--appendfsync", "always"),
            *("--maxmemory-policy", "noeviction", "--logfile", str(folder / "redis.log")),
        ]
        self.url = f"unix://{self._socket}"
        self.start()
        self.wait()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            assert self._process.poll() is None, "redis-server has ended"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        return False


@contextlib.contextmanager
def redis_server(*, durable: bool = False) -> Iterator[RedisServer]:
    """Run a Redis within the block, skipping the test if it is not installed; `durable` makes it keep a file."""
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server (Debian: redis-server), which .ci/run installs")
    # The path of a Unix socket is limited to about 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="comfyload-redis-"))
    server = RedisServer(folder, durable=durable)
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
