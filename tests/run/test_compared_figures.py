"""Every figure by which runs are compared exists in a run."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.history.index import row_of
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import record_of
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.metrics.comparable import comparable_figures, compared, explaining
from pytest_comfyload.metrics.registry import GATE
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The figures of a run on the simulator, as a comparison reads them from the store."""
    folder = tmp_path_factory.mktemp("run")
    scenario = Scenario.build("txt2img", users=2, iterations=3, max_send_lag="30s")
    with SimulatorProcess(time_scale=10) as process:
        load = run_load(LoadRun(scenario, (ServerAddress(process.url),), "t", folder, folder))
    # A server that was launched for the run adds figures of its own.
    launched = LoadResult(dataclasses.replace(load.facts, cold_starts=(2.5,)), load.all_outcomes)
    return row_of("t.run", record_of(launched, Provenance())).figures


@pytest.mark.parametrize("name", [GATE, *explaining()])
def test_what_decides_and_explains_is_measured(name: str, figures: dict[str, float]) -> None:
    assert name in figures


STATISTICS = ("p50", "p90", "p95", "p99", "mean")


@pytest.mark.parametrize(
    "name",
    [
        *comparable_figures(),
        *(f"{kind}[KSampler].{which}" for kind in ("node_time", "steps_per_second") for which in STATISTICS),
        "gpu.energy.per_image",  # as named in the figures of a run
    ],
)
def test_what_may_be_asked_for_is_measured(name: str, figures: dict[str, float]) -> None:
    assert compared(name).name in figures
