"""Every figure that is compared is one that a run has."""

from __future__ import annotations

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.index import row_of
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import record_of
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.metrics.registry import EXPLAINING, FIGURES, GATE, compared, refuse_absent_classes
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Of a run on the simulator, as a comparison finds them in the store."""
    folder = tmp_path_factory.mktemp("run")
    scenario = Scenario.build("txt2img", users=2, iterations=3, max_send_lag="30s")
    with SimulatorProcess(time_scale=10) as process:
        load = run_load(LoadRun(scenario, (ServerAddress(process.url),), "t", folder, folder))
    return row_of("t.run", record_of(load, Provenance())).figures


@pytest.mark.parametrize("name", [GATE, *EXPLAINING])
def test_what_decides_and_explains_is_measured(name: str, figures: dict[str, float]) -> None:
    assert name in figures


STATISTICS = ("p50", "p90", "p95", "p99", "mean")


@pytest.mark.parametrize(
    "name",
    [
        *FIGURES,
        *(f"{kind}[KSampler].{which}" for kind in ("node_time", "steps_per_second") for which in STATISTICS),
        "gpu.energy.per_image",  # as a run's figures have it
    ],
)
def test_what_may_be_asked_for_is_measured(name: str, figures: dict[str, float]) -> None:
    assert compared(name).name in figures


@pytest.mark.parametrize(
    "name",
    ["node_time[KSampler].p50", 'node_time["KSampler"].p50', "node_time['KSampler'].p50", "node_time.KSampler.p50"],
)
def test_every_spelling_of_a_class_is_one_figure(name: str) -> None:
    figure = compared(name)
    assert (figure.title, figure.name) == ("node_time[KSampler].p50", "node_time.KSampler.p50")


@pytest.mark.parametrize("class_type", ["CLIP Text (a.b)", "Odd [x]", 'Quo"ted', "a.p50"])
def test_the_names_of_classes_may_hold_anything(class_type: str) -> None:
    figure = compared(f"node_time[{class_type}].p95")
    assert figure.name == f"node_time.{class_type}.p95"
    assert compared(figure.title) == compared(figure.name) == figure


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("generation_time.p5x", "generation_time.p50"),
        ("generation_time.p51", "generation_time.p50"),
        ("generation_time", "generation_time.p50"),
        ("queue_tme.p50", "queue_time.p50"),
        ("node_time[KSampler]", "node_time[KSampler].p50"),
        ("node_time[KSampler].p59", "node_time[KSampler].p50"),
        ("step_per_second[KSampler].p50", "steps_per_second[KSampler].p50"),
        ("gpu.vram", "gpu.vram.peak"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_what_can(name: str, near: str) -> None:
    with pytest.raises(UsageError) as refused:
        compared(name)
    assert f"no metric {name!r} can be compared" in str(refused.value)
    assert near in str(refused.value).partition("legal: ")[2].split(", ")[:6]


@pytest.mark.parametrize("name", [None, 5, ["generation_time.p50"]])
def test_another_type_is_refused(name: object) -> None:
    with pytest.raises(UsageError, match=r"is not the name of a figure, such as 'generation_time\.p50'"):
        compared(name)


@pytest.mark.parametrize(
    "name", ["node_time[KSampler].p50", "decode_time.p50", "save_time.p95", "generation_time.mean"]
)
def test_a_time_that_is_never_0_is_compared_by_ratio(name: str) -> None:
    """So that 20 ms that triple are seen."""
    assert compared(name).scale.relative


@pytest.mark.parametrize("name", ["queue_time.p50", "model_load_time.mean", "fetch_time.p95"])
def test_a_time_that_can_be_0_is_compared_by_difference(name: str) -> None:
    assert compared(name).scale.floor == 0.1


def test_the_class_of_a_gate_is_one_of_the_workflow() -> None:
    refuse_absent_classes(["generation_time.p50", 'node_time["KSampler"].p50'], ["KSampler", "VAEDecode"])
    with pytest.raises(UsageError, match=r"gate='node_time\[KSampelr\].p50': .* there are: KSampler, VAEDecode"):
        refuse_absent_classes(["node_time[KSampelr].p50"], ["VAEDecode", "KSampler", "KSampler"])
