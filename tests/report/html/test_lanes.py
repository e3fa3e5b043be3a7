"""Lanes: what they draw agrees with the run's outcomes and samples."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.history.record import Record
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.report.html.lane_paths import HEIGHT, WIDTH, TimeAxis
from pytest_comfyload.report.html.lanes import Lanes, _steps, lanes_of
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.result.telemetry import GpuSample, UsageSample
from tests.benchmarks.histories import record


def _lanes(made: Record) -> Lanes:
    found = lanes_of(made)
    assert found is not None
    return found


def _with(made: Record, *outcomes: Outcome) -> Record:
    return msgspec.structs.replace(made, outcomes=outcomes)


def test_a_run_without_prompts_has_no_lanes() -> None:
    assert lanes_of(_with(record(3))) is None


def test_a_run_has_its_load_its_executor_and_its_gpu() -> None:
    lanes = _lanes(record(3, prompts=12)).lanes
    assert [lane.title for lane in lanes] == [
        "Arrivals", "Prompts", "Total time", "Throughput", "Executor", "GPU utilization", "GPU memory", "GPU power",
        "GPU temperature",
    ]  # fmt: skip
    assert lanes[1].words == "at most 12 prompts in flight, 11 of them waiting"
    assert [mark.name for mark in lanes[4].key] == [
        "other nodes", "KSampler", "VAEDecode", "CheckpointLoaderSimple", "SaveImage",
    ]  # fmt: skip
    assert "62 °C to 62 °C" in lanes[-1].words


def test_arrivals_are_what_was_due_and_throughput_what_came_of_it() -> None:
    made = record(3, prompts=8)
    refused = replace(made.outcomes[5], status=OutcomeStatus.REJECTED, timeline=None, outputs=())
    lanes = _lanes(_with(made, *made.outcomes[:5], refused, *made.outcomes[6:]))
    arrivals, throughput = lanes.lanes[0], lanes.lanes[3]
    assert arrivals.words == f"{format_value(8 * 60 / lanes.seconds, 'prompts/min')} on average"
    assert throughput.words == f"{format_value(7 * 60 / lanes.seconds, 'images/min')} on average"
    bars = {lane.title: lane.marks[0].d.count("Z") for lane in (arrivals, throughput)}
    assert bars == {"Arrivals": 60, "Throughput": 60}


def test_the_count_is_a_staircase_with_its_highest_step_in_each_column() -> None:
    """From 0 to 2 in the column of 10 s, down to 1 at 50 s, and to 0 in the last one."""
    axis = TimeAxis(0.0, 100.0)
    points = _steps([(10.0, 1), (10.0, 1), (50.0, -1), (100.0, -1)], 2.0, axis)
    assert points == [(2, 60), (98, 60), (100, 0), (102, 0), (498, 0), (500, 0), (502, 30), (998, 30), (1000, 30)]


def test_every_prompt_is_a_dot_and_failures_have_their_own() -> None:
    made = record(3, prompts=8)
    memory = replace(made.outcomes[2], status=OutcomeStatus.OOM)
    refused = replace(made.outcomes[5], status=OutcomeStatus.REJECTED, timeline=None)
    outcomes = (*made.outcomes[:2], memory, *made.outcomes[3:5], refused, *made.outcomes[6:])
    lane = _lanes(_with(made, *outcomes)).lanes[2]
    dots = {mark.name: mark.d.count("h0") for mark in lane.marks if mark.style.startswith("dot")}
    assert dots == {"succeeded": 6, "out of memory": 1, "failed otherwise": 1}
    assert [mark.name for mark in lane.marks if mark.style == "bound"] == ["SLO 20 s"]
    assert lane.words == "6 successes drawn, 2 failures"


def test_throttling_is_shaded_and_two_gpus_are_two_curves() -> None:
    made = record(3)
    samples = [
        GpuSample("http://a", gpu, float(second), 1.0, 50.0, clock=1500.0, throttle=("thermal",) if second == 2 else ())
        for gpu in ("GPU-a", "GPU-b")
        for second in range(1, 5)
    ]
    lanes = _lanes(msgspec.structs.replace(made, facts=replace(made.facts, gpu_usage=tuple(samples)))).lanes
    clock = next(lane for lane in lanes if lane.title == "GPU clock")
    assert [mark.name for mark in clock.marks] == ["throttled", "number 0", "number 1"]
    assert clock.marks[0].d.count("Z") == 2


def test_the_memory_that_servers_tell_of_is_drawn() -> None:
    made = record(3)
    told = tuple(UsageSample("http://a", float(second), 8 * 2.0**30, 4 * 2.0**30) for second in range(3))
    lanes = _lanes(msgspec.structs.replace(made, facts=replace(made.facts, server_usage=told))).lanes
    assert [(lane.title, lane.words) for lane in lanes[-2:]] == [
        ("VRAM, by the server", "4 GiB to 4 GiB"),
        ("RAM, by the server", "8 GiB to 8 GiB"),
    ]


@given(st.integers(1, 40), st.floats(0.01, 20), st.integers(0, 1000))
def test_nothing_is_drawn_outside(prompts: int, level: float, number: int) -> None:
    view = _lanes(record(number, prompts=prompts, level=level))
    assert all(0 <= share <= 100 for share, _ in view.ticks)
    for lane in view.lanes:
        for mark in lane.marks:
            for x, y in re.findall(r"([\d.]+) ([\d.]+)", mark.d):
                assert 0 <= float(x) <= WIDTH
                assert 0 <= float(y) <= HEIGHT
            assert "nan" not in mark.d
            assert "inf" not in mark.d


def test_a_large_run_stays_a_small_drawing() -> None:
    view = _lanes(record(3, prompts=3000))
    assert sum(len(mark.d) for lane in view.lanes for mark in lane.marks) < 300_000
    assert math.isfinite(view.seconds)
