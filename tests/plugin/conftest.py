"""The plugin is tested as its users meet it: on suites of their own, with one simulator that all share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_comfyload.launch.simulator import SimulatorProcess
from tests.plugin.suite import Suite

TIME_SCALE = 100.0


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are looked for as a whole; how they break is tested elsewhere."""
    monkeypatch.setenv("COLUMNS", "400")


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
        monkeypatch.delenv(name)
    return Suite(pytester)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a simulator that all suites share, and whose cache no suite finds the results of another in."""
    with SimulatorProcess(time_scale=TIME_SCALE, probe_nodes=True, strict=True, cache="classic") as process:
        yield process.url


@pytest.fixture(params=["plain", "xdist"])
def workers(request: pytest.FixtureRequest) -> list[str]:
    """The same once in one process and once on two workers."""
    if request.param == "xdist":
        pytest.importorskip("xdist")
        return ["-n2"]
    return []
