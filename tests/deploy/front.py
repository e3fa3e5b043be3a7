"""A rendered stack without Docker: the real nginx with the rendered configuration, over simulators."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pytest_comfyload.deploy.render import render, write
from pytest_comfyload.deploy.stack import Stack
from pytest_comfyload.launch.process import free_port
from tests.deploy.test_render import make_secrets, tool
from tests.monitor.prometheus_server import eventually

__all__ = ["nginx", "rendered", "rendered_prometheus"]


def rendered(folder: Path, workers: Sequence[str], rate: int = 6000, domain: str = "") -> Stack:
    """Render a stack whose workers are these URLs, and whose other services are at free ports."""
    names = Stack(gpus=len(workers), domain=domain).services
    places = {name: f"127.0.0.1:{free_port()}" for name in names}
    places |= {f"worker-{number}": urlsplit(url).netloc for number, url in enumerate(workers)}
    stack = Stack(gpus=len(workers), rate=rate, upload=1, domain=domain, addresses=places)
    write(render(stack), folder)
    if domain:
        make_secrets(folder / "nginx" / "secrets")
    return stack


@contextlib.contextmanager
def nginx(folder: Path, stack: Stack) -> Iterator[str]:
    """The real one, with the configuration in the folder; by its URL."""
    url = stack.services["nginx"].url
    # As the image is started; as root it would change to another user, who cannot write here.
    user = f"user {os.environ.get('USER', 'root')};" if os.getuid() == 0 else ""
    flags = f"daemon off; pid {folder}/nginx.pid; {user}"
    with (folder / "nginx.log").open("w") as log:
        command = [tool("nginx"), "-p", str(folder / "nginx"), "-c", "nginx.conf", "-g", flags]
        child = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            eventually(lambda: _listens(url) or child.poll() is not None, 20)
            assert child.poll() is None, (folder / "nginx.log").read_text()
            yield url
        finally:
            child.terminate()
            child.wait(20)


@contextlib.contextmanager
def rendered_prometheus(folder: Path, stack: Stack) -> Iterator[str]:
    """The real Prometheus with the rendered configuration; by its URL."""
    program = tool("prometheus")
    prometheus = stack.services["prometheus"]
    command = [
        program,
        f"--config.file={folder}/prometheus/prometheus.yml",
        f"--storage.tsdb.path={folder}/prometheus-data",
        f"--web.listen-address={prometheus.address}",
    ]
    with (folder / "prometheus.log").open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            eventually(lambda: _listens(prometheus.url))
            yield prometheus.url
        finally:
            child.kill()
            child.wait()


def _listens(url: str) -> bool:
    parts = urlsplit(url)
    with contextlib.suppress(OSError), socket.create_connection((parts.hostname or "", parts.port or 0), 1):
        return True
    return False
