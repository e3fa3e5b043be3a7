"""What WebSockets cost a real ComfyUI: its CPU time per prompt, by how many sockets the users of a load open.

    python -m tests.benchmarks.bench_sockets [PROMPTS]

A server sends each change of its queue to every socket. The benchmark builds and starts the ComfyUI that the tests use.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.launch.process import ComfyProcess
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from tests.real_comfyui import build
from tests.run.fast_server import GRAPH

__all__ = ["rows"]

LOADS: tuple[dict[str, Any], ...] = (
    {"users": 1, "sockets": "per_user"},
    {"users": 20, "sockets": "per_user"},
    {"users": 100, "sockets": "per_user"},
    {"users": 20, "sockets": "shared"},
    {"users": 100, "sockets": "shared"},
)


def rows(prompts: int = 300) -> Iterator[dict[str, Any]]:
    """Yield a row for each load."""
    install = build.install()
    install = dataclasses.replace(install, env={**install.env, "OMP_NUM_THREADS": "1"})
    with TemporaryDirectory() as name:
        folder = Path(name)
        base = build.new_base_directory(folder / "base", build.models(install.python))
        with ComfyProcess(install, base, log=folder / "comfyui.log") as server:
            for load in LOADS:
                # The difference between many and few prompts leaves out the fixed cost of a load.
                few, many = (_cpu(server, folder, count, load) for count in (prompts // 3, prompts))
                cpu = (many - few) / (prompts - prompts // 3)
                yield {**load, "server_cpu_ms_per_prompt": round(1000 * cpu, 2)}


def _cpu(server: ComfyProcess, folder: Path, prompts: int, load: dict[str, Any]) -> float:
    """Return the CPU seconds of the server for a load of `prompts` prompts."""
    colors = {"EmptyImage.color": [next(_COLORS) for _ in range(2 * prompts)]}
    scenario = Scenario.build(GRAPH, shared_iterations=prompts, inputs=colors, max_send_lag="60s", warmup=0, **load)
    before = _used(server.pid)
    result = run_load(LoadRun(scenario, (ServerAddress.parse(server.url),), "sockets", folder, folder, private=True))
    assert result.success_rate == 100, result
    return _used(server.pid) - before


# Never reused, since the server caches the result for each color.
_COLORS = itertools.count()


def _used(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    for row in rows(*map(int, sys.argv[1:])):
        print(row, flush=True)
