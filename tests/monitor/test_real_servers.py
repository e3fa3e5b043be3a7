"""A real Prometheus over simulators and a real ComfyUI at once: its counts are those of the loads themselves."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.launch import ComfyInstall, ComfyProcess
from pytest_comfyload.launch.process import free_port
from pytest_comfyload.launch.simulator import SimulatorProcess
from tests.contract.loads import probe
from tests.monitor.prometheus_server import Prometheus, eventually, prometheus
from tests.monitor.test_monitor import SCALE, STATUSES, ends, label, load, monitor, post, scraped
from tests.real_comfyui import build

# A fine bucket ends at 1.25 times its lower bound.
BUCKET = 1.25


def failing(node: str) -> dict[str, Any]:
    """Return a workflow whose second node fails."""
    save = {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "probe"}}
    return probe(0.1, {"3": {"class_type": node, "inputs": {"image": ["1", 0]}}, "2": save})


class Truth:
    """What the loads counted on each server, by status."""

    def __init__(self, folder: Path) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self._folder = folder

    def load(self, url: str, workflow: str | dict[str, Any] = "txt2img", **arguments: Any) -> float:
        """Run a load, and return the P95 of its generation time."""
        found = load(url, self._folder, workflow, **arguments)
        self.counts.setdefault(url, Counter()).update({status: int(n) for status, n in ends(found).items()})
        return float(found.generation_time.p95)

    def is_what_prometheus_has(self, server: Prometheus) -> None:
        for url, counts in self.counts.items():
            series = f'comfyui_generations_total{{server="{label(url)}"}}'
            assert server.by("status", series) == {status: counts[status] for status in STATUSES}


@pytest.mark.long
def test_prometheus_counts_what_loads_count_on_real_and_simulated_servers(
    real_comfyui_install: ComfyInstall, tmp_path: Path
) -> None:
    base = build.new_base_directory(tmp_path / "base", build.models(real_comfyui_install.python))
    faults = {"oom": 0.2, "node-error": 0.2, "interrupt": 0.2}
    truth, port = Truth(tmp_path), free_port()
    with (
        ComfyProcess(real_comfyui_install, base, log=tmp_path / "comfyui.log") as real,
        SimulatorProcess(time_scale=SCALE) as good,
        SimulatorProcess(time_scale=SCALE, faults=faults, seed=1) as bad,
        prometheus(tmp_path, f"127.0.0.1:{port}") as server,
        ThreadPoolExecutor() as pool,
    ):
        urls = (real.url, good.url, bad.url)
        options = [part for url in urls for part in ("--comfyui-url", url)]
        options += ["--port", str(port), "--state", str(tmp_path / "state.json")]
        with monitor(tmp_path, *options):
            eventually(lambda: sum(server.query("comfyui_up").values()) == 3)
            p95 = {
                real.url: pool.submit(truth.load, real.url, probe(0.3), users=2, iterations=12),
                good.url: pool.submit(truth.load, good.url, iterations=10),
                bad.url: pool.submit(truth.load, bad.url, iterations=10),
            }
            for url in urls:
                p95[url].result()
            eventually(lambda: truth.is_what_prometheus_has(server))
            for url in (real.url, good.url):
                expression = f'histogram_quantile(0.95, comfyui_prompt_seconds_bucket{{server="{label(url)}"}})'
                (measured,) = server.query(expression).values()
                assert 1 / BUCKET <= measured / p95[url].result() <= BUCKET
            truth.load(real.url, failing("ProbeOOM"), users=1, iterations=2)
            truth.load(real.url, failing("ProbeFail"), users=1, iterations=3)
            interrupted = pool.submit(truth.load, real.url, probe(20), users=1, iterations=1)

            def ends_by_interrupts() -> bool:
                post(f"{real.url}/interrupt", {})
                return interrupted.done()

            eventually(ends_by_interrupts)
            eventually(lambda: truth.is_what_prometheus_has(server))
        # What ends while no monitor is running is counted by the next one.
        for url in urls:
            truth.load(url, probe(0.3) if url == real.url else "txt2img", users=2, iterations=3)
        with monitor(tmp_path, *options) as own_url:
            eventually(lambda: truth.is_what_prometheus_has(server))
            counted = truth.counts[real.url]["success"]
            long = threading.Thread(target=truth.load, args=(real.url, probe(3)), kwargs={"users": 1, "iterations": 3})
            long.start()
            success = {"server": label(real.url), "status": "success"}
            eventually(lambda: scraped(own_url, "comfyui_generations_total", **success) == counted + 1)
            # The second prompt is running, and is lost.
            real.kill()
            real.start()
            long.join()
            # The prompt that shows that the server is ready.
            truth.counts[real.url]["success"] += 1
            assert truth.counts[real.url] == {"success": 24 + 6 + 2 + 1, "oom": 2, "error": 3, "interrupted": 1}
            eventually(lambda: truth.is_what_prometheus_has(server))
            restarts = server.by("server", "comfyui_server_restarts_total")
            assert restarts == {label(real.url): 1, label(good.url): 0, label(bad.url): 0}
        assert all(truth.counts[bad.url][status] > 0 for status in STATUSES)
