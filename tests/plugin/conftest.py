"""Fixtures that test the plugin as its users meet it: in suites of their own, which share one simulator."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_comfyload.launch.simulator import SimulatorProcess
from tests.plugin.suite import Suite

TIME_SCALE = 100.0


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep lines whole, as the tests look for them; line breaks are tested elsewhere."""
    monkeypatch.setenv("COLUMNS", "400")


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
        monkeypatch.delenv(name)
    return Suite(pytester)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Yield the URL of a simulator that all suites share; no suite finds another's results in its cache."""
    with SimulatorProcess(time_scale=TIME_SCALE, probe_nodes=True, strict=True, cache="classic") as process:
        yield process.url


@pytest.fixture(params=["plain", "xdist"])
def workers(request: pytest.FixtureRequest) -> list[str]:
    """Return the arguments for a run in one process and for a run on two workers."""
    if request.param == "xdist":
        pytest.importorskip("xdist")
        return ["-n2"]
    return []
