"""The plugin's fixtures.

`load` is the result of the marker's load, `run_load` runs a load when called, `run_ab` compares two variants, and
`find_capacity` finds the largest load. `comfyui` are the servers, `comfyui_process` are the processes of launched
servers, and `gpu` samples the servers' GPUs.

All but `load` are session-scoped, so that a fixture of a class or module can run one load for all its tests. Every
pytest run imports this module, but only a test that requests a fixture imports its implementation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_comfyload.launch.fleet import LaunchedServers
    from pytest_comfyload.plugin.fixture_types import FindCapacity, RunAB, RunLoad
    from pytest_comfyload.plugin.loads import RequestedLoads
    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.run.gpu_sampling import GpuSampler
    from pytest_comfyload.run.target import ComfyServers

__all__ = ["comfyui", "comfyui_process", "find_capacity", "gpu", "load", "run_ab", "run_load"]


@pytest.fixture
def load(request: pytest.FixtureRequest) -> LoadResult:
    """The result of the load that @load_scenario describes, which has run when the test body begins."""
    return _loads(request).marked()


@pytest.fixture(scope="session")
def run_load(request: pytest.FixtureRequest) -> RunLoad:
    """Run a load now: `run_load("txt2img", users=5)`, with the arguments of `load_scenario`."""
    return _loads(request).run


@pytest.fixture(scope="session")
def find_capacity(request: pytest.FixtureRequest) -> FindCapacity:
    """Find the largest load under which an SLO is met: `find_capacity("txt2img", slo="total_time.p95 < 60")`.

    `budget="45m"` limits the search. `arrival="poisson"` searches prompts per minute, `arrival="users"` users with
    `think_time=`, `people={"images_per_day": 10}` people who send that many. Further arguments are those of
    `load_scenario` that do not set the load.
    """
    return _loads(request).find_capacity


@pytest.fixture(scope="session")
def comfyui(request: pytest.FixtureRequest) -> ComfyServers:
    """The servers: `.url`, `.urls`, `.system_stats()`, `.submit(workflow, inputs=…)`."""
    return _loads(request).servers(request.config.rootpath)


@pytest.fixture(scope="session")
def comfyui_process(request: pytest.FixtureRequest) -> LaunchedServers:
    """The servers of --comfyui-launch: `.urls`, `.servers`, and of each `.url`, `.pid`, `.log`, `.state`, `.kill()`."""
    return _loads(request).launched()


@pytest.fixture(scope="session")
def gpu(request: pytest.FixtureRequest) -> GpuSampler:
    """Sample the servers' GPUs without a load: `with gpu.sampling() as usage: …`; `usage` is as `load.gpu`."""
    return _loads(request).gpu_sampler()


@pytest.fixture(scope="session")
def run_ab(request: pytest.FixtureRequest) -> RunAB:
    """Compare B with A in pairs of runs: `run_ab("txt2img", A={"inputs": {…}}, B={"servers": "…"}, pairs=8)`.

    `A` and `B` hold the arguments of `load_scenario` that differ; the others apply to both.
    """
    return _loads(request).run_ab


def _loads(request: pytest.FixtureRequest) -> RequestedLoads:
    from pytest_comfyload.plugin.loads import RequestedLoads

    return RequestedLoads(request)
