"""The figures by which runs are compared, and their names."""

from __future__ import annotations

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.comparable import compared, refuse_absent_classes


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
    """A ratio shows that 20 ms have tripled."""
    assert compared(name).scale.relative


@pytest.mark.parametrize("name", ["queue_time.p50", "model_load_time.mean", "fetch_time.p95"])
def test_a_time_that_can_be_0_is_compared_by_difference(name: str) -> None:
    assert compared(name).scale.floor == 0.1


def test_the_class_of_a_gate_is_one_of_the_workflow() -> None:
    refuse_absent_classes(["generation_time.p50", 'node_time["KSampler"].p50'], ["KSampler", "VAEDecode"])
    with pytest.raises(UsageError, match=r"gate='node_time\[KSampelr\].p50': .* there are: KSampler, VAEDecode"):
        refuse_absent_classes(["node_time[KSampelr].p50"], ["VAEDecode", "KSampler", "KSampler"])
