"""A real Prometheus that scrapes the monitor, and queries to its HTTP API."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.launch.process import free_port

__all__ = ["Prometheus", "eventually", "prometheus", "promtool"]


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Return the value of each series, by its labels without those added by the scrape."""
        found = self.get("query", query=expression)["result"]
        return {_labels(each["metric"]): float(each["value"][1]) for each in found}

    def by(self, label: str, expression: str) -> dict[str, float]:
        return {dict(labels)[label]: value for labels, value in self.query(expression).items()}


def _labels(metric: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in metric.items() if name not in ("job", "instance", "__name__")))


@contextlib.contextmanager
def prometheus(folder: Path, exporter: str, rules: str = "") -> Iterator[Prometheus]:
    """Run Prometheus on a free port, where it scrapes `exporter` (host:port) each second.

    Skips the test if Prometheus is not installed.
    """
    program = shutil.which("prometheus") or pytest.skip("needs Prometheus (Debian's package)")
    port = free_port()
    configuration = folder / "prometheus.yml"
    configuration.write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        + (f"rule_files: ['{rules}']\n" if rules else "")
        + f"scrape_configs: [{{job_name: comfyui, static_configs: [{{targets: ['{exporter}']}}]}}]\n"
    )
    with (folder / "prometheus.log").open("w") as log:
        child = subprocess.Popen(
            [
                program,
                f"--config.file={configuration}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            server = Prometheus(f"http://127.0.0.1:{port}")
            eventually(lambda: _is_ready(server))
            yield server
        finally:
            child.kill()
            child.wait()


def _is_ready(server: Prometheus) -> bool:
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{server.url}/-/ready", timeout=5).close()
        return True
    return False


def eventually(holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until `holds` returns anything but False without an AssertionError; at the deadline, raise the last one."""
    deadline = time.monotonic() + seconds
    while True:
        error: AssertionError | None = None
        try:
            if holds() is not False:
                return
        except AssertionError as failed:
            error = failed
        if time.monotonic() > deadline:
            raise error or AssertionError(f"not within {seconds:g} s")
        time.sleep(0.1)


def promtool(*arguments: str, content: str = "") -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool") or pytest.skip("needs promtool (Debian's package of Prometheus)")
    return subprocess.run([program, *arguments], input=content, capture_output=True, text=True, check=False)
