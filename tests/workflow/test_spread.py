"""Numbers drawn from a distribution are valid for the server: within its bounds, integers where required, in steps."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import WorkflowError
from pytest_comfyload.scenario.distributions import DistributionSpec, exponential, lognormal, normal, uniform
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.template import DrawnPrompt
from pytest_comfyload.workflow.workflow import Workflow
from tests.workflow.graphs import INFO, OBJECT_INFO

TXT2IMG = Workflow.load("txt2img")


def drawings(inputs: dict[str, Any], n: int = 200, info: dict[str, Any] | None = OBJECT_INFO) -> list[DrawnPrompt]:
    workflow = TXT2IMG.on(ObjectInfo(info)).with_inputs(inputs)
    return [
        workflow.on(ObjectInfo(info)).vary(random.Random(seed), text="TEXT", filename_prefix="x") for seed in range(n)
    ]


def values(
    address: str, distribution: DistributionSpec, n: int = 200, info: dict[str, Any] | None = OBJECT_INFO
) -> Any:
    return [each.inputs[address] for each in drawings({address: distribution}, n, info)]


def test_whole_numbers_come_evenly_with_both_ends() -> None:
    steps = Counter(values("KSampler.steps", uniform(10, 14), n=3000))
    assert set(steps) == {10, 11, 12, 13, 14}
    assert all(type(value) is int for value in steps)
    assert min(steps.values()) > 500


def test_a_width_is_drawn_in_the_steps_of_its_node() -> None:
    widths = values("EmptyLatentImage.width", normal(768, 128, min=512, max=1024), n=2000)
    assert all(width % 8 == 0 and 512 <= width <= 1024 for width in widths)
    assert sum(widths) / len(widths) == pytest.approx(768, abs=12)
    assert len(set(widths)) > 40


def test_steps_count_from_the_minimum() -> None:
    info = {**OBJECT_INFO, "EmptyLatentImage": _with(width=["INT", {"min": 1, "max": 999, "step": 4}])}
    assert {width % 4 for width in values("EmptyLatentImage.width", uniform(20, 100), info=info)} == {1}


def _with(**inputs: Any) -> dict[str, Any]:
    declared = OBJECT_INFO["EmptyLatentImage"]
    return {**declared, "input": {"required": {**declared["input"]["required"], **inputs}}}


def test_a_float_stays_one() -> None:
    cfg = values("KSampler.cfg", lognormal(4, 8))
    assert len(set(cfg)) == len(cfg)
    assert all(0 <= value <= 100 for value in cfg)


def test_it_lands_in_the_graph_and_in_every_node_of_its_address() -> None:
    workflow = Workflow.load("upscale").on(INFO).with_inputs({"KSampler[*].steps": uniform(3, 30)})
    variation = workflow.on(INFO).vary(random.Random(3), text=None, filename_prefix="")
    steps = {node["inputs"]["steps"] for node in variation.graph.values() if node["class_type"] == "KSampler"}
    assert steps == {variation.inputs["KSampler[*].steps"]}


def test_the_same_seed_draws_the_same_and_leaves_the_prompts_seeds_alone() -> None:
    inputs = {"KSampler.steps": uniform(10, 30), "KSampler.cfg": normal(7, 1)}
    assert drawings(inputs, 5) == drawings(inputs, 5)
    assert [each.seeds for each in drawings(inputs, 5)] == [each.seeds for each in drawings({}, 5)]


def test_what_never_comes_is_what_the_server_refuses() -> None:
    assert min(values("KSampler.steps", exponential(3), n=500)) == 1
    assert min(values("KSampler.steps", normal(2, 5), n=500)) == 1


@given(
    st.sampled_from(["KSampler.steps", "EmptyLatentImage.width", "KSampler.cfg", "KSampler.denoise"]),
    st.floats(-100, 3000),
    st.floats(0.1, 1000),
    st.one_of(st.none(), st.integers(0, 2000)),
    st.one_of(st.none(), st.integers(0, 2000)),
)
def test_every_draw_is_one_that_the_server_takes(
    address: str, mean: float, stdev: float, low: int | None, high: int | None
) -> None:
    try:
        found = values(address, normal(mean, stdev, min=low, max=high), n=10)
    except WorkflowError:
        return
    for value in found:
        TXT2IMG.on(INFO).with_inputs({address: value})
        assert low is None or low <= value
        assert high is None or value <= high
        if address == "EmptyLatentImage.width":
            assert type(value) is int
            assert value % 8 == 0


@pytest.mark.parametrize(
    ("address", "distribution", "says"),
    [
        ("KSampler.steps", uniform(30, 10), "low=30 is above high=10"),
        ("KSampler.steps", uniform("5s", 10), "low='5s' is not a number"),
        ("KSampler.steps", uniform(0, 10), "low=0: wants INT from 1 to 10000"),
        ("KSampler.steps", normal(20, 5, max=1e6), "max=1000000.0: wants INT from 1 to 10000"),
        ("KSampler.steps", normal(-90, 5), "almost none of its values are legal: wants INT from 1 to 10000"),
        ("KSampler.steps", uniform(10.2, 10.8), "wants INT from 1 to 10000, and none of these lies from 10.2 to 10.8"),
        ("EmptyLatentImage.width", uniform(513, 519), "to 16384 in steps of 8, and none of these lies from 513 to 519"),
        ("KSampler.sampler_name", uniform(1, 2), "this is COMBO; give a list of values"),
        ("KSampler.stebs", uniform(1, 2), "no input 'stebs'; it has steps"),
    ],
)
def test_what_cannot_be_drawn_there(address: str, distribution: DistributionSpec, says: str) -> None:
    with pytest.raises(WorkflowError) as refusal:
        values(address, distribution)
    assert says in str(refusal.value)


def test_without_a_server_only_what_is_sure_is_refused() -> None:
    assert len(values("KSampler.steps", uniform(0, 10), info=None)) == 200
    with pytest.raises(WorkflowError, match=r"KSampler\.steps = normal\(5, 0\): stdev=0 must be above 0"):
        values("KSampler.steps", normal(5, 0), info=None)
    with pytest.raises(WorkflowError, match="this is STRING; give a list of values"):
        values("KSampler.sampler_name", uniform(1, 2), info=None)


def test_it_stands_alone() -> None:
    with pytest.raises(WorkflowError, match="a distribution cannot be one of several values"):
        drawings({"KSampler.steps": [uniform(1, 3), 20]})


def test_it_is_printed_with_the_scenario() -> None:
    scenario = Scenario.build("txt2img", inputs={"KSampler.steps": uniform(10, 30), "KSampler.cfg": 7})
    assert str(scenario) == "txt2img, 1 user × 1 iteration, KSampler.steps uniform(10, 30)"
