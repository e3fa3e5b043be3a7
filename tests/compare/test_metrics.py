"""Every figure that is compared is one that a run has."""

from __future__ import annotations

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.compare.metrics import EXPLAINING, GATE, compared
from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.index import row_of
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import record_of
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.simulator import SimulatorProcess


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Of a run on the simulator, as a comparison finds them in the store."""
    folder = tmp_path_factory.mktemp("run")
    scenario = Scenario.build("txt2img", users=2, iterations=3, max_send_lag="30s")
    with SimulatorProcess(time_scale=50) as process:
        load = run_load(LoadRun(scenario, (ServerAddress(process.url),), "t", folder, folder))
    return row_of("t.run", record_of(load, Provenance())).figures


@pytest.mark.parametrize("name", [GATE, *EXPLAINING])
def test_what_decides_and_explains_is_measured(name: str, figures: dict[str, float]) -> None:
    assert name in figures


TIMES = (
    "generation", "total", "sampling", "queue", "submit", "delivery", "fetch", "model_load", "decode", "save",
)  # fmt: skip
OTHERS = (
    "throughput", "prompt_throughput", "success_rate", "gpu.vram.mean", "gpu.utilization.busy_mean", "gpu.power.mean",
    "gpu.memory_used.peak", "gpu.temperature.max", "node_time.KSampler.p50",
)  # fmt: skip


@pytest.mark.parametrize("name", [*OTHERS, *(f"{time}_time.{which}" for time in TIMES for which in ("p95", "mean"))])
def test_what_may_be_asked_for_is_measured(name: str, figures: dict[str, float]) -> None:
    assert compared(name).name in figures


def test_what_cannot_be_compared_is_refused_with_what_can() -> None:
    with pytest.raises(UsageError, match=r"'generation_time.p5x'.*legal: .*generation_time"):
        compared("generation_time.p5x")
