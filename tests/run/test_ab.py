"""A comparison alternates the runs of its pairs, with the same seeds for both; invalid arguments are rejected first."""

from __future__ import annotations

import itertools
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.regression import RegressionVerdict
from pytest_comfyload.report.comparisons import ab_lines
from pytest_comfyload.result.ab_result import ABResult
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import CacheClass
from pytest_comfyload.run.ab import Turn, run_ab
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.workflow.workflow import Workflow

STEPS: dict[str, Any] = {"A": {"inputs": {"KSampler.steps": 10}}, "B": {"inputs": {"KSampler.steps": 40}}}


def test_b_against_a_on_a_simulator(server: ServerAddress, tmp_path: Path) -> None:
    turns: list[Turn] = []
    lines: list[str] = []

    def half(scenario: Scenario, turn: Turn) -> LoadResult:
        turns.append(turn)
        return run_load(LoadRun(scenario, (server,), f"test, {turn.side}", tmp_path, tmp_path, half=turn.half))

    ab = run_ab(
        "txt2img",
        **STEPS,
        pairs=7,
        title="test",
        half=half,
        say=lines.append,
        clock=itertools.count(step=4).__next__,
        iterations=2,
        max_send_lag="30s",
        inputs={"EmptyLatentImage.width": 256},
    )
    assert "".join(turn.side for turn in turns) == "ABBAABBAABBAAB"
    assert [turn.pair for turn in turns[:4]] == [1, 1, 2, 2]
    assert ab.verdict is RegressionVerdict.REGRESSED, ab.sentence()
    assert ab.generation_time.ratio.lower > 1.5
    assert ab.node_time["KSampler"].ratio > ab.generation_time.ratio
    # Each pair has its own seeds, and both of its runs use them.
    seeds = [[list(outcome.seeds.values()) for outcome in load.outcomes] for load in ab.A]
    assert seeds == [[list(outcome.seeds.values()) for outcome in load.outcomes] for load in ab.B]
    assert len({seed for load in seeds for (seed,) in load}) == 14
    assert [pair.pair for pair in ab.pictures] == [number for number in range(1, 8) for _ in range(2)]
    assert {load.facts.subject["EmptyLatentImage.width"] for load in (*ab.A, *ab.B)} == {256}
    assert lines[0] == (
        "comfyload: test: 7 pairs of runs, txt2img, 1 user × 2 iterations; A: KSampler.steps=10; B: KSampler.steps=40"
    )
    # Printed for the first and the last pair, and every ten seconds.
    assert [line.partition(" of 7")[0] for line in lines[1:]] == [f"comfyload: test: pair {n}" for n in (1, 4, 7)]
    shown = ab_lines(ab)
    narrow = ab_lines(ab, 60)
    assert all(any(figure.name in line for line in narrow) for figure in ab.told())  # no name is broken across lines
    assert shown[0] == "test: B against A, SIMULATED: regressed"
    assert "  changed: KSampler.steps 10 → 40" in shown
    assert any(line.startswith("  pictures: 14 pairs of the same seeds") for line in shown)


def test_the_memory_of_each_half_is_its_own(server: ServerAddress, tmp_path: Path) -> None:
    def half(scenario: Scenario, turn: Turn) -> LoadResult:
        run = LoadRun(scenario, (server,), f"test, {turn.side}", tmp_path, tmp_path, half=turn.half)
        return run_load(run)

    ab = run_ab(
        "txt2img",
        A={"workflow": "txt2img_sdxl"},
        B={},
        pairs=3,
        title="test",
        half=half,
        iterations=2,
        max_send_lag="30s",
        inputs={"EmptyLatentImage.width": 256, "EmptyLatentImage.height": 256},
    )
    assert ab.invalid_because is None
    peak = ab.figure("gpu.memory_used.peak")
    # Weights in half precision: 6.9 GB for SDXL, 2.1 GB for SD 1.5, regardless of which ran before.
    assert all(b < 0.7 * a for a, b in zip(peak.A, peak.B, strict=True)), (peak.A, peak.B)
    assert max(peak.A) < 1.05 * min(peak.A)
    assert max(peak.B) < 1.05 * min(peak.B)
    assert any(line.startswith("  gpu.memory_used.peak  ") and "GiB" in line for line in ab_lines(ab))
    # The warm-up finds nothing of the other workflow in the cache, and has its own seeds.
    for load in (*ab.A, *ab.B):
        warm_up, *measured = load.all_outcomes
        assert (warm_up.warmup, warm_up.cache_class) == (True, CacheClass.COLD)
        assert not set(warm_up.seeds.values()) & {seed for each in measured for seed in each.seeds.values()}


def test_a_server_with_foreign_prompts_is_not_emptied(server: ServerAddress, tmp_path: Path) -> None:
    def half(scenario: Scenario, turn: Turn) -> LoadResult:
        return run_load(LoadRun(scenario, (server,), "test", tmp_path, tmp_path, half=turn.half))

    long = Workflow.load("txt2img").with_inputs({"KSampler.steps": 10_000}).graph
    _post(server, "/prompt", {"prompt": long})
    try:
        with pytest.raises(UsageError, match=r"is busy: its queue holds 1 foreign prompt, and a comparison of A and B"):
            run_ab("txt2img", **STEPS, pairs=2, title="test", half=half)
    finally:
        _post(server, "/queue", {"clear": True})
        _post(server, "/interrupt", {})


def test_after_an_invalid_run_there_is_no_other(server: ServerAddress, tmp_path: Path) -> None:
    turns: list[Turn] = []

    def half(scenario: Scenario, turn: Turn) -> LoadResult:
        turns.append(turn)
        return run_load(LoadRun(scenario, (server,), "test", tmp_path, tmp_path))

    # No generator is that punctual.
    ab = run_ab("txt2img", **STEPS, title="test", half=half, max_send_lag=1e-9)
    assert len(turns) == 1
    assert ab.invalid_because is not None
    assert ab.invalid_because.startswith("A of pair 1: the generator was late")
    assert ab_lines(ab) == ["test: B against A, SIMULATED: inconclusive", f"  Not judged: {ab.invalid_because}."]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"pairs": 1}, "pairs=1: two pairs make an interval, 7 a verdict"),
        ({"pairs": "8"}, "pairs='8' is not a whole number"),
        ({"A": 5}, "A=5 is not a dict of arguments"),
        ({"A": {}, "B": {}}, "are the same load: give what differs"),
        ({"A": {"iteratons": 5}}, "A: load_scenario has no argument 'iteratons'; did you mean iterations"),
        ({"B": {"duration": "5m"}, "iterations": 3}, "B: duration='5m' and iterations=3 contradict each other"),
        ({"A": {"seed": 3}}, "A: seed= is the same for A and B"),
        ({"A": {"users": 1}, "B": {"users": 2}, "users": 3}, "users=3 and the users= of both A and B contradict"),
        ({"warmup": 0}, "warmup=0 and run_ab contradict each other"),
        ({"gate": "queue_time.p50"}, r"gate='queue_time\.p50' can be 0, and A and B are compared by ratio"),
        ({"gate": "generation_tim.p50"}, r"no metric 'generation_tim\.p50' can be compared"),
        (
            {"overrides": {"3.steps": "30"}},
            r"--comfyui-input 3\.steps and A's input KSampler\.steps contradict each other",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        _refused(**arguments)


def test_an_override_of_something_else_is_no_contradiction() -> None:
    with pytest.raises(AssertionError, match="nothing may run"):
        _refused(overrides={"KSampler.cfg": "7", "Nowhere.steps": "3"})


def test_a_long_comparison_says_so_before_it_begins() -> None:
    lines: list[str] = []
    with pytest.raises(AssertionError, match="nothing may run"):
        _refused(say=lines.append, duration="10m", pairs=6)
    assert "; 2 h and the warm-ups; A: " in lines[0]
    assert lines[0].endswith("always inconclusive: 6 pairs are too few for a verdict, which needs 7")


def test_a_workflow_of_ones_own_takes_the_place_of_the_common_one() -> None:
    lines: list[str] = []
    with pytest.raises(AssertionError, match="nothing may run"):
        _refused(say=lines.append, A={}, B={"mix": {"txt2img": 3, "lora": 1}})
    assert "txt2img, 1 user × 1 iteration / 3 txt2img + 1 lora, 1 user × 1 iteration; A: as it is; B: mix=" in lines[0]


def _post(server: ServerAddress, path: str, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    urllib.request.urlopen(urllib.request.Request(f"{server.url}{path}", content), timeout=30).close()


def _refused(**arguments: Any) -> ABResult:
    def half(scenario: Scenario, turn: Turn) -> LoadResult:
        raise AssertionError("nothing may run")

    return run_ab("txt2img", **{**STEPS, "title": "test", "half": half, **arguments})
