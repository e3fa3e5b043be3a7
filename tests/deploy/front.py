"""A rendered stack without Docker: the real nginx with the rendered configuration, in front of simulators."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from pytest_comfyload.deploy.render import render, write
from pytest_comfyload.deploy.stack import Stack
from pytest_comfyload.launch.process import free_port
from tests.deploy.test_render import make_secrets, tool
from tests.monitor.prometheus_server import eventually

__all__ = ["nginx", "rendered", "rendered_prometheus", "rendered_queue"]


def rendered(folder: Path, workers: Sequence[str], rate: int = 6000, domain: str = "", queue: bool = False) -> Stack:
    """Render a stack that has these URLs as workers, and its other services on free ports."""
    names = Stack(gpus=len(workers), domain=domain, queue=queue).services
    places = {name: f"127.0.0.1:{free_port()}" for name in names}
    places |= {f"worker-{number}": urlsplit(url).netloc for number, url in enumerate(workers)}
    stack = Stack(gpus=len(workers), queue=queue, rate=rate, upload=1, domain=domain, addresses=places)
    write(render(stack), folder)
    if domain:
        make_secrets(folder / "nginx" / "secrets")
    return stack


@contextlib.contextmanager
def nginx(folder: Path, stack: Stack) -> Iterator[str]:
    """Run the real nginx with the configuration in the folder, and yield its URL."""
    url = stack.services["nginx"].url
    # As the image does; as root it would change to another user, who cannot write here.
    user = f"user {os.environ.get('USER', 'root')};" if os.getuid() == 0 else ""
    flags = f"daemon off; pid {folder}/nginx.pid; {user}"
    command = [tool("nginx"), "-p", str(folder / "nginx"), "-c", "nginx.conf", "-g", flags]
    with _running(command, url, folder / "nginx.log"):
        yield url


@contextlib.contextmanager
def rendered_prometheus(folder: Path, stack: Stack) -> Iterator[str]:
    """Run the real Prometheus with the rendered configuration, and yield its URL."""
    prometheus = stack.services["prometheus"]
    command = [
        tool("prometheus"),
        f"--config.file={folder}/prometheus/prometheus.yml",
        f"--storage.tsdb.path={folder}/prometheus-data",
        f"--web.listen-address={prometheus.address}",
    ]
    with _running(command, prometheus.url, folder / "prometheus.log"):
        yield prometheus.url


@contextlib.contextmanager
def rendered_queue(folder: Path, stack: Stack) -> Iterator[None]:
    """Run the real Redis with the rendered configuration, and the gateway with the compose file's command."""
    redis, gateway = stack.services["redis"], stack.services["gateway"]
    (folder / "redis-data").mkdir()
    conf = [tool("redis-server"), f"{folder}/redis/redis.conf", "--dir", f"{folder}/redis-data", "--bind", "127.0.0.1"]
    inside = {name: address for name, address in stack.addresses.items() if name != "gateway"}
    files = render(Stack(gpus=stack.gpus, queue=True, addresses=inside))
    command = yaml.safe_load(files["docker-compose.yml"])["services"]["gateway"]["command"]
    here = ["--host=127.0.0.1", f"--port={gateway.port}", "--trusted-proxy=127.0.0.1/32"]
    program = [sys.executable, "-c", "from pytest_comfyload.cli import main; main()"]
    with (
        _running(conf, redis.url, folder / "redis.log"),
        _running([*program, *command, *here], gateway.url, folder / "gateway.log"),
    ):
        yield


@contextlib.contextmanager
def _running(command: Sequence[str], url: str, log: Path) -> Iterator[None]:
    """Run a process, ready once it listens."""
    with log.open("w") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            eventually(lambda: _listens(url) or child.poll() is not None)
            assert child.poll() is None, log.read_text()
            yield
        finally:
            child.terminate()
            child.wait(20)


def _listens(url: str) -> bool:
    parts = urlsplit(url)
    with contextlib.suppress(OSError), socket.create_connection((parts.hostname or "", parts.port or 0), 1):
        return True
    return False
