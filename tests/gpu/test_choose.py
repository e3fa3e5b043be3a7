"""A server's GPUs are read where the user says, or at the best place that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import UsageError
from pytest_comfyload.gpu.choose import Chosen, choose
from pytest_comfyload.gpu.spec import parse_specs
from pytest_comfyload.protocol.bodies import parse_system_stats
from tests.client.servers import FakeComfy
from tests.gpu.exporter import DCGM, Exporter
from tests.gpu.test_system_stats import APPLE, CUDA, PROCESSOR, SYSTEM

SIMULATOR = {"simulator": {"time_scale": 20.0, "gpu": "rtx4090"}}


def _chosen(device: Mapping[str, Any], said: str = "", system: Mapping[str, Any] = {}, **bodies: bytes) -> Chosen:
    """`said`: behind the server's URL, an exporter's in place of {}."""

    async def run() -> Chosen:
        stats = parse_system_stats({"system": SYSTEM | dict(system), "devices": [device]})
        paths = {f"/{name}": body for name, body in bodies.items()}
        async with FakeComfy(bodies=paths) as server, Exporter() as exporter:
            specs = parse_specs([f"{server.url}{said.format(exporter.url)}"], [server.url]) if said else {}
            chosen = await choose(ServerAddress(server.url), stats, specs.get(server.url))
            line = chosen.line.replace(server.url, "SERVER").replace(exporter.url, "EXPORTER")
            return Chosen(chosen.source, line)

    return asyncio.run(run())


def test_the_servers_own_metrics_if_they_tell_of_gpus() -> None:
    one = "\n".join(line for line in DCGM.splitlines() if 'gpu="1"' not in line)
    chosen = _chosen(CUDA, system=SIMULATOR, metrics=one.encode())
    assert chosen.line == "SERVER: metrics SERVER/metrics (NVIDIA GeForce RTX 4090, SIMULATED)"
    assert chosen.source is not None


def test_else_comfyuis_own_figures() -> None:
    assert _chosen(APPLE).line == "SERVER: system_stats (memory only) (mps)"
    assert _chosen(APPLE, metrics=b"up 1\n").line == "SERVER: system_stats (memory only) (mps)"


def test_a_server_without_a_gpu_has_no_source() -> None:
    chosen = _chosen(PROCESSOR)
    assert (chosen.source, chosen.line) == (None, "SERVER: none, it computes on its processor")


def test_what_the_user_says() -> None:
    assert _chosen(CUDA, "=none").source is None
    assert _chosen(CUDA, "=system_stats", metrics=DCGM.encode()).line.startswith("SERVER: system_stats")
    assert _chosen(CUDA, "=metrics:{}#1").line == "SERVER: metrics EXPORTER#1 (NVIDIA GeForce RTX 4090)"


def test_more_cards_than_the_server_uses_are_pointed_at() -> None:
    line = _chosen(CUDA, "=metrics:{}").line
    assert line.endswith("RTX 4090; the server uses 1 of them: name them by --comfyload-gpu)")


def test_what_the_user_says_must_serve() -> None:
    with pytest.raises(UsageError, match=r"--comfyload-gpu http.*=metrics http.*#7: it tells of no such GPU"):
        _chosen(CUDA, "=metrics:{}#7")
    with pytest.raises(UsageError, match="connection refused"):
        _chosen(CUDA, "=metrics:http://127.0.0.1:9/metrics")
