"""The phases of every prompt match the server's own records."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import CacheClass
from tests.contract.loads import SMALL, probe, run, server_times
from tests.real_comfyui.target import Target


@pytest.fixture(scope="module")
def load(target: Target, tmp_path_factory: pytest.TempPathFactory) -> LoadResult:
    return run(target, tmp_path_factory.mktemp("store"), "txt2img", users=3, iterations=3, overrides=SMALL)


def test_every_prompt_succeeds_with_its_picture(load: LoadResult) -> None:
    assert load.success_rate == 100
    assert load.accounting.submitted == load.accounting.intended == 9
    assert [(file.width, file.height) for outcome in load.outcomes for file in outcome.outputs] == [(64, 64)] * 9


def test_generation_time_is_the_servers_own(load: LoadResult, target: Target) -> None:
    for outcome in load.outcomes:
        times = server_times(target, outcome.prompt_id)
        assert outcome.generation_time == pytest.approx(
            times["execution_success"] - times["execution_start"], abs=0.005
        )


def test_queue_time_is_the_servers_own(load: LoadResult, target: Target) -> None:
    for outcome in load.outcomes:
        times = server_times(target, outcome.prompt_id)
        assert outcome.queue_time == pytest.approx(times["execution_start"] - times["create_time"], abs=0.030)


def test_the_six_phases_sum_to_the_total(load: LoadResult) -> None:
    for outcome in load.outcomes:
        phases = outcome.phases()
        assert len(phases) == 6
        assert all(seconds >= 0 for seconds in phases.values())
        assert sum(phases.values()) == pytest.approx(outcome.total_time, abs=1e-6)


def test_seeds_and_texts_keep_the_sampler_out_of_the_cache(load: LoadResult) -> None:
    assert {outcome.cache_class for outcome in load.outcomes} <= {CacheClass.WARM, CacheClass.PARTLY}
    assert all("KSampler" in {node.class_type for node in outcome.nodes} for outcome in load.outcomes)
    assert len({outcome.seeds["3.seed"] for outcome in load.outcomes}) == 9
    assert load.node_time["KSampler"].n == load.steps_per_second["KSampler"].n == 9


def test_the_warm_up_is_kept_apart(load: LoadResult) -> None:
    warmups = [outcome for outcome in load.all_outcomes if outcome.warmup]
    assert len(warmups) == 1
    assert max(outcome.intended for outcome in warmups) < load.facts.window[0]


def test_a_burst_reports_the_true_queue_wait(target: Target, tmp_path: Path) -> None:
    """The naive figure, the duration of the POST, is 16 ms although the true median wait was 7.2 s."""
    load = run(target, tmp_path, probe(0.3), burst=15)
    # Prompt number k waits for the k prompts before it: the median wait is seven sleeps, the longest fourteen.
    assert float(load.queue_time.p50) == pytest.approx(7 * 0.3, rel=0.5)
    assert float(load.queue_time.max) == pytest.approx(14 * 0.3, rel=0.5)
    assert float(load.submit_time.p50) < 0.5 * float(load.queue_time.p50)
