"""Simulators that the loads run against, shared by all tests of a kind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.launch.simulator import SimulatorProcess


@pytest.fixture(scope="session")
def server() -> Iterator[ServerAddress]:
    with SimulatorProcess(time_scale=100, strict=True, cache="classic") as process:
        yield ServerAddress(process.url)
