"""A server's GPUs are read where the user says, or from the best source that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import ConnectionRefused, UsageError
from pytest_comfyload.gpu.choose import Chosen, choose, choose_local, is_local
from pytest_comfyload.gpu.http_sources import MetricsSource
from pytest_comfyload.gpu.prometheus import Card
from pytest_comfyload.gpu.spec import parse_specs
from pytest_comfyload.protocol.system_stats import parse_system_stats
from tests.client.servers import FakeComfy
from tests.gpu.exporter import DCGM, Exporter
from tests.gpu.nvml_stub import StubProcess
from tests.gpu.test_prometheus import FIRST
from tests.gpu.test_system_stats import APPLE, CUDA, PROCESSOR, SYSTEM

LOCAL = "http://127.0.0.1:9"
SIMULATOR = {"simulator": {"time_scale": 20.0, "gpu": "rtx4090"}}


def _chosen(device: Mapping[str, Any], said: str = "", system: Mapping[str, Any] = {}, **bodies: bytes) -> Chosen:
    """Return the choice for a server; `said` follows the server's URL, with an exporter's URL in place of {}."""

    async def run() -> Chosen:
        stats = parse_system_stats({"system": SYSTEM | dict(system), "devices": [device]})
        paths = {f"/{name}": body for name, body in bodies.items()}
        async with FakeComfy(bodies=paths) as server, Exporter() as exporter:
            specs = parse_specs([f"{server.url}{said.format(exporter.url)}"], [server.url]) if said else {}
            chosen = await choose(ServerAddress(server.url), stats, specs.get(server.url))
            line = chosen.line.replace(server.url, "SERVER").replace(exporter.url, "EXPORTER")
            return replace(chosen, line=line)

    return asyncio.run(run())


def test_the_servers_own_metrics_if_they_tell_of_gpus() -> None:
    one = "\n".join(line for line in DCGM.splitlines() if 'gpu="1"' not in line)
    chosen = _chosen(CUDA, system=SIMULATOR, metrics=one.encode())
    assert chosen.line == "SERVER: metrics SERVER/metrics (NVIDIA GeForce RTX 4090, SIMULATED)"
    assert chosen.source is not None
    assert [(facts.gpu, facts.driver) for facts in chosen.facts] == [(FIRST, "550.54.15")]


def test_else_comfyuis_own_figures() -> None:
    assert _chosen(APPLE).line == "SERVER: system_stats (memory only) (mps)"
    assert _chosen(APPLE, metrics=b"up 1\n").line == "SERVER: system_stats (memory only) (mps)"


def test_a_server_without_a_gpu_has_no_source() -> None:
    chosen = _chosen(PROCESSOR)
    assert (chosen.source, chosen.line) == (None, "SERVER: none, it runs on its CPU")


def test_what_the_user_says() -> None:
    assert _chosen(CUDA, "=none").source is None
    assert _chosen(CUDA, "=system_stats", metrics=DCGM.encode()).line.startswith("SERVER: system_stats")
    assert _chosen(CUDA, "=metrics:{}#1").line == "SERVER: metrics EXPORTER#1 (NVIDIA GeForce RTX 4090)"


def test_more_cards_than_the_server_uses_are_pointed_at() -> None:
    line = _chosen(CUDA, "=metrics:{}").line
    assert line.endswith("RTX 4090; the server uses 1 of them: name them with --comfyload-gpu)")


def test_what_the_user_says_must_serve() -> None:
    with pytest.raises(UsageError, match=r"--comfyload-gpu http.*=metrics http.*#7: it reports no such GPU"):
        _chosen(CUDA, "=metrics:{}#7")
    with pytest.raises(UsageError, match="connection refused"):
        _chosen(CUDA, "=metrics:http://127.0.0.1:9/metrics")


# --- NVML, in the stand-in's process ---

TWO = ["NVIDIA Stub 4090", "NVIDIA Stub 4090"]
STUB = {"type": "cuda", "vram_total": 24e9}
BOTH = [{**STUB, "name": f"cuda:{number} {name} : native", "index": number} for number, name in enumerate(TWO)]


def _line(
    said: str = "", devices: Sequence[Mapping[str, Any]] = BOTH, system: Mapping[str, Any] = SYSTEM, host: str = LOCAL
) -> str:
    stats = parse_system_stats({"system": dict(system), "devices": list(devices)})
    specs = parse_specs([f"{host}{said}"], [host]) if said else {}
    return asyncio.run(choose(ServerAddress(host), stats, specs.get(host))).line


def test_nvml_where_the_server_and_its_cards_are_on_this_machine(stub: StubProcess) -> None:
    assert stub(_line) == f"{LOCAL}: nvml:GPU-00000000 ({TWO[0]})"
    both = [{**device, "torch_vram_total": 1} for device in BOTH]
    assert stub(_line, "", both) == f"{LOCAL}: nvml:GPU-00000000,GPU-00010000 ({', '.join(TWO)})"


@pytest.mark.parametrize(
    "other",
    [
        {"host": "http://192.0.2.1:8188"},
        {"devices": [{**BOTH[0], "name": "cuda:0 NVIDIA H100 : native"}]},
        {"devices": BOTH[:1]},  # either of the two GPUs could be the one
        {"system": SYSTEM | SIMULATOR},
        {"devices": [PROCESSOR]},
    ],
)
def test_no_nvml_where_it_may_be_of_another_machine_or_card(stub: StubProcess, other: dict[str, Any]) -> None:
    assert "nvml" not in stub(_line_of, other)


def _line_of(other: dict[str, Any]) -> str:
    if "host" in other:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MetricsSource, "cards", _nobody)
            return _line(**other)
    return _line(**other)


async def _nobody(source: MetricsSource) -> Sequence[Card]:
    raise ConnectionRefused("nobody is there to be asked for metrics")


def test_nvml_as_the_user_says(stub: StubProcess) -> None:
    assert stub(_line, "=nvml:GPU-0001", BOTH[:1]) == f"{LOCAL}: nvml:GPU-00010000 (NVIDIA Stub 4090)"
    assert "nvml:GPU-00000000 " in stub(_line, "=nvml", BOTH, SYSTEM, "http://gpu1:8188")
    with pytest.raises(UsageError, match=r"--comfyload-gpu http.*=nvml: the server's cuda:0 .* may be any of 2 GPUs"):
        stub(_line, "=nvml", BOTH[:1])
    with pytest.raises(UsageError, match=r"=nvml:7: no GPU '7' on this machine"):
        stub(_line, "=nvml:7")


def test_nvml_that_is_not_there_cannot_be_said() -> None:
    with pytest.raises(UsageError, match=r"--comfyload-gpu http.*=nvml: "):
        _line("=nvml", [{**CUDA, "name": "cuda:0 A card that nobody has"}])


def test_all_of_this_machine(stub: StubProcess) -> None:
    assert stub(_local) == f"this machine: nvml:GPU-00000000,GPU-00010000 ({', '.join(TWO)})"
    stub.script("nvmlDeviceGetCount_v2 0")
    assert stub(_local) is None


def _local() -> str | None:
    chosen = choose_local()
    return None if chosen is None else chosen.line


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8188", True),
        ("http://127.8.9.1/x", True),
        ("http://[::1]:8188", True),
        ("http://localhost:8188", True),
        ("http://192.0.2.1:8188", False),
        ("http://gpu1:8188", False),
        ("http://localhost.evil.example", False),
    ],
)
def test_what_is_this_machine(url: str, here: bool) -> None:
    assert is_local(url) == here
