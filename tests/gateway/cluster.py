"""Workers, gateways and Redis as separate processes, each of which can be killed and restarted at its old address."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence

from pytest_comfyload.launch.process import free_port
from tests.gateway.redis_server import RedisServer, redis_server

__all__ = ["Cluster", "ServerProcess", "cluster"]

_PATIENCE = 60.0
_GATEWAY = "from pytest_comfyload.cli import main; main()"


class ServerProcess:
    """A process `python …` with `--port N` as its last arguments."""

    def __init__(self, *arguments: str, path: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, *arguments, "--port", str(self.port)]
        self._path = path
        self.start()

    def start(self) -> None:
        # The log is shown if the process does not answer.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            env={**os.environ, "COLUMNS": "80"},
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(self.url + self._path, timeout=5).close()
                return
            assert self.process.poll() is None, f"{self._command} has ended: {self._said()}"
            assert time.monotonic() < deadline, f"{self._command} does not answer: {self._said()}"
            time.sleep(0.05)

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def stand_still(self) -> None:
        """Suspend it in the middle of its work, until `go_on`."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """Ask it to stop, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(30)
        self._log.close()
        return status


class Cluster:
    """Redis, workers and gateways; the workers are simulators."""

    def __init__(self, redis: RedisServer, workers: Sequence[ServerProcess], gateways: Sequence[ServerProcess]) -> None:
        self.redis = redis
        self.workers = workers
        self.gateways = gateways


@contextlib.contextmanager
def cluster(workers: int, gateways: int, time_scale: float, *options: str) -> Iterator[Cluster]:
    """Run this many of each; `options` are passed to the gateways."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(durable=True))
        simulators = [_simulator(time_scale) for _ in range(workers)]
        for each in simulators:
            stack.callback(each.kill)
            each.wait()
        named = [word for each in simulators for word in ("--worker", each.url)]
        fronts = [
            ServerProcess("-c", _GATEWAY, "gateway", "--redis", redis.url, *named, *options, path="/healthz")
            for _ in range(gateways)
        ]
        for each in fronts:
            stack.callback(each.kill)
            each.wait()
        yield Cluster(redis, simulators, fronts)


def _simulator(time_scale: float) -> ServerProcess:
    scale = ("--time-scale", str(time_scale))
    return ServerProcess("-m", "pytest_comfyload.simulator", "--probe-nodes", *scale, path="/prompt")
